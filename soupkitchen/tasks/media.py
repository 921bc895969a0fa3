"""Images and recordings: columns of files, or of their bytes, that are prepared once and kept.

A recording becomes the samples that a model hears: of one channel, at the model's rate. Files are read by
soundfile (extra: audio) if it is installed, and else by scipy, which knows plain .wav only.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import AutoProcessor, PreTrainedModel

from soupkitchen.errors import CheckpointError, DataError, first_line
from soupkitchen.tasks.base import DataTask, Processor, Task, check_vocabulary, load_with
from soupkitchen.tasks.columns import check_column, check_filled, row_of
from soupkitchen.tasks.data import folders_of
from soupkitchen.tasks.files import stamp

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Each image processor and feature extractor has one of these."""
_FASTEST = 1_000_000
"""The highest rate, in Hz; the resampling filter grows with it."""
_MOST = 1 << 28
"""The most samples of a recording, in all channels: 4.6 hours at 16 kHz."""
_BLOCK = 1 << 16


@dataclass(frozen=True)
class ImageTask(DataTask):
    """A task with a column of images: `datasets.Image`, or paths."""

    processor_files = PROCESSOR_FILES
    image: str = "image"

    def compared(self, split: Dataset) -> Dataset:
        return undecoded(self, split, "image", datasets.Image, "images")

    def prepared_images(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        """The tensors of the images in `compared` that the model takes.

        Raises:
            DataError: if an image is missing or cannot be read.
        """
        check_filled(split, "task.image", self.image)
        options = {"processor": processor, "taken": tuple(signature(model.forward).parameters)}
        return prepared_once(split, self.image, _pixels, options, folder="images", batch_size=64)


def load_both(folder: str, trust_remote_code: bool, part: str) -> Processor:
    """A processor with a tokenizer and `part`, "image_processor" or "feature_extractor".

    Raises:
        CheckpointError: if `folder` has none.
    """
    what, remedy = part.replace("_", " "), "install what they lack, or copy the base model's files there"
    processor = load_with(AutoProcessor, folder, trust_remote_code, f"{what} and tokenizer", remedy)
    if not hasattr(processor, part) or getattr(processor, "tokenizer", None) is None:
        raise CheckpointError(
            f"{folder} has files of a {type(processor).__name__}, where {what} and tokenizer are needed; "
            "copy those of the base model there"
        )
    check_vocabulary(processor.tokenizer, folder)
    return processor


def undecoded(task: Task, split: Dataset, option: str, kind: type, what: str) -> Dataset:
    """The split with a column of undecoded files, and complete paths.

    Args:
        option: names the column.
        kind: `datasets.Image` or `datasets.Audio`.
        what: the kind in words.

    Raises:
        DataError: if the column holds something else.
    """
    column = getattr(task, option)
    check_column(split, f"task.{option}", column)
    paths = split.data.column(column)
    if pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type):
        split = _with_whole_paths(split, column, folders_of(task.data))
    try:
        return split.cast_column(column, kind(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"task.{option}={column}: the column holds no {what} ({first_line(error)}); it should hold "
            f"{what}, or the paths of their files"
        ) from error


def _with_whole_paths(split: Dataset, column: str, folders: list[Path]) -> Dataset:
    """Completes a column's paths by `folders`; rows keep their numbers."""

    def whole(path: str | None) -> str | None:
        return path and next((str(f / path) for f in folders if (f / path).is_file()), path)

    paths = [whole(path) for path in split.data.column(column).to_pylist()]
    place = split.data.column_names.index(column)
    made = Dataset(
        split.data.table.set_column(place, column, pa.array(paths, pa.string())),
        info=datasets.DatasetInfo(
            features=datasets.Features({**split.features, column: datasets.Value("string")})
        ),
        fingerprint=Hasher.hash((split._fingerprint, column, paths)),
    )
    return made if split._indices is None else made.select(split._indices.column(0).to_pylist())


def prepared_once(
    split: Dataset,
    column: str,
    prepare: Callable[..., dict[str, Any]],
    options: Mapping[str, Any],
    *,
    folder: str,
    batch_size: int,
) -> Dataset:
    """The columns that `prepare` makes of one column, cached until files change.

    Args:
        prepare: takes values by column, example numbers, `column`, `rows` (numbers in the source) and
            `options`.
        folder: in the cache of `datasets`.
        batch_size: examples at once.
    """
    arguments = {"column": column, "rows": [row_of(split, number) for number in range(len(split))], **options}
    digest = Hasher.hash((split._fingerprint, arguments, stamp(_files(split, column))))
    kept = Path(datasets.config.HF_DATASETS_CACHE) / "soupkitchen" / folder  # and not beside the data
    kept.mkdir(parents=True, exist_ok=True)
    return split.map(
        prepare,
        batched=True,
        with_indices=True,
        batch_size=batch_size,
        writer_batch_size=batch_size,
        remove_columns=split.column_names,
        fn_kwargs=arguments,
        cache_file_name=str(kept / f"{digest}.arrow"),
        new_fingerprint=digest,
    )


def _files(split: Dataset, column: str) -> list[str]:
    cache = datasets.config.HF_DATASETS_CACHE
    tables = [file["filename"] for file in split.cache_files]
    files = [file for file in tables if not Path(file).is_relative_to(cache)]
    if isinstance(split.features[column], (datasets.Image, datasets.Audio)):
        for part in split.select_columns([column]).with_format("arrow").iter(batch_size=1000):
            files += [value["path"] for value in part[column].to_pylist() if value and value["path"]]
    return files


def _pixels(
    examples: dict[str, list[Any]],
    numbers: list[int],
    column: str,
    rows: list[int],
    processor: Processor,
    taken: tuple[str, ...],
) -> dict[str, Any]:
    """The tensors of images that the model takes (`taken`)."""
    pictures = []
    for number, image in zip(numbers, examples[column], strict=True):
        try:
            pictures.append(datasets.Image().decode_example(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise DataError(
                f"task.image={column}: the image of row {rows[number]} ({image['path'] or 'not in a file'}) "
                f"cannot be read ({first_line(error)}); put it right, or leave the row out"
            ) from error
    try:
        tensors = processor(pictures, return_tensors="pt")  # timm's gives nothing else
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"task.image={column}: {type(processor).__name__} cannot prepare rows {rows[numbers[0]]} to "
            f"{rows[numbers[-1]]} as one batch ({first_line(error)}); images of one size may help"
        ) from error
    if inputs := {name: np.asarray(value) for name, value in tensors.items() if name in taken}:
        return inputs
    raise DataError(
        f"{type(processor).__name__} gives {', '.join(tensors)}, of which the model takes none (it takes "
        f"{', '.join(taken)}): the image processor is not the model's"
    )


# Recordings


def to_inputs(
    examples: dict[str, list[Any]],
    numbers: list[int],
    column: str,
    rows: list[int],
    extractor: Any,
    default_rate: int | None,
    taken: tuple[str, ...],
) -> dict[str, Any]:
    """The feature extractor's inputs of recordings that the model takes (`taken`).

    Adds `samples` and `steps`: the lengths of each recording and of its inputs.
    """
    made: dict[str, list[Any]] = {"samples": [], "steps": []}
    for number, audio in zip(numbers, examples[column], strict=True):
        try:
            if audio is None:
                raise ValueError("it is empty")
            heard = samples(audio, extractor.sampling_rate, default_rate)
        except (OSError, ValueError, TypeError) as error:
            where = audio.get("path") if isinstance(audio, dict) else None
            raise DataError(
                f"task.audio={column}: the recording of row {rows[number]} ({where or 'not in a file'}) "
                f"cannot be read ({first_line(error)}); put it right, or leave the row out"
            ) from error
        inputs = extractor(heard, sampling_rate=extractor.sampling_rate)
        made["samples"].append(len(heard))
        made["steps"].append(len(inputs[extractor.model_input_names[0]][0]))
        for name in inputs.keys() & set(taken):
            made.setdefault(name, []).append(np.asarray(inputs[name][0]))
    if len(made) > 2:
        return made
    raise DataError(
        f"{type(extractor).__name__} gives nothing that the model takes (it takes {', '.join(taken)}): it is "
        "not the model's"
    )


def samples(audio: Any, rate: int, default_rate: int | None) -> np.ndarray:
    """The samples of a recording, float32, at `rate` Hz.

    Args:
        audio: {"bytes": …, "path": …}, {"array": …, "sampling_rate": …}, or numbers.
        default_rate: if the recording does not say; None for `rate`.

    Raises:
        OSError: if its file cannot be read.
        ValueError: if it holds no sound, or needs a missing package.
    """
    own_rate: int | None = None
    if isinstance(audio, Mapping) and "array" in audio:
        heard, own_rate = np.asarray(audio["array"], np.float32), audio.get("sampling_rate")
    elif isinstance(audio, Mapping):
        content = audio.get("bytes")
        heard, own_rate = _read(Path(audio["path"]).read_bytes() if content is None else content)
    else:
        heard = np.asarray(audio, np.float32)
    if heard.ndim != 1 or not heard.size or not np.isfinite(heard).all():
        raise ValueError("it should hold one number a sample, at least one, and none of them NaN")
    return resampled(heard, int(own_rate or default_rate or rate), rate)


def resampled(heard: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Samples at `rate` Hz, filtered and resampled to `wanted` Hz."""
    if rate == wanted:
        return heard
    if not (min(rate, wanted) >= 1 and max(rate, wanted) <= _FASTEST and len(heard) / rate * wanted <= _MOST):
        raise ValueError(
            f"it says that it has {rate:,} samples a second, and lasts {len(heard) / max(rate, 1):,.6g} s; "
            f"1 to {_FASTEST:,} a second are read, and as much as becomes {_MOST:,} samples"
        )
    from scipy.signal import resample_poly  # other kinds of tasks need not wait for scipy

    common = math.gcd(rate, wanted)
    changed: np.ndarray = resample_poly(heard, wanted // common, rate // common)
    return changed.astype(np.float32)


def _read(content: bytes) -> tuple[np.ndarray, int]:
    """The mean of a file's channels, and its rate in Hz."""
    try:
        soundfile: Any = import_module("soundfile")
    except (ImportError, OSError):  # it is there, but the library that it needs is not
        return _wav(content)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            blocks, most = [np.zeros(0, np.float32)], _MOST // file.channels
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block.mean(1))
                if len(blocks) * _BLOCK > most + _BLOCK:
                    raise ValueError(f"it has more than {_MOST:,} samples; cut it")
            return np.concatenate(blocks), file.samplerate
    except RuntimeError as error:
        raise ValueError(f"soundfile cannot read it: {error}") from error


def _wav(content: bytes) -> tuple[np.ndarray, int]:
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():  # of chunks that hold no sound
            warnings.simplefilter("ignore")
            rate, stored = wavfile.read(io.BytesIO(content))
    except (ValueError, EOFError, ZeroDivisionError, struct.error) as error:
        raise ValueError(
            f"it is no plain .wav ({error}), and other formats need pip install 'soupkitchen[audio]'"
        ) from error
    heard = (stored[:, None] if stored.ndim == 1 else stored).astype(np.float32)
    if stored.dtype == np.uint8:
        heard = heard - 128
    scale = 1.0 if stored.dtype.kind == "f" else 2.0 ** (8 * stored.dtype.itemsize - 1)
    return (heard / scale).mean(1), rate
