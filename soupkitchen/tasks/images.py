"""Images: from files to what an image processor makes of them."""

from __future__ import annotations

from inspect import signature
from typing import Any

import datasets
import numpy as np
import PIL.Image
from transformers import PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.tasks.base import Processor, Source
from soupkitchen.tasks.data import first_line, folders_of
from soupkitchen.tasks.media import prepared_once, undecoded
from soupkitchen.tasks.values import check_filled


def stored_images(split: datasets.Dataset, column: str, data: Source) -> datasets.Dataset:
    """The split with its images as such, and not yet decoded: what makes two examples the same."""
    return undecoded(split, "task.image", column, datasets.Image, "images", folders_of(data))


def prepared_images(
    split: datasets.Dataset, column: str, processor: Processor, model: PreTrainedModel
) -> datasets.Dataset:
    """What the image processor makes of stored images and the model takes.

    Raises:
        DataError: for an image that is missing or cannot be read, by its row.
    """
    check_filled(split, "task.image", column)
    options = {"processor": processor, "taken": tuple(signature(model.forward).parameters)}
    return prepared_once(split, column, _to_inputs, options, folder="images", batch_size=64)


def _to_inputs(
    examples: dict[str, list[Any]],
    numbers: list[int],
    column: str,
    processor: Processor,
    rows: list[int],
    files: str,
    taken: tuple[str, ...],
) -> dict[str, Any]:
    """What the processor makes of images and the model takes.

    `files` tells `datasets`, which keeps the result, one state of the image files from another.
    """
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
        given = processor(pictures, return_tensors="pt")  # timm's gives nothing else
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"task.image={column}: {type(processor).__name__} cannot prepare rows {rows[numbers[0]]} to "
            f"{rows[numbers[-1]]} as one batch ({first_line(error)}); images of one size may help"
        ) from error
    if inputs := {name: np.asarray(value) for name, value in given.items() if name in taken}:
        return inputs
    raise DataError(
        f"{type(processor).__name__} gives {', '.join(given)}, of which the model takes none (it takes "
        f"{', '.join(taken)}): the image processor is not the model's"
    )
