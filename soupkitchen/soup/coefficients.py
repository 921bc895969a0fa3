"""Coefficients of ingredients, by tensor: one number, or one for each part of the model's depth.

A tensor's depth follows from its name in the files. Layers are numbered: ``h.7.…``, ``encoder.layer.7.…``,
``stages.2.layers.5.…``. Of nested numbers the outermost counts (a layer holds its experts and sublayers), but
blocks of a stage are layers of their own (ResNet, Swin). Stacks come in this order: vision and audio,
encoders, decoders, heads.

A tensor outside of layers goes with the nearest stacks by name: embeddings and stems with their first layer,
all others (final norms, poolers, heads) with the last.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any, NamedTuple

from soupkitchen.errors import ConfigError
from soupkitchen.merging import Method
from soupkitchen.search.base import Coefficient

_STACK = re.compile(r"(?:.*_)?(?:h|layers?|blocks?|stages?|groups?|resblocks)")
_JOINED = re.compile(r"((?:layer|block|stage)s?)_?(\d+)")
_INNER = re.compile(r"(?:.*_)?(?:layers|blocks)")
_LAST = re.compile(r"unembed|embed_out|(^|[._])(lm_)?head\.|classifier")
_FIRST = re.compile(
    r"embed|(^|[._])emb([._]|$)|wte|wpe|patch|shared|stem|(cls|mask|distillation|query)_token|token_type"
    r"|position|relative|rotary|feature_(extractor|projection)|pre_la?ye?r?norm|ln_pre|project_in"
    r"|(^|\.)(conv|bn)\d*\."
)
_ORDER = (
    (3, re.compile(r"(^|[._])(heads?|neck|classifier|pooler)([._]|$)")),
    (2, re.compile(r"decoder")),
    (0, re.compile(r"vision|visual|image|audio|speech|feature_extractor")),
)
"""The order of stacks by path; others have 1."""


def by_tensor(coefficient: Coefficient, names: Iterable[str]) -> Callable[[str], float]:
    if not isinstance(coefficient, tuple):
        return lambda name: coefficient
    part_of = parts(names, len(coefficient))
    return lambda name: coefficient[part_of[name]]


def plain(coefficient: Any) -> Coefficient:
    """Plain numbers; equal ones for all parts become one.

    Raises:
        TypeError, ValueError: if it is no coefficient.
    """
    if isinstance(coefficient, (str, bytes)):
        raise TypeError(f"{coefficient!r} is no number")
    if not isinstance(coefficient, Sequence):
        return float(coefficient)
    numbers = tuple(map(float, coefficient))
    if not numbers:
        raise ValueError("a coefficient for no part of the depth")
    return numbers[0] if len(set(numbers)) == 1 else numbers


def check(coefficients: Sequence[Coefficient], ingredients: Sequence[str], method: Method) -> None:
    """Checks coefficients without looking at tensors.

    Raises:
        ConfigError: if the method cannot merge by them.
    """
    by_part = [one if isinstance(one, tuple) else (one,) for one in coefficients]
    numbers = {len(one) for one in by_part} - {1}
    if len(numbers) > 1:
        raise ConfigError(
            f"coefficients for {' and for '.join(map(str, sorted(numbers)))} parts of the depth: all "
            "ingredients need theirs for the same number of parts"
        )
    for name, values in zip(ingredients, by_part, strict=False):
        for value in values:
            if not math.isfinite(value):
                raise ConfigError(f"the coefficient of {name} is {value}, which is no finite number")
            if value < 0 and not method.negative_weights:
                raise ConfigError(
                    f"the coefficient of {name} is {value:g}: {type(method).__name__} subtracts no runs, so "
                    "it should be 0 or more"
                )
    if not method.weighs and len({value for values in by_part for value in values} - {0.0}) > 1:
        raise ConfigError(
            f"{type(method).__name__} has one weight for all ingredients: their coefficients should be 1, "
            "or 0 for one that is left out"
        )
    for part in range(max(numbers, default=1)):
        if not any(values[part % len(values)] for values in by_part):
            where = f" in part {part + 1} of the depth" if numbers else ""
            raise ConfigError(f"the coefficients of all ingredients are 0{where}: give one of them another")


class Numbered(NamedTuple):
    """A numbered part of a name: a layer, or a block `inner` in a stage.

    Attributes:
        home: the module that holds the stack, "" for the model.
    """

    home: str
    stack: str
    number: int
    inner: int | None


Layer = tuple[str, int, int]
"""Home, number, and block in the stage."""


def layers(names: Iterable[str]) -> int:
    """The number of layers, from a model's tensor names; 0 if none are numbered."""
    return len(_ordered(tuple(names))[0])


def parts(names: Iterable[str], number: int) -> Mapping[str, int]:
    """The part of the depth of each tensor, from 0 up to `number` − 1.

    Layer l of L is in part floor(l · number / L), so no part is empty if number ≤ L.
    """
    return _parts(tuple(names), number)


@lru_cache(maxsize=16)
def _parts(names: tuple[str, ...], number: int) -> Mapping[str, int]:
    order, layer_of = _ordered(names)
    if not order:
        return {name: 0 if _comes_first(name) else number - 1 for name in names}
    position = {layer: index for index, layer in enumerate(order)}
    homes: dict[str, list[int]] = defaultdict(list)
    for layer, index in position.items():
        homes[layer[0]].append(index)
    found = {}
    for name in names:
        if name in layer_of:
            index = position[layer_of[name]]
        else:
            near = _next_to(name, homes)
            index = min(near) if _comes_first(name) else max(near)
        found[name] = index * number // len(order)
    return found


@lru_cache(maxsize=16)
def _ordered(names: tuple[str, ...]) -> tuple[list[Layer], Mapping[str, Layer]]:
    """All layers in order, and each tensor's layer."""
    numbered = {name: found for name in names if (found := _numbered(name))}
    stacks = _stacks(numbered)
    within = {name: one for name, found in numbered.items() for one in found[::-1] if one[:2] in stacks}
    inner: dict[tuple[str, int], list[int]] = defaultdict(list)
    for home, _, number, block in within.values():
        inner[home, number] += [] if block is None else [block]
    layer_of = {
        name: (home, number, min(inner[home, number], default=0) if block is None else block)
        for name, (home, _, number, block) in within.items()
    }
    return sorted(set(layer_of.values()), key=lambda layer: (_rank(layer[0]), layer)), layer_of


def _numbered(name: str) -> list[Numbered]:
    words, found = name.split("."), []
    for index, word in enumerate(words):
        if index and word.isdecimal() and not words[index - 1].isdecimal():
            home, stack, number = words[: index - 1], words[index - 1], int(word)
        elif joined := _JOINED.fullmatch(word):
            home, stack, number = words[:index], joined[1], int(joined[2])
        else:
            continue
        found.append(Numbered(".".join(home), stack, number, _inner(words[index + 1 :])))
    return found


def _inner(rest: list[str]) -> int | None:
    if len(rest) > 2 and _INNER.fullmatch(rest[0]):
        rest = rest[1:]
    return int(rest[0]) if len(rest) > 1 and rest[0].isdecimal() else None


def _stacks(numbered: Mapping[str, list[Numbered]]) -> set[tuple[str, str]]:
    """The home and name of each stack of layers.

    If no name looks like one, the stack with most tensors is taken. A sibling with the same numbers
    (Segformer's ``patch_embeddings.2``) belongs to its layers.
    """
    stacks = set()
    for found in numbered.values():
        outermost = next((one for one in found if _STACK.fullmatch(one.stack)), None)
        stacks |= {outermost[:2]} if outermost else set()
    numbers: dict[tuple[str, str], set[int]] = defaultdict(set)
    for found in numbered.values():
        for one in found:
            numbers[one[:2]].add(one.number)
    if not stacks:
        sizes = Counter(found[0][:2] for found in numbered.values() if len(numbers[found[0][:2]]) > 1)
        stacks = {stack for stack, _ in sizes.most_common(1)}
    alike = {(home, frozenset(numbers[home, stack])) for home, stack in stacks}
    beside = {one for one, told in numbers.items() if len(told) > 1 and (one[0], frozenset(told)) in alike}
    return stacks | beside


def _next_to(name: str, homes: Mapping[str, list[int]]) -> list[int]:
    words = name.split(".")
    common = {home: _common(words, home.split(".")) for home in homes}
    most = max(common.values())
    return [index for home, indices in homes.items() if common[home] == most for index in indices]


def _common(one: list[str], other: list[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _comes_first(name: str) -> bool:
    return _FIRST.search(name) is not None and _LAST.search(name) is None


def _rank(home: str) -> int:
    return next((rank for rank, pattern in _ORDER if pattern.search(home)), 1)
