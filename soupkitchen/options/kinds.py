"""What each option may be: one table, by what `_target_` names, and one check.

The command line is held to it before anything heavy is imported, and the classes that the table
names hold themselves to it, for those who call them from Python. What a `_target_` of the user's own
takes is the user's affair.
"""

from __future__ import annotations

import numbers
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from soupkitchen.errors import ConfigError


@dataclass(frozen=True)
class Kind:
    """What an option may be.

    Attributes:
        says: that in words: what it should be, or "choose …".
        fits: whether a value is of the kind.
        null: whether it may be null, too.
    """

    says: str
    fits: Callable[[Any], bool]
    null: bool = False


def or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.says}{', or null' if ',' in kind.says else ' or null'}", kind.fits, null=True)


def is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; true and false are none."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and abs(value) <= sys.float_info.max


def whole(least: int, most: int) -> Kind:
    return Kind(f"a whole number from {least} to {most}", lambda v: is_whole(v) and least <= v <= most)


def at_least(least: int) -> Kind:
    says = f"a whole number of at least {least}"
    return Kind(says, lambda v: is_whole(v) and least <= v < 2**63)


def between(low: float, high: float) -> Kind:
    return Kind(f"a number between {low} and {high}", lambda v: is_number(v) and low <= v <= high)


def choice(*choices: str) -> Kind:
    *others, last = choices
    return Kind(f"choose {', '.join(others)} or {last}", lambda v: isinstance(v, str) and v in choices)


def list_of(kind: Kind, says: str, alone: bool = False) -> Kind:
    """A list of such; `alone` allows one of them by itself, too."""

    def fits(value: Any) -> bool:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return alone and kind.fits(value)
        return all(map(kind.fits, value))

    return Kind(says, fits)


def mapping_of(kind: Kind, says: str) -> Kind:
    return Kind(says, lambda v: isinstance(v, Mapping) and all(map(kind.fits, v.values())))


FLAG = Kind("true or false", lambda v: isinstance(v, bool))
TEXT = Kind("text", lambda v: isinstance(v, str) and v != "")
ANY_TEXT = Kind("text", lambda v: isinstance(v, str))
WORD = Kind("a name", lambda v: (isinstance(v, str) and v != "") or is_number(v))
NUMBER = Kind("a number", is_number)
POSITIVE = Kind("a number above 0", lambda v: is_number(v) and v > 0)
NOT_NEGATIVE = Kind("a number, and at least 0", lambda v: is_number(v) and v >= 0)
SHARE = Kind("a number above 0, and 1 at most", lambda v: is_number(v) and 0 < v <= 1)
INSIDE = Kind("a number above 0 and below 1", lambda v: is_number(v) and 0 < v < 1)
SEED = whole(0, 2**32 - 1)
TEXTS = list_of(TEXT, "text, or a list of texts", alone=True)
_PLAIN = (str, list, tuple, type(None))
ANYTHING = Kind("anything", lambda v: True, null=True)
PART = Kind(
    "options of its own with a _target_",
    lambda v: "_target_" in v if isinstance(v, Mapping) else not isinstance(v, (*_PLAIN, numbers.Number)),
)
"""A group of options below an option, or the object that it makes."""
MAPPING = Kind("a mapping, as {a: 1}", lambda v: isinstance(v, Mapping))
DEVICE_SIZES = Kind("how much by device, as {cpu: 8GiB}", lambda v: isinstance(v, Mapping) and bool(v))
SPLITS = Kind(
    "text, or a file for each split as {train: a.csv, validation: b.csv}",
    lambda v: TEXT.fits(v) or (MAPPING.fits(v) and bool(v) and all(map(TEXT.fits, v.values()))),
)
STOPPING = Kind(
    "true or false, exact, or {confidence: p} with p above 0.5 and below 1",
    lambda v: FLAG.fits(v) or v == "exact" or _is_confidence(v),
)
SCALES = Kind(
    "a number, or a list of different numbers",
    lambda v: is_number(v) or (_is_list(v) and all(map(is_number, v)) and 0 < len(v) == len(set(v))),
)
DURATIONS = Kind(
    "all, geometric, or a list of different whole numbers of at least 1, as [5,10]",
    lambda v: (
        v in ("all", "geometric")
        if isinstance(v, str)
        else _is_list(v) and all(is_whole(n) and n >= 1 for n in v) and 0 < len(v) == len(set(v))
    ),
)


def _is_confidence(value: Any) -> bool:
    if not (isinstance(value, Mapping) and list(value) == ["confidence"]):
        return False
    return is_number(value["confidence"]) and 0.5 < value["confidence"] < 1


def _is_map(value: Any) -> bool:
    return MAPPING.fits(value) and bool(value) and all(TEXT.fits(v) or is_whole(v) for v in value.values())


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


SEVERAL_POSITIVE = Kind(
    "a list of different numbers above 0, as [0.25, 0.5, 1]",
    lambda v: _is_list(v) and all(map(POSITIVE.fits, v)) and 0 < len(v) == len(set(v)),
)
RANGE = Kind(
    "two numbers, the lower first",
    lambda v: _is_list(v) and len(v) == 2 and all(map(is_number, v)) and v[0] < v[1],
)
RANKING = Kind(
    "choose full, or {examples: …} with a share of the held-out data above 0 and below 1",
    lambda v: v == "full" or (MAPPING.fits(v) and list(v) == ["examples"] and INSIDE.fits(v["examples"])),
)
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
TRACKER = Kind(
    f"choose {', '.join(TRACKERS)}, or a list of these",
    lambda v: v in TRACKERS if isinstance(v, str) else _is_list(v) and all(one in TRACKERS for one in v),
)
_GUARDED = {"accept": ANYTHING, "on_error": choice("skip", "stop"), "ranking": RANKING}
_RUNS = {
    "exclude": TEXTS,
    "base": or_null(TEXT),
    "checkpoints": or_null(choice("best", "last", "all")),
    "on_incompatible": choice("error", "skip"),
    "trust_scores": FLAG,
    "key": or_null(TEXT),
}
_METHOD = {"weights": or_null(MAPPING), "recalibrate_batchnorm": at_least(0)}
_DRAWN = {"rescale": or_null(choice("probability", "l1")), "seed": Kind("a whole number", is_whole)}
_SCORED = {"data": PART, "metric": PART}
_LENGTH = {"max_length": or_null(at_least(1))}
_EMBEDDING = {"pooling": or_null(TEXTS), "prompt": or_null(ANY_TEXT), "lower": FLAG, **_LENGTH}
_SEARCHING = {
    "similarity": or_null(choice("cosine", "dot")),
    "query_prompt": or_null(ANY_TEXT),
    "passage_prompt": or_null(ANY_TEXT),
    **_EMBEDDING,
}
_READ = "or the model's label by the data's, as {neg: NEGATIVE}"
LABELS = or_null(Kind(f"choose names or indices, {_READ}", lambda v: v in ("names", "indices") or _is_map(v)))
VECTORS = or_null(
    Kind(
        f"choose names, indices or vectors, {_READ}, or a list of columns of 0 and 1, as [toxic, obscene]",
        lambda v: LABELS.fits(v) or v == "vectors" or (_is_list(v) and len(v) > 0 and all(map(TEXT.fits, v))),
    )
)
_PAIR = {"text": TEXT, "text_pair": or_null(TEXT), "label": TEXT}
_ARCHITECTURE = {"architecture": choice("causal", "seq2seq")}
_SEVERAL = {
    "aggregate": choice("mean", "min", "normalized"),
    "weights": or_null(mapping_of(POSITIVE, "a number above 0 by name of task, as {reviews: 2}")),
}

KINDS: Mapping[str, Mapping[str, Kind]] = {
    "": {  # the top level
        "results_dir": WORD,
        "name": WORD,
        "overwrite": FLAG,
        "trust_remote_code": FLAG,
        "top_k": or_null(at_least(1)),
        "cache_dir": TEXT,
        "tracker": or_null(TRACKER),
        "demo_seed": SEED,
    },
    "soupkitchen.evaluation.Runtime": {
        "device": TEXT,
        "dtype": choice("auto", "bfloat16", "float16"),
        "batch_size": at_least(1),
        "workers": whole(0, 1024),
        "seed": SEED,
        "threads": or_null(whole(1, 4096)),
        "device_map": or_null(Kind("text or a mapping", lambda v: TEXT.fits(v) or MAPPING.fits(v))),
        "max_memory": or_null(DEVICE_SIZES),
        "offload_folder": or_null(TEXT),
        "compile": FLAG,
        "profile": FLAG,
        "trust_remote_code": FLAG,
    },
    "soupkitchen.evaluation.EvaluationOptions": {"early_stopping": STOPPING, "cache": or_null(TEXT)},
    "soupkitchen.output.Output": {
        "format": choice("full", "adapter"),
        "max_shard_size": Kind("a size, as 5GB", lambda v: TEXT.fits(v) or (is_whole(v) and v > 0)),
        "dtype": or_null(choice("float32", "bfloat16", "float16")),
        "rank": or_null(at_least(1)),
        "verify": choice("batch", "full"),
        "push_to_hub": or_null(TEXT),
        "private": FLAG,
    },
    "soupkitchen.experiment.Report": {"write": FLAG, "contributions": FLAG, "map_gib": NOT_NEGATIVE},
    "soupkitchen.models.Auto": {},
    "soupkitchen.models.Function": {"build": TEXT, "options": MAPPING, "processor": or_null(TEXT)},
    "soupkitchen.executors.Local": {},
    "soupkitchen.executors.Spmd": {},
    "soupkitchen.executors.Ray": {
        "address": or_null(TEXT),
        "workers": at_least(1),
        "gpus_per_worker": NOT_NEGATIVE,
    },
    "soupkitchen.search.Window": {**_GUARDED, "durations": DURATIONS, "end": choice("last", "any")},
    "soupkitchen.search.Greedy": {
        **_GUARDED,
        "candidates": or_null(at_least(1)),
        "passes": or_null(at_least(1)),
        "replacement": FLAG,
        "candidate_scale": or_null(SEVERAL_POSITIVE),
        "prune": FLAG,
    },
    "soupkitchen.search.Pruned": _GUARDED,
    "soupkitchen.search.Exhaustive": {**_GUARDED, "candidates": or_null(at_least(1))},
    "soupkitchen.search.Evolve": {
        **_GUARDED,
        "initial": choice("greedy", "uniform", "best"),
        "evaluations": at_least(1),
        "examples": or_null(at_least(1)),
        "population": or_null(at_least(6)),
        "sigma": POSITIVE,
        "seed": SEED,
        "layers": whole(1, 1000),
        "negative": FLAG,
        "options": or_null(mapping_of(RANGE, "a range by name of option, as {scale: [0.2, 1.5]}")),
        "candidates": or_null(at_least(2)),
    },
    "soupkitchen.search.Uniform": {
        "on_error": choice("skip", "stop"),
        "candidates": or_null(at_least(1)),
    },
    "soupkitchen.checkpoints.find_pool": {"path": TEXTS, **_RUNS},
    "soupkitchen.demo.pool": {"path": or_null(TEXTS), **_RUNS, "seed": SEED, "cache_dir": TEXT},
    "soupkitchen.demo.two_tasks_pool": {"exclude": TEXTS, "seed": SEED, "cache_dir": TEXT},
    "soupkitchen.merging.Linear": {"normalize": FLAG, **_METHOD},
    "soupkitchen.merging.Slerp": {
        "t": or_null(between(0, 1)),
        "space": choice("weights", "task_vectors"),
        **_METHOD,
    },
    "soupkitchen.merging.Karcher": {"iterations": at_least(1), "tolerance": POSITIVE, **_METHOD},
    "soupkitchen.merging.ModelStock": _METHOD,
    "soupkitchen.merging.TaskVectors": {
        "sparsifier": or_null(PART),
        "consensus": or_null(choice("mass", "count")),
        "normalize": FLAG,
        "scale": SCALES,
        **_METHOD,
    },
    "soupkitchen.merging.Magnitude": {"density": SHARE, "trim": choice("tensor", "model")},
    "soupkitchen.merging.MagnitudeOutliers": {"density": SHARE, "gamma": between(0, 1)},
    "soupkitchen.merging.Random": {"density": SHARE, **_DRAWN},
    "soupkitchen.merging.RankRandom": {"density": SHARE, "epsilon": between(0, 1), **_DRAWN},
    "soupkitchen.metrics.load": {
        "name": TEXT,
        "key": or_null(TEXT),
        "greater_is_better": or_null(FLAG),
        "inputs": or_null(choice("labels", "logits", "texts", "values", "likelihoods")),
        "options": or_null(MAPPING),
    },
    "soupkitchen.tasks.Data": {
        "path": SPLITS,
        "heldout": TEXT,
        "test": or_null(TEXT),
        "train": TEXT,
        "heldout_share": INSIDE,
        "seed": SEED,
        "name": or_null(TEXT),
        "revision": or_null(TEXT),
    },
    "soupkitchen.tasks.TextClassification": {**_SCORED, **_PAIR, "labels": LABELS, **_LENGTH},
    "soupkitchen.tasks.TextRegression": {**_SCORED, **_PAIR, **_LENGTH},
    "soupkitchen.tasks.MultilabelClassification": {
        **_SCORED,
        **_PAIR,
        **_LENGTH,
        "labels": VECTORS,
        "threshold": between(0, 1),
    },
    "soupkitchen.tasks.EmbeddingSimilarity": {
        **_SCORED,
        **_PAIR,
        **_LENGTH,
        "text_pair": TEXT,
        **_EMBEDDING,
    },
    "soupkitchen.tasks.PairClassification": {
        **_SCORED,
        **_PAIR,
        "text_pair": TEXT,
        "labels": LABELS,
        **_EMBEDDING,
    },
    "soupkitchen.tasks.QuestionAnswering": {
        **_SCORED,
        **_LENGTH,
        **dict.fromkeys(("question", "context", "answers"), TEXT),
        "unanswerable": FLAG,
        "longest_answer": at_least(1),
        "stride": at_least(0),
    },
    "soupkitchen.tasks.Triplets": {
        "data": PART,
        "metric": PART,
        "anchor": TEXT,
        "positive": TEXT,
        "negative": TEXT,
        **_EMBEDDING,
    },
    "soupkitchen.tasks.Retrieval": {
        **_SCORED,
        **dict.fromkeys(("query", "relevant", "corpus", "id", "passage", "queries"), TEXT),
        **_SEARCHING,
    },
    "soupkitchen.tasks.Reranking": {
        **_SCORED,
        **dict.fromkeys(("query", "positive", "negative"), TEXT),
        "architecture": choice("bi", "cross"),
        **_SEARCHING,
    },
    "soupkitchen.tasks.ImageClassification": {**_SCORED, "image": TEXT, "label": TEXT, "labels": LABELS},
    "soupkitchen.tasks.SpeechRecognition": {
        **_SCORED,
        "architecture": choice("seq2seq", "ctc"),
        "audio": TEXT,
        "text": TEXT,
        "normalize": choice("none", "basic"),
        "sampling_rate": or_null(at_least(1)),
        "language": or_null(TEXT),
        "max_new_tokens": or_null(at_least(1)),
        "num_beams": at_least(1),
    },
    "soupkitchen.tasks.ImageTextRetrieval": {
        **_SCORED,
        **_LENGTH,
        "image": TEXT,
        "text": TEXT,
        "prompt": or_null(ANY_TEXT),
    },
    "soupkitchen.tasks.LanguageModeling": {**_SCORED, "text": TEXT, **_LENGTH},
    "soupkitchen.tasks.MaskedLanguageModeling": {
        **_SCORED,
        **_LENGTH,
        "text": TEXT,
        "masked": SHARE,
        "seed": SEED,
    },
    "soupkitchen.tasks.TokenClassification": {
        **_SCORED,
        "words": TEXT,
        "label": TEXT,
        "labels": LABELS,
        **_LENGTH,
    },
    "soupkitchen.tasks.MultipleChoice": {
        **_SCORED,
        **_LENGTH,
        "prompt": TEXT,
        "choices": TEXT,
        "answer": TEXT,
        "labels": LABELS,
        "before_choice": ANY_TEXT,
        "normalize": or_null(choice("tokens", "bytes")),
    },
    "soupkitchen.tasks.TextGeneration": {
        **_SCORED,
        **_LENGTH,
        **_ARCHITECTURE,
        "prompt": TEXT,
        "answer": TEXT,
        "extract": or_null(TEXT),
        "stop": list_of(TEXT, "a list of texts, as ['###']"),
        "max_new_tokens": at_least(1),
        "num_beams": at_least(1),
    },
    "soupkitchen.tasks.Function": {
        "data": PART,
        "function": TEXT,
        "model": TEXT,
        "greater_is_better": FLAG,
        "best": or_null(NUMBER),
        "name": TEXT,
    },
    "soupkitchen.tasks.Several": {"tasks": MAPPING, **_SEVERAL},
    "soupkitchen.tasks.harness.harness_tasks": {
        "tasks": TEXTS,
        "num_fewshot": or_null(at_least(0)),
        "limit": or_null(at_least(1)),
        "test_limit": or_null(at_least(1)),
        "metric": or_null(TEXT),
        "filter": or_null(TEXT),
        **_ARCHITECTURE,
        **_SEVERAL,
    },
}
"""By `_target_`, by option. A test holds each YAML and each signature to it."""


def check(key: str, value: Any, kind: Kind) -> None:
    """Checks one option, which is called `key` on the command line.

    Raises:
        ConfigError: where `value` is not of that kind.
    """
    if kind.null if value is None else kind.fits(value):
        return
    hint = ""
    if kind is PART and isinstance(value, str):
        hint = f"; did you mean {key}.{'path' if key.endswith('data') else 'name'}={value}?"
    elif kind in (TEXT, ANY_TEXT) and isinstance(value, numbers.Number):
        hint = f", and what looks like something else needs quotes twice: {key}=\"'…'\""
    says = f": {kind.says}" if kind.says.startswith("choose ") else f" should be {kind.says}"
    raise ConfigError(f"{key}={shown(value)}{says}{hint}")


def check_fields(options: Any, group: str) -> None:
    """Checks the options that an object of one of our own classes was made of.

    Args:
        options: a dataclass; one that the table does not have is the user's own, and left alone.
        group: what its options are called after on the command line.

    Raises:
        ConfigError: for the first that is wrong.
    """
    made_of = type(options)
    package = ".".join(made_of.__module__.split(".")[:2])
    kinds = KINDS.get(f"{package}.{made_of.__name__}", {})
    for field in fields(options):
        if field.name in kinds:
            check(f"{group}.{field.name}", getattr(options, field.name), kinds[field.name])


def _kinds(tree: Mapping[str, Any], key: str) -> Mapping[str, Kind]:
    """Of the options in a part of a composition; nothing where that is not ours to say."""
    return KINDS.get(str(tree.get("_target_", "no target" if key else "")), {})


def unknown(tree: Mapping[str, Any], key: str = "") -> Iterator[str]:
    """The options in `tree`, by dotted key, that what its `_target_` names does not have."""
    kinds = _kinds(tree, key)
    for name, value in tree.items():
        dotted = f"{key}.{name}" if key else str(name)
        if key and kinds and name not in kinds and not str(name).startswith("_"):
            yield dotted
        elif isinstance(value, Mapping):
            yield from unknown(value, dotted)


def check_tree(tree: Mapping[str, Any], key: str = "") -> None:
    """Checks a composition, or the part of it below `key`, resolved.

    Raises:
        ConfigError: for the first option that is wrong.
    """
    kinds = _kinds(tree, key)
    dotted = {name: f"{key}.{name}" if key else str(name) for name in tree}
    for name in [name for name in tree if name in kinds]:
        check(dotted[name], tree[name], kinds[name])
    for name, value in tree.items():
        if isinstance(value, Mapping):
            check_tree(value, dotted[name])


def shown(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
