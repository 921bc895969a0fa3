"""Reads the numbers that a run's tokenizer gives to tokens, to compare runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import xxhash

from soupkitchen.checkpoints.folders import cached_by, read_bytes
from soupkitchen.errors import CheckpointError

_FAST, _PLAIN = "tokenizer.json", "vocab.txt"
_PARTS = ("vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "added_tokens.json")
_FILES = "(files)"
_RULES = ("normalizer", "pre_tokenizer", "post_processor")


class Vocabulary(dict[str, Any]):
    """Numbers by token or, of tokenizers that are not looked into, digests by file."""

    rules: Mapping[str, Any] = MappingProxyType({})
    """The parts of `tokenizer.json` that say how a text is cut."""

    @property
    def are_files(self) -> bool:
        return _FILES in self

    @cached_property
    def frozen(self) -> frozenset[tuple[str, Any]]:
        """The same, for sets."""
        return frozenset(self.items())

    def unlike(self, other: Vocabulary) -> bool:
        """Tells whether the two differ; two of different kinds cannot be compared."""
        return self is not other and self.are_files == other.are_files and self != other


_read: dict[tuple[str, str], Vocabulary] = {}
"""Vocabularies by content of their file: those of a pool are mostly the same, and large."""


@cached_by(_FAST, _PLAIN, *_PARTS)
def vocabulary_of(folder: Path) -> Vocabulary | None:
    """The vocabulary of the tokenizer in `folder`; None if there is no tokenizer.

    Raises:
        CheckpointError: if its file is broken.
    """
    for name, parse in {_FAST: _parse_fast, _PLAIN: _parse_plain}.items():
        if (folder / name).exists():
            content = read_bytes(folder / name)
            key = name, xxhash.xxh3_128_hexdigest(content)
            if key not in _read:
                _read[key] = parse(folder / name, content)
            return _read[key]
    there = [folder / name for name in _PARTS if (folder / name).is_file()]
    contents = {file.name: xxhash.xxh3_64_hexdigest(read_bytes(file)) for file in there}
    return Vocabulary({**contents, _FILES: True}) if contents else None


def difference(ours: Vocabulary | None, theirs: Vocabulary | None) -> str | None:
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
