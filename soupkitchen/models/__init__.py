"""What runs are models of: transformers' own, those of a function, those of sentence-transformers."""

from soupkitchen.models.auto import Auto, Transformers
from soupkitchen.models.base import Loading, Maker, Models
from soupkitchen.models.by_name import maker_named
from soupkitchen.models.function import Built, Function
from soupkitchen.models.sentence import SentenceTransformers

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
