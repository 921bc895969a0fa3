"""What lies beside a run's weights and goes with the soup: how a model writes, and how it is talked to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.checkpoints.strangers import own_files, read_bytes, read_json
from soupkitchen.errors import IncompatibleError

log = logging.getLogger(__name__)

_GENERATION, _TOKENIZER, _TEMPLATE = "generation_config.json", "tokenizer_config.json", "chat_template"
_OF_VERSIONS = ("transformers_version", "_from_model_config")
_IN_CONFIG = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""What transformers takes from `config.json` if there is no file for it."""
_FILES = (f"{_TEMPLATE}.jinja", f"{_TEMPLATE}.json", "additional_chat_templates/*.jinja")
_SHOWN = 5


def warn_of_differences(runs: Sequence[Checkpoint], reference: Checkpoint) -> None:
    """Says in which settings runs differ from the one whose files go with the soup."""
    expected = _settings(reference)
    for run in runs:
        found = _settings(run)
        differ = [
            what
            for what in sorted(found.keys() | expected.keys())
            if found.get(what) != expected.get(what) and not (what == _TEMPLATE and not _has_tokenizer(run))
        ]
        if differ:
            more = f" and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
            log.warning(
                "%s differs from %s in %s%s: what %s says goes with the soup",
                run.name,
                reference.name,
                ", ".join(differ[:_SHOWN]),
                more,
                reference.name,
            )


def check_generation(runs: Sequence[Checkpoint], keys: Sequence[str] | None = None) -> None:
    """Refuses runs that say otherwise how they generate, for tasks that have them generate.

    Args:
        keys: of `generation_config.json`, those that the task depends on; None for all.

    Raises:
        IncompatibleError: naming the key and both values.
    """
    first, *others = [(run.name, _generation(run)) for run in runs]
    for name, found in others:
        for key in keys or sorted(found.keys() | first[1].keys()):
            if found.get(key) != first[1].get(key):
                raise IncompatibleError(
                    f"{first[0]} and {name} generate in different ways: {key} in {_GENERATION} is "
                    f"{first[1].get(key)!r} and {found.get(key)!r}; put the right file into both, or "
                    "leave one out with pool.exclude=[…]"
                )


def _settings(run: Checkpoint) -> dict[str, Any]:
    settings = {f"{key} ({_GENERATION})": value for key, value in _generation(run).items()}
    if (templates := _templates(run.path)) is not None:
        settings[_TEMPLATE] = templates
    return settings


def _generation(run: Checkpoint) -> dict[str, Any]:
    file = run.architecture / _GENERATION
    told = read_json(file) if file.is_file() else {key: run.config.get(key) for key in _IN_CONFIG}
    return {key: value for key, value in told.items() if key not in _OF_VERSIONS and value is not None}


def _has_tokenizer(run: Checkpoint) -> bool:
    return (run.path / _TOKENIZER).is_file()


def _templates(folder: Path) -> Any:
    """The chat templates in `folder`, by any of their places; None without."""
    if not folder.is_dir():
        return None
    files = {file.name: read_bytes(file) for pattern in _FILES for file in own_files(folder, pattern)}
    if f"{_TEMPLATE}.jinja" in files and len(files) == 1:
        return files[f"{_TEMPLATE}.jinja"].decode("utf-8", "replace")
    told = read_json(folder / _TOKENIZER).get(_TEMPLATE) if (folder / _TOKENIZER).is_file() else None
    return files or told
