"""Makes a run's tables again from its journal.

    python -m soupkitchen.tables results/NAME

`trajectory.csv`, and a finished run's `leaderboard.csv`, follow from `journal.jsonl` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from soupkitchen.cli.startup import parser_of, small_command
from soupkitchen.console import printable
from soupkitchen.errors import JournalError
from soupkitchen.records.tables import write_tables
from soupkitchen.store.folder import JOURNAL
from soupkitchen.store.lock import only_process


def make(folder: Path) -> list[Path]:
    """Writes the tables of the run in `folder`; returns the files.

    Raises:
        JournalError: if the journal is missing or damaged.
        LockError: if the run is in progress.
    """
    file = folder / JOURNAL
    if not file.is_file():
        raise JournalError(f"{file} is not there: {folder} is not the folder of a run that has begun")
    with only_process(folder.absolute()):
        return write_tables(folder)


@small_command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Makes each folder's tables; exits with 1 if one fails."""
    parser = parser_of("tables", __doc__)
    parser.add_argument("folder", nargs="+", type=Path, help="a run's folder, as results/NAME")
    for folder in parser.parse_args(arguments).folder:
        for file in make(folder):
            print(printable(str(file)))


if __name__ == "__main__":
    main()
