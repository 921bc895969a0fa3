"""The command line of commands that make files in folders."""

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
    """Makes files in each folder that is named, and prints their names; exits with 1 if that fails.

    Args:
        command: the name of the command, as "tables".
        about: its documentation, whose first line `--help` shows.
        folder: the text of `--help` on the folders.
        check: called instead of `make` for `--check`; None for no such option.
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
