"""Annotations of options, their check, words for what plain types cannot say, and values as they are typed.

``str`` is text that is not empty, ``int`` a whole number, ``float`` a finite one, ``Literal`` a choice; a
class is a group of options, or the object that they make. Ranges have words here: ``density: Share``.
"""

from __future__ import annotations

import inspect
import numbers
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypedDict, TypeVar, Union, get_args, get_origin, get_type_hints

from soupkitchen.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """Metadata of an annotation: a description of the values, and a condition beside the type."""

    says: str
    holds: Callable[[Any], bool] = lambda value: True


def is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and abs(value) <= sys.float_info.max


def at_least(least: int) -> Kind:
    return Kind(f"a whole number of at least {least}", lambda v: least <= v < 2**63)


def whole(least: int, most: int) -> Kind:
    return Kind(f"a whole number from {least} to {most}", lambda v: least <= v <= most)


def only(key: str) -> Kind:
    return Kind("", lambda v: list(v) == [key])


AT_LEAST_ONE = Kind("", bool)

Distinct = Annotated[Sequence[T], Kind("", lambda v: 0 < len(v) == len(set(v)))]
Name = Annotated[str | float, Kind("a name")]
AnyText = Annotated[str | Literal[""], Kind("text")]
SomeTexts = Annotated[str | Sequence[str], Kind("text, or a list of texts")]
ListOfTexts = Annotated[Sequence[str], Kind("a list of texts, as ['###']")]
AtLeast0 = Annotated[int, at_least(0)]
AtLeast1 = Annotated[int, at_least(1)]
Seed = Annotated[int, whole(0, 2**32 - 1)]
Positive = Annotated[float, Kind("a number above 0", lambda v: v > 0)]
NotNegative = Annotated[float, Kind("a number, and at least 0", lambda v: v >= 0)]
Share = Annotated[float, Kind("a number above 0, and 1 at most", lambda v: 0 < v <= 1)]
Inside = Annotated[float, Kind("a number above 0 and below 1", lambda v: 0 < v < 1)]
Fraction = Annotated[float, Kind("a number between 0 and 1", lambda v: 0 <= v <= 1)]
Confidence = Annotated[float, Kind("", lambda v: 0.5 < v < 1)]
Scales = Annotated[float | Distinct[float], Kind("a number, or a list of different numbers")]
SeveralPositive = Annotated[
    Distinct[Positive], Kind("a list of different numbers above 0, as [0.25, 0.5, 1]")
]
Durations = Annotated[
    Literal["all", "geometric"] | Distinct[AtLeast1],
    Kind("all, geometric, or a list of different whole numbers of at least 1, as [5,10]"),
]
Range = Annotated[Sequence[float], Kind("", lambda v: len(v) == 2 and v[0] < v[1])]
Ranges = Annotated[Mapping[str, Range], Kind("a range by name of option, as {scale: [0.2, 1.5]}")]
Acceptance = Annotated[
    Literal["better", "not_worse"]
    | Annotated[Mapping[str, NotNegative | Literal["auto"]], only("margin")]
    | Annotated[Mapping[str, Inside], only("significant")],
    Kind(
        "choose better, not_worse, {margin: x} with x of 0 or more or auto, "
        "or {significant: α} with α between 0 and 1"
    ),
]
Ranking = Annotated[
    Literal["full"] | Annotated[Mapping[str, Confidence], only("confidence")],
    Kind("choose full, or {confidence: p} with p above 0.5 and below 1, which replaces {examples: …}"),
]
Effort = Literal["exact", "confident", "frugal"]
Stopping = Annotated[
    bool | Literal["exact"] | Annotated[Mapping[str, Confidence], only("confidence")],
    Kind("true or false, exact, or {confidence: p} with p above 0.5 and below 1"),
]
Size = Annotated[str | AtLeast1, Kind("a size, as 5GB")]
DeviceMap = Annotated[str | dict[str, Any], Kind("text or a mapping")]
DeviceSizes = Annotated[dict[int | str, Any], AT_LEAST_ONE, Kind("how much by device, as {cpu: 8GiB}")]
Splits = Annotated[
    str | Annotated[Mapping[str, str], AT_LEAST_ONE],
    Kind("text, or a file for each split as {train: a.csv, validation: b.csv}"),
]
TaskWeights = Annotated[
    Mapping[str, NotNegative], Kind("a number of at least 0 by name of task, as {reviews: 2}")
]
TaskFloors = Annotated[
    Mapping[str, Annotated[float, Kind("", lambda v: v <= 0)]],
    Kind("a number of at most 0 by name of task, as {mmlu: -0.01}: how far its score may fall"),
]
_READ = "or the model's label by the data's, as {neg: NEGATIVE}"
_LabelMap = Annotated[Mapping[Any, str | int], AT_LEAST_ONE]
Labels = Annotated[Literal["names", "indices"] | _LabelMap, Kind(f"choose names or indices, {_READ}")]
LabelsOrColumns = Annotated[
    Literal["names", "indices", "vectors"] | _LabelMap | Annotated[Sequence[str], AT_LEAST_ONE],
    Kind(f"choose names, indices or vectors, {_READ}, or a list of columns of 0 and 1, as [toxic, obscene]"),
]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Trackers = Annotated[
    Tracker | Sequence[Tracker], Kind(f"choose {', '.join(get_args(Tracker))}, or a list of these")
]


class TopLevel(TypedDict):
    """The options of `conf/config.yaml` outside groups."""

    results_dir: Name
    name: Name
    overwrite: bool
    trust_remote_code: bool
    top_k: AtLeast1 | None
    cache_dir: str
    tracker: Trackers | None
    demo_seed: Seed


_PLAIN: Mapping[Any, Kind] = {
    bool: Kind("true or false", lambda v: isinstance(v, bool)),
    str: Kind("text", lambda v: isinstance(v, str) and v != ""),
    int: Kind("a whole number", is_whole),
    float: Kind("a number", is_number),
    Mapping: Kind("a mapping, as {a: 1}", lambda v: isinstance(v, Mapping)),
    Sequence: Kind("a list", lambda v: isinstance(v, Sequence) and not isinstance(v, str)),
    NoneType: Kind("null", lambda v: v is None),
    Any: Kind("anything"),
}
_NO_OBJECTS = (str, list, tuple, numbers.Number, NoneType)
_PART = Kind(
    "options of its own with a _target_",
    lambda v: "_target_" in v if isinstance(v, Mapping) else not isinstance(v, _NO_OBJECTS),
)


def _kind(hint: Any) -> Kind:
    outer = get_origin(hint) or hint
    return _PLAIN.get(Mapping if outer is dict else outer, _PART)


def fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return fits(value, inner[0]) and all(kind.holds(value) for kind in inner[1:])
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if not _kind(hint).holds(value):
        return False
    values = value.values() if isinstance(value, Mapping) else value
    return all(fits(each, inner[-1]) for each in values) if inner else True


def says(hint: Any) -> str:
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        return str(inner[-1].says)
    if get_origin(hint) is Literal:
        return f"choose {', '.join(inner[:-1])} or {inner[-1]}"
    if get_origin(hint) in (Union, UnionType):
        *others, last = (says(each) for each in inner)
        return f"{', '.join(others)}{',' if any(',' in other for other in others) else ''} or {last}"
    return _kind(hint).says


@cache
def hints_of(made: Any) -> Mapping[str, Any]:
    hints = get_type_hints(made, include_extras=True)
    taken = hints if made is TopLevel else inspect.signature(made).parameters
    return {name: hints.get(name, Any) for name in taken}


def check(key: str, value: Any, hint: Any) -> None:
    """Checks the option `key`.

    Raises:
        ConfigError: if `value` does not fit the annotation `hint`.
    """
    if fits(value, hint):
        return
    should = says(hint)
    meant = ""
    if isinstance(value, str) and should == _PART.says:
        meant = f"; did you mean {key}.{'path' if key.endswith('data') else 'name'}={value}?"
    elif should == "text" and isinstance(value, numbers.Number):
        meant = f", and what looks like something else needs quotes twice: {key}=\"'…'\""
    link = ": " if should.startswith("choose ") else " should be "
    raise ConfigError(f"{key}={shown(value)}{link}{should}{meant}")


def check_fields(options: Any, group: str) -> None:
    """Checks the fields of our dataclass against their annotations; a user's own is not checked.

    Args:
        options: the dataclass.
        group: the prefix of its options on the command line.

    Raises:
        ConfigError: if one is wrong.
    """
    made: Any = type(options)
    if made.__module__.startswith("soupkitchen."):
        for name, hint in hints_of(made).items():
            check(f"{group}.{name}", getattr(options, name), hint)


def shown(value: Any) -> str:
    """A value in the command line's form."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


_UNQUOTED = re.compile(r"[\w/+.-]+", re.ASCII)
_IN_KEYS = re.compile(r"[\w/+.$%*@?|\\()\[\]{}:=, -]+", re.ASCII)
"""Characters that Hydra allows in a mapping's keys, some after a backslash; keys have no quotes."""
_ESCAPED = re.compile(r"([\\()\[\]{}:=, ])")
_PAIR = re.compile(r"\s*(.+?)\s*:\s*([-+.\w]+)\s*(?:,|$)")


def listing(option: str, names: Sequence[str]) -> str:
    """The word that sets `option` to a list of names: ``'pool.exclude=["lr=0.1,seed=1"]'``."""
    return shlex.quote(f"{option}=[{', '.join(map(quoted, names))}]")


def mapping(option: str, values: dict[str, str]) -> str | None:
    """The word that sets `option` to a mapping; None if Hydra cannot read a key."""
    if not all(_IN_KEYS.fullmatch(key) for key in values):
        return None
    inside = ", ".join(_ESCAPED.sub(r"\\\1", key) + f": {value}" for key, value in values.items())
    return shlex.quote(f"{option}={{{inside}}}")


def is_plain(name: str) -> bool:
    return _UNQUOTED.fullmatch(name) is not None


def mended(word: str) -> str:
    option, _, value = word.partition("=")
    value = value.strip()
    if value[:1] == "[" and value[-1:] == "]":
        return listing(option, [value[1:-1].strip(" \"'")])
    if value[:1] == "{" and value[-1:] == "}":
        pairs = {key.strip("\"'"): number for key, number in _PAIR.findall(value[1:-1])}
        return mapping(option, pairs) or word
    return shlex.quote(f"{option}={quoted(value)}")


def quoted(text: str) -> str:
    """`text` as a value in Hydra's grammar, where a backslash is an escape only before a quote."""
    if is_plain(text):
        return text
    quote = "'" if '"' in text and "'" not in text else '"'
    escaped = re.sub(rf"(\\*)({quote}|$)", lambda end: end[1] * 2 + f"\\{quote}" * bool(end[2]), text)
    return f"{quote}{escaped}{quote}"
