"""What a row of the table of bad inputs is: a command that must fail in plain words, and what it is given.

The rows stand in `bad_options.py`, `bad_checkpoints.py` and `bad_data.py`; `test_bad_inputs.py` runs
them through the real command.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WORDS = (
    "pool.path=runs/*",
    "task=text_classification",
    "task.data.path=texts",
    "evaluation.cache=null",
    "name=x",
)
"""A good command in a folder with runs `runs/a` and `runs/b` and data `texts/`, before a row's own words."""


def nothing(folder: Path) -> None:
    """Leaves the good runs and data as they are."""


@dataclass(frozen=True)
class Bad:
    """One bad input.

    Attributes:
        what: its name, unique in the table.
        words: added to `WORDS`, or, where they begin with "!", all the words after that.
        says: what standard error has to say: the culprit and the remedy.
        spoil: spoils the working directory, which holds `runs/a`, `runs/b` and `texts/`.
        scored: whether models may be scored before the error can be known.
        code: the exit code.
    """

    what: str
    words: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    spoil: Callable[[Path], None] = nothing
    scored: bool = False
    code: int = 1

    @property
    def command(self) -> tuple[str, ...]:
        return self.words[1:] if self.words[:1] == ("!",) else (*WORDS, *self.words)


def lay(folder: Path, runs: Path, texts: Path) -> None:
    """Lays the good runs and data into `folder`."""
    for name in ("a", "b"):
        shutil.copytree(runs / name, folder / "runs" / name)
    shutil.copytree(texts, folder / "texts")


def contents(folder: Path) -> dict[str, str]:
    """A digest of each regular file below `folder`, by path; other things by what they are."""
    told = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            told[name] = f"link to {path.readlink()}"
        elif path.is_file():
            told[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            told[name] = "folder" if path.is_dir() else "special"
    return told
