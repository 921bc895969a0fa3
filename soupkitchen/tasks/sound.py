"""Recordings as the samples that a model hears: read from files, of one channel, at the model's rate.

Files are read by soundfile (extra: audio) if it is installed, and else by scipy, which knows plain .wav only.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from soupkitchen.errors import DataError
from soupkitchen.tasks.cells import first_line

_FASTEST = 1_000_000
"""Samples a second: more than any recording has. The filter that changes a rate grows with it."""
_MOST = 1 << 28
"""Samples of a recording, of all its channels: 4.6 hours at 16 kHz; files may claim any number."""
_BLOCK = 1 << 16


def to_inputs(
    examples: dict[str, list[Any]],
    numbers: list[int],
    column: str,
    rows: list[int],
    extractor: Any,
    default_rate: int | None,
    taken: tuple[str, ...],
) -> dict[str, Any]:
    """The feature extractor's inputs of recordings, as far as the model takes them (`taken`).

    Beside them `samples` and `steps`: the lengths of each recording and of its inputs.
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
    """The samples of a recording, float32, `rate` in a second.

    Args:
        audio: {"bytes": …, "path": …} as `datasets.Audio` holds it, {"array": …, "sampling_rate": …}, or
            numbers.
        default_rate: of a recording that does not say its own; None for `rate`.

    Raises:
        OSError: if its file cannot be read.
        ValueError: if it holds no sound, or needs a package that is not there.
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
    """Samples of `rate` a second as those of `wanted`, put through a filter that keeps what both can hold."""
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
    """The samples of a file, the mean of its channels, and their rate a second."""
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
