"""Which tokenizer or image processor the models of a pool are used with: files, chosen once for the pool.

The files are copied beside the soup as they are. A processor that was used, and then written by
`save_pretrained`, is no longer what the run came with: it holds the lengths of the task.
"""

from __future__ import annotations

import json
import logging
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.modules import MODULES
from soupkitchen.checkpoints.sentence import FILES as SENTENCES
from soupkitchen.checkpoints.tokens import Tokens, tokens_of
from soupkitchen.errors import CheckpointError, IncompatibleError
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
"""What transformers reads and writes as part of tokenizers and processors."""
_CODE = "*.py"
_NO_PART = (
    "config.json", "generation_config.json", "adapter_config.json", "*.index.json", "*.safetensors", "*.bin",
    "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.gguf", "*.mlmodel", "*.md",
    "LICENSE*", "NOTICE*", ".*", "trainer_*", "training_args*", "*_results.json", "*.log", "events.out*",
    "*.csv", "*.png", "*.svg", "*.yaml", "*.yml", "optimizer*", "scheduler*", "rng_state*", "*.py",
)  # fmt: skip
"""What else lies beside a model: weights, configuration, what training and exports leave, what is read."""
_TOKENIZERS = (
    "tokenizer_config.json", "tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json", "*.spm",
    "*.codes",
)  # fmt: skip
"""One of which a folder with a tokenizer has; the tasks on images name theirs."""


def processor_of(
    run: Checkpoint, task: Task, pool: Pool | None = None, trust_remote_code: bool = False
) -> tuple[Processor, Path]:
    """What prepares inputs for the models of `pool`, and the folder whose files it is.

    It is that of `run`; where this has none, that of another run or of the base, and a warning says so.

    Raises:
        CheckpointError: where none has one that can be loaded.
        IncompatibleError: where `run` has none, and others differ in theirs.
    """
    wanted, called = task.processor_files or _TOKENIZERS, task.processor_name
    folders = [folder for folder in _candidates(run, pool) if any(_matching(folder, wanted))]
    if run.path not in folders and pool is not None:
        _check_alike(pool)
    for folder in folders or [run.architecture]:  # bytes and pixels may need no file
        check_files(folder)
        try:
            processor = task.load_processor(str(folder), trust_remote_code)
        except CheckpointError as error:
            if tokens_of(folder) is not None or (wanted is not _TOKENIZERS and folders):
                raise
            log.debug("no tokenizer: %s", error)
            continue
        if folder not in (run.path, run.architecture):
            log.warning(
                "%s has no %s of its own: all runs are scored with that of %s, and the soup is saved with it",
                run.name,
                "tokenizer" if wanted is _TOKENIZERS else called,
                folder,
            )
        return processor, folder
    what = "tokenizer with a vocabulary" if wanted is _TOKENIZERS else called
    raise CheckpointError(
        f"{run.path} has no {what}, and no other run or base that fits has one: copy the base model's files "
        f"({', '.join(wanted[:2])}, …) into the folder of the run, or name the base as pool.base=…"
    )


def copy_processor(folder: Path, to: Path) -> None:
    """Copies the files of the tokenizer or processor in `folder`, byte by byte.

    Raises:
        CheckpointError: where one is not a file of that folder.
    """
    for file in check_files(folder):
        copied = to / file.relative_to(folder)
        copied.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copied)


def check_files(folder: Path) -> list[Path]:
    """The files of the tokenizer or processor in `folder`.

    Raises:
        CheckpointError: for one that is no regular file, or is a link that leads elsewhere.
    """
    files = _regular(folder, (*_PATTERNS, *(SENTENCES if (folder / MODULES).exists() else ())))
    return [*files, *_regular(folder, (_CODE,))] if _has_code(folder) else files


def warn_of_files(run: Checkpoint) -> None:
    """Names the files of a run that nothing is known of, and that so are not copied with the soup."""
    if not run.path.is_dir():
        return
    copied = set(check_files(run.path))
    names = [
        file.name
        for file in sorted(run.path.iterdir())
        if file.is_file() and file not in copied and not any(map(file.match, _NO_PART))
    ]
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        log.warning(
            "%s holds %s%s, of which it is not known whether the model needs them: they are not copied with "
            "the soup",
            run.path,
            ", ".join(names[:5]),
            more,
        )


def _regular(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    files = list(_matching(folder, patterns))
    home = folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home  # the hub's cache
    for file in files:
        target = file.resolve()
        if not (target.is_relative_to(home) or target.is_relative_to(blobs)):
            raise CheckpointError(
                f"{file} is a link that leads out of its folder, to {target}; put a copy of that file there"
            )
        if not target.exists() or not stat.S_ISREG(target.stat().st_mode):
            raise CheckpointError(f"{file} is no regular file; put the file of the base model there")
    return files


def _candidates(run: Checkpoint, pool: Pool | None) -> list[Path]:
    """Folders that may hold what `run` is used with, its own first."""
    found = [run.path]
    if pool is not None:
        found += [other.path for other in pool]
    bases = [base for base in (run.adapted, pool.base if pool else None) if base is not None]
    found += [base.path for base in bases if base is run.adapted or _rows(base) == _rows(run)]
    return list(dict.fromkeys(found))


def _rows(run: Checkpoint) -> Any:
    """The size of the model's vocabulary."""
    nested = run.config.get("text_config")
    within = nested if isinstance(nested, dict) else {}
    return run.config.get("vocab_size", within.get("vocab_size"))


def _check_alike(pool: Pool) -> None:
    """Checks that the runs that have a tokenizer have the same.

    Raises:
        IncompatibleError: where two differ.
    """
    first: tuple[str, Tokens] | None = None
    for run in pool:
        tokens = tokens_of(run.path)
        if tokens is None:
            continue
        if first is None:
            first = run.name, tokens
        elif tokens.unlike(first[1]):
            raise IncompatibleError(
                f"{pool.reference.name} has no tokenizer, and those of {first[0]} and {run.name} differ: "
                "copy the right one into each run, or leave runs out with pool.exclude=[…]"
            )


def _matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    seen: set[Path] = set()
    for pattern in patterns:
        for file in sorted(folder.glob(pattern)):
            if file not in seen and not file.is_dir():
                seen.add(file)
                yield file


def _has_code(folder: Path) -> bool:
    """Whether a configuration of the processor names code of its own."""
    for name in _CONFIGS:
        try:
            if json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map"):
                return True
        except (OSError, ValueError, AttributeError):
            continue
    return False
