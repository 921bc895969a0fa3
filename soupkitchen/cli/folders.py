"""What commands that make files in folders have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from soupkitchen.cli.startup import standard_streams
from soupkitchen.console import printable, say
from soupkitchen.errors import SoupkitchenError


@standard_streams()
def make_in_each(
    command: str,
    about: str | None,
    folder: str,
    make: Callable[[Path], Iterable[Path]],
    arguments: Sequence[str] | None = None,
    check: Callable[[Path], Iterable[Path]] | None = None,
) -> None:
    """Makes files in each folder that is named, and prints where they are; exits with 1 where that fails.

    Args:
        command: what the command is called, as "tables".
        about: its documentation, whose first line `--help` has.
        folder: what `--help` says of the folders.
        check: what `--check` does instead; None for no such option.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m soupkitchen.{command}", description=(about or "").splitlines()[0]
    )
    parser.add_argument("folder", nargs="+", type=Path, help=folder)
    if check:
        parser.add_argument("--check", action="store_true", help="compare all files with what the run wrote")
    given = parser.parse_args(arguments)
    for place in given.folder:
        try:
            for file in check(place) if check and given.check else make(place):
                print(printable(str(file)))
        except (SoupkitchenError, OSError) as error:
            say(f"error: {error}")
            sys.exit(1)
