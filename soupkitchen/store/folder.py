"""The folder of a run: its files, the mark by which it is ours, and checksums of what a finished run wrote.

It is begun, continued, found finished, or moved aside; never taken from somebody else. Sizes, times and
digests show what happened to its files since.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import xxhash
import yaml

from soupkitchen.errors import ConfigError, SoupkitchenError
from soupkitchen.store import journal, settings
from soupkitchen.store.files import open_regular, own, read_json, remove_unfinished, write_text

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
JOURNAL = "journal.jsonl"
EVALUATIONS = "evaluations"
TRAJECTORY = "trajectory.csv"
LEADERBOARD = "leaderboard.csv"
SOUP = "soup"
RECIPE = "recipe.yaml"
MERGEKIT = "mergekit.yaml"
REPORT = "report.html"
MAP = "map.json"
PICTURES = ("trajectory.png", "trajectory.svg")
PROFILE = "profile.csv"
LOG = "soupkitchen.log"
CHECKSUMS = "checksums.json"
TRACKERS = "trackers.json"
TENSORBOARD = "tensorboard"

RESULTS = (
    LEADERBOARD, TRAJECTORY, EVALUATIONS, SOUP, RECIPE, MERGEKIT, REPORT, MAP, *PICTURES, JOURNAL, CONFIG,
    TRACKERS, TENSORBOARD, PROFILE, CHECKSUMS,
)  # fmt: skip
"""All files of a run except its log."""

_OPTIONS = {f"{option}:" for option in ("pool", "task", "method", "search", "results_dir", "overwrite")}
_EVENT = b'{"event": '
DERIVED = frozenset((TRAJECTORY, LEADERBOARD, REPORT, *PICTURES))
"""Files that can be made again from the journal alone."""
_FILES = (*DERIVED, RECIPE, MERGEKIT, MAP, JOURNAL)
_USERS = (f"{SOUP}/README.md", f"{SOUP}/trajectory.png")
_BLOCK_BYTES = 1 << 20


def carries_mark(folder: Path) -> bool:
    """Tells whether `folder` holds our configuration, edited or not, or our journal."""
    lines = _begin(folder / CONFIG, 1 << 20).decode(errors="replace").splitlines()
    if {line.split(" ")[0] for line in lines} >= _OPTIONS:
        return True
    return _begin(folder / JOURNAL, len(_EVENT)) == _EVENT


def _begin(file: Path, size: int) -> bytes:
    with contextlib.suppress(OSError, ConfigError), open_regular(own(file)) as handle:
        return handle.read(size)
    return b""


def check_is_ours(folder: Path) -> None:
    """Checks that `folder` is missing, empty, or carries our mark.

    Raises:
        ConfigError: if it holds something else.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give this run another name= or results_dir=")
    for name in (CONFIG, JOURNAL, TRAJECTORY, LEADERBOARD, LOG, EVALUATIONS, SOUP):
        path, wanted = own(folder / name), "folder" if name in (EVALUATIONS, SOUP) else "file"
        if path.exists() and not (path.is_dir() if wanted == "folder" else path.is_file()):
            raise ConfigError(
                f"{path} is in the way: it should be a {wanted}. Move it, or give this run another name="
            )
    others = [path.name for path in sorted(folder.iterdir()) if not _is_harmless(path)]
    if others and not carries_mark(folder):
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise ConfigError(
            f"{folder} holds {shown}, and is not the folder of a run: soupkitchen works in new or empty "
            "folders and in its own. Give this run another name= or results_dir="
        )


def _is_harmless(path: Path) -> bool:
    """Tells whether a run that was killed before its mark may have left the file."""
    moved_aside = path.name.startswith("before-") and carries_mark(path)
    return moved_aside or path.name == LOG or path.name.startswith(f".{CONFIG}.")


def has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


class _Seen(NamedTuple):
    size: int
    modified_ns: int
    digest: str


def note_checksums(folder: Path, names: Collection[str] | None = None) -> None:
    """Notes what the files of the finished run in `folder` are; with `names`, only these anew."""
    before = _read_checksums(folder)
    seen = {} if names is None else {name: before[name] for name in before if name not in names}
    for file in (*(folder / name for name in _FILES), *(folder / SOUP).rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and (names is None or name in names):
            same = name in before and _looks(file) == before[name][:2]
            seen[name] = before[name] if same else _Seen(*_looks(file), _digest(file))
    _write_checksums(folder, seen)


def altered(folder: Path, wanted: Iterable[str] = (), thoroughly: bool = False) -> dict[str, str]:
    """Looks for changes of the finished run in `folder`: by file, "is missing" or "was changed".

    Args:
        wanted: files that must exist.
        thoroughly: read files even if size and time are the same.
    """
    before, changes = _read_checksums(folder), {}
    for name in sorted({*before, *wanted}):
        file, seen = folder / name, before.get(name)
        try:
            looks = _looks(file)
        except OSError:
            changes[name] = "is missing"
            continue
        if seen is None or name in _USERS or (not thoroughly and looks == seen[:2]):
            continue
        if file.is_symlink() or not file.is_file() or looks[0] != seen.size or _digest(file) != seen.digest:
            changes[name] = "was changed"
    return changes


def set_aside(folder: Path, names: Iterable[str]) -> None:
    """Moves changed files aside before they are made again; the soup moves as a whole."""
    changed = {SOUP if name.startswith(f"{SOUP}/") else name for name in names if name not in _USERS}
    there = [name for name in sorted(changed) if (folder / name).exists()]
    if there:
        aside = _new_aside(folder)
        _move(there, folder, aside)
        log.warning("%s: what was there is in %s", ", ".join(there), aside)


def clear_unfinished(folder: Path) -> None:
    for name in (*_FILES, *_USERS, CONFIG, CHECKSUMS):
        remove_unfinished(folder / name)


def suspect(folder: Path, names: Iterable[str]) -> None:
    seen = _read_checksums(folder)
    seen |= {name: seen[name]._replace(modified_ns=0) for name in names if name in seen}
    with suppress(OSError):
        _write_checksums(folder, seen)


def _write_checksums(folder: Path, seen: dict[str, _Seen]) -> None:
    write_text(folder / CHECKSUMS, f"{json.dumps(seen, indent=1)}\n")


def _read_checksums(folder: Path) -> dict[str, _Seen]:
    """Reads the notes; none if the file is missing or was edited. Names that lead elsewhere are left out."""
    if not (folder / CHECKSUMS).exists():
        return {}
    try:
        seen = read_json(folder / CHECKSUMS, dict[str, _Seen])
    except SoupkitchenError as error:
        log.warning("%s: nothing is compared with it", error)
        return {}
    paths = {name: PurePosixPath(name) for name in seen}
    inside = (name for name, path in paths.items() if path.parts and not path.is_absolute())
    return {name: seen[name] for name in inside if ".." not in paths[name].parts}


def _looks(file: Path) -> tuple[int, int]:
    status = file.lstat()
    return status.st_size, status.st_mtime_ns


def _digest(file: Path) -> str:
    state = xxhash.xxh3_128()
    with open_regular(file) as handle:
        while block := handle.read(_BLOCK_BYTES):
            state.update(block)
    return state.hexdigest()


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, which may not exist yet. Changing it needs its lock."""

    path: Path

    @property
    def is_finished(self) -> bool:
        """Tells whether no work is left that needs runs and data."""
        there = (self.path / LEADERBOARD).is_file() or (
            (self.path / CHECKSUMS).is_file()
            and journal.last_event(self.path / JOURNAL).get("event") in ("finish", None)
        )
        return there and has_weights(self.path / SOUP)

    def lost(self, config: Mapping[str, Any]) -> dict[str, str]:
        report = (REPORT, *PICTURES) if (config.get("report") or {}).get("write") else ()
        return altered(self.path, (TRAJECTORY, LEADERBOARD, RECIPE, JOURNAL, *report))

    @property
    def holds_results(self) -> bool:
        return any((self.path / name).exists() for name in (JOURNAL, TRAJECTORY, LEADERBOARD))

    def is_to_be_run(self, config: Mapping[str, Any], overwrite: bool) -> bool:
        """Tells whether there is work to do.

        Raises:
            ConfigError: if there are results of another run; it names the options that differ.
        """
        if overwrite or not self.holds_results:
            return True
        before, now = settings.what_was_run(self.path / CONFIG), settings.what_is_run(config)
        if not self._has_test:  # "auto" found none that can be scored: null says the same
            same = {key for key in before if key.endswith("data.test") and now.get(key, "") is None}
            before = {**before, **{key: None for key in same if before[key] == "auto"}}
        if changed := settings.difference(before, now):
            raise ConfigError(
                f"{self.path} holds another run's results:\n  "
                + "\n  ".join(changed)
                + "\nGive this run another name=, or move the old results aside with overwrite=true."
            )
        if (self.path / LEADERBOARD).is_file() and not has_weights(self.path / SOUP):
            log.warning("%s is gone: the soup is merged and saved again", shown(self.path / SOUP))
        lost = self.lost(config)
        again = DERIVED if lost.get(JOURNAL) == "is missing" else set()
        return not self.is_finished or bool(lost.keys() - DERIVED - {JOURNAL} or lost.keys() & again)

    @property
    def _has_test(self) -> bool:
        events = journal.read(self.path / JOURNAL)
        return bool(events) and "test" in events[0].get("data", {})

    def write(self, config: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_text(self.path / CONFIG, text)

    @contextlib.contextmanager
    def begun(self, config: Mapping[str, Any], anew: bool) -> Iterator[None]:
        """Yields the folder, marked as soupkitchen's. If the run never begins, the folder stays as it was.

        Args:
            anew: move earlier results into a folder inside it.
        """
        folder = self.path
        there = folder.is_dir()
        folder.mkdir(exist_ok=True)
        logged = (folder / LOG).exists()
        earlier = [name for name in RESULTS if (folder / name).exists()]
        aside = None
        if anew and self.holds_results:
            aside = _new_aside(folder)
            _move(earlier, folder, aside)
            log.info("earlier results are in %s", aside)
        try:
            if not (folder / CONFIG).exists():
                self.write(config)
            yield
        finally:
            if not (folder / JOURNAL).exists():
                with contextlib.suppress(OSError):
                    kept = earlier if aside is None else []
                    for name in {CONFIG, TRAJECTORY}.difference(kept):
                        (folder / name).unlink(missing_ok=True)
                    if aside is not None:
                        _move(earlier, aside, folder)
                        aside.rmdir()
                    if not logged:
                        (folder / LOG).unlink(missing_ok=True)
                    if not there:
                        folder.rmdir()


def shown(path: Path) -> Path:
    """A path as people would write it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _new_aside(folder: Path) -> Path:
    aside = folder / f"before-{datetime.now():%Y%m%d-%H%M%S-%f}"
    aside.mkdir()
    return aside


def _move(names: list[str], source: Path, target: Path) -> None:
    for name in names:
        (source / name).rename(target / name)


def _no_other(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


class LogFile(logging.FileHandler):
    """Writes the log in a run's folder, once that has our mark."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename, encoding="utf-8", errors="backslashreplace", delay=True)

    def _open(self) -> Any:
        return open(self.baseFilename, "a", encoding="utf-8", errors=self.errors, opener=_no_other)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.stream or carries_mark(Path(self.baseFilename).parent):
                super().emit(record)
        except Exception:  # the file cannot be opened, say: the log is the least of it
            self.handleError(record)
