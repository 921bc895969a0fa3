"""Makes models of runs: by transformers, a function of the user's, or sentence-transformers."""

from soupkitchen.models.auto import Auto, SentenceTransformers, Transformers, maker_named
from soupkitchen.models.maker import Built, Function, Loading, Maker, Models

__all__ = [
    "Auto",
    "Built",
    "Function",
    "Loading",
    "Maker",
    "Models",
    "SentenceTransformers",
    "Transformers",
    "maker_named",
]
