"""A task's function that, once and amid the work, takes the process with it that scores, or fails it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

_calls = 0


def score(model: Any, tokenizer: Any, examples: list[dict[str, Any]]) -> list[float]:
    """1 for each example that is labelled right."""
    global _calls
    _calls += 1
    wish = Path(os.environ.get("DYING", "nowhere"))
    if _calls > 12 and wish.is_file() and os.environ.get("DRIVER") != str(os.getpid()):
        mine = wish.rename(wish.with_name(str(os.getpid())))  # only one of several finds it
        how = mine.read_text()
        if how == "with its node":
            os.kill(os.getppid(), signal.SIGKILL)  # Ray's raylet
        if how != "out of memory":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError("no memory is left")
    batch = tokenizer([example["text"] for example in examples], padding=True, return_tensors="pt")
    with torch.inference_mode():
        likeliest = model(**batch).logits.argmax(-1).tolist()
    labels = model.config.label2id
    return [float(labels[e["label"]] == found) for e, found in zip(examples, likeliest, strict=True)]
