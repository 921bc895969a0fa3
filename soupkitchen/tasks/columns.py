"""Columns by the names that data sets of the hub have: `sentence1`, `premise`, `img`, `ner_tags`.

They are looked for only where a column has its default name and the data has none of that name; what
is taken then stands in the task's options as if the user had named it, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import datasets

from soupkitchen.errors import DataError

log = logging.getLogger(__name__)

AnyTask = TypeVar("AnyTask")
Fits = Callable[[Any], bool]
"""Whether a column may serve, told by its entry in `datasets.Features`."""


@dataclass(frozen=True)
class Wanted:
    """One column of a task, or two that belong together.

    Attributes:
        options: what names them: ("text", "text_pair").
        names: what they are called elsewhere, those of one data set together: ("premise", "hypothesis"),
            or ("sentence",) for the first alone.
        fits: which columns may serve.
        template: whether the option is a template with the column in braces.
    """

    options: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    fits: Fits
    template: bool = False


def with_columns(task: AnyTask, features: Callable[[], datasets.Features], name: str = "") -> AnyTask:
    """The task with those of its columns that are found by a well-known name.

    Args:
        task: lists what it looks for as `looked_for`; one that lists nothing stays as it is.
        features: gives the columns of the data; called where one may have to be looked for.
        name: of the task, where it is one of several.

    Raises:
        DataError: where several columns may be meant.
    """
    looked_for: Sequence[Wanted] = getattr(type(task), "looked_for", ())
    if not any(_is_default(task, wanted.options[0]) for wanted in looked_for):
        return task
    there = features()
    taken: dict[str, str] = {}
    for wanted in looked_for:
        others = [option for other in looked_for if other is not wanted for option in other.options]
        named = {getattr(task, option) for option in others if not _is_default(task, option)}
        taken |= _taken(task, wanted, {name: there[name] for name in there if name not in named})
    if not taken:
        return task
    log.info(
        "%scolumns of the data are called otherwise than expected: taken are %s; these options name others",
        f"{name}: " if name else "",
        ", ".join(f"task.{option}={column}" for option, column in taken.items()),
    )
    return replace(task, **taken)  # type: ignore[type-var]


def _default(task: Any, option: str) -> Any:
    return next(field.default for field in fields(task) if field.name == option)


def _is_default(task: Any, option: str) -> bool:
    return bool(getattr(task, option) == _default(task, option))


def _taken(task: Any, wanted: Wanted, features: Mapping[str, Any]) -> dict[str, str]:
    """What the options become; nothing where they stay."""
    first = wanted.options[0]
    needed = [option for option in wanted.options if _default(task, option) is not None]
    own = tuple(_default(task, option).strip("{}") for option in needed)
    if not _is_default(task, first) or own[0] in features:
        return {}
    fixed = {option: getattr(task, option) for option in wanted.options if not _is_default(task, option)}
    found = [
        one
        for one in _found([own, *wanted.names], wanted, features)
        if set(needed) <= one.keys() and fixed.items() <= one.items()
    ]
    put = "'{{{}}}'" if wanted.template else "{}"
    if len(found) > 1:
        ways = [" ".join(f"task.{o}={put.format(c)}" for o, c in one.items()) for one in found]
        raise DataError(
            f"task.{first}={getattr(task, first)}: the data has no such column, and several that may be "
            f"meant; choose {' or '.join(ways)}"
        )
    return {o: f"{{{c}}}" if wanted.template else c for one in found for o, c in one.items()}


def _found(
    names: Sequence[tuple[str, ...]], wanted: Wanted, features: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Each way in which the columns may be there, by option; none that is part of another."""
    by_name = {name.lower(): name for name in reversed(list(features)) if wanted.fits(features[name])}
    found: list[dict[str, str]] = []
    for columns in sorted(names, key=len, reverse=True):
        there = [by_name[column.lower()] for column in columns if column.lower() in by_name]
        if len(there) == len(columns) and not any(set(there) <= set(one.values()) for one in found):
            found.append(dict(zip(wanted.options, there, strict=False)))
    return found


def _is_text(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def _is_whole(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and "int" in feature.dtype


def _is_number(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and ("int" in feature.dtype or "float" in feature.dtype)


def _is_label(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel) or _is_text(feature) or _is_whole(feature)


def _list_of(fits: Fits) -> Fits:
    def listed(feature: Any) -> bool:
        if isinstance(feature, list):
            return len(feature) == 1 and fits(feature[0])
        inner = getattr(feature, "feature", None)
        return inner is not None and not isinstance(inner, dict) and fits(inner)

    return listed


def _is_image(feature: Any) -> bool:
    return isinstance(feature, datasets.Image) or _is_text(feature)


def _is_audio(feature: Any) -> bool:
    if isinstance(feature, dict):
        return "array" in feature
    return isinstance(feature, datasets.Audio) or _is_text(feature) or _list_of(_is_number)(feature)


def _each(names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names.split())


_PAIRS = (
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
)
_SINGLE = _each(
    "sentence content review review_body comment comment_text tweet utterance question document "
    "article body headline"
)
_LABELS = _each(
    "labels class target category intent sentiment emotion topic stars rating score coarse_label "
    "fine_label gold_label"
)
_NUMBERS = _each("labels score similarity similarity_score relatedness_score target value stars rating")

TEXTS = Wanted(("text", "text_pair"), (*_PAIRS, *_SINGLE), _is_text)
"""A text, or two."""
TRIPLET = Wanted(
    ("anchor", "positive", "negative"),
    (("query", "positive", "negative"), ("query", "pos", "neg"), ("sentence", "positive", "negative")),
    _is_text,
)
RANKED = Wanted(
    ("query", "positive", "negative"),
    (
        ("query", "positives", "negatives"),
        ("query", "pos", "neg"),
        ("question", "positive", "negative"),
        ("anchor", "positive", "negative"),
    ),
    lambda feature: _is_text(feature) or _list_of(_is_text)(feature),
)
"""A text, and texts, one or a list, that belong to it and that do not."""
QUERY = Wanted(("query",), _each("question anchor text"), _is_text)
LONG_TEXT = Wanted(("text",), _each("content document article body story sentence"), _is_text)
LABEL = Wanted(("label",), _LABELS, _is_label)
LABELS = Wanted(
    ("label",),
    _each("label tags categories targets topics genres emotions intents"),
    _list_of(_is_label),
)
"""Any number of labels."""
NUMBER = Wanted(("label",), _NUMBERS, _is_number)
IMAGE = Wanted(("image",), _each("img picture photo image_path file_name filename path"), _is_image)
AUDIO = Wanted(
    ("audio",),
    _each("speech recording sound audio_path audio_filepath audio_file file_name filename file path"),
    _is_audio,
)
TRANSCRIPT = Wanted(
    ("text",),
    _each("sentence transcription transcript normalized_text raw_transcription"),
    _is_text,
)
"""What is said in a recording."""
CAPTION = Wanted(("text",), _each("caption captions sentence description title alt_text"), _is_text)
"""What belongs to an image."""
WORDS = Wanted(("words",), _each("words token"), _list_of(_is_text))
TAGS = Wanted(
    ("label",),
    _each("ner_tags pos_tags chunk_tags upos xpos labels label ner"),
    _list_of(_is_label),
)
PROMPT = Wanted(
    ("prompt",),
    _each("question input source instruction document article dialogue text query"),
    _is_text,
    template=True,
)
ANSWER = Wanted(
    ("answer",),
    _each("target output summary response highlights completion solution label"),
    _is_text,
)
QUESTION = Wanted(
    ("prompt",),
    _each("query prompt ctx context goal stem sentence input"),
    _is_text,
    template=True,
)
CHOICES = Wanted(("choices",), _each("options endings candidates answers alternatives"), _list_of(_is_text))
CHOSEN = Wanted(
    ("answer",),
    _each("label gold answer_idx answer_index answerKey correct correct_answer target"),
    _is_label,
)
