"""Which numbers a run's tokenizer gives to tokens, to hold one run against another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import xxhash

from soupkitchen.checkpoints.files import cached_by
from soupkitchen.checkpoints.strangers import read_bytes, read_json
from soupkitchen.errors import CheckpointError

_FILES = "(files)"
_PARTS = ("vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "added_tokens.json")


class Tokens(dict[str, Any]):
    """Numbers by token or, of tokenizers that are not looked into, digests by file."""

    rules: Mapping[str, Any] = MappingProxyType({})
    """What else `tokenizer.json` says of how a text is cut, by the name of the part."""

    @property
    def are_files(self) -> bool:
        return _FILES in self

    @cached_property
    def frozen(self) -> frozenset[tuple[str, Any]]:
        """The same, for sets."""
        return frozenset(self.items())

    def unlike(self, other: Tokens) -> bool:
        """Whether `other` says something else; of different kinds, they cannot be told apart."""
        return self is not other and self.are_files == other.are_files and self != other


_RULES = ("normalizer", "pre_tokenizer", "post_processor")
_read: dict[tuple[str, str], Tokens] = {}
"""What was made of files, by content: the tokenizers of a pool are one, as a rule, and large."""


@cached_by("tokenizer.json", "vocab.txt", *_PARTS)
def tokens_of(folder: Path) -> Tokens | None:
    """What the tokenizer in `folder` says; None where there is none.

    Raises:
        CheckpointError: where it is no tokenizer.
    """
    if (fast := folder / "tokenizer.json").exists():
        return _once(_fast, fast)
    if (plain := folder / "vocab.txt").is_file():
        return _once(_plain, plain)
    there = [folder / name for name in _PARTS if (folder / name).is_file()]
    contents = {file.name: xxhash.xxh3_64_hexdigest(read_bytes(file)) for file in there}
    return Tokens({**contents, _FILES: True}) if contents else None


def difference(ours: Tokens | None, theirs: Tokens | None) -> str | None:
    """What is wrong with the first beside the second, where there are both."""
    if ours is None or theirs is None or not ours.unlike(theirs):
        return None
    differ = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    token = differ[0]
    return (
        f"its tokenizer gives other numbers to {len(differ)} tokens: {token!r} is "
        f"{ours.get(token, 'not there')}, not {theirs.get(token, 'not there')}"
    )


def _once(parse: Callable[[Path], Tokens], file: Path) -> Tokens:
    key = parse.__name__, xxhash.xxh3_128_hexdigest(read_bytes(file))
    if key not in _read:
        _read[key] = parse(file)
    return _read[key]


def _plain(file: Path) -> Tokens:
    lines = read_bytes(file).decode("utf-8", "replace").splitlines()
    return Tokens({token: number for number, token in enumerate(lines)})


def _fast(file: Path) -> Tokens:
    content = read_json(file)
    try:
        vocabulary = (content.get("model") or {}).get("vocab") or {}
        if isinstance(vocabulary, list):  # unigram: pairs of token and score
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
        added = {token["content"]: token["id"] for token in content.get("added_tokens") or []}
        tokens = {**vocabulary, **added}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{file} is no tokenizer's ({type(error).__name__}: {error}); copy the run again"
        ) from error
    for token, number in tokens.items():
        if not isinstance(token, str) or not isinstance(number, int):
            raise CheckpointError(
                f"{file} gives {str(token)[:40]!r} the number {str(number)[:40]!r}, which is none; copy the "
                "run again"
            )
    found = Tokens(tokens)
    found.rules = {part: content.get(part) for part in _RULES}
    return found
