"""Evaluations that are kept for later runs, listed and deleted.

python -m soupkitchen.cache list      what is there
python -m soupkitchen.cache clear     deletes it, once you have said yes; pools of the demo stay
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from soupkitchen.cli.startup import standard_streams
from soupkitchen.console import printable
from soupkitchen.store.evaluations import Entry, EvaluationCache


@standard_streams()
def main(arguments: Sequence[str] | None = None) -> None:
    """Lists or clears the cache from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m soupkitchen.cache", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("action", choices=["list", "clear"])
    default = Path(os.environ.get("SOUPKITCHEN_CACHE", "~/.cache/soupkitchen")) / "evaluations"
    parser.add_argument("--folder", type=Path, default=default, help="default: %(default)s")
    parser.add_argument("--yes", action="store_true", help="clear without asking")
    given = parser.parse_args(arguments)
    cache = EvaluationCache(given.folder.expanduser())
    entries = list(cache.entries())
    total = f"{sum(entry.size for entry in entries) / 2**20:.1f} MiB"
    if given.action == "clear":
        _clear(cache, entries, total, given.yes)
        return
    for entry in entries:
        label = "(damaged)" if entry.label is None else printable(entry.label)
        print(f"{entry.written:%Y-%m-%d %H:%M}  {entry.size / 1024:8.1f} KiB  {entry.key}  {label}")
    print(f"{len(entries)} evaluations, {total}, in {printable(str(cache.folder))}")


def _clear(cache: EvaluationCache, entries: Sequence[Entry], total: str, yes: bool) -> None:
    """Says what goes, and lets it go once the user has said yes."""
    folder = printable(str(cache.folder))
    print(f"{len(entries)} evaluations, {total}, in {folder}; nothing else there is touched")
    if not yes and entries:
        if not sys.stdin.isatty():
            print("error: nothing was deleted: --yes deletes them without asking", file=sys.stderr)
            sys.exit(1)
        if input("Delete them? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return
    deleted = cache.clear()
    print(f"{deleted} evaluations deleted")
    if left := len(entries) - deleted:
        print(f"{left} cannot be read, and may not be ours: see 'list', and delete them by hand")
