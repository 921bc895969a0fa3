"""Opens the other files of a run's folder, and checks what strangers may have put there.

A folder may hold a named pipe, or a link to `/dev/zero` or out of the run. transformers downloads, opens and
builds all that `config.json` names. So every file is checked here first.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from functools import cache, cached_property, partial, wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

import torch
import xxhash

from soupkitchen.errors import CheckpointError
from soupkitchen.store import files as documents

MOST = 256 << 20
"""The most bytes of a text file, ten times the largest tokenizers."""
CONFIG_NAME = "config.json"  # transformers' name; importing it from there takes seconds

_TEXTS = (".json", ".jsonl", ".txt", ".jinja", ".model", ".vocab", ".tiktoken", ".py")
_READ_BELOW = ("additional_chat_templates",)
"""Subfolders that transformers reads."""
_OBJECTS = (
    "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip

_DTYPE_KEYS = ("dtype", "torch_dtype")
_ATTENTION_KEYS = re.compile(r"_?attn_implementation(_internal)?")
_PLAIN_ATTENTION = re.compile(r"(paged\|)?(eager|sdpa|flex_attention|flash_attention_\d)")
_REPEATED = re.compile(r"(?!.*_per_)(.*_)?(layers?|blocks?|depths?|stages?|repeats?)")
"""Keys with a number of modules, which cost time and memory."""
_MANY = re.compile(r"(.*_)?experts|num_labels")
"""Keys with a number of parts that one tensor may hold."""
_FEW_LAYERS, _FEW = 128, 1024
_PER_TENSOR = 4

F = TypeVar("F", bound=Callable[..., Any])
Stamp = tuple[int, int, int] | None
"""Size, time of change in ns, and inode of a file; None if it is missing."""


open_regular = partial(documents.open_regular, error=CheckpointError)
read_bytes = partial(documents.read_bytes, most=MOST, error=CheckpointError)
_FAST, _PLAIN = "tokenizer.json", "vocab.txt"
_PARTS = ("vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "added_tokens.json")
_FILES = "(files)"
_RULES = ("normalizer", "pre_tokenizer", "post_processor")
_vocabularies: dict[tuple[str, str], Vocabulary] = {}
"""Vocabularies by content of their file: those of a pool are mostly the same, and large."""


def read_json(file: Path) -> dict[str, Any]:
    """Reads the JSON object in `file`.

    Raises:
        CheckpointError: if there is none.
    """
    try:
        content = json.loads(read_bytes(file))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} should hold a JSON object")
    return content


def check_folder(folder: Path) -> None:
    """Checks all files that a library may open by itself.

    Raises:
        CheckpointError: if one is no regular file, is much too large, or is no JSON object but should be.
    """
    for place in (folder, *(folder / name for name in _READ_BELOW)):
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:  # a link to nothing
                continue
            if stat.S_ISREG(status.st_mode):
                if status.st_size > MOST and entry.name.endswith(_TEXTS):
                    raise CheckpointError(
                        f"{entry.path} has {status.st_size >> 20} MiB, and such files at most {MOST >> 20}; "
                        "copy the run again"
                    )
            elif not stat.S_ISDIR(status.st_mode):
                raise CheckpointError(f"{entry.path} cannot be read: {documents.not_regular(status.st_mode)}")
    for name in _OBJECTS:
        if (folder / name).exists():
            read_json(folder / name)


def own_files(folder: Path, *patterns: str) -> list[Path]:
    """The files of a run that match a pattern, each once.

    They may be copied with the soup, so no link may leave the run, except to the hub's cache of `blobs`.

    Raises:
        CheckpointError: if one is a link out of the run, or no regular file.
    """
    matches = [file for pattern in patterns for file in sorted(folder.glob(pattern)) if not file.is_dir()]
    files = list(dict.fromkeys(matches))
    homes = [folder.resolve()]
    repository = homes[0].parent.parent
    if homes[0].parent.name == "snapshots" and repository.name.startswith("models--"):
        homes.append(repository / "blobs")
    for file in files:
        target = file.resolve()
        if not any(target.is_relative_to(home) for home in homes):
            raise CheckpointError(
                f"{file} is a link to {target}, out of the run's folder. It would be copied with the soup: "
                "put the file itself in its place, or remove it"
            )
        open_regular(file).close()
    return files


def stamp(file: Path) -> Stamp:
    """Identifies a file until it changes."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def cached_by(*names: str) -> Callable[[F], F]:
    """Caches a function of a folder until one of its files `names` changes."""

    def decorated(function: F) -> F:
        @cache
        def cached(stamps: tuple[Stamp, ...], folder: Path, *others: Hashable) -> Any:
            return function(folder, *others)

        @wraps(function)
        def wrapper(folder: Path, *others: Hashable) -> Any:
            return cached(tuple(stamp(folder / name) for name in names), folder, *others)

        return cast("F", wrapper)

    return decorated


# config.json


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the `config.json` in `folder`.

    Raises:
        CheckpointError: if there is none, or if it names foreign files or code.
    """
    file = folder / CONFIG_NAME
    if not os.path.lexists(file):
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {CONFIG_NAME}")
    config = read_json(file)
    if not isinstance(config.get("model_type", ""), str):
        raise CheckpointError(f"{file}: model_type is no text")
    if "transformers_weights" in config:
        raise CheckpointError(
            f"{file} names a weight file of its own (transformers_weights); remove that, and call the file "
            "model.safetensors"
        )
    for key, value in _entries(config):
        if key in _DTYPE_KEYS and not _all_parts(_is_dtype, value):
            raise CheckpointError(f"{file}: {key}={str(value)[:80]} is no dtype of torch, as float32")
        if _ATTENTION_KEYS.fullmatch(key) and not _all_parts(_PLAIN_ATTENTION.fullmatch, value):
            raise CheckpointError(
                f"{file} names an attention of its own ({key}={str(value)[:80]}), which transformers would "
                "download and run; take it out, or name one of eager, sdpa, flex_attention"
            )
    return config


def check_sizes(file: Path, config: Mapping[str, Any], shapes: Collection[tuple[int, ...]]) -> None:
    """Refuses a configuration with many more modules than the run has tensors, whose `shapes` are given.

    Raises:
        CheckpointError: if a number is too large.
    """
    sizes = {size for shape in shapes for size in shape}
    for key, value in _entries(config):
        repeated = _REPEATED.fullmatch(key)
        if not (repeated or _MANY.fullmatch(key)):
            continue
        most = max(_FEW_LAYERS if repeated else _FEW, _PER_TENSOR * len(shapes))
        for number in value if isinstance(value, list) else [value]:
            in_a_shape = not repeated and number in sizes
            if isinstance(number, (int, float)) and not in_a_shape and not number <= most:
                raise CheckpointError(
                    f"{file} says {key}={str(value)[:80]}, but its files hold only {len(shapes)} tensors; "
                    "put that right, or copy the run again"
                )


def named_dtypes(config: Mapping[str, Any]) -> set[str]:
    value = config.get("dtype") or config.get("torch_dtype") or ()
    return {value} if isinstance(value, str) else set(value.values() if isinstance(value, Mapping) else value)


def names_flash_attention(config: Mapping[str, Any]) -> bool:
    """Tells whether the configuration names flash attention, which transformers may download."""
    return any(
        _ATTENTION_KEYS.fullmatch(key) and "flash_attention" in str(value) for key, value in _entries(config)
    )


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _all_parts(is_plain: Callable[[str], Any], value: Any) -> bool:
    """Tells whether a text, or each text of a composite model, is plain; None is."""
    if isinstance(value, Mapping):
        return all(_all_parts(is_plain, part) for part in value.values())
    return value is None or (isinstance(value, str) and bool(is_plain(value)))


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype)


# Vocabularies of tokenizers


class Vocabulary(dict[str, Any]):
    """Numbers by token; for tokenizers that cannot be read, digests by file."""

    rules: Mapping[str, Any] = MappingProxyType({})
    """The parts of `tokenizer.json` that define how a text is split."""

    @property
    def are_files(self) -> bool:
        return _FILES in self

    @cached_property
    def frozen(self) -> frozenset[tuple[str, Any]]:
        return frozenset(self.items())

    def unlike(self, other: Vocabulary) -> bool:
        """Tells whether the two differ; those of different kinds cannot be compared."""
        return self is not other and self.are_files == other.are_files and self != other


@cached_by(_FAST, _PLAIN, *_PARTS)
def vocabulary_of(folder: Path) -> Vocabulary | None:
    """The tokenizer's vocabulary; None if there is no tokenizer.

    Raises:
        CheckpointError: if its file is broken.
    """
    for name, parse in {_FAST: _parse_fast, _PLAIN: _parse_plain}.items():
        if (folder / name).exists():
            content = read_bytes(folder / name)
            key = name, xxhash.xxh3_128_hexdigest(content)
            if key not in _vocabularies:
                _vocabularies[key] = parse(folder / name, content)
            return _vocabularies[key]
    there = [folder / name for name in _PARTS if (folder / name).is_file()]
    contents = {file.name: xxhash.xxh3_64_hexdigest(read_bytes(file)) for file in there}
    return Vocabulary({**contents, _FILES: True}) if contents else None


def vocabulary_difference(ours: Vocabulary | None, theirs: Vocabulary | None) -> str | None:
    """The difference of the first from the second; None if they agree or cannot be compared."""
    if ours is None or theirs is None or not ours.unlike(theirs):
        return None
    differ = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    token = differ[0]
    return (
        f"its tokenizer gives other numbers to {len(differ)} tokens: {token!r} is "
        f"{ours.get(token, 'not there')}, not {theirs.get(token, 'not there')}"
    )


def _parse_plain(file: Path, content: bytes) -> Vocabulary:
    lines = content.decode("utf-8", "replace").splitlines()
    return Vocabulary({token: number for number, token in enumerate(lines)})


def _parse_fast(file: Path, content: bytes) -> Vocabulary:
    try:
        tree = json.loads(content)
        vocabulary = (tree.get("model") or {}).get("vocab") or {}
        if isinstance(vocabulary, list):  # unigram: pairs of token and score
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
        added = {token["content"]: token["id"] for token in tree.get("added_tokens") or []}
        parsed = Vocabulary({**vocabulary, **added})
        parsed.rules = {part: tree.get(part) for part in _RULES}
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is no tokenizer's ({type(error).__name__}: {error}); copy the run again"
        ) from error
    for token, number in parsed.items():
        if not isinstance(token, str) or not isinstance(number, int):
            raise CheckpointError(
                f"{file} gives {str(token)[:40]!r} the number {str(number)[:40]!r}, which is none; copy the "
                "run again"
            )
    return parsed
