"""Image classification: one label for an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import PIL.Image
import torch
from datasets.fingerprint import Hasher
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    default_data_collator,
)

from soupkitchen.errors import CheckpointError, DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.tasks.base import Batch, Processor, labels
from soupkitchen.tasks.classification import decided, encode_labels
from soupkitchen.tasks.columns import IMAGE, LABEL, Wanted
from soupkitchen.tasks.data import Data, check_columns, first_line
from soupkitchen.tasks.local_files import stamp
from soupkitchen.tasks.values import check_filled, row_of


@dataclass(frozen=True)
class ImageClassification:
    """Scores image-classification models.

    Attributes:
        data: where the images are.
        metric: accuracy, f1_macro, cross_entropy, …
        image: the column of the image, a `datasets.Image` feature; paths in a column of text will do.
        label: the column of the label: its number, or its name in the model's `label2id`.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (IMAGE, LABEL)

    data: Data
    metric: TaskMetric
    image: str = "image"
    label: str = "label"

    @property
    def model_class(self) -> type:
        return AutoModelForImageClassification

    @property
    def processor_files(self) -> tuple[str, ...]:
        """The files of which a folder with an image processor has one."""
        return "preprocessor_config.json", "processor_config.json"

    @property
    def content_columns(self) -> tuple[str, ...]:
        return (self.image,)

    @property
    def stratify_column(self) -> str:
        return self.label

    def load_processor(self, folder: str, trust_remote_code: bool = False) -> Processor:
        try:
            return AutoImageProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except Exception as error:  # whatever a strange preprocessor_config.json makes of it
            raise CheckpointError(
                f"{folder} has no image processor that transformers can load ({first_line(error)}); "
                "install what it lacks, or copy the preprocessor_config.json of the base model there"
            ) from error

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        check_columns(split, {"task.image": self.image, "task.label": self.label})
        encoded_labels = encode_labels(split, self.label, model.config)
        images = self.compared(split)
        check_filled(images, "task.image", self.image)
        options = {
            "column": self.image,
            "processor": processor,
            "rows": [row_of(split, number) for number in range(len(split))],
            "files": stamp(_files(images, self.image)),
            "taken": tuple(signature(model.forward).parameters),
        }
        kept = Path(datasets.config.HF_DATASETS_CACHE) / "soupkitchen" / "images"  # and not beside the data
        kept.mkdir(parents=True, exist_ok=True)
        digest = Hasher.hash((images._fingerprint, options))
        prepared = images.map(
            _to_inputs,
            batched=True,
            with_indices=True,
            batch_size=64,
            remove_columns=split.column_names,
            fn_kwargs=options,
            cache_file_name=str(kept / f"{digest}.arrow") if images.cache_files else None,
        )
        return prepared.add_column("labels", encoded_labels).with_format("torch")

    def compared(self, split: datasets.Dataset) -> datasets.Dataset:
        """The split with its images as such, and not yet decoded: what makes two examples the same."""
        try:
            return split.cast_column(self.image, datasets.Image(decode=False))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise DataError(
                f"task.image={self.image}: the column holds no images ({first_line(error)}); it should hold "
                "images, or the paths of their files"
            ) from error

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return labels(prepared)

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        return default_data_collator

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        told = model(**inputs)
        # PP-LCNet calls its logits otherwise
        return decided(told.logits if "logits" in told else told.last_hidden_state, self.metric)


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
        given = processor(pictures, return_tensors="np")
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"task.image={column}: {type(processor).__name__} cannot prepare rows {rows[numbers[0]]} to "
            f"{rows[numbers[-1]]} as one batch ({first_line(error)}); images of one size may help"
        ) from error
    if inputs := {name: value for name, value in given.items() if name in taken}:
        return inputs
    raise DataError(
        f"{type(processor).__name__} gives {', '.join(given)}, of which the model takes none (it takes "
        f"{', '.join(taken)}): the image processor is not the model's"
    )


def _files(images: datasets.Dataset, column: str) -> list[str]:
    """The files in which the images are, or the table that holds them, but for `datasets`' own copies."""
    table = images.select_columns([column]).with_format("arrow")
    tables = [Path(file["filename"]) for file in images.cache_files]
    inside = [str(file) for file in tables if not file.is_relative_to(datasets.config.HF_DATASETS_CACHE)]
    paths = (image["path"] for part in table.iter(batch_size=1000) for image in part[column].to_pylist())
    return [*inside, *(path for path in paths if path is not None)]
