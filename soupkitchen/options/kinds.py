"""What an option may be: the words that annotate the fields and parameters which take it, and their check.

A plain type says the usual thing: ``str`` is text that is not empty, ``int`` a whole number, ``Literal`` a
choice, a class a group of options below the option. A range is a word from here: ``density: Share``.
"""

from __future__ import annotations

import inspect
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypedDict, Union, get_args, get_origin, get_type_hints

from soupkitchen.errors import ConfigError


@dataclass(frozen=True)
class Kind:
    """What an option may be.

    Attributes:
        says: that in words: what it should be, or "choose …".
        fits: whether a value is of the kind.
        null: whether None is, too.
    """

    says: str
    fits: Callable[[Any], bool]
    null: bool = False


def is_whole(value: Any) -> bool:
    """Whether it is a whole number; true and false are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; true and false are none."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and abs(value) <= sys.float_info.max


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_list_of(fits: Callable[[Any], bool], value: Any) -> bool:
    """Whether it is a list of different values that fit, one at least."""
    return _is_list(value) and all(map(fits, value)) and 0 < len(value) == len(set(value))


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_inside(value: Any) -> bool:
    return is_number(value) and 0 < value < 1


def _is_map_of(fits: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(fits, value.values()))


def _is_single(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and list(value) == [key]


def at_least(least: int) -> Kind:
    says = f"a whole number of at least {least}"
    return Kind(says, lambda v: is_whole(v) and least <= v < 2**63)


def whole(least: int, most: int) -> Kind:
    return Kind(f"a whole number from {least} to {most}", lambda v: is_whole(v) and least <= v <= most)


FLAG = Kind("true or false", lambda v: isinstance(v, bool))
TEXT = Kind("text", _is_text)
_ANY_TEXT = Kind("text", lambda v: isinstance(v, str))
MAPPING = Kind("a mapping, as {a: 1}", lambda v: isinstance(v, Mapping))
ANYTHING = Kind("", lambda v: True, null=True)
PART = Kind(
    "options of its own with a _target_",
    lambda v: (
        "_target_" in v
        if isinstance(v, Mapping)
        else not isinstance(v, (str, list, tuple, NoneType, numbers.Number))
    ),
)
"""A group of options below an option, or the object that it makes."""
_PLAIN = {
    bool: FLAG,
    str: TEXT,
    int: Kind("a whole number", is_whole),
    float: Kind("a number", is_number),
    Mapping: MAPPING,
    dict: MAPPING,
}

Name = Annotated[str, Kind("a name", lambda v: _is_text(v) or is_number(v))]
AnyText = Annotated[str, _ANY_TEXT]
"""Text that may be empty."""
SomeTexts = Annotated[
    str | Sequence[str],
    Kind("text, or a list of texts", lambda v: _is_text(v) or (_is_list(v) and all(map(_is_text, v)))),
]
ListOfTexts = Annotated[
    Sequence[str],
    Kind("a list of texts, as ['###']", lambda v: _is_list(v) and all(map(_is_text, v))),
]
AtLeast0 = Annotated[int, at_least(0)]
AtLeast1 = Annotated[int, at_least(1)]
Seed = Annotated[int, whole(0, 2**32 - 1)]
Positive = Annotated[float, Kind("a number above 0", _is_positive)]
NotNegative = Annotated[float, Kind("a number, and at least 0", lambda v: is_number(v) and v >= 0)]
Share = Annotated[float, Kind("a number above 0, and 1 at most", lambda v: is_number(v) and 0 < v <= 1)]
Inside = Annotated[float, Kind("a number above 0 and below 1", _is_inside)]
Fraction = Annotated[float, Kind("a number between 0 and 1", lambda v: is_number(v) and 0 <= v <= 1)]
Scales = Annotated[
    float | Sequence[float],
    Kind("a number, or a list of different numbers", lambda v: is_number(v) or _is_list_of(is_number, v)),
]
SeveralPositive = Annotated[
    Sequence[float],
    Kind("a list of different numbers above 0, as [0.25, 0.5, 1]", lambda v: _is_list_of(_is_positive, v)),
]
Durations = Annotated[
    Literal["all", "geometric"] | Sequence[int],
    Kind(
        "all, geometric, or a list of different whole numbers of at least 1, as [5,10]",
        lambda v: v in ("all", "geometric") or _is_list_of(lambda n: is_whole(n) and n >= 1, v),
    ),
]
Ranges = Annotated[
    Mapping[str, Sequence[float]],
    Kind(
        "a range by name of option, as {scale: [0.2, 1.5]}",
        lambda v: _is_map_of(lambda r: _is_list_of(is_number, r) and len(r) == 2 and r[0] < r[1], v),
    ),
]
Acceptance = Annotated[
    str | Mapping[str, Any],
    Kind(
        "choose better, not_worse, {margin: x} with x of 0 or more, or {significant: α} with α between 0 "
        "and 1",
        lambda v: (
            v in ("better", "not_worse")
            or (_is_single(v, "margin") and is_number(v["margin"]) and v["margin"] >= 0)
            or (_is_single(v, "significant") and _is_inside(v["significant"]))
        ),
    ),
]
Ranking = Annotated[
    str | Mapping[str, Any],
    Kind(
        "choose full, or {examples: …} with a share of the held-out data above 0 and below 1",
        lambda v: v == "full" or (_is_single(v, "examples") and _is_inside(v["examples"])),
    ),
]
Stopping = Annotated[
    bool | str | Mapping[str, float],
    Kind(
        "true or false, exact, or {confidence: p} with p above 0.5 and below 1",
        lambda v: (
            isinstance(v, bool)
            or v == "exact"
            or (_is_single(v, "confidence") and is_number(v["confidence"]) and 0.5 < v["confidence"] < 1)
        ),
    ),
]
Size = Annotated[str | int, Kind("a size, as 5GB", lambda v: _is_text(v) or (is_whole(v) and v > 0))]
DeviceMap = Annotated[
    str | dict[str, Any], Kind("text or a mapping", lambda v: _is_text(v) or isinstance(v, Mapping))
]
DeviceSizes = Annotated[
    dict[int | str, int | str],
    Kind("how much by device, as {cpu: 8GiB}", lambda v: isinstance(v, Mapping) and bool(v)),
]
Splits = Annotated[
    str | Mapping[str, str],
    Kind(
        "text, or a file for each split as {train: a.csv, validation: b.csv}",
        lambda v: _is_text(v) or (bool(v) and _is_map_of(_is_text, v)),
    ),
]
TaskWeights = Annotated[
    Mapping[str, float],
    Kind("a number above 0 by name of task, as {reviews: 2}", lambda v: _is_map_of(_is_positive, v)),
]
_READ = "or the model's label by the data's, as {neg: NEGATIVE}"


def _are_labels(value: Any) -> bool:
    names = bool(value) and _is_map_of(lambda v: _is_text(v) or is_whole(v), value)
    return value in ("names", "indices") or names


Labels = Annotated[
    str | Mapping[Any, Any] | Sequence[str], Kind(f"choose names or indices, {_READ}", _are_labels)
]
LabelsOrColumns = Annotated[
    str | Mapping[Any, Any] | Sequence[str],
    Kind(
        f"choose names, indices or vectors, {_READ}, or a list of columns of 0 and 1, as [toxic, obscene]",
        lambda v: _are_labels(v) or v == "vectors" or (_is_list(v) and bool(v) and all(map(_is_text, v))),
    ),
]
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
Trackers = Annotated[
    str | Sequence[str],
    Kind(
        f"choose {', '.join(TRACKERS)}, or a list of these",
        lambda v: v in TRACKERS if isinstance(v, str) else _is_list(v) and all(t in TRACKERS for t in v),
    ),
]


class TopLevel(TypedDict):
    """The options of `conf/config.yaml` that belong to no group."""

    results_dir: Name
    name: Name
    overwrite: bool
    trust_remote_code: bool
    top_k: AtLeast1 | None
    cache_dir: str
    tracker: Trackers | None
    demo_seed: Seed


def kind_of(hint: Any) -> Kind:
    """What a value annotated so may be; anything, if the annotation says nothing that can be checked."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind: Kind = next(data for data in arguments[1:] if isinstance(data, Kind))
        return kind
    if origin is Literal:
        *others, last = arguments
        return Kind(f"choose {', '.join(others)} or {last}", lambda v: isinstance(v, str) and v in arguments)
    if origin in (Union, UnionType):
        others = [argument for argument in arguments if argument is not NoneType]
        if len(others) == len(arguments) or len(others) > 1:
            return ANYTHING
        kind = kind_of(others[0])
        return Kind(f"{kind.says}{', or null' if ',' in kind.says else ' or null'}", kind.fits, null=True)
    return _PLAIN.get(origin or hint, PART if isinstance(hint, type) else ANYTHING)


@cache
def kinds_of(made: Any) -> Mapping[str, Kind]:
    """What each option that a class or function takes may be, by name."""
    hints = get_type_hints(made, include_extras=True)
    taken = hints if made is TopLevel else inspect.signature(made).parameters
    return {name: kind_of(hints.get(name, Any)) for name in taken}


def check(key: str, value: Any, kind: Kind) -> None:
    """Checks one option, which is called `key` on the command line.

    Raises:
        ConfigError: if `value` is not of that kind.
    """
    if kind.null if value is None else kind.fits(value):
        return
    hint = ""
    if kind is PART and isinstance(value, str):
        hint = f"; did you mean {key}.{'path' if key.endswith('data') else 'name'}={value}?"
    elif kind in (TEXT, _ANY_TEXT) and isinstance(value, numbers.Number):
        hint = f", and what looks like something else needs quotes twice: {key}=\"'…'\""
    says = f": {kind.says}" if kind.says.startswith("choose ") else f" should be {kind.says}"
    raise ConfigError(f"{key}={shown(value)}{says}{hint}")


def check_fields(options: Any, group: str) -> None:
    """Checks the fields of a dataclass of ours against their annotations; a user's own is left alone.

    Args:
        options: the dataclass.
        group: what its options are called after on the command line.

    Raises:
        ConfigError: for the first that is wrong.
    """
    made: Any = type(options)
    if made.__module__.startswith("soupkitchen."):
        for name, kind in kinds_of(made).items():
            check(f"{group}.{name}", getattr(options, name), kind)


def shown(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
