"""Columns of data: those of well-known names, checks of what columns hold, and templates over them.

Data sets of the hub call columns `sentence1`, `premise`, `img`, `ner_tags`. Such names are looked for only if
a column has its default name and the data has no column of that name. A column that is found stands in the
task's options as if the user had named it, and the log says so.

Each message names the option, the column and the row.
"""

from __future__ import annotations

import logging
import string
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import datasets
from datasets import Dataset

from soupkitchen.errors import ConfigError, DataError, did_you_mean, shown

log = logging.getLogger(__name__)
AnyTask = TypeVar("AnyTask", bound=Any)
Fits = Callable[[Any], bool]
"""True if a column may serve, by its feature."""


def row_of(split: Dataset, number: int) -> int:
    """An example's row in the source, from 1; splits may be drawn shares."""
    drawn = split._indices
    return 1 + (number if drawn is None else drawn.column(0)[number].as_py())


def is_missing(value: Any) -> bool:
    """True for null and NaN."""
    return value is None or (isinstance(value, float) and value != value)


def is_unknown(split: Dataset, column: str) -> bool:
    """True if all cells are empty or -1, which hides a label."""
    if not isinstance(split.features[column], (datasets.Value, datasets.ClassLabel)):
        return False
    return all(is_missing(value) or value in (-1, "") for value in split[column])


def check_column(split: Dataset, option: str, column: str) -> None:
    """Checks that the column which `option` names exists.

    Raises:
        DataError: naming the option, the column and the columns of the data.
    """
    if column not in split.column_names:
        raise DataError(
            f"{option}={column}: the data has no such column; it has {', '.join(split.column_names)}"
            f"{did_you_mean(column, split.column_names)}"
        )


def check_filled(split: Dataset, option: str, column: str) -> list[Any]:
    """The values of the column that `option` names.

    Raises:
        DataError: for a column that does not exist, or the first value that is missing.
    """
    check_column(split, option, column)
    values: list[Any] = split[column][:]
    for number, value in enumerate(values):
        if is_missing(value):
            raise DataError(
                f"{option}={column}: row {row_of(split, number)} is empty; fill it, or leave the row out"
            )
    return values


def texts_of(split: Dataset, option: str, column: str, *others: type) -> list[Any]:
    """The texts, or values of `others`, in the column that `option` names.

    Raises:
        DataError: if one is missing or no text.
    """
    texts = check_filled(split, option, column)
    for number, text in enumerate(texts):
        if not isinstance(text, (str, *others)):
            raise DataError(
                f"{option}={column}: row {row_of(split, number)} holds {shown(text)}, which is no text; "
                "name another column, or store the column as text (in .jsonl or .parquet; in a .csv, what "
                "looks like numbers is read as numbers)"
            )
    return texts


def lists_of(split: Dataset, option: str, column: str, kind: type, what: str) -> list[Any]:
    """The lists in the column that `option` names, with entries of type `kind`.

    A list written as text is parsed.

    Raises:
        DataError: if a cell is missing or no list of `what`.
    """
    rows = check_filled(split, option, column)
    for number, row in enumerate(rows):
        if isinstance(row, str) and row.strip().startswith("["):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                row = rows[number] = literal_eval(row.strip())
        where = f"{option}={column}: row {row_of(split, number)} holds"
        if not isinstance(row, list):
            raise DataError(f"{where} {shown(row)}, which should be a list of {what}")
        for entry in row:
            if is_missing(entry) or not isinstance(entry, kind):
                raise DataError(f"{where} {shown(entry)} in its list, which should be one of {what}")
    return rows


def template_columns(option: str, template: str) -> list[str]:
    """The columns in a template, as ``"Sum of {a} and {b}:"``.

    Raises:
        ConfigError: if it is no template.
    """
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ConfigError(
            f"{option}={template!r} is no template ({error}); write {{{{ for a brace"
        ) from error
    if wrong := [field for field in fields if not field.isidentifier()]:
        raise ConfigError(f"{option}={template!r}: {{{wrong[0]}}} should be the plain name of a column")
    return fields


def check_template(option: str, template: str, split: Dataset) -> list[str]:
    """The columns in a template; the data must have them.

    Raises:
        ConfigError, DataError: if the template is wrong, or a column missing.
    """
    columns = template_columns(option, template)
    for column in columns:
        check_column(split, f"{option}: {{{column}}} of {option}", column)
    return columns


def prompts(template: str, split: Dataset) -> Iterator[str]:
    """The template of `task.prompt`, filled with each example.

    Raises:
        ConfigError, DataError: if the template is wrong, or a cell missing.
    """
    for column in check_template("task.prompt", template, split):
        check_filled(split, "task.prompt, column", column)
    return (filled(template, example) for example in split)


def filled(template: str, example: Mapping[str, Any]) -> str:
    """The template with an example's values; backslash and n become a new line."""
    return template.replace("\\n", "\n").format(**example)


@dataclass(frozen=True)
class Wanted:
    """One column of a task, or columns that belong together.

    Attributes:
        options: "text text_pair".
        names: other names, one group a data set: "premise hypothesis, sentence".
        fits: says which columns may serve.
        template: True if the option is a template.
    """

    options: str
    names: str
    fits: Fits
    template: bool = False


def with_columns(task: AnyTask, features: Callable[[], datasets.Features], name: str = "") -> AnyTask:
    """The task with columns found by well-known names.

    Args:
        task: lists columns in `looked_for`.
        features: the data's columns; called only if needed.
        name: of the task, for the log.

    Raises:
        DataError: if several columns may be meant.
    """
    wanted_columns: Sequence[Wanted] = task.looked_for
    options = [wanted.options.split() for wanted in wanted_columns]
    if not any(_is_default(task, first) for first, *_ in options):
        return task
    columns = features()
    taken: dict[str, str] = {}
    for wanted, own in zip(wanted_columns, options, strict=True):
        others = [option for group in options if group is not own for option in group]
        named = {getattr(task, option) for option in others if not _is_default(task, option)}
        free = {name: columns[name] for name in columns if name not in named}
        taken |= _taken(task, wanted, own, free)
    if not taken:
        return task
    log.info(
        "%scolumns of the data are called otherwise than expected: taken are %s; these options name others",
        f"{name}: " if name else "",
        ", ".join(f"task.{option}={column}" for option, column in taken.items()),
    )
    changed: AnyTask = replace(task, **taken)
    return changed


def _default(task: Any, option: str) -> Any:
    return next(field.default for field in fields(task) if field.name == option)


def _is_default(task: Any, option: str) -> bool:
    return bool(getattr(task, option) == _default(task, option))


def _taken(task: Any, wanted: Wanted, options: list[str], features: Mapping[str, Any]) -> dict[str, str]:
    needed = [option for option in options if _default(task, option) is not None]
    usual = [_default(task, option).strip("{}") for option in needed]
    if not _is_default(task, options[0]) or usual[0] in features:
        return {}
    fixed = {option: getattr(task, option) for option in options if not _is_default(task, option)}
    by_name = {name.lower(): name for name in reversed(list(features)) if wanted.fits(features[name])}
    matches: list[dict[str, str]] = []
    for names in sorted([usual, *map(str.split, wanted.names.split(","))], key=len, reverse=True):
        columns = [by_name[name.lower()] for name in names if name.lower() in by_name]
        is_part = any(set(columns) <= set(match.values()) for match in matches)
        if len(columns) == len(names) and not is_part:
            matches.append(dict(zip(options, columns, strict=False)))
    matches = [m for m in matches if m.keys() >= set(needed) and m.items() >= fixed.items()]
    if len(matches) > 1:
        put = "'{{{}}}'" if wanted.template else "{}"
        ways = [" ".join(f"task.{o}={put.format(c)}" for o, c in match.items()) for match in matches]
        raise DataError(
            f"task.{options[0]}={getattr(task, options[0])}: the data has no such column, and several that "
            f"may be meant; choose {' or '.join(ways)}"
        )
    return {o: f"{{{c}}}" if wanted.template else c for match in matches for o, c in match.items()}


def _is_value(*kinds: str) -> Fits:
    return lambda feature: (
        isinstance(feature, datasets.Value) and any(kind in feature.dtype for kind in kinds)
    )


def _is(kind: type, *others: Fits) -> Fits:
    """Fits columns of a kind of `datasets`, and those that one of the others fits."""
    return lambda feature: isinstance(feature, kind) or any(fits(feature) for fits in others)


def _list_of(fits: Fits) -> Fits:
    def is_list(feature: Any) -> bool:
        if isinstance(feature, list):
            return len(feature) == 1 and fits(feature[0])
        inner = getattr(feature, "feature", None)
        return inner is not None and not isinstance(inner, dict) and fits(inner)

    return is_list


def _is_messages(feature: Any) -> bool:
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    return isinstance(inner, dict) and bool({"content", "value"} & set(inner))


_is_text, _is_number = _is_value("string"), _is_value("int", "float")
_is_label = _is(datasets.ClassLabel, _is_text, _is_value("int"))
_is_image = _is(datasets.Image, _is_text)
_is_sound = _is(datasets.Audio, _is_text, _list_of(_is_number))


TEXTS = Wanted(
    "text text_pair",
    "sentence1 sentence2, sentence_1 sentence_2, sentence_a sentence_b, text_a text_b, text1 text2, "
    "premise hypothesis, question1 question2, question sentence, question passage, query passage, "
    "sentence, content, review, review_body, comment, comment_text, tweet, utterance, question, document, "
    "article, body, headline",
    _is_text,
)
TRIPLET = Wanted(
    "anchor positive negative",
    "query positive negative, query pos neg, sentence positive negative",
    _is_text,
)
RANKED = Wanted(
    "query positive negative",
    "query positives negatives, query pos neg, question positive negative, anchor positive negative",
    lambda feature: _is_text(feature) or _list_of(_is_text)(feature),
)
QUERY = Wanted("query", "question, anchor, text", _is_text)
LONG_TEXT = Wanted("text", "content, document, article, body, story, sentence", _is_text)
DIALOGUE = Wanted(
    "text prompt",
    "completion prompt, messages, conversations, conversation, content, document, article, body, story, "
    "sentence",
    lambda feature: _is_text(feature) or _is_messages(feature),
)
PREFERENCE = Wanted(
    "chosen rejected",
    "chosen_response rejected_response, preferred dispreferred, accepted rejected",
    lambda feature: _is_text(feature) or _is_messages(feature),
)
LABEL = Wanted(
    "label",
    "labels, class, target, category, intent, sentiment, emotion, topic, stars, rating, score, "
    "coarse_label, fine_label, gold_label",
    _is_label,
)
LABELS = Wanted(
    "label",
    "label, tags, categories, targets, topics, genres, emotions, intents",
    _list_of(_is_label),
)
NUMBER = Wanted(
    "label",
    "labels, score, similarity, similarity_score, relatedness_score, target, value, stars, rating",
    _is_number,
)
IMAGE = Wanted("image", "img, picture, photo, image_path, file_name, filename, path", _is_image)
AUDIO = Wanted(
    "audio",
    "speech, recording, sound, audio_path, audio_filepath, audio_file, file_name, filename, file, path",
    lambda feature: "array" in feature if isinstance(feature, dict) else _is_sound(feature),
)
TRANSCRIPT = Wanted(
    "text", "sentence, transcription, transcript, normalized_text, raw_transcription", _is_text
)
CAPTION = Wanted("text", "caption, captions, sentence, description, title, alt_text", _is_text)
WORDS = Wanted("words", "words, token", _list_of(_is_text))
TAGS = Wanted("label", "ner_tags, pos_tags, chunk_tags, upos, xpos, labels, label, ner", _list_of(_is_label))
PROMPT = Wanted(
    "prompt",
    "question, input, source, instruction, document, article, dialogue, text, query",
    _is_text,
    template=True,
)
ANSWER = Wanted(
    "answer", "target, output, summary, response, highlights, completion, solution, label", _is_text
)
QUESTION = Wanted(
    "prompt", "query, prompt, ctx, context, goal, stem, sentence, input", _is_text, template=True
)
CHOICES = Wanted("choices", "options, endings, candidates, answers, alternatives", _list_of(_is_text))
CHOSEN = Wanted(
    "answer",
    "label, gold, answer_idx, answer_index, answerKey, correct, correct_answer, target",
    _is_label,
)
