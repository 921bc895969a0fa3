"""What a folder says of the run in it: its options beside those of its presets, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from soupkitchen.errors import ConfigError, JournalError
from soupkitchen.options import files
from soupkitchen.options.building import TARGET
from soupkitchen.store import journal
from soupkitchen.store.documents import own, read_yaml
from soupkitchen.store.layout import CONFIG, JOURNAL
from soupkitchen.store.settings import CHOICES, what_is_run

PRESETS = ("method", "search")
"""The groups whose presets stand in the table of all runs by name."""


@dataclass(frozen=True)
class Settings:
    """What a run's configuration says.

    Attributes:
        task: the class of the task.
        data: where its data is; of several tasks, what they are called.
        choices: by group, the name of the preset that was chosen or, where nobody noted that, of the
            preset that the options are nearest to; a class's name where there is none such.
        options: those that results depend on, by dotted key.
    """

    task: str = ""
    data: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Path) -> Settings:
        """Those of the run in the folder `run`, as far as they can be read."""
        try:
            config = read_yaml(own(run / CONFIG), dict[str, Any])
            task = config["task"]
            data = task["data"]["path"] if "data" in task else ", ".join(task["tasks"])
            told = _class(task), str(data)
        except (ConfigError, KeyError, TypeError):
            return cls()
        noted = config.get(CHOICES)
        choices = {group: str(name) for group, name in noted.items()} if isinstance(noted, Mapping) else {}
        for group in PRESETS:
            if group not in choices and isinstance(config.get(group), Mapping) and TARGET in config[group]:
                choices[group] = _nearest(group, config[group])
        return cls(*told, choices, what_is_run(config))

    def is_implied(self, key: str) -> bool:
        """Whether what an option says follows from the name of a preset."""
        said = presets_say(key.split(".")[0], self.choices.get(key.split(".")[0], ""))
        return key not in self.options or (key in said and said[key] == self.options[key])


@dataclass(frozen=True)
class Costs:
    """What a run took.

    Attributes:
        candidates_tried: mixtures that were scored to be decided on.
        examples_scored: examples that went through a model.
        examples_cached: examples that would have, had no earlier run kept what came of them.
        merge_seconds: reading runs, merging, and filling the model.
        eval_seconds: forward passes and metrics.
        peak_device_gib: what tensors took at most on an accelerator, in the process that finished it.
        peak_host_gib: the most memory of that process since it began; jobs of a sweep may share one.
    """

    candidates_tried: int | None = None
    examples_scored: int | None = None
    examples_cached: int | None = None
    merge_seconds: float | None = None
    eval_seconds: float | None = None
    peak_device_gib: float | None = None
    peak_host_gib: float | None = None

    @classmethod
    def of(cls, run: Path) -> Costs:
        """Those of the run in the folder `run`, by its journal; unknown where that cannot be read."""
        try:
            events = journal.read(run / JOURNAL)
            scored = [event for event in events if event["event"] == "score"]
            steps = [event for event in events if event["event"] == "step" and event["stage"] == "merge"]
            return cls(
                sum(_is_tried(step) for step in steps),
                sum(_examples(event) for event in scored if not event["cached"]),
                sum(_examples(event) for event in scored if event["cached"]),
                round(sum(event["merge_seconds"] for event in scored), 3),
                round(sum(event["eval_seconds"] for event in scored if not event["cached"]), 3),
                *(events[-1].get(name) for name in ("peak_device_gib", "peak_host_gib")),
            )
        except (JournalError, IndexError):
            return cls()


@cache
def presets_say(group: str, name: str) -> Mapping[str, Any]:
    """The options of a preset of ours, by dotted key; none where there is no preset of that name."""
    if group not in PRESETS or name not in files.names(group):
        return {}
    return what_is_run({group: files.compose(group, name)})


def _nearest(group: str, options: Mapping[str, Any]) -> str:
    """The preset made of the same classes that the fewest options differ from; else the class."""
    said = what_is_run({group: options})
    known = {name: presets_say(group, name) for name in files.names(group)}
    differing = {
        name: sum(preset.get(key) != said.get(key) for key in preset.keys() | said.keys())
        for name, preset in known.items()
        if _classes(preset) == _classes(said)
    }
    least = [name for name, number in differing.items() if number == min(differing.values())]
    return least[0] if len(least) == 1 else _class(options)


def _classes(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key.rsplit(".", 1)[-1] == TARGET}


def _class(options: Mapping[str, Any]) -> str:
    return str(options[TARGET]).rsplit(".", 1)[-1]


def _is_tried(step: Mapping[str, Any]) -> bool:
    """Whether a row of the merge stage is a mixture that was to be decided on."""
    decided = step["decision"] in ("keep", "discard", "error")
    return decided and (step["decision"] == "error" or step["examples_total"] > 0)


def _examples(event: Mapping[str, Any]) -> int:
    return sum(number for _, number in event["parts"].values())
