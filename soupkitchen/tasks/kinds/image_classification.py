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
    PreTrainedModel,
    ProcessorMixin,
    default_data_collator,
)

from soupkitchen.errors import CheckpointError, ConfigError
from soupkitchen.metrics import TaskMetric
from soupkitchen.tasks.base import Batch, Processor, decided, labels
from soupkitchen.tasks.columns import IMAGE, LABEL, Wanted
from soupkitchen.tasks.data import Data, check_columns, first_line
from soupkitchen.tasks.images import prepared_images, stored_images
from soupkitchen.tasks.labels import Labelled


@dataclass(frozen=True)
class ImageClassification(Labelled):
    """Scores image-classification models: those of transformers, and others that put out logits.

    The latter are given, by the name of their first argument, tensors that `model.processor` makes of images.

    Attributes:
        data: where the images are.
        metric: accuracy, f1_macro, cross_entropy, …
        image: the column of the image, a `datasets.Image` feature; paths in a column of text will do.
        label: the column of the label.
        labels: how labels are read; see `soupkitchen.tasks.labels`.
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
        check_columns(split, {"task.image": self.image})
        encoded_labels = self.encoded(split, model)
        images = self.compared(split)
        if processor is None:
            raise ConfigError(
                "task=image_classification needs what makes tensors of images: "
                "model.processor=my_module.transform, which gets the model and gives that"
            )
        if not isinstance(processor, BaseImageProcessor | ProcessorMixin):
            processor = _Transform(processor, next(iter(signature(model.forward).parameters)))
        prepared = prepared_images(images, self.image, processor, model)
        return prepared.add_column("labels", encoded_labels).with_format("torch")

    def compared(self, split: datasets.Dataset) -> datasets.Dataset:
        """The split with its images as such, and not yet decoded: what makes two examples the same."""
        return stored_images(split, self.image, self.data)

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return labels(prepared)

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        return default_data_collator

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        told = model(**inputs)
        if not isinstance(told, torch.Tensor):  # PP-LCNet calls its logits otherwise
            told = told.logits if "logits" in told else told.last_hidden_state
        return decided(told, self.metric)


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
