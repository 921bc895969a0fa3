"""Image-text retrieval: whether models find the text of an image, and the image of a text, among all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from transformers import AutoModel, AutoProcessor, PreTrainedModel

from soupkitchen.errors import CheckpointError
from soupkitchen.metrics import TaskMetric
from soupkitchen.options.kinds import AnyText, AtLeast1
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.columns import CAPTION, IMAGE, Wanted
from soupkitchen.tasks.data import Data, check_columns, first_line
from soupkitchen.tasks.images import prepared_images, stored_images
from soupkitchen.tasks.overlap import content
from soupkitchen.tasks.texts import check_tokens, has_vocabulary, longest
from soupkitchen.tasks.values import texts_of


@dataclass(frozen=True)
class ImageTextRetrieval:
    """Scores models that put images and texts into one space (CLIP, SigLIP). Metrics: retrieval_recall.

    Each row is an image and a text that belongs to it. The images, and the texts, of the whole split
    are the candidates; an image that is in several rows has several right texts. Whether a row is right is
    known only once all are scored, so that no candidate is given up before.

    Attributes:
        data: where images and texts are.
        metric: retrieval_recall.
        image: the column of the image, a `datasets.Image` feature; paths in a column of text will do.
        text: the column of the text.
        prompt: what comes before each text, as "a photo of "; None for nothing.
        max_length: tokens after which a text is cut; None for the model's limit.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (IMAGE, CAPTION)

    data: Data
    metric: TaskMetric
    image: str = "image"
    text: str = "text"
    prompt: AnyText | None = None
    max_length: AtLeast1 | None = None

    @property
    def model_class(self) -> type:
        return AutoModel

    @property
    def processor_files(self) -> tuple[str, ...]:
        """The files of which a folder with an image processor has one."""
        return "preprocessor_config.json", "processor_config.json"

    @property
    def content_columns(self) -> tuple[str, ...]:
        return self.image, self.text

    @property
    def stratify_column(self) -> str | None:
        return None

    def load_processor(self, folder: str, trust_remote_code: bool = False) -> Processor:
        try:
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except Exception as error:  # whatever a strange preprocessor_config.json makes of it
            raise CheckpointError(
                f"{folder} has no image processor and tokenizer that transformers can load "
                f"({first_line(error)}); install what they lack, or copy the base model's files there"
            ) from error
        tokenizer = getattr(processor, "tokenizer", None)
        if not hasattr(processor, "image_processor") or not has_vocabulary(tokenizer, Path(folder)):
            raise CheckpointError(
                f"{folder} has files of a {type(processor).__name__}, where an image processor and a "
                "tokenizer with its vocabulary are needed; copy those of the base model there"
            )
        return processor

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        check_columns(split, {"task.image": self.image, "task.text": self.text})
        if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
            raise CheckpointError(
                f"{type(model).__name__} does not put images and texts into one space; this task needs "
                "models such as CLIP and SigLIP"
            )
        images, texts = self.compared(split), texts_of(split, "task.text", self.text)
        prepared = prepared_images(images, self.image, processor.image_processor, model)
        # SigLIP was trained on texts of one length, and without a mask
        fixed = str(model.config.model_type).startswith("siglip")
        encoded = processor.tokenizer(
            [f"{self.prompt or ''}{text}" for text in texts],
            truncation=True,
            max_length=self.max_length or self._limit(processor.tokenizer, model),
            padding="max_length" if fixed else False,
        )
        check_tokens(split, "task.text", self.text, encoded["input_ids"], model, processor.tokenizer)
        taken = signature(model.forward).parameters
        columns = {name: list(values) for name, values in encoded.items() if name in taken}
        columns["of_image"] = _numbers(list(_contents(images, self.image)))
        columns["of_text"] = _numbers(texts)
        told = datasets.Dataset.from_dict(columns)
        return datasets.concatenate_datasets([prepared, told], axis=1).with_format("numpy")

    def compared(self, split: datasets.Dataset) -> datasets.Dataset:
        """The split with its images as such, and not yet decoded: what makes two examples the same."""
        return stored_images(split, self.image, self.data)

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        """The numbers of each row's image and text: int64 (examples, 2)."""
        return np.stack([prepared["of_image"][:], prepared["of_text"][:]], axis=1)

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        of_texts = ("input_ids", "attention_mask", "token_type_ids", "position_ids")

        def collate(examples: list[dict[str, Any]]) -> Batch:
            names = [name for name in examples[0] if name not in ("of_image", "of_text")]
            texts = {n: [one[n].tolist() for one in examples] for n in names if n in of_texts}
            pixels = {n: np.stack([one[n] for one in examples]) for n in names if n not in of_texts}
            batch = dict(processor.tokenizer.pad(texts, return_tensors="pt"))
            return batch | {name: torch.from_numpy(values) for name, values in pixels.items()}

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        """The embeddings of each image and its text, of length 1, side by side: float32 (rows, 2 · width)."""
        told = model(**batch)
        embedded = (told.image_embeds.float(), told.text_embeds.float())
        return torch.cat([torch.nn.functional.normalize(one, dim=-1) for one in embedded], dim=1)

    def _limit(self, tokenizer: Processor, model: PreTrainedModel) -> int:
        """How many tokens a text may have."""
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return min(longest(tokenizer, model, None), positions or longest(tokenizer, model, None))


def _contents(images: datasets.Dataset, column: str) -> Iterator[Any]:
    """What tells one image from another."""
    for part in images.select_columns([column]).with_format("arrow").iter(batch_size=100):
        yield from map(content, part[column].to_pylist())


def _numbers(things: list[Any]) -> list[int]:
    """A number for each of them, the same for the same."""
    known: dict[Any, int] = {}
    return [known.setdefault(thing, len(known)) for thing in things]
