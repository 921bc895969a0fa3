"""Regular expressions of strangers, matched in a time that they cannot choose.

peft lets an adapter's configuration give ranks by regular expression. Python's `re` tries one way of
matching after the other, and some expressions have a way for each subset of the text. Here an expression
is walked with the set of all places that it may have come to, so that no place is looked at twice
(Thompson 1968, "Regular Expression Search Algorithm").
"""

from __future__ import annotations

import importlib
import re
import sys
from functools import cache
from typing import Any

_parser = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")
_SIMPLE = re.compile(r"(?:[\w.-]|\\[.d_-])*(?:[*+](?:[\w.-]|\\[.d_-])*)?")
"""Expressions that `re` matches in no more than the square of the text's length: names, mostly."""
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
}
_LONGEST = 500
Places = frozenset[int]


def is_simple(pattern: str) -> bool:
    """Whether `re` itself may match the pattern."""
    return _SIMPLE.fullmatch(pattern) is not None


def ends_with(module: str, pattern: str) -> bool:
    """Whether the path `module`, or its end after a dot, is as `pattern` says, in peft's sense.

    Raises:
        re.error: for what is no regular expression, or goes beyond characters, classes,
            groups, alternatives, repetitions and looking ahead.
    """
    return _matches(rf"(.*\.)?({pattern})$", module, is_simple(pattern))


def is_all(text: str, pattern: str) -> bool:
    """Whether `text` is as `pattern` says. Raises as `ends_with` does."""
    return _matches(rf"({pattern})$", text, is_simple(pattern))


def is_part(module: str, pattern: str) -> bool:
    """Whether some of the names in the path `module` are as `pattern` says. Raises as `ends_with` does."""
    return _matches(rf"(^|.*\.){pattern}($|\..*)", module, is_simple(pattern))


def _matches(whole: str, text: str, simple: bool) -> bool:
    if len(text) > _LONGEST:
        raise re.error(f"the name {text[:40]}… is longer than any module's")
    if simple:
        return re.match(whole, text) is not None
    return bool(_Walk(text).after(_parsed(whole), 0))


@cache
def _parsed(pattern: str) -> Any:
    parsed = _parser.parse(pattern)
    if parsed.state.flags & ~re.UNICODE:
        raise re.error("flags are not followed")
    return parsed


class _Walk:
    """All places in one text that expressions lead to, each looked for once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._known: dict[tuple[int, int], Places] = {}

    def after(self, items: Any, start: int) -> Places:
        """Where a sequence of items that begins at `start` can end."""
        places = frozenset({start})
        for item in items:
            places = self._step(item, places)
        return places

    def _step(self, item: Any, places: Places) -> Places:
        for place in places:
            if (id(item), place) not in self._known:
                self._known[id(item), place] = self._one(item, place)
        return frozenset[int]().union(*(self._known[id(item), place] for place in places))

    def _one(self, item: Any, place: int) -> Places:
        kind, value = str(item[0]), item[1]
        if kind == "SUBPATTERN" and not value[1] and not value[2]:
            return self.after(value[3], place)
        if kind == "BRANCH":
            return frozenset[int]().union(*(self.after(branch, place) for branch in value[1]))
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeated(value[0], value[1], value[2], place)
        if kind in ("ASSERT", "ASSERT_NOT") and value[0] == 1:
            return frozenset({place} if bool(self.after(value[1], place)) == (kind == "ASSERT") else ())
        if kind == "AT":
            ends = {"AT_BEGINNING": 0, "AT_BEGINNING_STRING": 0}
            ends |= dict.fromkeys(("AT_END", "AT_END_STRING"), len(self._text))
            if str(value) in ends:
                return frozenset({place} if place == ends[str(value)] else ())
        elif kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            there = place < len(self._text) and _is_in([item] if kind != "IN" else value, self._text[place])
            return frozenset({place + 1} if there else ())
        raise re.error(f"{kind.lower()} is not followed")

    def _repeated(self, least: int, most: int, items: Any, place: int) -> Places:
        """Where `least` to `most` rounds lead.

        Among more rounds than there are characters one matches nothing, so more lead nowhere else.
        """
        enough = len(self._text) + 1
        reached = frozenset({place})
        found = reached if least == 0 else frozenset[int]()
        for number in range(1, min(int(most), enough) + 1):
            reached = frozenset[int]().union(*(self._memo(items, start) for start in reached))
            if number >= min(least, enough):
                found |= reached
            if not reached:
                break
        return found

    def _memo(self, items: Any, place: int) -> Places:
        key = (id(items), place)
        if key not in self._known:
            self._known[key] = self.after(items, place)
        return self._known[key]


def _is_in(items: Any, character: str) -> bool:
    negated = bool(items) and str(items[0][0]) == "NEGATE"
    return any(_is(item, character) for item in items[negated:]) != negated


def _is(item: Any, character: str) -> bool:
    kind, value = str(item[0]), item[1]
    if kind == "LITERAL":
        return ord(character) == value
    if kind == "NOT_LITERAL":
        return ord(character) != value
    if kind == "ANY":
        return character != "\n"
    if kind == "RANGE":
        return value[0] <= ord(character) <= value[1]
    if kind == "CATEGORY":
        return re.fullmatch(_CATEGORIES[str(value)], character) is not None
    raise re.error(f"{kind.lower()} is not followed")
