"""Labels: one rule, for all tasks, from values of the data to labels of the model.

A name in the data means the model's name that is equal. If there is none, it means the only name that differs
in case and outer space alone. Numbers that are no names are label numbers, unless the model's names say
otherwise. A value with two readings, or unknown to the model, is an error that names the option
`task.labels`. All splits are read alike.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, NoReturn, TypeVar

import datasets
from datasets import Dataset
from transformers import PreTrainedConfig

from soupkitchen.errors import ConfigError, DataError, shown
from soupkitchen.options.kinds import Labels
from soupkitchen.tasks.base import DataTask
from soupkitchen.tasks.columns import check_filled, lists_of, row_of

log = logging.getLogger(__name__)

Value = str | int | float | bool
"""A label in the data; of a `ClassLabel`, its name."""

AnyTask = TypeVar("AnyTask", bound="Labelled")
Splits = Mapping[str, Dataset]

_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{0,9})?\s*")
_YES = {"true", "yes", "y", "t", "1", "positive", "pos"}
_NO = {"false", "no", "n", "f", "0", "negative", "neg"}
_NEGATED = r"(no|non|not|un|in|ir|dis)[\W_]*"
_SHOWN = 5


@dataclass(frozen=True)
class Labelled(DataTask):
    """A task with a column of labels, which the option `label` names.

    Attributes:
        labels: "names", "indices", or the model's label (name or number) by the data's; None to follow both.
        entries: a word for lists' entries; None if cells are labels.
    """

    entries: ClassVar[str | None] = None

    labels: Labels | None = field(default=None, kw_only=True)
    _reading: Any = field(default=None, init=False, repr=False, compare=False, kw_only=True)

    def with_labels(self: AnyTask, splits: Splits, model: Any) -> AnyTask:
        if self._reading is not None:
            return self
        read = copy(self)
        object.__setattr__(read, "_reading", self.reading(splits, model))
        return read

    def read_as(self, split: Dataset, model: Any) -> Any:
        """The reading found by `with_labels`, else that of `split` alone."""
        return self.reading({"": split}, model) if self._reading is None else self._reading

    def reading(self, splits: Splits, model: Any) -> Any:
        """The model's number of each label in `splits`."""
        column = Column.of(splits, self.label, self.entries)  # type: ignore[attr-defined]
        return Reader(column, ModelLabels.of(model)).read(self.labels)

    def encoded(self, split: Dataset, model: Any) -> list[Any]:
        """The label numbers of a split."""
        numbers = self.read_as(split, model)
        return [numbers[value] for value in values_of(split, self.label)]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Column:
    """The labels in a column of all splits.

    Attributes:
        name: option and column, for messages.
        rows: number of rows by value.
        first: the first of these, in words.
        positions: numbers by name if it is a `ClassLabel`; empty if splits differ.
    """

    name: str
    rows: Counter[Value]
    first: Mapping[Value, str]
    positions: Mapping[str, int] | None

    @classmethod
    def of(cls, splits: Splits, column: str, what: str | None = None) -> Column:
        """Counts a column's values in `splits`; `what` names the entries of lists."""
        rows, first, named, kinds = Counter[Value](), dict[Value, str](), [], set()
        for role, split in splits.items():
            where = f" of {role}" if role not in ("", "heldout") else ""
            for number, cell in enumerate(values_of(split, column, what)):
                for value in dict.fromkeys(cell if isinstance(cell, list) else [cell]):
                    if not rows[value]:
                        first[value] = f"row {row_of(split, number)}{where}"
                    rows[value] += 1
                    kinds.add(next(kind for kind in (str, bool, object) if isinstance(value, kind)))
            named.append(getattr(_class_label(split.features[column]), "names", None))
        if len(kinds) > 1:
            raise DataError(f"task.label={column}: names, numbers, true and false are mixed; choose one kind")
        alike = all(names == named[0] for names in named)
        positions = {name: n for n, name in enumerate(named[0] or ()) if alike} if any(named) else None
        return cls(f"task.label={column}", rows, first, positions)

    def shown(self, value: Value) -> str:
        rows = self.rows[value]
        count = f"{rows} rows, the first is" if rows > 1 else "1 row,"
        return f"{shown(value)} ({count} {self.first[value]})"

    def number(self, value: Value, count: int | None) -> int | None:
        """The value as a label number below `count`, or None."""
        word = str(value).strip().casefold()
        if self.positions is not None:
            number: Decimal | int | None = self.positions.get(str(value))
        else:
            number = int(word == "true") if word in ("true", "false") else _number(value)
        return int(number) if number is not None and number % 1 == 0 <= number < (count or 2**63) else None


class Names:
    """Finds a name in a list; case, outer space and digits may differ in form."""

    def __init__(self, names: Iterable[Any]) -> None:
        self.names = [str(name) for name in names]
        self._exact, self._alike, self._numeric = (defaultdict[Any, list[int]](list) for _ in range(3))
        for number, name in enumerate(self.names):
            self._exact[name].append(number)
            self._alike[name.strip().casefold()].append(number)
            self._numeric[_number(name)].append(number)

    def find(self, value: Value) -> int | None:
        """The place of the only name that fits, or None."""
        places = self._exact.get(str(value)) or self._alike.get(str(value).strip().casefold())
        if places is None and (number := _number(value)) is not None:
            places = self._numeric.get(number)
        return places[0] if places and len(places) == 1 else None


@dataclass(frozen=True)
class ModelLabels:
    """The labels of a model.

    Attributes:
        names: None if it has none.
        count: None if unknown.
        contradiction: the reason not to look up names, or None.
    """

    names: Sequence[str] | None
    count: int | None
    contradiction: str | None = None

    @classmethod
    def of(cls, model: Any) -> ModelLabels:
        config = getattr(model, "config", None)
        if not isinstance(config, PreTrainedConfig):
            return cls(None, None)
        by_number = config.id2label or {}
        by_name = {str(name): _number(number) for name, number in (config.label2id or {}).items()}
        if set(by_number) != set(range(len(by_number))):
            raise DataError(f"id2label in config.json should count from 0, not {_listed(by_number)}")
        names = [str(by_number[number]) for number in range(len(by_number))]
        named = {number: name for name, number in by_name.items()}
        if _is_counted(names) and len(by_name) == len(names) and all(n in named for n in range(len(names))):
            names = [named[Decimal(number)] for number in range(len(names))]
        differing = [name for number, name in enumerate(names) if by_name.get(name, number) != number]
        contradiction = None
        if differing:
            contradiction = (
                f"id2label and label2id in config.json number {differing[0]!r} differently: put them right, "
                "or map the data's labels to numbers with task.labels"
            )
        return cls(names, len(names), contradiction)

    @property
    def is_counted(self) -> bool:
        """True if names only count: LABEL_0, LABEL_1."""
        return self.names is None or _is_counted(self.names)

    def target(self, wanted: str | int) -> int:
        """The number of a label by name or number in `task.labels`."""
        named = Names(self.names or ()).find(wanted)
        if isinstance(wanted, str):
            if named is not None and self.contradiction is None:
                return named
        elif 0 <= wanted < (self.count or 2**63):
            if named in (None, wanted):
                return wanted
            raise ConfigError(
                f"task.labels: {wanted} is the name of {self.shown(named)}, and a number of its own; write "
                "the name in quotes"
            )
        raise ConfigError(
            f"task.labels: {self.contradiction or f'the model has no label {wanted!r}'}; {self}"
        )

    def shown(self, number: int | None) -> str:
        if number is None or self.names is None or not 0 <= number < len(self.names):
            return f"label {number}"
        return f"{self.names[number]!r} (label {number})"

    def __str__(self) -> str:
        if self.names is None:
            return f"it has labels 0 to {self.count - 1}" if self.count else "its labels have no names"
        same = ", of which several have one name" * (len(set(self.names)) < len(self.names))
        return (
            f"its labels 0 to {len(self.names) - 1} (id2label in config.json) are {_listed(self.names)}{same}"
        )


class Reader:
    """Reads a column as labels of a model.

    Attributes:
        named: label numbers by value, read as a name, or None.
        numbered: label numbers by value, read as a number, or None.
    """

    def __init__(self, column: Column, model: ModelLabels) -> None:
        names = Names(model.names or ())
        self.column, self.model = column, model
        self.named = {value: names.find(value) for value in column.rows}
        self.numbered = {value: column.number(value, model.count) for value in column.rows}

    def read(self, labels: Any = None) -> dict[Value, int]:
        """The label number of each value; `labels` is the option.

        Raises:
            DataError: if the model lacks a value, or there are two readings.
            ConfigError: if `labels` names an unknown label.
        """
        if isinstance(labels, Mapping):
            keys, targets = Names(labels), list(map(self.model.target, labels.values()))
            places = {value: keys.find(value) for value in self.named}
            rest = {value: self.named[value] for value, place in places.items() if place is None}
            mapped = {value: targets[place] for value, place in places.items() if place is not None}
            return {**mapped, **(self.by_name(rest) if rest else {})}
        if labels == "indices":
            return self.complete(self.numbered)
        if labels == "names":
            return self.by_name(self.named)
        if not self.named:
            return {}
        if all(number is None for number in self.named.values()):
            return self.by_number()
        read, first = self.by_name(self.named), dict[int, Value]()
        fits = None not in self.numbered.values() and not any(isinstance(v, (str, bool)) for v in read)
        for value, number in read.items():
            if fits and number != self.numbered[value]:
                self.refuse(value, f"by name it is {self.model.shown(number)}")
            other = first.setdefault(number, value)
            if other != value:
                both = f"{self.column.shown(other)} and {self.column.shown(value)}"
                raise DataError(
                    f"{self.column.name}: {both} would both be {self.model.shown(number)}; make them one, or "
                    "map them with task.labels"
                )
        return read

    def by_name(self, named: Mapping[Value, int | None]) -> dict[Value, int]:
        read = self.complete(named)
        if self.model.contradiction:
            raise DataError(f"{self.column.name}: {self.model.contradiction}")
        names = self.model.names or ()
        self.say("equal but for case, space or digits", {v: n for v, n in read.items() if names[n] != str(v)})
        return read

    def by_number(self) -> dict[Value, int]:
        column, model, positions = self.column, self.model, self.column.positions
        counted = model.is_counted
        digits = {value: _number(value) for value in self.numbered}
        if positions is not None and any(digits[value] != positions.get(str(value)) for value in digits):
            if not counted:
                self.complete(dict.fromkeys(digits))
            if model.count not in (None, len(positions)):
                raise DataError(
                    f"{column.name}: the data has {len(positions)} labels ({_listed(positions)}), and the "
                    f"model {model.count} without names, so that their numbers may differ; "
                    "task.labels=indices takes those of the data, task.labels={name: number} others"
                )
            for value, number in digits.items():
                if number not in (None, positions.get(str(value))):
                    self.refuse(value, f"by its digits it is label {number}")
        read = self.complete(self.numbered)
        if positions is None and None in digits.values():  # true and false
            if model.count not in (None, 2):
                self.complete(dict.fromkeys(read))
            if model.names and affirmed(model.names) == 0:
                value = next(iter(read))
                self.refuse(value, f"as a word it is {model.shown(1 - read[value])}")
        elif model.names and not counted:
            inside = [[int(digits) for digits in re.findall("[0-9]{1,18}", name)] for name in model.names]
            for place, found in enumerate(inside if all(len(found) == 1 for found in inside) else ()):
                if found != [place] and (same := [value for value in read if digits[value] == found[0]]):
                    self.refuse(same[0], f"by name it is {model.shown(place)}")
            if 0 not in read.values() and inside != [[place] for place in range(len(inside))]:
                first = min(read, key=lambda value: read[value])
                self.refuse(first, f"counted from 1 (no row has 0) it is {model.shown(read[first] - 1)}")
        if model.names and not counted:
            self.say("taken as numbers of the model's", read)
        return read

    def complete(self, reading: Mapping[Value, int | None]) -> dict[Value, int]:
        """The reading; raises `DataError` if the model lacks a label."""
        read = {value: number for value, number in reading.items() if number is not None}
        lacking = [value for value in reading if value not in read]
        if not lacking:
            return read
        first, *others = map(self.column.shown, lacking[:_SHOWN])
        which = ", nor ".join([first, *others, *[f"{len(lacking) - _SHOWN} more"] * (len(lacking) > _SHOWN)])
        if isinstance(lacking[0], str):
            what = f"the model has no label {which}; {self.model}"
        else:
            which = which.replace(" (", " is no label of the model (", 1)
            what = f"{which}; {self.model}; give whole numbers, or names"
        ways = (
            f"task.labels={{{str(lacking[0])[:40]}: …}} says which of the model's labels one of the data's is"
        )
        if reading != self.numbered and None not in self.numbered.values():
            ways += ", and task.labels=indices takes labels as numbers"
        raise DataError(f"{self.column.name}: {what}; {ways}")

    def refuse(self, value: Value, other: str) -> NoReturn:
        by_name = "task.labels=names or " if self.named[value] is not None else ""
        what = f"{self.column.name}: {self.column.shown(value)} can be read in two ways"
        raise DataError(
            f"{what}: {other}, and by number {self.model.shown(self.numbered[value])}. {by_name}"
            f"task.labels=indices decides, or a mapping by hand, as task.labels={{{value}: …}}"
        )

    def say(self, how: str, read: Mapping[Value, int]) -> None:
        pairs = [f"{value!r} is {self.model.shown(number)}" for value, number in list(read.items())[:_SHOWN]]
        if pairs:
            log.info("%s: labels are %s: %s", self.column.name, how, ", ".join(pairs))


def affirmed(names: Sequence[str]) -> int | None:
    """The place of the name that says yes, as "equivalent" beside "not_equivalent", or None."""
    one, other = (name.strip().casefold() for name in names)
    for number, (yes, no) in enumerate(((one, other), (other, one))):
        if (yes in _YES and no in _NO) or re.fullmatch(_NEGATED + re.escape(yes), no):
            return number
    return None


def values_of(split: Dataset, column: str, what: str | None = None, option: str = "task.label") -> list[Any]:
    """The labels in a column, or in its lists if `what` names their entries.

    Raises:
        DataError: if one is missing or no label.
    """
    cells = lists_of(split, option, column, object, what) if what else check_filled(split, option, column)
    kind = _class_label(split.features[column])

    def plain(value: Any, number: int) -> Value:
        if kind is not None and isinstance(value, int):
            if not 0 <= value < len(kind.names):  # -1 is what `datasets` has for a label that is not known
                where = f"{option}={column}: row {row_of(split, number)}"
                raise DataError(f"{where} has no label ({value}); leave the row out")
            return str(kind.names[value])
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if not isinstance(value, (str, int, float)):
            raise DataError(f"{option}={column}: {value!r} is no label (row {row_of(split, number)})")
        return value

    return [[plain(value, n) for value in cell] if what else plain(cell, n) for n, cell in enumerate(cells)]


def numbers_of(split: Dataset, column: str) -> list[float]:
    """The numbers in the column that `task.label` names.

    Raises:
        DataError: if one is no number.
    """
    values, numbers = values_of(split, column), list[float]()
    is_named = isinstance(split.features[column], datasets.ClassLabel)  # its own numbers are only places
    for number, value in enumerate(values):
        try:
            numbers.append(float(value) if is_named or not isinstance(value, (bool, str)) else math.nan)
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise DataError(
                f"task.label={column}: {value!r} (row {row_of(split, number)}) is no number to compare with"
            )
    return numbers


def _class_label(feature: Any) -> datasets.ClassLabel | None:
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    return inner if isinstance(inner, datasets.ClassLabel) else None


def _is_counted(names: Sequence[str]) -> bool:
    start = re.fullmatch(r"([^0-9]*)0([^0-9]*)", names[0]) if names else None
    return start is not None and all(name == f"{start[1]}{n}{start[2]}" for n, name in enumerate(names))


def _number(value: Value) -> Decimal | None:
    return Decimal(text.strip()) if _NUMBER.fullmatch(text := str(value)) else None


def _listed(names: Iterable[Any]) -> str:
    texts = list(map(str, names))
    return ", ".join(texts[:20]) + f", … ({len(texts)} in all)" * (len(texts) > 20)
