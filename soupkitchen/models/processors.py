"""Chooses a pool's tokenizer or image processor, and copies its files beside the soup.

They are copied as they are, because `save_pretrained` would store the task's lengths.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.folders import Vocabulary, own_files, read_json, vocabulary_of
from soupkitchen.checkpoints.sentence import FILES as SENTENCES
from soupkitchen.checkpoints.sentence import MODULES
from soupkitchen.errors import CheckpointError, IncompatibleError, first_of
from soupkitchen.tasks.base import Processor, Task

log = logging.getLogger(__name__)

_CONFIGS = ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
_PATTERNS = (
    *_CONFIGS, "video_preprocessor_config.json", "audio_tokenizer_config.json", "tokenizer.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.json", "*.jinja",
    "additional_chat_templates/*.jinja", "vocab*.json", "vocab*.txt", "merges.txt", "*.tiktoken",
    "tekken.json", "*.spm", "*.bpe.model", "tokenizer.model*", "spiece.model", "spm*.model",
    "sentencepiece.model",
    "bpe.codes", "dict.txt", "emoji.json", "entity_vocab.json", "target_vocab.json", "normalizer.json",
    "word_shape.json", "word_pronunciation.json", "byte_maps.json", "prophetnet.tokenizer",
)  # fmt: skip
"""Files of tokenizers and processors, by transformers' names."""
_NO_PART = (
    "config.json", "generation_config.json", "adapter_config.json", "*.index.json", "*.safetensors", "*.bin",
    "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.gguf", "*.mlmodel", "*.md",
    "LICENSE*", "NOTICE*", ".*", "trainer_*", "training_args*", "*_results.json", "*.log", "events.out*",
    "*.csv", "*.png", "*.svg", "*.yaml", "*.yml", "optimizer*", "scheduler*", "rng_state*", "*.py",
)  # fmt: skip
"""Other files beside a model: weights, configuration, documents, leftovers."""
_TOKENIZERS = (
    "tokenizer_config.json", "tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json", "*.spm",
    "*.codes",
)  # fmt: skip
"""Each folder with a tokenizer has one of these."""


def processor_of(
    run: Checkpoint, task: Task, pool: Pool | None = None, trust_remote_code: bool = False
) -> tuple[Processor, Path]:
    """Loads the processor for the models of `pool`; also returns its folder.

    It is that of `run` or, with a warning, of another run or the base.

    Raises:
        CheckpointError: if none can be loaded.
        IncompatibleError: if `run` has none, and others differ in theirs.
    """
    texts = not task.processor_files
    wanted, what = (_TOKENIZERS, "tokenizer") if texts else (task.processor_files, task.processor_name)
    folders = [folder for folder in _candidates(run, pool) if any(_has(folder, name) for name in wanted)]
    if run.path not in folders and pool is not None:
        _check_alike(pool)
    for folder in folders or [run.architecture]:  # bytes and pixels may need no file
        check_files(folder)
        try:
            processor = task.load_processor(str(folder), trust_remote_code)
        except CheckpointError as error:
            if vocabulary_of(folder) is not None or (not texts and folders):
                raise
            log.debug("no tokenizer: %s", error)
            continue
        if folder not in (run.path, run.architecture):
            log.warning(
                "%s has no %s of its own: all runs are scored with that of %s, and the soup is saved with it",
                run.name,
                what,
                folder,
            )
        return processor, folder
    what += " with a vocabulary" if texts else ""
    raise CheckpointError(
        f"{run.path} has no {what}, and no other run or base that fits has one: copy the base model's files "
        f"({', '.join(wanted[:2])}, …) into the folder of the run, or name the base as pool.base=…"
    )


def copy_processor(folder: Path, to: Path) -> None:
    """Copies the processor's files; see `check_files`."""
    for file in check_files(folder):
        copied = to / file.relative_to(folder)
        copied.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copied)


def check_files(folder: Path) -> list[Path]:
    """The files of the processor in `folder`.

    Raises:
        CheckpointError: if one is no regular file, or links elsewhere.
    """
    files = own_files(folder, *_PATTERNS, *(SENTENCES if (folder / MODULES).exists() else ()))
    return [*files, *own_files(folder, "*.py")] if _has_code(folder) else files


def warn_of_files(run: Checkpoint) -> None:
    """Warns of a run's unknown files, which are not copied."""
    if not run.path.is_dir():
        return
    copied = set(check_files(run.path))
    names = [
        file.name
        for file in sorted(run.path.iterdir())
        if file.is_file() and file not in copied and not any(map(file.match, _NO_PART))
    ]
    if names:
        log.warning(
            "%s holds %s, of which it is not known whether the model needs them: they are not copied with "
            "the soup",
            run.path,
            first_of(names, 5),
        )


def _candidates(run: Checkpoint, pool: Pool | None) -> list[Path]:
    """Folders that may hold the processor of `run`, its own first."""
    folders = [run.path, *(other.path for other in pool or ())]
    if run.adapted is not None:
        folders.append(run.adapted.path)
    if pool is not None and pool.base is not None and _rows(pool.base) == _rows(run):
        folders.append(pool.base.path)
    return list(dict.fromkeys(folders))


def _rows(run: Checkpoint) -> Any:
    """The size of the vocabulary."""
    nested = run.config.get("text_config")
    texts = nested if isinstance(nested, dict) else {}
    return run.config.get("vocab_size", texts.get("vocab_size"))


def _check_alike(pool: Pool) -> None:
    """Raises `IncompatibleError` if the runs' tokenizers differ."""
    first: tuple[str, Vocabulary] | None = None
    for run in pool:
        if (vocabulary := vocabulary_of(run.path)) is None:
            continue
        first = first or (run.name, vocabulary)
        if vocabulary.unlike(first[1]):
            raise IncompatibleError(
                f"{pool.reference.name} has no tokenizer, and those of {first[0]} and {run.name} differ: "
                "copy the right one into each run, or leave runs out with pool.exclude=[…]"
            )


def _has(folder: Path, pattern: str) -> bool:
    return any(not file.is_dir() for file in folder.glob(pattern))


def _has_code(folder: Path) -> bool:
    """True if a processor's configuration names its own code."""
    for name in _CONFIGS:
        with suppress(CheckpointError):
            if read_json(folder / name).get("auto_map"):
                return True
    return False
