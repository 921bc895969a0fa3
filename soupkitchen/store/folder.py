"""The folder of a run: begun, continued, found finished, or moved aside; never taken from somebody else."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from soupkitchen.errors import ConfigError
from soupkitchen.store import journal, settings
from soupkitchen.store.checksums import DERIVED, altered
from soupkitchen.store.files import write_text
from soupkitchen.store.layout import (
    CHECKSUMS,
    CONFIG,
    JOURNAL,
    LEADERBOARD,
    LOG,
    PICTURES,
    RECIPE,
    REPORT,
    RESULTS,
    SOUP,
    TRAJECTORY,
    has_weights,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, which need not be there yet. A process that changes it holds its lock."""

    path: Path

    @property
    def is_finished(self) -> bool:
        """Tells whether nothing is left to do that takes runs and data."""
        there = (self.path / LEADERBOARD).is_file() or (
            (self.path / CHECKSUMS).is_file()
            and journal.last_event(self.path / JOURNAL).get("event") in ("finish", None)
        )
        return there and has_weights(self.path / SOUP)

    def lost(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Looks for changes of the finished run: by file, "is missing" or "was changed"."""
        report = (REPORT, *PICTURES) if (config.get("report") or {}).get("write") else ()
        return altered(self.path, (TRAJECTORY, LEADERBOARD, RECIPE, JOURNAL, *report))

    @property
    def holds_results(self) -> bool:
        return any((self.path / name).exists() for name in (JOURNAL, TRAJECTORY, LEADERBOARD))

    def is_to_be_run(self, config: Mapping[str, Any], overwrite: bool) -> bool:
        """Tells whether there is work to do; results of another run are never overwritten.

        Raises:
            ConfigError: if such results are there, with the options that differ.
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
        """Writes the options of the run down."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_text(self.path / CONFIG, text)

    @contextlib.contextmanager
    def begun(self, config: Mapping[str, Any], anew: bool) -> Iterator[None]:
        """The folder, marked as ours. If the run never begins, the folder is left as it was.

        Args:
            anew: whether earlier results are moved aside, into a folder of their own inside it.
        """
        folder = self.path
        there = folder.is_dir()
        folder.mkdir(exist_ok=True)
        logged = (folder / LOG).exists()
        earlier = [name for name in RESULTS if (folder / name).exists()]
        aside = None
        if anew and self.holds_results:
            aside = folder / f"before-{datetime.now():%Y%m%d-%H%M%S-%f}"
            aside.mkdir()
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


def _move(names: list[str], source: Path, target: Path) -> None:
    for name in names:
        (source / name).rename(target / name)
