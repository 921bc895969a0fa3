"""`recipe.yaml`: what a soup is made of and how it was saved, all that is needed to make it again.

Nothing has to be scored for that: the runs, the base and the recipe are enough.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import MinLen

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.errors import ConfigError
from soupkitchen.merging import Linear, MergeMethod, StackMethod
from soupkitchen.models import Maker, maker_named
from soupkitchen.output.model import Output
from soupkitchen.soup import Recipe
from soupkitchen.store.documents import about, read_yaml
from soupkitchen.store.files import write_text

FORMAT = 1
_SAVED = ("format", "max_shard_size", "dtype", "rank")
"""Options that say how a soup is saved."""
_HEAD = """\
# What the soup is made of. It is made again, without scoring anything and to the bit on such a device, by
#   python -m soupkitchen.rebuild {file} FOLDER
# Where the runs have moved: pool.path=… finds them by their names, pool.base=… names the base.
"""


@dataclass(frozen=True)
class Place:
    """Where a model lies, and a digest of its tensors; of an adapter, what it is put `on` if not the base."""

    path: str
    fingerprint: str
    on: str | None = None

    @classmethod
    def of(cls, run: Checkpoint, base: Checkpoint | None) -> Place:
        on = run.adapted.path.absolute() if run.adapted else None
        apart = on and not (base and on == base.path.absolute())
        return cls(str(run.path.absolute()), run.fingerprint, str(on) if apart else None)

    def to_data(self) -> dict[str, str]:
        """What YAML has words for."""
        return {name: part for name, part in vars(self).items() if part is not None}


@dataclass(frozen=True, kw_only=True)
class _Run(Place):
    name: Annotated[str, MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class _Ingredient(_Run):
    coefficient: float | list[float]


@dataclass(frozen=True)
class _Saved:
    output: dict[str, Any]
    device: str
    fingerprint: str | None


@dataclass(frozen=True)
class _Told:
    """The file as it is."""

    format: Literal[1]
    method: dict[str, Any] | None
    ingredients: list[_Ingredient]
    base: Place | None
    dtype: str | None
    recalibrate: int
    variant: str
    reference: str
    beside: list[_Run]
    model_class: str
    processor: str | None
    pad_token_id: int | None
    saved: _Saved
    model: dict[str, Any] | None = None
    key: str | None = None


@dataclass(frozen=True)
class RecipeFile:
    """A recipe, and what of a run it takes to follow it elsewhere.

    Attributes:
        recipe: what is merged, and how.
        runs: the ingredients, and the run that says what the model is, by name.
        reference: the name of the latter.
        base: the model that the runs were fine-tuned from, where the recipe needs it.
        model_class: the class of transformers that the task loads models as, or the function that makes them.
        processor: the folder whose tokenizer or image processor is saved with the soup, or the name of a run.
        output: how it was saved.
        pad_token_id: what the task has given a model without one.
        device: the kind of device that merged.
        soup: a digest of what was saved.
        model: the tree of options of what makes the models, where that is not transformers.
        key: of runs that are files, where in them their state dicts are.
        trust: what it names that is not ours, and may be imported.
    """

    recipe: Recipe
    runs: Mapping[str, Place]
    reference: str
    base: Place | None
    model_class: str
    processor: str | None = None
    output: Output = field(default_factory=Output)
    pad_token_id: int | None = None
    device: str = "cpu"
    soup: str | None = None
    model: Mapping[str, Any] | None = None
    key: str | None = None
    trust: Collection[str] = ()

    @classmethod
    def of(
        cls, recipe: Recipe, pool: Pool, model_class: str, processor: Path | None, **more: Any
    ) -> RecipeFile:
        """The file of a recipe for runs of `pool`."""
        names = dict.fromkeys((*recipe.ingredients, pool.reference.name))
        named = {run.path: run.name for run in pool}
        if processor in named:
            names[named[processor]] = None
        needs_base = recipe.method is not None and recipe.merge_method().needs_base
        adapted = any(pool[name].adapted for name in names)
        base = pool.base if needs_base or adapted else None
        return cls(
            recipe,
            {name: Place.of(pool[name], pool.base) for name in names},
            pool.reference.name,
            None if base is None else Place.of(base, None),
            model_class,
            None if processor is None else named.get(processor, str(processor.absolute())),
            key=pool.reference.key or None,
            **more,
        )

    @classmethod
    def read(cls, file: Path, trust: Collection[str] = ()) -> RecipeFile:
        """The recipe in a file.

        Args:
            trust: what it names that is not ours, and may be imported.

        Raises:
            ConfigError: if it is no recipe of ours, cannot be read, or names what is not trusted.
        """
        told = read_yaml(file, _Told)
        recipe = {
            "ingredients": [one.name for one in told.ingredients],
            "coefficients": [one.coefficient for one in told.ingredients],
            **{name: getattr(told, name) for name in ("method", "dtype", "recalibrate", "variant")},
        }
        with about(file):
            read = cls(
                Recipe.from_data(recipe, trust),
                {
                    one.name: Place(one.path, one.fingerprint, one.on)
                    for one in (*told.ingredients, *told.beside)
                },
                told.reference,
                told.base,
                told.model_class,
                told.processor,
                Output(**told.saved.output),
                told.pad_token_id,
                told.saved.device,
                told.saved.fingerprint,
                told.model,
                told.key,
                trust,
            )
            read.maker()
            read.merge_method()
        if read.reference not in read.runs:
            raise ConfigError(f"{file}: reference: {read.reference} is none of its runs")
        return read

    def write(self, file: Path) -> None:
        """Writes it, whole or not at all."""
        recipe, output = self.recipe.to_data(), self.output
        named = zip(recipe["ingredients"], recipe["coefficients"], strict=True)
        beside = [name for name in self.runs if name not in recipe["ingredients"]]
        told = {
            "format": FORMAT,
            "method": recipe["method"],
            "ingredients": [
                {"name": name, "coefficient": coefficient, **self.runs[name].to_data()}
                for name, coefficient in named
            ],
            "base": self.base and self.base.to_data(),
            "dtype": recipe["dtype"],
            "recalibrate": recipe["recalibrate"],
            "variant": recipe["variant"],
            "reference": self.reference,
            "beside": [{"name": name, **self.runs[name].to_data()} for name in beside],
            "model_class": self.model_class,
            "processor": self.processor,
            "pad_token_id": self.pad_token_id,
            **({"model": self.model, "key": self.key} if self.model is not None else {}),
            "saved": {
                "output": {name: vars(output)[name] for name in _SAVED},
                "device": self.device,
                "fingerprint": self.soup,
            },
        }
        text = yaml.safe_dump(_plain(told), sort_keys=False, allow_unicode=True, width=100)
        write_text(file, _HEAD.format(file=file.name) + text)

    def maker(self) -> Maker:
        """What makes the models; see `maker_named`."""
        return maker_named(self.model_class, self.model, self.trust)

    def merge_method(self) -> MergeMethod | StackMethod:
        """The method; a soup of one is that run, whatever the method."""
        if self.recipe.method is None:
            return Linear()
        return self.recipe.merge_method()


def _plain(tree: Any) -> Any:
    """`tree` of lists and dicts that YAML has words for, none of them twice by reference."""
    if isinstance(tree, Mapping):
        return {name: _plain(part) for name, part in tree.items()}
    return [_plain(part) for part in tree] if isinstance(tree, (list, tuple)) else tree
