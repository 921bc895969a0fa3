"""Graders: metrics that say of each text whether it is right, or how good it is from 0 to 1.

All but one compare texts. `Grader` calls a function of the user's, which sees the prompt and the row, too.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import re
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from functools import partial
from typing import Any

from soupkitchen.errors import ConfigError, MetricError, calling, first_line, shown
from soupkitchen.metrics.base import Metric, installed
from soupkitchen.store.digests import source_of

_FENCE = re.compile(r"```(?:json)?(.*)```", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])([-+−])[$€£¥]?)?"  # a sign, which is none in 5-3
    r"((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)"
    r"(?:e([-+−]?\d+))?",
    re.IGNORECASE,
)
_ROUNDED = Context(prec=50, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
_SECONDS = 5
_DELIMITED = re.compile(r"\$[^$]+\$|\\\(|\\\[|\\boxed|\\begin\{")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")


class JsonValid(Metric):
    """The share of texts that are JSON (RFC 8259), also inside of one ```json fence; ignores references.

    NaN and Infinity, which Python's parser takes, are not JSON.
    """

    name = "json_valid"
    inputs = "texts"
    binary = True
    compares = False

    def per_example(self, predictions: Any, references: Any) -> list[bool]:
        return [_is_json(text.strip()) for text in predictions]


def _is_json(text: str) -> bool:
    fenced = _FENCE.fullmatch(text)
    try:
        json.loads(
            fenced[1].strip() if fenced else text, parse_constant=_refuse, parse_int=str, parse_float=str
        )
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(constant)


@dataclass(frozen=True)
class NumericMatch(Metric):
    """The share of texts whose last number is the reference's last number.

    A number may have a sign, thousands separators (1,234), decimals and an exponent (1e-3); a percent sign
    does not count.

    Attributes:
        tolerance: the largest difference, as a share of the reference's number; 0 compares exactly.
    """

    tolerance: float = 0.0

    name = "numeric_match"
    inputs = "texts"
    binary = True

    def __post_init__(self) -> None:
        given = self.tolerance
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < math.inf:
            raise MetricError(f"task.metric.options.tolerance={given} should be a number of at least 0")

    def per_example(self, predictions: Any, references: Any) -> list[bool]:
        pairs = zip(predictions, references, strict=True)
        return [self._alike(_last_number(text), right) for text, right in pairs]

    def _alike(self, given: Decimal | None, reference: str) -> bool:
        right = _last_number(reference)
        if right is None:
            raise ValueError(f"the reference {shown(reference)} has no number")
        if given is None or given == right or not self.tolerance:
            return given == right
        limit = _ROUNDED.multiply(Decimal(repr(self.tolerance)), _ROUNDED.abs(right))
        return _ROUNDED.abs(_ROUNDED.subtract(given, right)) <= limit


def _last_number(text: str) -> Decimal | None:
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    sign, digits, exponent = found[-1].groups(default="")
    try:
        return Decimal(f"{sign}{digits.replace(',', '')}E{exponent or 0}".replace("−", "-"))
    except InvalidOperation:  # an exponent of more than 18 digits
        return None


@dataclass(frozen=True)
class Contains(Metric):
    """The share of texts that contain the reference.

    Attributes:
        ignore_case: True if upper and lower case are the same.
    """

    ignore_case: bool = False

    name = "contains"
    inputs = "texts"
    binary = True

    def __post_init__(self) -> None:
        if not isinstance(self.ignore_case, bool):
            raise MetricError(f"task.metric.options.ignore_case={self.ignore_case} should be true or false")

    def per_example(self, predictions: Any, references: Any) -> list[bool]:
        if not all(right.strip() for right in references):
            raise ValueError("a reference is empty, and every text contains it")
        pairs = zip(predictions, references, strict=True)
        return [self._plain(right) in self._plain(text) for text, right in pairs]

    def _plain(self, text: str) -> str:
        return text.strip().casefold() if self.ignore_case else text.strip()


@dataclass(frozen=True)
class Regex(Metric):
    r"""The share of texts in which a regular expression is found.

    If it has a group, as ``#### (-?\d+)``, the group has to equal the reference, where the expression is
    found last. ``(?:…)`` is no group.

    Attributes:
        pattern: the expression, as of Python's `re`; it may begin with ``(?i)`` and the like.
    """

    pattern: str

    name = "regex"
    inputs = "texts"
    binary = True

    def __post_init__(self) -> None:
        where = f"task.metric.options.pattern={self.pattern}"
        try:
            groups = re.compile(self.pattern).groups
        except (re.error, TypeError) as error:
            raise MetricError(f"{where} is no regular expression ({error})") from error
        if not self.pattern:
            raise MetricError(f"{where} is empty, and is found in every text")
        if groups > 1:
            raise MetricError(
                f"{where} has {groups} groups, and only one can be compared with the reference; write (?:…) "
                "for the others"
            )

    @property
    def compares(self) -> bool:
        """True if a group is compared with the reference."""
        return re.compile(self.pattern).groups > 0

    def per_example(self, predictions: Any, references: Any) -> list[bool]:
        found = [list(re.finditer(self.pattern, text)) for text in predictions]
        if not self.compares:
            return [bool(matches) for matches in found]
        pairs = zip(found, references, strict=True)
        return [bool(m) and (m[-1][1] or "").strip() == right.strip() for m, right in pairs]


class MathVerify(Metric):
    r"""The share of texts whose formula or number equals the reference's, by math-verify. Extra: metrics.

    Formulas are LaTeX in ``$…$``, ``\(…\)``, ``\[…\]`` or ``\boxed{…}``. A reference without these is one
    formula, and so is a text without these and without words. A comparison that takes more than 5 seconds is
    given up, as wrong; outside of the main thread nothing is given up.
    """

    name = "math_verify"
    inputs = "texts"
    binary = True

    def per_example(self, predictions: Any, references: Any) -> list[bool]:
        package = installed("math_verify", "metrics")
        is_main = threading.current_thread() is threading.main_thread()
        seconds = _SECONDS if is_main else None  # it uses signals
        if seconds is None:
            logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that there is no limit

        def parsed(text: str, is_formula: bool) -> list[Any]:
            bare = is_formula and not _DELIMITED.search(text)
            return package.parse(f"${text}$" if bare else text, parsing_timeout=seconds)

        def alike(text: str, right: str) -> bool:
            if not (reference := parsed(right, True)):
                raise ValueError(f"the reference {shown(right)} has no formula and no number")
            written = parsed(text, "\\" in text or not _WORD.search(text))
            return package.verify(reference, written, timeout_seconds=seconds)

        return [alike(text, right) for text, right in zip(predictions, references, strict=True)]


# Graders of one's own


@dataclass(frozen=True)
class Asked:
    """The question that a text answers: a reference for `Grader`.

    Attributes:
        prompt: the text that the model was given, before it was cut to fit.
        row: all columns of the data, as they are there.
        number: the row's number in the data, from 1.
    """

    prompt: str
    row: Mapping[str, Any]
    number: int


@dataclass(frozen=True)
class Grader:
    """A grader of the user's own: ``grade(prompt, answer, row)`` gives a bool or a number from 0 to 1.

    `answer` is the text that the model wrote, `row` a dictionary by column. `made` is the function, which
    gets `options` as further arguments; or a class, which gets them once, of objects that are called so. If
    it has an attribute ``binary = True``, all values have to be 0 or 1, and McNemar's test applies.

    Attributes:
        target: its name, as ``my_module.grade``.
        best: the best value; 0 if lower is better.

    Raises:
        MetricError: if it cannot be made, or takes other arguments.
    """

    target: str
    made: Callable[..., Any] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    best: float = 1.0
    binary: bool = field(init=False, repr=False)
    _grade: Callable[..., Any] = field(init=False, repr=False, compare=False)

    inputs = "texts"
    compares = False
    reads_rows = True

    def __post_init__(self) -> None:
        grade, further = self.made, dict(self.options)
        if isinstance(grade, type):
            try:
                with calling(self._where):
                    grade, further = grade(**further), {}
            except Exception as error:  # it is the user's code that runs here
                raise MetricError(
                    f"task.metric.options={dict(self.options)}: {self.target} refuses them ({error})"
                ) from error
        try:
            inspect.signature(grade).bind("prompt", "answer", {}, **further)
        except TypeError as error:
            raise MetricError(
                f"{self._where} cannot be called as a grader, by (prompt, answer, row"
                f"{''.join(f', {option}={value!r}' for option, value in further.items())}): {error}"
            ) from error
        except ValueError:  # built-ins may have no signature
            pass
        object.__setattr__(self, "_grade", partial(grade, **further))
        object.__setattr__(self, "binary", bool(getattr(grade, "binary", False)))

    @classmethod
    def may_be(cls, made: Any) -> bool:
        """True for functions, and for classes of objects that can be called."""
        if isinstance(made, type):
            return any("__call__" in vars(kind) for kind in made.__mro__)
        return callable(made)

    @property
    def name(self) -> str:
        """The attribute `name` of the function or class, or what it is called."""
        given = getattr(self.made, "name", None)
        return given if isinstance(given, str) else self.target.rpartition(".")[2]

    def source(self) -> list[str]:
        """File and digest of each module that it depends on."""
        return source_of(self.made, self.target)

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        return [self._value(text, asked) for text, asked in zip(predictions, references, strict=True)]

    def _value(self, text: str, asked: Any) -> float:
        if not isinstance(asked, Asked):
            raise MetricError(
                f"{self._where} is a grader of prompts, answers and rows, which only task=text_generation has"
            )
        where = f"{self._where}: row {asked.number} of the data"
        try:
            with calling(where):
                value = self._grade(asked.prompt, text, dict(asked.row))
                value = value.item() if hasattr(value, "item") else value
        except ConfigError:
            raise
        except Exception as error:  # it is the user's code that runs here
            raise MetricError(f"{where} cannot be graded: {_described(error)}") from error
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise MetricError(
                f"{where} is graded {shown(value)}; a grade is true, false, or a number from 0 to 1"
            )
        if self.binary and value not in (0, 1):
            raise MetricError(f"{where} is graded {value}, and a grader with binary = True gives 0 or 1")
        return float(value)

    @property
    def _where(self) -> str:
        return f"task.metric.name={self.target}"


def _described(error: Exception) -> str:
    """The error's type and first line, and the line of code that raised it."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    message = f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__
    return f"{message} ({at.filename}, line {at.lineno})"
