"""What lies beside a run's weights and goes with the soup: how texts and images are prepared and written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.checkpoints.strangers import own_files, read_bytes, read_json
from soupkitchen.checkpoints.tokens import tokens_of
from soupkitchen.errors import IncompatibleError

log = logging.getLogger(__name__)

_GENERATION, _TOKENIZER, _TEMPLATE = "generation_config.json", "tokenizer_config.json", "chat_template"
_IMAGES = "preprocessor_config.json"
_CUTS = ("add_bos_token", "add_eos_token", "do_lower_case", "model_max_length", "truncation_side")
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
            f"{key} ({file})" if file != key else key
            for file in sorted(found.keys() & expected.keys())
            for key in sorted(found[file].keys() | expected[file].keys())
            if found[file].get(key) != expected[file].get(key)
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


def _settings(run: Checkpoint) -> dict[str, dict[str, Any]]:
    """What a run says beside its weights, by file; without the files that it does not have."""
    settings, folder = {_GENERATION: _generation(run)}, run.path
    if (folder / _IMAGES).is_file():
        told = read_json(folder / _IMAGES)
        settings[_IMAGES] = {
            key: told[key] for key in told if not key.endswith(("_type", "_class", "_version"))
        }
    if (folder / _TOKENIZER).is_file():
        told = read_json(folder / _TOKENIZER)
        settings[_TOKENIZER] = {key: told[key] for key in _CUTS if key in told}
        settings[_TEMPLATE] = {_TEMPLATE: _templates(folder) or told.get(_TEMPLATE)}
    if tokens := tokens_of(folder):
        settings["tokenizer.json"] = dict(tokens.rules)
    return settings


def _generation(run: Checkpoint) -> dict[str, Any]:
    file = run.architecture / _GENERATION
    told = read_json(file) if file.is_file() else {key: run.config.get(key) for key in _IN_CONFIG}
    return {key: value for key, value in told.items() if key not in _OF_VERSIONS and value is not None}


def _templates(folder: Path) -> Any:
    """The chat templates that have a file of their own."""
    files = {
        file.name: read_bytes(file).decode("utf-8", "replace")
        for pattern in _FILES
        for file in own_files(folder, pattern)
    }
    return files[f"{_TEMPLATE}.jinja"] if files.keys() == {f"{_TEMPLATE}.jinja"} else files
