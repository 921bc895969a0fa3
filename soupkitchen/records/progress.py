"""The progress of a run: each run of the pool and its outcome, a function of the journal's events so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from soupkitchen.store.events import STEP

State = Literal["", "ranked", "next", "now", "kept", "discarded", "error"]


@dataclass
class OfRun:
    """The outcome of one run of the pool.

    Attributes:
        state: if it is known for good; else "".
        score: by itself, or at most, as the metric gives it.
        merged: the score of the candidate that it made, or at most.
        at_most: whether `merged` is a bound, as scoring stopped early.
        gain: of that candidate; more is always better.
    """

    state: State = ""
    score: float | None = None
    merged: float | None = None
    at_most: bool = False
    gain: float | None = None


@dataclass
class Known:
    """The progress that a run's events tell so far.

    Attributes:
        metric: the name of the score.
        runs: the pool, by name, in its own order.
        soup: the names in the soup.
        best: the score to beat: the soup's or, before there is one, that of the best run.
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
        """The state of a run at present."""
        state = self.runs[name].state
        if name == self.now:
            return "now"
        return "next" if state in ("", "ranked") and name == self.next else state

    @property
    def order(self) -> list[str]:
        """The pool in the order of the search: its own until it is ranked, then the best first."""
        if not self.merging:
            return list(self.runs)
        sign = -1.0 if self.greater_is_better else 1.0

        def place(name: str) -> tuple[bool, float]:
            score = self.runs[name].score
            return (True, 0.0) if score is None or score != score else (False, sign * score)

        return sorted(self.runs, key=place)

    @property
    def next(self) -> str | None:
        """The run whose turn comes after what is going on."""
        waiting = "ranked" if self.merging else ""
        return next((n for n in self.order if self.runs[n].state == waiting and n != self.now), None)

    def _ranked(self, event: Mapping[str, Any]) -> None:
        run = self.runs.setdefault(event["candidate"], OfRun())
        if event["decision"] == "error":
            run.state = "error"
            return
        run.state = "ranked"
        if (score := _score(event)) is None:
            return
        run.score = score
        better = self.best is None or (score > self.best) == self.greater_is_better
        if better and event["score_at_most"] is None:
            self.best = score

    def _merged(self, event: Mapping[str, Any]) -> None:
        self.merging = True
        name, decision, score = event["candidate"], event["decision"], _score(event)
        run = self.runs.get(name, OfRun())  # of several at once, one that is not shown
        if decision == "error":
            run.state = "error"
            return
        if decision != "start":
            run.merged, run.gain = score, event["gain"]
            run.at_most = event["score_at_most"] is not None
        if decision in ("start", "keep"):
            before, self.soup = self.soup, tuple(event["ingredients"])
            self.best = self.best if score is None else score
            for other in {*before, *self.soup} & self.runs.keys():
                self.runs[other].state = "kept" if other in self.soup else "discarded"
        elif name not in self.soup:
            run.state = "discarded"
        if self.best is not None:
            self.course.append(self.best)


def _score(event: Mapping[str, Any]) -> float | None:
    """The score that a step gives: in full, on a part of the examples, or at most."""
    names = ("score", "score_on_part", "score_at_most")
    return next((event[name] for name in names if event.get(name) is not None), None)
