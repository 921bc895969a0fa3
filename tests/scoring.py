"""Scores one run on a task of a few examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.evaluation import Evaluator, LiveModel, Part, Runtime
from soupkitchen.tasks import Data, Several, Task


def rows(folder: Path, examples: list[dict[str, Any]]) -> Data:
    (folder / "validation.jsonl").write_text("\n".join(map(json.dumps, examples)))
    return Data(str(folder), test=None)


def score(task: Task, run: Path, batch_size: int = 3) -> Part:
    accelerator = Runtime(device="cpu").accelerator()
    live = LiveModel(Checkpoint.open(run), task.model_class, accelerator.device)
    splits = {role: {"": split} for role, split in task.data.load_splits().items()}
    processor = task.load_processor(str(run))
    evaluator = Evaluator(Several.of(task), live, processor, splits, accelerator, batch_size)
    return evaluator.score("heldout").parts[""]
