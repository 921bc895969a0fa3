"""Checks that runs can be merged, and aligns names and labels.

The reference is a run that most runs resemble. Names that differ by a prefix or by ties, and labels in
another order, are adapted; all other differences are reported at once. The reference's tokenizer, image and
generation files go with the soup; a warning names runs that differ in them.
"""

from __future__ import annotations

import functools
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from soupkitchen.checkpoints import folders, sentence
from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.checkpoints.names import float32_tensors, parameter_names, rows_of_labels, tied_names
from soupkitchen.checkpoints.weights import TensorInfo, View, aligned
from soupkitchen.errors import IncompatibleError, first_of

log = logging.getLogger(__name__)

_SHOWN = 3
_NEVER_LOADED = re.compile(r"(.*\.)?(position_ids|rotary_emb\.inv_freq)")
"""Buffers in old files, which transformers computes."""
_HEAD = re.compile(r"(.*\.)?((\w+_)?classifier|score|classification_head)(\.out_proj)?\.(weight|bias)")
"""transformers' names of a classification head's last layer, if the model cannot be made."""
_COMPUTES = (
    "num_attention_heads", "num_key_value_heads", "n_head", "head_dim", "hidden_act", "activation_function",
    "hidden_activation", "layer_norm_eps", "rms_norm_eps", "layer_norm_epsilon", "rope_theta", "rope_scaling",
    "rope_parameters", "sliding_window", "position_embedding_type", "image_size", "patch_size",
)  # fmt: skip
"""Keys of `config.json` that change the model's computation."""
_GENERATION, _TOKENIZER, _TEMPLATE = "generation_config.json", "tokenizer_config.json", "chat_template"
_IMAGES = "preprocessor_config.json"
_CUTS = ("add_bos_token", "add_eos_token", "do_lower_case", "model_max_length", "truncation_side")
_OF_VERSIONS = ("transformers_version", "_from_model_config")
_IN_CONFIG = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Keys that transformers reads from `config.json` if there is no `generation_config.json`."""
_TEMPLATE_FILES = (f"{_TEMPLATE}.jinja", f"{_TEMPLATE}.json", "additional_chat_templates/*.jinja")
_SETTINGS_SHOWN = 5


def reference_of(runs: Sequence[Checkpoint]) -> Checkpoint:
    """The first run of the commonest kind, preferably a whole model."""
    kinds = [kind(run) for run in runs]
    commonest = Counter(kinds).most_common(1)[0][0]
    alike = [run for run, its_kind in zip(runs, kinds, strict=True) if its_kind == commonest]
    return next((run for run in alike if run.adapted is None), alike[0])


def kind(run: Checkpoint) -> Any:
    shapes = frozenset((name, info.shape) for name, info in run.header.items())
    vocabulary = folders.vocabulary_of(run.path)
    tokens = None if vocabulary is None else vocabulary.frozen
    modules = str(sentence.meaning(run.path))
    return run.config.get("model_type"), shapes, tuple(sorted(labels_of(run.config))), tokens, modules


def fitted(run: Checkpoint, reference: Checkpoint) -> tuple[Checkpoint, list[str]]:
    """The run with the reference's names and labels, and its problems."""
    if problem := _unfit(run, reference):
        return run, [problem]
    run = _renamed(run, reference)
    problems = _differences(run, reference)
    if not problems:
        relabelled = _relabelled(run, reference)
        if isinstance(relabelled, str):
            problems.append(relabelled)
        else:
            run = relabelled
    of_sentences = sentence.difference(run.path, reference.path, reference.name)
    others = [
        _untied(run),
        folders.vocabulary_difference(folders.vocabulary_of(run.path), folders.vocabulary_of(reference.path)),
        of_sentences and f"{of_sentences}: they make embeddings in different ways",
    ]
    return run, [*problems, *(problem for problem in others if problem)]


def _unfit(run: Checkpoint, reference: Checkpoint) -> str | None:
    ours, theirs = run.config, reference.config
    if bool(ours) != bool(theirs):
        without = run if theirs else reference
        return f"{without.path} is not a checkpoint: it has no {folders.CONFIG_NAME}, as others have"
    if ours.get("model_type") != theirs.get("model_type"):
        return f"its model_type is {ours.get('model_type')!r}, not {theirs.get('model_type')!r}"
    for key in _COMPUTES:
        if None not in (ours.get(key), theirs.get(key)) and ours[key] != theirs[key]:
            return f"it computes otherwise: {key} in config.json is {ours[key]!r}, not {theirs[key]!r}"
    if ours.get("quantization_config"):
        return "its weights are quantised (quantization_config in config.json); use the unquantised run"
    for name, info in run.header.items():
        if info.torch_dtype is None or info.dtype.startswith("F8"):
            return f"{name} is of dtype {info.dtype}, which is not merged"
    return None


# Names


def _renamed(run: Checkpoint, reference: Checkpoint) -> Checkpoint:
    if run.header.keys() == reference.header.keys():
        return run
    names = aligned(run.header, reference.header)
    tied = tied_names(reference.architecture)
    for name in reference.header.keys() - names.keys():
        twin = next((twin for twin in _twins(name, tied) if twin in run.header), None)
        if twin is not None:
            names[name] = twin
    for name in run.header.keys() - set(names.values()):
        twins = [names[twin] for twin in _twins(name, tied) if twin in names]
        if not (_NEVER_LOADED.fullmatch(name) or any(_is_twin(run, name, twin) for twin in twins)):
            names[name] = name  # will be reported as a tensor too many
    return replace(run, weights=View(run.weights, names))


def without_twins(run: Checkpoint) -> Checkpoint:
    tied = tied_names(run.architecture)
    names = {
        name: name
        for name in run.header
        if not _NEVER_LOADED.fullmatch(name) and not _is_twin(run, name, tied.get(name))
    }
    return run if len(names) == len(run.header) else replace(run, weights=View(run.weights, names))


def _is_twin(run: Checkpoint, name: str, source: str | None) -> bool:
    return source is not None and source in run.header and torch.equal(run.tensor(name), run.tensor(source))


def _untied(run: Checkpoint) -> str | None:
    if not any(name.endswith(("lm_head.weight", "decoder.weight")) for name in run.header):
        return None
    for name, source in tied_names(run.architecture).items():
        if name in run.header and source in run.header and not _is_twin(run, name, source):
            return (
                f"{name} and {source} are tied by config.json (tie_word_embeddings) and differ; a model "
                "cannot have both"
            )
    return None


def _twins(name: str, tied: Mapping[str, str]) -> list[str]:
    source = tied.get(name, name)
    return [twin for twin in (source, *(n for n, s in tied.items() if s == source)) if twin != name]


def _differences(run: Checkpoint, reference: Checkpoint) -> list[str]:
    ours, theirs = run.header, reference.header
    problems = []
    if missing := sorted(theirs.keys() - ours.keys()):
        problems.append(f"lacks {_names(missing)}")
    if extra := sorted(ours.keys() - theirs.keys()):
        problems.append(f"has {_names(extra)} besides")
    shared = sorted(ours.keys() & theirs.keys())
    shapes = [
        f"{name} has shape {list(ours[name].shape)}, not {list(theirs[name].shape)}"
        for name in shared
        if ours[name].shape != theirs[name].shape
    ]
    if len(shapes) > _SHOWN:
        shapes = [f"{len(shapes)} tensors have other shapes: {shapes[0]}, …; is it a model of another size?"]
    kinds = [
        f"{name} holds {_kind_of(ours[name])}, not {_kind_of(theirs[name])}"
        for name in shared
        if ours[name].is_floating_point != theirs[name].is_floating_point
    ]
    if len(kinds) > _SHOWN:
        kinds = [f"{len(kinds)} tensors are of another kind: {kinds[0]}, …"]
    return [*problems, *shapes, *kinds]


def _kind_of(info: TensorInfo) -> str:
    return f"{'floating-point' if info.is_floating_point else 'whole'} numbers ({info.dtype})"


def _names(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) > 1)}: {first_of(names, _SHOWN)}"


# Labels


def _relabelled(run: Checkpoint, reference: Checkpoint) -> Checkpoint | str:
    ours, theirs = labels_of(run.config), labels_of(reference.config)
    if ours == theirs:
        return run
    differ = f"its labels (id2label in config.json) are {_shown(ours)}, not {_shown(theirs)}"
    if sorted(ours) != sorted(theirs) or len(set(ours)) < len(ours):
        return f"{differ}: the rows of the two heads mean different things"
    head = _head_of(reference, len(ours))
    if not head:
        return f"{differ}, and which tensors are its head is not known, so they cannot be put in order"
    rows = {name: [ours.index(label) for label in theirs] for name in head}
    numbers: dict[str, Any] = {
        key: reference.config[key] for key in ("id2label", "label2id") if key in reference.config
    }
    return replace(run, config={**run.config, **numbers}, weights=View(run.weights, rows=rows))


def _head_of(run: Checkpoint, labels: int) -> list[str]:
    rows = [name for name, info in run.header.items() if info.shape[:1] == (labels,)]
    grown = rows_of_labels(run.architecture, labels)
    if not grown:
        return [name for name in rows if _HEAD.fullmatch(name)]
    names = parameter_names(run.architecture, run.header)
    head = [name for name in rows if names.get(name, name) in grown]
    return head if len(head) == len(grown) else []


def labels_of(config: Mapping[str, Any]) -> list[str]:
    """The model's label names by number."""
    id2label = config.get("id2label") or {}
    if not isinstance(id2label, Mapping) or not all(str(number).isdecimal() for number in id2label):
        return ["(not understood)", str(id2label)]
    return [str(label) for _, label in sorted(id2label.items(), key=lambda item: int(item[0]))]


def _shown(labels: Sequence[str]) -> str:
    if not labels:
        return "not given"
    return f"[{', '.join(labels[:_SHOWN])}{', …' if len(labels) > _SHOWN else ''}]"


# Values


def not_finite(run: Checkpoint) -> str | None:
    for name, count in run.weights.not_finite.items():
        return f"{name} has {count} values that are NaN or infinite"
    return None


def common_dtype(runs: Sequence[Checkpoint]) -> torch.dtype | None:
    """The narrowest dtype that holds all runs' floating-point values; None if they share one.

    Dtypes in `config.json` count, since transformers loads runs in them. Tensors that it keeps in float32 do
    not.
    """
    named = {name for run in runs for name in folders.named_dtypes(run.config)}
    for without in _kept_sets(runs):
        kinds = _dtypes(runs, without)
        if len(kinds) == 1 and named <= {str(next(iter(kinds))).removeprefix("torch.")}:
            return None
    return functools.reduce(torch.promote_types, kinds) if (kinds := _dtypes(runs)) else None


def _dtypes(runs: Sequence[Checkpoint], without: Collection[str] = ()) -> set[torch.dtype]:
    infos = [info for run in runs for name, info in run.header.items() if name not in without]
    return {info.torch_dtype for info in infos if info.torch_dtype and info.torch_dtype.is_floating_point}


def _kept_sets(runs: Sequence[Checkpoint]) -> Iterator[frozenset[str]]:
    """Yields sets of tensors to ignore: none, and those kept in float32."""
    yield frozenset()
    kinds = _dtypes(runs)
    for half in (torch.bfloat16, torch.float16):
        if kinds == {half, torch.float32}:
            yield float32_tensors(runs[0].architecture, half, runs[0].header)


def widened(run: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    if all(info.torch_dtype == dtype for info in run.header.values() if info.is_floating_point):
        return run
    return replace(run, weights=View(run.weights, dtype=dtype))


# Files beside the weights


def warn_of_differences(runs: Sequence[Checkpoint], reference: Checkpoint) -> None:
    """Warns if runs differ from the reference in settings that go with the soup."""
    expected = _settings(reference)
    for run in runs:
        settings = _settings(run)
        differ = [
            f"{key} ({file})" if file != key else key
            for file in sorted(settings.keys() & expected.keys())
            for key in sorted(settings[file].keys() | expected[file].keys())
            if settings[file].get(key) != expected[file].get(key)
        ]
        if differ:
            log.warning(
                "%s differs from %s in %s: what %s says goes with the soup",
                run.name,
                reference.name,
                first_of(differ, _SETTINGS_SHOWN),
                reference.name,
            )


def check_generation(runs: Sequence[Checkpoint], keys: Sequence[str] | None = None) -> None:
    """Refuses runs with different generation settings.

    Args:
        keys: the keys of `generation_config.json` to compare; None for all.

    Raises:
        IncompatibleError: if a key differs.
    """
    first, *others = [(run.name, _generation(run)) for run in runs]
    for name, generation in others:
        for key in keys or sorted(generation.keys() | first[1].keys()):
            if generation.get(key) != first[1].get(key):
                raise IncompatibleError(
                    f"{first[0]} and {name} generate in different ways: {key} in {_GENERATION} is "
                    f"{first[1].get(key)!r} and {generation.get(key)!r}; put the right file into both, or "
                    "leave one out with pool.exclude=[…]"
                )


def sentences_of(runs: Sequence[Checkpoint], searching: bool = False) -> sentence.Sentences | None:
    """Reads how all runs of a pool make embeddings; None if none is of sentence-transformers.

    The runs of a pool that have `modules.json` agree in their files; see `sentence.difference`.

    Raises:
        IncompatibleError: if only some have one.
        CheckpointError: if they do something that cannot be done here.
    """
    without = [run for run in runs if not (run.path / sentence.MODULES).exists()]
    if without and len(without) < len(runs):
        raise IncompatibleError(
            f"{without[0].name} has no {sentence.MODULES}, as others have, so how it makes embeddings is not "
            "known: put that of its base into its folder, or leave it out with pool.exclude=[…]"
        )
    return sentence.Sentences.of(runs[0].path, searching)


def _settings(run: Checkpoint) -> dict[str, dict[str, Any]]:
    settings, folder = {_GENERATION: _generation(run)}, run.path
    if (folder / _IMAGES).is_file():
        images = folders.read_json(folder / _IMAGES)
        settings[_IMAGES] = {
            key: images[key] for key in images if not key.endswith(("_type", "_class", "_version"))
        }
    if (folder / _TOKENIZER).is_file():
        texts = folders.read_json(folder / _TOKENIZER)
        files = {
            file.name: folders.read_bytes(file).decode("utf-8", "replace")
            for file in folders.own_files(folder, *_TEMPLATE_FILES)
        }
        alone = files.get(f"{_TEMPLATE}.jinja") if len(files) == 1 else None
        settings[_TOKENIZER] = {key: texts[key] for key in _CUTS if key in texts}
        settings[_TEMPLATE] = {_TEMPLATE: alone or files or texts.get(_TEMPLATE)}
    if vocabulary := folders.vocabulary_of(folder):
        settings["tokenizer.json"] = dict(vocabulary.rules)
    return settings


def _generation(run: Checkpoint) -> dict[str, Any]:
    file = run.architecture / _GENERATION
    settings = folders.read_json(file) if file.is_file() else {key: run.config.get(key) for key in _IN_CONFIG}
    return {key: value for key, value in settings.items() if key not in _OF_VERSIONS and value is not None}
