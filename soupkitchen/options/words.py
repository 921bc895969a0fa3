"""Writes names as words of a command line, with the quoting that Hydra and a shell need."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_PLAIN = re.compile(r"[\w/+.-]+", re.ASCII)
_IN_KEYS = re.compile(r"[\w/+.$%*@?|\\()\[\]{}:=, -]+", re.ASCII)
"""What Hydra reads in the keys of a mapping, some of it after a backslash; it has no quotes there."""
_ESCAPED = re.compile(r"([\\()\[\]{}:=, ])")
_PAIR = re.compile(r"\s*(.+?)\s*:\s*([-+.\w]+)\s*(?:,|$)")


def listing(option: str, names: Sequence[str]) -> str:
    """The word that sets `option` to a list of names: ``'pool.exclude=["lr=0.1,seed=1"]'``."""
    return shlex.quote(f"{option}=[{', '.join(map(quoted, names))}]")


def mapping(option: str, values: dict[str, str]) -> str | None:
    """The word that sets `option` to a mapping; None if Hydra has no place for a key of it."""
    if not all(_IN_KEYS.fullmatch(key) for key in values):
        return None
    inside = ", ".join(_ESCAPED.sub(r"\\\1", key) + f": {value}" for key, value in values.items())
    return shlex.quote(f"{option}={{{inside}}}")


def is_plain(name: str) -> bool:
    """Whether a name needs no quoting anywhere."""
    return _PLAIN.fullmatch(name) is not None


def mended(word: str) -> str:
    """What was likely meant by a word, ``OPTION=VALUE``, that Hydra cannot read."""
    option, _, value = word.partition("=")
    value = value.strip()
    if value[:1] == "[" and value[-1:] == "]":
        return listing(option, [value[1:-1].strip(" \"'")])
    if value[:1] == "{" and value[-1:] == "}":
        pairs = {key.strip("\"'"): number for key, number in _PAIR.findall(value[1:-1])}
        return mapping(option, pairs) or word
    return shlex.quote(f"{option}={quoted(value)}")


def quoted(text: str) -> str:
    """`text` as a value in Hydra's grammar, where a backslash is one unless a quote follows."""
    if is_plain(text):
        return text
    quote = "'" if '"' in text and "'" not in text else '"'
    escaped = re.sub(rf"(\\*)({quote}|$)", lambda end: end[1] * 2 + f"\\{quote}" * bool(end[2]), text)
    return f"{quote}{escaped}{quote}"
