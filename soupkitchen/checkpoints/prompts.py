"""What runs of sentence-transformers put before queries and before passages, and how they compare the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from soupkitchen.checkpoints.configuration import CONFIG_NAME
from soupkitchen.checkpoints.modules import MODULES, Told, modules
from soupkitchen.checkpoints.sentence import Pooling
from soupkitchen.errors import CheckpointError
from soupkitchen.store.documents import read_json

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
        if not (folder / MODULES).exists():
            return cls()
        told = Told.of(folder)
        prompts = told.prompts or {}
        passage = next((prompts[name] for name in _PASSAGE if name in prompts), None)
        found = cls(prompts.get("query"), passage, told.similarity_fn_name)
        if (found.query or found.passage) and _leaves_prompts_out(folder):
            raise CheckpointError(
                f"{folder} leaves its prompts {found.query!r} and {found.passage!r} out of the pooling, "
                "which cannot be done here yet"
            )
        return found


def _leaves_prompts_out(folder: Path) -> bool:
    poolings = [folder / module.path / CONFIG_NAME for module in modules(folder) if module.kind == "Pooling"]
    return not all(read_json(file, Pooling, error=CheckpointError).include_prompt for file in poolings)
