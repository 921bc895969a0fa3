"""Image classification: one label for an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import datasets
import numpy as np
import PIL.Image
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    default_data_collator,
)

from soupkitchen.errors import CheckpointError, ConfigError, DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.tasks.base import Batch, Processor, labels
from soupkitchen.tasks.classification import decided, encode_labels, numbered
from soupkitchen.tasks.columns import IMAGE, LABEL, Wanted
from soupkitchen.tasks.data import Data, check_columns, first_line
from soupkitchen.tasks.media import prepared_once, undecoded
from soupkitchen.tasks.values import check_filled


@dataclass(frozen=True)
class ImageClassification:
    """Scores image-classification models: those of transformers, and others that put out logits.

    The latter are given, by the name of their first argument, tensors that `model.processor` makes of images.

    Attributes:
        data: where the images are.
        metric: accuracy, f1_macro, cross_entropy, …
        image: the column of the image, a `datasets.Image` feature; paths in a column of text will do.
        label: the column of the label: its number, or its name in the model's `label2id`.
    """

    takes_any_model: ClassVar[bool] = True
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
        config = getattr(model, "config", None)
        if isinstance(config, PreTrainedConfig):
            encoded_labels = encode_labels(split, self.label, config)
        else:
            encoded_labels = numbered(split, self.label)
        taken = tuple(signature(model.forward).parameters)
        if processor is None:
            raise ConfigError(
                "task=image_classification needs what makes tensors of images: "
                "model.processor=my_module.transform, which gets the model and gives that"
            )
        if not isinstance(processor, BaseImageProcessor | ProcessorMixin):
            processor = _Transform(processor, taken[0])
        images = self.compared(split)
        check_filled(images, "task.image", self.image)
        options = {"processor": processor, "taken": taken}
        prepared = prepared_once(images, self.image, _to_inputs, options, folder="images", batch_size=64)
        return prepared.add_column("labels", encoded_labels).with_format("torch")

    def compared(self, split: datasets.Dataset) -> datasets.Dataset:
        """The split with its images as such, and not yet decoded: what makes two examples the same."""
        return undecoded(split, "task.image", self.image, datasets.Image, "images")

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return labels(prepared)

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        return default_data_collator

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        output = model(**inputs)
        return decided(output if isinstance(output, torch.Tensor) else output.logits, self.metric)


@dataclass(frozen=True)
class _Transform:
    """An image processor made of what makes a tensor of one image.

    Attributes:
        of: that, as `torchvision.transforms` has it.
        name: the model's name for what it makes.
    """

    of: Callable[[PIL.Image.Image], Any]
    name: str

    def __call__(self, pictures: Sequence[PIL.Image.Image], return_tensors: str) -> dict[str, Any]:
        return {self.name: np.stack([np.asarray(self.of(picture)) for picture in pictures])}


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
