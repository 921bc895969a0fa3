"""What a terminal shows while a run works: the pool as a list, and above it how far the run is.

At most `TALLEST` lines, whatever the size of the pool: of a larger one those around what is going on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from soupkitchen.console import printable
from soupkitchen.records.progress import Known, State

TALLEST = 20
_LEAST = 3
"""Runs that are shown in the lowest of windows."""
_STYLES: dict[State, str] = {
    "kept": "green", "discarded": "dim", "error": "red", "now": "bold", "next": "cyan",
}  # fmt: skip
_ORDER: tuple[State, ...] = ("kept", "discarded", "error", "ranked", "")
_BOUNDS = {(True, True): "≤ ", (True, False): "<= ", (False, True): "≥ ", (False, False): ">= "}
"""What a bound of a score begins with: where higher is better, and where the terminal has such letters."""
_WIDTH_STATE, _WIDTH_ALONE, _WIDTH_MERGED = 13, 24, 48
"""What all columns but that of the name take, and the space between them."""
_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=*#"


@dataclass(frozen=True)
class View:
    """One picture of a run.

    Attributes:
        what: is being scored.
        done, total: its examples.
        seconds_left: at most, where the speed is known.
    """

    known: Known
    what: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, fancy = options.max_width, console.encoding.startswith("utf")
        height = min(TALLEST, console.height - 1)
        lines = [*self._doing(width, fancy), *_filled(self._facts(fancy), width)]
        yield from (_line(text) for text in lines[: max(height, 1)])
        yield from self._pool(height - len(lines), width, fancy)

    def _doing(self, width: int, fancy: bool) -> list[str]:
        if not self.what:
            return []
        counted = f" {self.done}/{self.total}" if self.total else ""
        room = min(24, width - len(counted) - 20)
        if room < 8 or not self.total:
            return [_cut(printable(self.what), width - len(counted), fancy) + counted]
        full = round(room * min(1.0, self.done / self.total))
        bar = ("━" if fancy else "#") * full + ("─" if fancy else "-") * (room - full)
        return [f"{_cut(printable(self.what), width - room - len(counted) - 1, fancy)} {bar}{counted}"]

    def _facts(self, fancy: bool) -> list[str]:
        known, facts = self.known, []
        if known.best is not None:
            size = f" (soup of {len(known.soup)})" if known.soup else ""
            facts.append(f"to beat: {printable(known.metric)} {known.best:.4f}{size}")
        if len(known.course) > 1:
            facts.append(sparkline(known.course[-24:], _BARS if fancy else _PLAIN_BARS))
        if known.spared:
            whole = known.examples + known.spared
            facts.append(f"forward passes saved: {known.spared} of {whole}")
        if self.seconds_left is not None:
            facts.append(f"at most {clock(self.seconds_left)} left")
        return facts

    def _pool(self, room: int, width: int, fancy: bool) -> RenderResult:
        order = self.known.order
        states = {name: self.known.state(name) for name in order}
        if not order or room < _LEAST + 1:
            return
        shown = order if len(order) < room else window(order, self._focus(order, states), room - 2)
        grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        merged = (
            any(one.merged is not None for one in self.known.runs.values()) and width >= _WIDTH_MERGED + 12
        )
        alone = width >= _WIDTH_ALONE + 10
        others = _WIDTH_MERGED if merged else _WIDTH_ALONE if alone else _WIDTH_STATE
        grid.add_column("run", no_wrap=True)
        grid.add_column("", no_wrap=True, min_width=9)
        if alone:
            grid.add_column("alone", no_wrap=True, justify="right", min_width=6)
        if merged:
            grid.add_column("merged", no_wrap=True, justify="right")
            grid.add_column("gain", no_wrap=True, justify="right")
        for name in shown:
            one = self.known.runs[name]
            cells = [_cut(printable(name), width - others, fancy), states[name]]
            cells += [_number(one.score)] if alone else []
            if merged:
                bound = _BOUNDS[self.known.greater_is_better, fancy] if one.at_most else ""
                cells += [f"{bound}{_number(one.merged)}", _number(one.gain, "+.4f")]
            grid.add_row(*map(Text, cells), style=_STYLES.get(states[name]))
        yield grid
        if len(shown) < len(order):
            rest = Counter(states[name] for name in order if name not in set(shown))
            told = [f"{rest[state]} {state or 'to come'}" for state in _ORDER if rest[state]]
            yield _line(_cut(f"and {sum(rest.values())} more: {', '.join(told)}", width, fancy))

    def _focus(self, order: Sequence[str], states: dict[str, State]) -> int:
        """The place in the list of what is going on, or else of what comes next, or of what was last."""
        for state in ("now", "next"):
            for place, name in enumerate(order):
                if states[name] == state:
                    return place
        decided = [place for place, name in enumerate(order) if states[name]]
        return decided[-1] if decided else 0


def window(order: Sequence[str], focus: int, size: int) -> Sequence[str]:
    """So many of a list, around the place `focus`."""
    size = max(size, 1)
    first = max(0, min(focus - size // 2, len(order) - size))
    return order[first : first + size]


def sparkline(values: Sequence[float], bars: str) -> str:
    """Numbers as bars, the least as the lowest; a blank for what is no number."""
    numbers = [value for value in values if value == value and abs(value) != float("inf")]
    if not numbers:
        return ""
    low, span = min(numbers), max(numbers) - min(numbers)
    return "".join(
        bars[round((value - low) / span * (len(bars) - 1)) if span else 0] if value in numbers else " "
        for value in values
    )


def clock(seconds: float) -> str:
    """A duration as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _filled(facts: Sequence[str], width: int) -> list[str]:
    """Facts side by side, in as many lines as they take."""
    lines: list[str] = []
    for fact in facts:
        if lines and cell_len(lines[-1]) + 2 + cell_len(fact) <= width:
            lines[-1] = f"{lines[-1]}  {fact}"
        else:
            lines.append(fact)
    return lines


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="crop")


def _cut(text: str, width: int, fancy: bool) -> str:
    width = max(width, 2)
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + ("…" if fancy else "~")


def _number(value: float | None, form: str = ".4f") -> str:
    return "" if value is None or value != value else f"{value:{form}}"
