"""Opens files that strangers made: regular ones only, no larger than such files are.

A run's folder may hold anything: a named pipe that nobody writes to, a link to `/dev/zero`, a link to
a file that is none of the run's. All that is read of a run is opened here, or was looked at here before
a library opens it.
"""

from __future__ import annotations

import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from soupkitchen.errors import CheckpointError
from soupkitchen.store import documents

MOST = 256 << 20
"""Bytes of a text file at most; the largest tokenizers have about a tenth of that."""

_TEXTS = (".json", ".jsonl", ".txt", ".jinja", ".model", ".vocab", ".tiktoken", ".py")
_READ_BELOW = ("additional_chat_templates",)
"""Folders that transformers reads with a run."""
_OBJECTS = (
    "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
"""What transformers reads with a run and takes for a JSON object, whatever it is."""
_CODE = 4 << 20


def open_regular(file: Path) -> BufferedReader:
    """`file`, opened for reading; see `documents.open_regular`. Raises a `CheckpointError`."""
    return documents.open_regular(file, CheckpointError)


def read_bytes(file: Path, most: int = MOST) -> bytes:
    """The content of `file`; see `documents.read_bytes`. Raises a `CheckpointError`."""
    return documents.read_bytes(file, most, CheckpointError)


def read_json(file: Path, if_missing: str | None = None) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises:
        CheckpointError: where there is none.
    """
    if if_missing is not None and not os.path.lexists(file):
        raise CheckpointError(if_missing)
    try:
        content = json.loads(read_bytes(file))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} should hold a JSON object")
    return content


def check_folder(folder: Path) -> None:
    """Looks at all files that a library may open by itself when it is pointed at `folder`.

    Raises:
        CheckpointError: where one is no regular file, much too large, or no JSON object where one should be.
    """
    for place in (folder, *(folder / name for name in _READ_BELOW)):
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            try:
                told = entry.stat()
            except OSError:  # a link to nothing
                continue
            if stat.S_ISREG(told.st_mode):
                if told.st_size > MOST and entry.name.endswith(_TEXTS):
                    raise CheckpointError(
                        f"{entry.path} has {told.st_size >> 20} MiB, and such files at most {MOST >> 20}; "
                        "copy the run again"
                    )
            elif not stat.S_ISDIR(told.st_mode):
                raise CheckpointError(f"{entry.path} cannot be read: {documents.not_regular(told.st_mode)}")
    for name in _OBJECTS:
        if (folder / name).exists():
            read_json(folder / name)


def code_files(folder: Path) -> list[Path]:
    """The Python files of a run, which are copied with a model that has code of its own.

    Raises:
        CheckpointError: as `own_files` does.
    """
    return own_files(folder, "*.py", _CODE)


def own_files(folder: Path, pattern: str, most: int = MOST) -> list[Path]:
    """The files of a run that are called as `pattern` says and that may be copied with the soup.

    Files of the hub's cache are links to its `blobs`, beside the snapshot; no other link leaves a run.

    Raises:
        CheckpointError: where one is a link out of the run, no regular file, or larger than `most` bytes.
    """
    files = [file for file in sorted(folder.glob(pattern)) if not file.is_dir()]
    homes = _homes(folder.resolve())
    for file in files:
        real = file.resolve()
        if not any(real.is_relative_to(home) for home in homes):
            raise CheckpointError(
                f"{file} is a link to {real}, out of the run's folder. It would be copied with the soup: "
                "put the file itself in its place, or remove it"
            )
        with open_regular(file) as handle:
            if os.fstat(handle.fileno()).st_size > most:
                raise CheckpointError(
                    f"{file} has more than {most >> 20} MiB, which no such file has; remove it"
                )
    return files


def _homes(folder: Path) -> list[Path]:
    """Where the files of a run may lie."""
    if folder.parent.name == "snapshots" and (repository := folder.parents[1]).name.startswith("models--"):
        return [folder, repository / "blobs"]
    return [folder]
