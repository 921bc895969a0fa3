"""Writes names as words of a command line, with the quoting that Hydra and a shell need."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_PLAIN = re.compile(r"[\w/+.-]+", re.ASCII)
_IN_KEYS = re.compile(r"[\w/+.$%*@?|\\()\[\]{}:=, -]+", re.ASCII)
"""Characters that Hydra allows in keys of a mapping, some after a backslash; keys have no quotes."""
_ESCAPED = re.compile(r"([\\()\[\]{}:=, ])")
_PAIR = re.compile(r"\s*(.+?)\s*:\s*([-+.\w]+)\s*(?:,|$)")


def listing(option: str, names: Sequence[str]) -> str:
    """Writes the word that sets `option` to a list of names: ``'pool.exclude=["lr=0.1,seed=1"]'``."""
    return shlex.quote(f"{option}=[{', '.join(map(quoted, names))}]")


def mapping(option: str, values: dict[str, str]) -> str | None:
    """Writes the word that sets `option` to a mapping; None if Hydra cannot read one of its keys."""
    if not all(_IN_KEYS.fullmatch(key) for key in values):
        return None
    inside = ", ".join(_ESCAPED.sub(r"\\\1", key) + f": {value}" for key, value in values.items())
    return shlex.quote(f"{option}={{{inside}}}")


def is_plain(name: str) -> bool:
    """Tells whether a name needs no quoting anywhere."""
    return _PLAIN.fullmatch(name) is not None


def mended(word: str) -> str:
    """Guesses how a word that Hydra cannot read, ``OPTION=VALUE``, should be written."""
    option, _, value = word.partition("=")
    value = value.strip()
    if value[:1] == "[" and value[-1:] == "]":
        return listing(option, [value[1:-1].strip(" \"'")])
    if value[:1] == "{" and value[-1:] == "}":
        pairs = {key.strip("\"'"): number for key, number in _PAIR.findall(value[1:-1])}
        return mapping(option, pairs) or word
    return shlex.quote(f"{option}={quoted(value)}")


def quoted(text: str) -> str:
    """Writes `text` as a value in Hydra's grammar: a backslash is an escape only before a quote."""
    if is_plain(text):
        return text
    quote = "'" if '"' in text and "'" not in text else '"'
    escaped = re.sub(rf"(\\*)({quote}|$)", lambda end: end[1] * 2 + f"\\{quote}" * bool(end[2]), text)
    return f"{quote}{escaped}{quote}"
