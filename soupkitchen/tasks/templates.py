"""Jinja templates of others' files, with bounds on time and memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import SandboxedEnvironment

from soupkitchen.errors import DataError

MOST = 1_000_000
"""Most turns of a template's loops, and letters or items of one operation."""


class Bounded(SandboxedEnvironment):
    """Limits loops, ranges, products and powers."""

    intercepted_binops = frozenset(("+", "*", "**"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._turns = 0
        self.globals["range"] = _range
        self.filters["_counted"] = self._counted

    @classmethod
    def like(cls, other: jinja2.Environment) -> Bounded:
        """An environment that fills templates as `other` does."""
        made = cls(undefined=other.undefined, keep_trailing_newline=other.keep_trailing_newline)
        made.filters.update(other.filters)
        return made

    def from_string(self, *arguments: Any, **options: Any) -> jinja2.Template:
        self._turns = 0  # a template is made for each text
        return super().from_string(*arguments, **options)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None)
        return tree

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._turns += 1
            if self._turns > MOST:
                raise _endless(f"its loops take more than {MOST:,} turns")
            yield item

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and not (abs(left) < MOST and abs(right) < 64):
            raise _endless(f"it makes {left} ** {right}")
        sizes = [len(one) if hasattr(one, "__len__") else None for one in (left, right)]
        if operator == "*" and sizes != [None, None]:
            times = max(n for n in (left, right, 1) if isinstance(n, int))
            long = (sizes[0] or 1) * (sizes[1] or 1) * times
        else:
            long = sum(size or 0 for size in sizes)
        if long > MOST:
            raise _endless(f"it makes a text or a list of {long:,}")
        return super().call_binop(context, operator, left, right)


def _range(*arguments: int) -> range:
    made = range(*arguments)
    if made and abs(made[-1] - made[0]) // abs(made.step) >= MOST:
        raise _endless(f"it has a range of more than {MOST:,} numbers")
    return made


def _endless(why: str) -> DataError:
    return DataError(f"task.tasks: a template of the task does not end in time: {why}; mend its YAML")
