"""Image classification: one label an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel

from soupkitchen.errors import ConfigError
from soupkitchen.tasks.base import Batch, Examples, Processor, decided, load_with, without
from soupkitchen.tasks.columns import IMAGE, LABEL
from soupkitchen.tasks.labels import Labelled
from soupkitchen.tasks.media import ImageTask


@dataclass(frozen=True)
class ImageClassification(ImageTask, Labelled):
    """Scores image-classification models of transformers, and others that return logits.

    The others take tensors of `model.processor` as their first argument.

    Attributes:
        data: the images.
        metric: accuracy, f1_macro, cross_entropy, …
        image: the column of images, `datasets.Image` or paths.
        label: the column of labels.
        labels: see `soupkitchen.tasks.labels`.
    """

    model_class = transformers.AutoModelForImageClassification
    takes_any_model = True
    looked_for = (IMAGE, LABEL)
    content = ("image",)
    stratify = "label"

    label: str = "label"

    def load_processor(self, folder: str, trust_remote_code: bool = False) -> Processor:
        remedy = "install what it lacks, or copy the preprocessor_config.json of the base model there"
        loader = transformers.AutoImageProcessor
        return load_with(loader, folder, trust_remote_code, "image processor", remedy)

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        labels, images = self.encoded(split, model), self.compared(split)
        if processor is None:
            raise ConfigError(
                "task=image_classification needs what makes tensors of images: "
                "model.processor=my_module.transform, which gets the model and gives that"
            )
        if not isinstance(processor, transformers.BaseImageProcessor | transformers.ProcessorMixin):
            processor = _Transform(processor, next(iter(signature(model.forward).parameters)))
        prepared = self.prepared_images(images, processor, model)
        return prepared.add_column("labels", labels).with_format("torch")

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        return transformers.default_data_collator(examples)

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        output = model(**without(batch, "labels"))
        if not isinstance(output, torch.Tensor):  # PP-LCNet calls its logits otherwise
            output = output.logits if "logits" in output else output.last_hidden_state
        return decided(output, self.metric)


@dataclass(frozen=True)
class _Transform:
    """An image processor of one function from a PIL image to a tensor; `name` is the model's for it."""

    transform: Callable[[PIL.Image.Image], Any]
    name: str

    def __call__(self, pictures: Sequence[PIL.Image.Image], return_tensors: str) -> dict[str, Any]:
        return {self.name: np.stack([np.asarray(self.transform(picture)) for picture in pictures])}
