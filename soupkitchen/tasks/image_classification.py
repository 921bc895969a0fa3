"""Image classification: one label for an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    default_data_collator,
)

from soupkitchen.errors import DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.tasks.base import Batch, Processor, labels
from soupkitchen.tasks.classification import decided, encode_labels
from soupkitchen.tasks.data import Data, check_columns


@dataclass(frozen=True)
class ImageClassification:
    """Scores image-classification models.

    Attributes:
        data: where the images are.
        metric: accuracy, f1_macro, cross_entropy, …
        image: the column of the image, a `datasets.Image` feature; paths in a column of text will do.
        label: the column of the label: its number, or its name in the model's `label2id`.
    """

    data: Data
    metric: TaskMetric
    image: str = "image"
    label: str = "label"

    @property
    def model_class(self) -> type:
        return AutoModelForImageClassification

    @property
    def content_columns(self) -> tuple[str, ...]:
        return (self.image,)

    @property
    def stratify_column(self) -> str:
        return self.label

    def load_processor(self, folder: str, trust_remote_code: bool = False) -> Processor:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        check_columns(split, {"task.image": self.image, "task.label": self.label})
        encoded_labels = encode_labels(split, self.label, model.config)
        if not isinstance(split.features[self.image], datasets.Image):
            try:
                split = split.cast_column(self.image, datasets.Image())
            except (TypeError, ValueError, NotImplementedError) as error:
                raise DataError(f"task.image={self.image}: the column holds no images ({error})") from error

        prepared = split.map(
            _to_pixels,
            batched=True,
            batch_size=64,
            remove_columns=split.column_names,
            fn_kwargs={"column": self.image, "processor": processor},
        )
        return prepared.add_column("labels", encoded_labels).with_format("torch")

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return labels(prepared)

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        return default_data_collator

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        return decided(model(pixel_values=batch["pixel_values"]).logits, self.metric)


def _to_pixels(examples: dict[str, list[Any]], column: str, processor: Processor) -> dict[str, Any]:
    images = [image.convert("RGB") for image in examples[column]]
    return {"pixel_values": processor(images, return_tensors="np")["pixel_values"]}
