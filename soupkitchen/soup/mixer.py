"""The mixer: turns recipes into tensors, by a running state or by reading all ingredients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.weights import Tensors
from soupkitchen.errors import CheckpointError
from soupkitchen.merging import Linear, MergeMethod, StackMethod
from soupkitchen.merging.chunks import chunks
from soupkitchen.soup.fold import Plans
from soupkitchen.soup.memory import StateMemory
from soupkitchen.soup.reader import CachingReader, TensorReader
from soupkitchen.soup.recipe import Recipe
from soupkitchen.soup.soup import Soup, in_dtype

DtypeOf = Callable[[str, torch.dtype], torch.dtype]
"""A tensor's dtype by name, if the model is loaded in the given dtype."""


class Mixer:
    """Mixes the runs of one pool.

    Args:
        dtype_of: for models that keep some tensors in float32.
        memory: for the running state; by default on the device.
        caching: cache tensors, because the same ingredients are merged often. The cache replaces the running
            state; there are never both.
    """

    def __init__(
        self,
        pool: Pool,
        device: torch.device | None = None,
        dtype_of: DtypeOf = lambda name, dtype: dtype,
        memory: Callable[[], StateMemory] | None = None,
        reader: TensorReader | None = None,
        caching: bool = False,
    ) -> None:
        self.pool = pool
        self.device = device or torch.device("cpu")
        self.caching = caching
        self._dtype_of = dtype_of
        self._memory = memory or (lambda: StateMemory(self.device))
        self._reader = reader or TensorReader(self.device)
        self._soup: Soup | None = None  # the running state
        self._made: Recipe | None = None  # its recipe
        self._cache: CachingReader | None = None
        self._saved: dict[str, Checkpoint] = {}
        self._warned: set[str] = set()
        self._surveyed: tuple[str, dict[Checkpoint, Any], Plans] = "", {}, {}  # for one `Recipe.fold`

    def tensors(self, recipe: Recipe, growing: bool = False) -> Tensors:
        """Yields (name, tensor) of `recipe`.

        Args:
            growing: recipes follow that share all ingredients but the last, so a running state pays. Unless
                the method says otherwise, the tensors are the same.
        """
        if (saved := self._saved.get(recipe.digest)) is not None:
            return saved.tensors()
        runs = [self.pool[name] for name in recipe.ingredients]
        if recipe.method is None:
            return in_dtype(self._reader.tensors(runs[0]), self._dtypes(recipe))
        if (soup := self._state_of(recipe, recipe.size)) is not None:
            return soup.tensors()
        if growing and not (self.caching and self._cache):
            return self._grown(recipe, runs).taste(runs[-1], recipe.coefficients[-1])
        if self.caching:
            return self._with_cache(recipe).blend(runs, recipe.coefficients)
        if (soup := self._state_of(recipe, recipe.size - 1)) is not None:
            return soup.taste(runs[-1], recipe.coefficients[-1])
        return self.empty(recipe).blend(runs, recipe.coefficients)

    def empty(
        self, recipe: Recipe, memory: StateMemory | None = None, reader: TensorReader | None = None
    ) -> Soup:
        fold = recipe.fold if recipe.method else ""
        if fold != self._surveyed[0]:
            self._surveyed = fold, {}, {}
        _, surveys, plans = self._surveyed
        return Soup(
            _method(recipe),
            self.device,
            self.pool.base,
            self._dtypes(recipe),
            memory,
            self._warned,
            surveys,
            reader or self._reader,
            plans if reader else None,
        )

    def take_from(self, saved: Checkpoint, recipe: Recipe) -> None:
        """Reads the tensors of `recipe` from its saved files from now on; frees the cache.

        The running state stays if transformers saves other tensors than the runs have.
        """
        self._free_cache()
        if (view := self.pool.by_its_names(saved)) is not None:
            self._saved[recipe.digest] = view
            self.forget()

    def forget(self) -> None:
        self._free_cache()
        self._reader.forget()
        if self._soup is not None:
            self._soup.forget()
        self._soup, self._made = None, None

    def _free_cache(self) -> None:
        if self._cache is not None:
            self._cache.forget()
        self._cache = None

    def _with_cache(self, recipe: Recipe) -> Soup:
        if self._cache is None:
            self.forget()
            self._cache = CachingReader(self._memory())
        return self.empty(recipe, reader=self._cache)

    def _state_of(self, recipe: Recipe, size: int) -> Soup | None:
        if self._soup is None or len(self._soup.ingredients) != size or not self._serves(recipe):
            return None
        self._soup.method = _method(recipe)
        return self._soup

    def _grown(self, recipe: Recipe, runs: list[Checkpoint]) -> Soup:
        """The running state of all ingredients but the last, continued if possible."""
        before = runs[:-1]
        if self._soup is None or not self._serves(recipe) or len(self._soup.ingredients) > len(before):
            self.forget()
            self._soup = self.empty(recipe, self._memory())
        self._soup.method, self._made = _method(recipe), recipe
        missing = slice(len(self._soup.ingredients), len(before))
        try:
            for run, weight in zip(before[missing], recipe.coefficients[missing], strict=True):
                self._soup.keep(run, weight)
        except BaseException:  # half kept: useless
            self.forget()
            raise
        return self._soup

    def _serves(self, recipe: Recipe) -> bool:
        if self._soup is None or self._made is None:
            return False
        size = len(self._soup.ingredients)
        same = [(one.ingredients[:size], one.coefficients[:size], one.fold) for one in (recipe, self._made)]
        return same[0] == same[1]

    def _dtypes(self, recipe: Recipe) -> Callable[[str], torch.dtype | None]:
        if recipe.dtype is None:
            return lambda name: None
        dtype: torch.dtype = getattr(torch, recipe.dtype)
        return lambda name: self._dtype_of(name, dtype)


def check_unchanged(recipe: Recipe, pool: Pool) -> None:
    """Raises:
    CheckpointError: if files that the recipe merges changed after the pool was opened.
    """
    needs_base = recipe.method is not None and recipe.merge_method().needs_base
    base = [pool.base] if pool.base and needs_base else []
    runs = [pool[name] for name in dict.fromkeys(recipe.ingredients)]
    if changed := [file for run in (*runs, *base) for file in run.changed_files()]:
        names = ", ".join(map(str, changed[:3])) + (" and more" if len(changed) > 3 else "")
        raise CheckpointError(
            f"{names} changed while this run read it: is training or a copy still going on? Nothing that "
            "was read of it is kept. When it is done, start anew with overwrite=true"
        )


def _method(recipe: Recipe) -> MergeMethod | StackMethod:
    return Linear() if recipe.method is None else recipe.merge_method()  # a soup of one is that run


def task_vector_gram(runs: Sequence[Checkpoint], base: Checkpoint | None) -> tuple[np.ndarray, float]:
    """The inner products of the runs' task vectors, float64 (runs, runs), and the base's norm.

    Without a base, the mean of the runs replaces it. Each tensor is read once.
    """
    device = torch.device("cpu")
    gram, squares = torch.zeros(len(runs), len(runs), dtype=torch.float64), 0.0
    for name, info in runs[0].header.items():
        shared = base is None or (name in base.header and base.header[name].shape == info.shape)
        if not (shared and info.is_floating_point):
            continue
        tensors = [run.weights.exact(name, device).reshape(-1) for run in runs]
        start = base.tensor(name).reshape(-1) if base else None
        for part in chunks(info.elements, device, beside=len(runs) + 1):
            values = torch.stack([tensor[part].float() for tensor in tensors])
            center = values.mean(0) if start is None else start[part].float()
            squares += float(center.double().square().sum())
            vectors = values.sub_(center)
            gram += (vectors @ vectors.T).double()
    return gram.numpy(), squares**0.5
