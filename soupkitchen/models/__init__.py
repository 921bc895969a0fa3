"""Makes models of runs: by transformers, a function of the user's, or sentence-transformers."""

from soupkitchen.models.auto import Auto, Transformers, maker_named
from soupkitchen.models.maker import Built, Function, Loading, Maker, Models
from soupkitchen.models.sentence_transformers import SentenceTransformers

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
