"""What runs of sentence-transformers put before queries and before passages, and how they compare the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkitchen.checkpoints.modules import MODULES, TOLD, modules
from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.checkpoints.strangers import read_json
from soupkitchen.errors import CheckpointError, IncompatibleError

_PASSAGE = ("document", "passage", "corpus")
"""What the prompt of passages is called, in the library's order."""


@dataclass(frozen=True)
class Prompts:
    """How a model of sentence-transformers searches.

    Attributes:
        query, passage: what comes before each; None where it is what comes before any text.
        similarity: what compares embeddings, as "cosine"; None where it is not said.
    """

    query: str | None = None
    passage: str | None = None
    similarity: str | None = None

    @classmethod
    def of(cls, folder: Path) -> Prompts:
        """Those of the run in `folder`; none where it is none of sentence-transformers'.

        Raises:
            CheckpointError: where it does what cannot be done here.
        """
        if not (folder / MODULES).exists() or not (folder / TOLD).exists():
            return cls()
        told = read_json(folder / TOLD)
        prompts: Any = told.get("prompts")
        prompts = prompts if isinstance(prompts, dict) else {}
        passage = next((prompts[name] for name in _PASSAGE if name in prompts), None)
        found = cls(prompts.get("query"), passage, told.get("similarity_fn_name"))
        if (found.query or found.passage) and _leaves_prompts_out(folder):
            raise CheckpointError(
                f"{folder} leaves its prompts {found.query!r} and {found.passage!r} out of the pooling, "
                "which cannot be done here yet"
            )
        return found


def prompts_of_all(runs: Sequence[Checkpoint]) -> Prompts:
    """How all runs of a pool search.

    Raises:
        IncompatibleError: where two differ.
        CheckpointError: where one does what cannot be done here.
    """
    told = {run.name: Prompts.of(run.path) for run in runs}
    (first, expected), *others = told.items()
    for name, found in others:
        if found != expected:
            raise IncompatibleError(
                f"{first} and {name} search in different ways ({TOLD}: {expected}, {found}): put the "
                "right file into both, or leave one out with pool.exclude=[…]"
            )
    return expected


def _leaves_prompts_out(folder: Path) -> bool:
    return any(
        read_json(folder / path / "config.json").get("include_prompt") is False
        for path, kind, _ in modules(folder)
        if kind == "Pooling"
    )
