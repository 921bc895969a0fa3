"""What annotations say an option may be: which values fit, and what a wrong one is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from soupkitchen.errors import ConfigError
from soupkitchen.options import kinds
from soupkitchen.options.kinds import check, check_fields, fits, says
from soupkitchen.tasks import Data

FITTING: list[tuple[Any, list[Any], list[Any], str]] = [
    (bool, [True, False], [1, 0, "yes", None], "true or false"),
    (str, ["a"], ["", 1, None, ["a"]], "text"),
    (str | None, ["a", None], ["", 1], "text or null"),
    (int, [-1, 0, np.int64(3)], [True, 1.0, "1", None], "a whole number"),
    (float, [0, -1.5, np.float64(2)], [True, math.nan, math.inf, "1"], "a number"),
    (Literal["a", "b", "c"], ["a", "c"], ["d", None, ["a"]], "choose a, b or c"),
    (Literal["a", "b"] | None, ["a", None], ["c"], "choose a or b or null"),
    (Literal["a", "b", "c"] | None, [None], ["d"], "choose a, b or c, or null"),
    (Mapping[str, Any], [{}, {"a": None}], [[], "a", None], "a mapping, as {a: 1}"),
    (Data, [Data("x"), {"_target_": "x"}], ["x", 1, {"path": "x"}, None], "options of its own"),
    (Any, [1, "", None, {}], [], "anything"),
    (kinds.AnyText, ["", "a"], [1, None], "text"),
    (kinds.SomeTexts, ["a", ["a", "b"], []], ["", [""], [1], {"a": "b"}], "text, or a list of texts"),
    (kinds.AtLeast1 | None, [1, 2**62, None], [0, 2**63, 1.5], "a whole number of at least 1 or null"),
    (kinds.Seed, [0, 2**32 - 1], [-1, 2**32], "a whole number from 0 to 4294967295"),
    (kinds.Positive, [1e-9, 5], [0, -1], "a number above 0"),
    (kinds.NotNegative, [0], [-1e-9], "a number, and at least 0"),
    (kinds.Share, [1e-9, 1], [0, 1.1], "a number above 0, and 1 at most"),
    (kinds.Inside, [0.5], [0, 1], "a number above 0 and below 1"),
    (kinds.Fraction, [0, 1], [-0.1, 1.1], "a number between 0 and 1"),
    (kinds.Scales, [1, [0.5, 1]], [[], [1, 1], ["a"]], "a number, or a list of different numbers"),
    (kinds.SeveralPositive, [[0.5], [1, 2]], [1, [], [0], [1, 1]], "a list of different numbers above 0"),
    (kinds.Durations, ["all", [5, 10]], ["some", [], [0], [5, 5], 5], "all, geometric, or a list"),
    (kinds.Ranges, [{"a": [0, 1]}], [{"a": [1, 0]}, {"a": [1]}, {"a": 1}, []], "a range by name"),
    (kinds.Acceptance, ["better", {"margin": 0}], ["any", {"margin": -1}, {"significant": 0}], "choose bet"),
    (kinds.Ranking, ["full", {"confidence": 0.9}], [{"examples": 0.1}, {"confidence": 1}, {}], "choose full"),
    (kinds.Stopping, [True, "exact", {"confidence": 0.9}], ["on", 1, {"confidence": 0.5}], "true or false"),
    (kinds.Size, ["5GB", 1], ["", 0, 1.5], "a size"),
    (kinds.DeviceMap, ["auto", {"": 0}], ["", 1], "text or a mapping"),
    (kinds.DeviceSizes, [{"cpu": "8GiB", 0: 1}], [{}, "8GiB"], "how much by device"),
    (kinds.Splits, ["x", {"train": "a"}], [{}, {"train": 1}, ""], "text, or a file for each split"),
    (kinds.TaskWeights, [{"a": 1, "b": 0}, {}], [{"a": -1}, [1]], "a number of at least 0 by name of task"),
    (kinds.TaskFloors, [{"a": -0.1, "b": 0}, {}], [{"a": 0.1}, [0]], "a number of at most 0 by name of task"),
    (kinds.Labels, ["names", {"neg": 0, "pos": "P"}], ["vectors", {}, {"a": 1.5}, ["a"]], "choose names or"),
    (kinds.LabelsOrColumns, ["vectors", ["a", "b"], {"a": 1}], [[], [1], "x"], "choose names, ind"),
    (kinds.Trackers, ["wandb", ["wandb", "mlflow"]], ["x", ["x"], 1], "choose tensorboard, wandb, mlflow"),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "good", "bad", "words"), FITTING, ids=lambda part: str(part)[:40])
def test_a_value_fits_its_annotation_or_is_told_what_it_should_be(hint, good, bad, words):
    assert says(hint).startswith(words)
    for value in good:
        check("group.option", value, hint)
    for value in bad:
        assert not fits(value, hint), value
        with pytest.raises(ConfigError, match=r"^group\.option="):
            check("group.option", value, hint)


@dataclass(frozen=True)
class Own:
    """A user's own options."""

    number: int


def test_the_fields_of_a_class_of_the_users_are_left_alone():
    check_fields(Own("no number"), "method")
