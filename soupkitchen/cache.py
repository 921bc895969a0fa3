"""Lists and deletes evaluations that are kept for later runs.

python -m soupkitchen.cache list      what is there
python -m soupkitchen.cache clear     deletes it, once you have said yes; pools of the demo stay
python -m soupkitchen.cache prune --older 30d --size 10GB
                                      deletes what was not used for so long, and what is beyond that size
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from soupkitchen.cli.startup import parser_of, small_command
from soupkitchen.console import printable
from soupkitchen.errors import ConfigError
from soupkitchen.store.evaluations import CachedEvaluation, EvaluationCache

_UNITS_OF_TIME = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_UNITS_OF_SIZE = {
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)},
}


@small_command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Lists, clears or prunes the cache."""
    parser = parser_of("cache", __doc__)
    parser.add_argument("action", choices=["list", "clear", "prune"])
    default = Path(os.environ.get("SOUPKITCHEN_CACHE", "~/.cache/soupkitchen")) / "evaluations"
    parser.add_argument("--folder", type=Path, default=default, help="default: %(default)s")
    parser.add_argument("--yes", action="store_true", help="clear without asking")
    parser.add_argument("--older", type=_age, help="prune what was not used for so long, as 12h, 30d or 8w")
    parser.add_argument("--size", type=_size, help="prune the longest unused beyond that, as 500MB or 10GB")
    given = parser.parse_args(arguments)
    limits = [given.older is not None, given.size is not None]
    if any(limits) != (given.action == "prune"):
        parser.error("prune takes --older, --size or both; the other actions take neither")
    cache = EvaluationCache(given.folder.expanduser())
    entries = list(cache.entries())
    total = f"{sum(entry.size for entry in entries) / 2**20:.1f} MiB"
    if given.action == "clear":
        _clear(cache, entries, total, given.yes)
        return
    if given.action == "prune":
        before = datetime.min if given.older is None else datetime.now() - given.older
        gone = cache.prune(before, math.inf if given.size is None else given.size)
        size = sum(entry.size for entry in gone) / 2**20
        folder = printable(str(cache.folder))
        print(f"{len(gone)} of {len(entries)} evaluations, {size:.1f} MiB, deleted in {folder}")
        return
    for entry in entries:
        label = "(damaged)" if entry.label is None else printable(entry.label)
        print(f"{entry.used:%Y-%m-%d %H:%M}  {entry.size / 1024:8.1f} KiB  {entry.key}  {label}")
    print(f"{len(entries)} evaluations, {total}, in {printable(str(cache.folder))}")


def _age(text: str) -> timedelta:
    number, unit = _measure(text, _UNITS_OF_TIME, "30d")
    return timedelta(**{unit: number})


def _size(text: str) -> float:
    number, unit = _measure(text, _UNITS_OF_SIZE, "10GB")
    return number * unit


def _measure(text: str, units: Mapping[str, Any], example: str) -> tuple[float, Any]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip().lower())
    if match is None or match[2] not in units:
        raise argparse.ArgumentTypeError(
            f"{text} should be a number and one of {', '.join(units)}: {example}"
        )
    return float(match[1]), units[match[2]]


def _clear(cache: EvaluationCache, entries: Sequence[CachedEvaluation], total: str, yes: bool) -> None:
    folder = printable(str(cache.folder))
    print(f"{len(entries)} evaluations, {total}, in {folder}; nothing else there is touched")
    if not yes and entries:
        if not sys.stdin.isatty():
            raise ConfigError("nothing was deleted: --yes deletes them without asking")
        if input("Delete them? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return
    deleted = cache.clear()
    print(f"{deleted} evaluations deleted")
    if left := len(entries) - deleted:
        print(f"{left} cannot be read, and may not be ours: see 'list', and delete them by hand")


if __name__ == "__main__":
    main()
