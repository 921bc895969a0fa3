"""Retrieval: whether what belongs to an image, or to a text, is nearest to it of all that there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

_ROWS = 1024
"""Queries that are compared with all candidates at once."""


@dataclass(frozen=True)
class RetrievalRecall:
    """The share of queries of which a right candidate is among the nearest `k`; the mean of both directions.

    A prediction is the embedding of an image and that of its text, each of length 1, side by side; a
    reference is the numbers of that image and that text, the same wherever they are the same. Every row is a
    query; all images, and all texts, are candidates once. A wrong candidate that is as near counts as nearer.
    A resample is one of queries: the candidates stay.

    Attributes:
        k: how many of the nearest count.
        direction: "both", or "image_to_text" (images are the queries), or "text_to_image".

    Source: Radford et al. 2021, "Learning transferable visual models from natural language supervision",
        appendix E, arXiv 2103.00020.
    """

    k: int = 1
    direction: Literal["both", "image_to_text", "text_to_image"] = "both"

    name = "retrieval_recall"
    inputs = "values"
    best = 1.0

    def __post_init__(self) -> None:
        if self.direction not in ("both", "image_to_text", "text_to_image"):
            raise TypeError(f"direction={self.direction}: choose both, image_to_text or text_to_image")
        if self.k < 1:
            raise TypeError(f"k={self.k} should be 1 or more")

    def statistics(self, predictions: Any, references: Any) -> np.ndarray:
        """Of each row, how many of its queries are right, and how many there are: (examples, 2)."""
        images, texts = np.split(np.asarray(predictions, np.float32), 2, axis=1)
        of_image, of_text = np.asarray(references).T
        hits = []
        if self.direction != "text_to_image":
            hits.append(_found(images, of_image, texts, of_text, self.k))
        if self.direction != "image_to_text":
            hits.append(_found(texts, of_text, images, of_image, self.k))
        return np.stack([np.sum(hits, axis=0), np.full(len(images), len(hits))], axis=1)

    def of_statistics(self, total: np.ndarray) -> float:
        return float(total[0] / total[1])


def _found(
    queries: np.ndarray, of_query: np.ndarray, others: np.ndarray, of_other: np.ndarray, k: int
) -> np.ndarray:
    """Whether one of the `k` candidates nearest to each query belongs to it: bool (queries,).

    Args:
        queries, others: embeddings (rows, width), which belong together row by row.
        of_query, of_other: the numbers of what they are of.
    """
    candidates, first = np.unique(of_other, return_index=True)
    pairs = np.unique(of_query * (of_other.max() + 1) + of_other)
    hits = []
    for start in range(0, len(queries), _ROWS):
        these = slice(start, start + _ROWS)
        near = queries[these] @ others[first].T
        right = np.isin(of_query[these, None] * (of_other.max() + 1) + candidates, pairs)
        best = np.where(right, near, -np.inf).max(1, keepdims=True)
        hits.append((~right & (near >= best)).sum(1) < k)
    return np.concatenate(hits)
