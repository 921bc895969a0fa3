"""Makes models of runs: by transformers, sentence-transformers, or a user's function."""

from soupkitchen.models.auto import Auto, Transformers, maker_named
from soupkitchen.models.maker import Function, Loading, Maker, Models

__all__ = ["Auto", "Function", "Loading", "Maker", "Models", "Transformers", "maker_named"]
