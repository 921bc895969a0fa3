"""How far a run is: each run of the pool and what came of it, a function of the journal's events so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from soupkitchen.records.trajectory import STEP

State = Literal["", "ranked", "next", "now", "kept", "discarded", "error"]


@dataclass
class OfRun:
    """What came of one run of the pool.

    Attributes:
        state: where it is known for good; else "".
        score: by itself, or at most, as the metric gives it.
        merged: the score of the candidate that it made, or at most.
        at_most: whether `merged` is a bound, as scoring stopped early.
        gain: of that candidate, where more is always better.
    """

    state: State = ""
    score: float | None = None
    merged: float | None = None
    at_most: bool = False
    gain: float | None = None


@dataclass
class Known:
    """What a run's events say so far.

    Attributes:
        metric: what the score is called.
        runs: the pool, by name, in its own order.
        soup: the names in the soup.
        best: what is to beat: the soup's score, or, before there is one, that of the best run.
        course: the soup's score after each decision.
        examples: that have been scored, or taken from an earlier evaluation.
        spared: examples of candidates whose scoring stopped early, that were not scored.
        now: the run that is being scored, if it is one.
        merging: whether the pool is ranked, and merging has begun.
    """

    metric: str = "score"
    greater_is_better: bool = True
    runs: dict[str, OfRun] = field(default_factory=dict)
    soup: tuple[str, ...] = ()
    best: float | None = None
    course: list[float] = field(default_factory=list)
    examples: int = 0
    spared: int = 0
    now: str | None = None
    merging: bool = False

    def note(self, event: Mapping[str, Any]) -> None:
        """Takes in the next event."""
        kind = event["event"]
        if kind == "begin":
            self.metric, self.greater_is_better = event["metric"], event["greater_is_better"]
            self.runs = {name: OfRun() for name in event["runs"]}
        elif kind == "score":
            self.examples += sum(size for _, size in (event.get("parts") or {}).values())
        elif kind == STEP:
            self.now = None
            if event["stopped_early"] and not event["cached"]:
                self.spared += event["examples_total"] - event["examples_scored"]
            if event["stage"] == "rank":
                self._ranked(event)
            elif event["stage"] == "merge":
                self._merged(event)

    def scoring(self, run: str) -> None:
        """Takes in the run that is ranked or merged in next, if it is one."""
        self.now = run if run in self.runs else None

    def state(self, name: str) -> State:
        """What is to be said of a run at present."""
        one = self.runs[name]
        if name == self.now:
            return "now"
        if one.state in ("error", "discarded", "kept"):
            return one.state
        return "next" if name == self.next else one.state

    @property
    def order(self) -> list[str]:
        """The pool as it is gone through: in its own order until it is ranked, then the best first."""
        if not self.merging:
            return list(self.runs)
        sign = -1.0 if self.greater_is_better else 1.0

        def place(name: str) -> tuple[bool, float]:
            score = self.runs[name].score
            missing = score is None or score != score
            return missing, 0.0 if missing or score is None else sign * score

        return sorted(self.runs, key=place)

    @property
    def next(self) -> str | None:
        """The run whose turn comes after what is going on."""
        waiting: tuple[State, ...] = ("ranked",) if self.merging else ("",)
        return next((n for n in self.order if self.runs[n].state in waiting and n != self.now), None)

    def _ranked(self, event: Mapping[str, Any]) -> None:
        one = self.runs.setdefault(event["candidate"], OfRun())
        score, known = _score(event), one.score
        if event["decision"] == "error":
            one.state = "error"
            return
        one.state = "ranked"
        one.score = known if score is None else score
        if (
            score is not None
            and event["score_at_most"] is None
            and (self.best is None or (score > self.best) == self.greater_is_better)
        ):
            self.best = score

    def _merged(self, event: Mapping[str, Any]) -> None:
        self.merging = True
        name, decision = event["candidate"], event["decision"]
        one = self.runs.get(name)
        if decision == "error":
            if one is not None:
                one.state = "error"
            return
        score = _score(event)
        if one is not None and decision != "start":
            one.merged, one.gain = score, event["gain"]
            one.at_most = event["score_at_most"] is not None
        if decision in ("start", "keep"):
            before, self.soup = self.soup, tuple(event["ingredients"])
            self.best = self.best if score is None else score
            for other in {*before, *self.soup} & self.runs.keys():
                self.runs[other].state = "kept" if other in self.soup else "discarded"
        elif one is not None and name not in self.soup:
            one.state = "discarded"
        if self.best is not None:
            self.course.append(self.best)


def _score(event: Mapping[str, Any]) -> float | None:
    """What a step says of a score: in full, on a part of the examples, or at most."""
    for name in ("score", "score_on_part", "score_at_most"):
        value: float | None = event.get(name)
        if value is not None:
            return value
    return None
