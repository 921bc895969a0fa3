"""Writes files and folders whole or not at all, and reads small ones of strangers as typed records.

A reader never sees half of a file. A results' folder, a recipe or a configuration may come from a stranger:
JSON and YAML have a bounded size, and a value is used only if it has the type that its reader expects; a
wrong one is an error that names file and field.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from soupkitchen.errors import ConfigError, SoupkitchenError

log = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems without locks or syncing, such as some NFS and FUSE."""
Record = TypeVar("Record")
MOST = 64 << 20
MOST_YAML = 2 << 20
"""The most bytes of YAML; parsing them takes some seconds."""
_NESTS = (list, tuple, dict)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = 3
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def write(file: Path, fill: Callable[[Path], object]) -> None:
    """Writes a file by `fill` under a temporary name, syncs it, and renames it to `file`.

    Raises:
        OSError: if that fails; `file` is then unchanged.
    """
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    os.close(descriptor)
    beside = Path(name)
    try:
        fill(beside)
        with suppress(OSError):  # some file systems have no modes
            beside.chmod(0o644)
        with beside.open("rb") as written:
            sync(written.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sync(descriptor: int) -> None:
    """Waits until a file is on disk, if its file system supports that.

    Raises:
        OSError: if it cannot be written.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        log.debug("fsync is refused (%s): a crash of the machine may lose what was written last", error)


def write_text(file: Path, text: str) -> None:
    content = text.encode("utf-8", "backslashreplace")
    write(file, lambda beside: beside.write_bytes(content))


def remove_unfinished(file: Path) -> None:
    """Removes temporary copies of `file` left by killed processes; nobody else may be writing it.

    A name with a final ``*`` stands for all such files.
    """
    for left in file.parent.glob(f".{file.name}.????????"):
        left.unlink(missing_ok=True)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yields a folder to write to, which is renamed to `folder` at the end.

    Until then an older one stays. After a kill, `recover` repairs both.
    """
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield beside
        beside.chmod(0o755)
        for file in beside.rglob("*"):  # safetensors writes for its owner alone
            file.chmod(0o755 if file.is_dir() else 0o644)
        old = beside.with_name(f"{beside.name}.old")
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def recover(folder: Path) -> None:
    """Repairs `folder` if its replacement was killed half-way."""
    for old in folder.parent.glob(f".{folder.name}.*.old"):
        if not folder.exists():
            old.rename(folder)
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)


if TYPE_CHECKING:
    from pydantic import TypeAdapter


_DEEPEST, _MOST_PARTS = 64, 1_000_000


def open_regular(file: Path, error: type[SoupkitchenError] = ConfigError) -> BufferedReader:
    """Opens `file` for reading; a pipe does not block it.

    Raises:
        error: if it is no regular file, or may not be read.
    """
    try:
        handle = open(file, "rb", opener=_without_waiting)  # noqa: SIM115
    except FileNotFoundError:
        target = f": it is a link to {file.readlink()}, which is not there" if file.is_symlink() else ""
        raise error(f"{file} is missing{target}; copy it again") from None
    except PermissionError:
        raise error(
            f"{file} cannot be read: you are not allowed to (permission denied); chmod u+r allows you to"
        ) from None
    except IsADirectoryError:
        raise error(f"{file} cannot be read: it is a folder, where a file should be") from None
    except (OSError, ValueError) as cause:
        raise error(f"{file} cannot be read ({cause})") from cause
    mode = os.fstat(handle.fileno()).st_mode
    if not stat.S_ISREG(mode):
        handle.close()
        raise error(f"{file} cannot be read: {not_regular(mode)}")
    return handle


def own(file: Path, error: type[SoupkitchenError] = ConfigError) -> Path:
    """Returns `file`, unless it links out of its folder.

    Raises:
        error: if it does.
    """
    target = os.path.realpath(file)
    if file.is_symlink() and not Path(target).is_relative_to(os.path.realpath(file.parent)):
        raise error(f"{file} is a link to {target}, out of its folder; put the file itself in its place")
    return file


def read_bytes(file: Path, most: int = MOST, error: type[SoupkitchenError] = ConfigError) -> bytes:
    """Reads `file`.

    Raises:
        error: if it is no regular file, may not be read, or has more than `most` bytes.
    """
    with open_regular(file, error) as handle:
        try:
            content = handle.read(most + 1)
        except OSError as cause:
            raise error(f"{file} cannot be read ({cause})") from cause
    if len(content) > most:
        raise error(f"{file} cannot be read: it has more than the {most >> 20} MiB that such files have")
    return content


def read_json(
    file: Path, record: type[Record], most: int = MOST, error: type[SoupkitchenError] = ConfigError
) -> Record:
    """Reads the JSON in `file` as a `record`: any type that pydantic knows.

    Raises:
        error: if the file cannot be read, is no JSON, or does not fit; the message names the field.
    """
    try:
        tree = json.loads(read_bytes(file, most, error))
    except (ValueError, RecursionError) as cause:
        raise error(f"{file} cannot be read: it is no JSON ({_first_line(cause)})") from cause
    return checked(tree, record, file, error)


def read_yaml(
    file: Path, record: type[Record], most: int = MOST_YAML, error: type[SoupkitchenError] = ConfigError
) -> Record:
    """Reads the single YAML document in `file` as a `record`; see `read_json`."""
    try:
        tree = yaml.load(read_bytes(file, most, error), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as cause:
        reason = " ".join(str(cause).split())
        several = "expected a single document" in reason
        what = "it has several documents, and should have one" if several else f"it is no YAML ({reason})"
        raise error(f"{file} cannot be read: {what}") from cause
    return checked(tree, record, file, error)


def checked(
    tree: Any, record: type[Record], where: object, error: type[SoupkitchenError] = ConfigError
) -> Record:
    """Converts plain data to a `record`.

    Args:
        tree: parsed JSON or YAML; it may contain itself, as YAML's aliases allow.
        record: any type that pydantic knows.
        where: the file and the place in it, for the message.

    Raises:
        error: if `tree` does not fit, or is too deep or large.
    """
    from pydantic import ValidationError

    if not _is_plain(tree):
        raise error(
            f"{where}: it is nested deeper than {_DEEPEST} levels, has over {_MOST_PARTS:,} parts, "
            "or text that is no Unicode; no such file has that"
        )
    kind: Any = record
    adapter: TypeAdapter[Record] = _adapter(kind)
    try:
        return adapter.validate_python(tree)
    except ValidationError as cause:
        wrong = [
            f"{'.'.join(map(str, fault['loc'])) or 'all of it'}: {fault['msg']}{_but(fault)}"
            for fault in cause.errors(include_url=False, include_context=False)
        ]
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise error(f"{where}: {'; '.join(wrong[:_SHOWN])}{more}") from None


def _but(fault: Mapping[str, Any]) -> str:
    is_type = fault["type"].endswith("_type")
    return f" (it is a {type(fault['input']).__name__})" if is_type else ""


def not_regular(mode: int) -> str:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return f"it is {kind} and no regular file; put the file itself in its place, or remove it"


@contextmanager
def about(file: Path) -> Iterator[None]:
    try:
        yield
    except (ConfigError, TypeError) as cause:
        raise ConfigError(f"{file}: {cause}") from cause


class _Loader(yaml.SafeLoader):
    """Reads plain data, and stops early at deep nesting."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"nested deeper than {_DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


@cache
def _adapter(record: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(record)


def _is_plain(tree: Any) -> bool:
    waiting: list[tuple[Any, int]] = [([tree], 0)]
    parts = 0
    while waiting:
        nest, depth = waiting.pop()
        inside = [*nest, *nest.values()] if isinstance(nest, dict) else nest
        parts += len(inside)
        if depth > _DEEPEST or parts > _MOST_PARTS:
            return False
        for part in inside:
            if isinstance(part, _NESTS):
                waiting.append((part, depth + 1))
            elif isinstance(part, str) and not part.isascii() and _SURROGATE.search(part):
                return False
    return True


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
