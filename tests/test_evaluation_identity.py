"""What evaluations are known by; and memory that runs out amid one."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from made_up import Table

from soupkitchen import metrics
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation import Evaluator, Identity, Runtime
from soupkitchen.evaluation.identity import PREDICTING, own_code
from soupkitchen.soup import Recipe
from soupkitchen.tasks import Several


@functools.cache
def accelerator() -> Any:
    return Runtime(device="cpu").accelerator()


def evaluator_of(tasks: dict[str, Table], batch_size: int, aggregate: str = "mean") -> Evaluator:
    tasks = tasks if len(tasks) > 1 else {"": next(iter(tasks.values()))}
    several = Several(tasks, aggregate)
    live: Any = SimpleNamespace(
        spread=False,
        model=torch.nn.Identity(),
        fill=lambda weights: list(weights),
        maker=SimpleNamespace(identity=list),
    )
    splits = {
        name: datasets.Dataset.from_dict({"index": list(range(len(tasks[name].right)))}) for name in tasks
    }
    return Evaluator(several, live, None, {"heldout": splits}, accelerator(), batch_size)


# Memory


def test_where_memory_runs_out_batches_are_halved(caplog):
    table = Table("accuracy", np.zeros(40, int))
    evaluator = evaluator_of({"": table}, batch_size=16)
    seen = []
    step = table.step

    def narrow(model: Any, batch: Any, processor: Any) -> torch.Tensor:
        seen.append(len(batch["index"]))
        if seen[-1] > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB")
        return step(model, batch, processor)

    table.step = narrow  # type: ignore[method-assign]
    evaluation = evaluator.score("heldout")
    assert evaluation.score == 1.0
    assert evaluation.examples_scored == 40
    assert seen[:3] == [16, 8, 4]
    assert set(seen[3:]) == {4}
    assert "batches of 4 instead of 8" in caplog.text
    assert evaluator.score("heldout").score == 1.0


@pytest.mark.parametrize(
    ("says", "error", "told"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", ConfigError, "batch of one"),
        ("something else", RuntimeError, "something else"),
    ],
)
def test_out_of_memory_with_one_example_is_an_error_and_other_errors_are_not_hidden(says, error, told):
    table = Table("accuracy", np.zeros(4, int))

    def fails(model: Any, batch: Any, processor: Any) -> torch.Tensor:
        raise RuntimeError(says)

    table.step = fails  # type: ignore[method-assign]
    with pytest.raises(error, match=told):
        evaluator_of({"": table}, batch_size=4).score("heldout")


def test_all_that_predictions_depend_on_is_in_their_key():
    """Each of these by itself makes other predictions; the order of batches does not."""

    def keys(examples: int = 20, batch_size: int = 4, fingerprint: str = "x", metric: str = "accuracy"):
        evaluator = evaluator_of({"": Table(metric, np.zeros(examples))}, batch_size)
        pool: Any = {"a": SimpleNamespace(fingerprint=fingerprint)}
        identity, recipe = Identity(evaluator, pool), Recipe.single("a")
        return identity.asked(recipe, "heldout"), identity.predictions(recipe, "heldout")

    asked, predictions = keys()
    assert keys() == (asked, predictions)
    for other in (keys(examples=21), keys(fingerprint="y"), keys(metric="mse")):
        assert other[0] != asked
        assert other[1] != predictions
    same_asked, other_batches = keys(batch_size=5)
    assert same_asked == asked
    assert other_batches != predictions


def test_evaluations_of_other_code_are_not_taken(monkeypatch):
    evaluator = evaluator_of({"": Table("accuracy", np.zeros(20, int))}, batch_size=2)
    pool: Any = {"a": SimpleNamespace(fingerprint="x")}
    known, recipe = Identity(evaluator, pool), Recipe.single("a")
    before = known.predictions(recipe, "heldout")
    assert known.predictions(recipe, "heldout") == before
    monkeypatch.setattr("soupkitchen.evaluation.identity.own_code", lambda: "other")
    assert known.predictions(recipe, "heldout") != before


def test_only_code_that_predictions_depend_on_tells_evaluations_apart(tmp_path):
    package = Path(metrics.__file__).parents[1]
    before = own_code(package)
    for name, old, new, same in (
        ("records/report.py", "import math", "import math, csv", True),
        ("search/greedy.py", "class Greedy", "# greedy\nclass Greedy", True),
        ("soup/fold.py", "values = values + base", "values = base + values", False),
        ("metrics/numbers.py", "** 2", "** 3", False),
        ("store/evaluations.py", "np.uint8", "np.int8", False),
    ):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(package, folder)
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
        assert (own_code(folder) == before) == same, name


def test_what_predicts_imports_nothing_that_is_not_looked_at():
    package = Path(metrics.__file__).parents[1]
    said = r"^\s*(?:from|import) soupkitchen\.(\w+)"
    files = [file for part in PREDICTING for file in (package / part).rglob("*.py")]
    used = {name for file in files for name in re.findall(said, file.read_text(), re.MULTILINE)}
    others = {"console", "errors", "search", "process", "store"}  # messages, types and digests
    assert used <= {*PREDICTING, *others}
