"""Makes a run's report, finished or not, or that of all runs in a folder.

python -m soupkitchen.report results/NAME
python -m soupkitchen.report results
python -m soupkitchen.report --check results/NAME
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from soupkitchen.cli.startup import parser_of, small_command
from soupkitchen.console import printable
from soupkitchen.errors import JournalError, SaveError
from soupkitchen.records import update_sweep_leaderboard
from soupkitchen.records.report import write_report, write_sweep_report
from soupkitchen.store.folder import CHECKSUMS, JOURNAL, LEADERBOARD, RECIPE, TRAJECTORY, altered, suspect
from soupkitchen.store.lock import only_process


def make(folder: Path) -> list[Path]:
    """Writes the report of the run or the runs in `folder`; returns the files.

    Raises:
        JournalError: if there is no run that has begun, and no finished one below.
    """
    if (folder / JOURNAL).is_file():
        return write_report(folder)
    if folder.is_dir() and update_sweep_leaderboard(folder) and (file := write_sweep_report(folder)):
        return [file]
    raise JournalError(
        f"{folder} is not the folder of a run that has begun ({JOURNAL}), and holds no finished ones"
    )


def check(folder: Path) -> list[Path]:
    """Compares the finished run's files, bit by bit, with those first written.

    Raises:
        SaveError: if some differ, or no digests are there.
    """
    if not (folder / CHECKSUMS).is_file():
        raise SaveError(f"{folder} has no {CHECKSUMS}, which a run writes when it is finished: no comparison")
    with only_process(folder.absolute()):
        lost = altered(folder, (TRAJECTORY, LEADERBOARD, RECIPE), thoroughly=True)
        suspect(folder, lost)
    if lost:
        changes = "\n  ".join(f"{name} {what}" for name, what in lost.items())
        raise SaveError(
            f"{folder} is not as the run left it:\n  {changes}\nThe command that made the run puts that "
            "right, and keeps what is there now aside"
        )
    return [folder]


@small_command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Makes each folder's report; exits with 1 if one fails."""
    parser = parser_of("report", __doc__)
    parser.add_argument("folder", nargs="+", type=Path, help="a run's folder, as results/NAME, or results")
    parser.add_argument("--check", action="store_true", help="compare all files with what the run wrote")
    given = parser.parse_args(arguments)
    for folder in given.folder:
        for file in check(folder) if given.check else make(folder):
            print(printable(str(file)))


if __name__ == "__main__":
    main()
