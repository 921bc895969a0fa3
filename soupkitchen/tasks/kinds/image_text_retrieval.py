"""Image-text retrieval: finding the text of an image, and the image of a text, among all."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import AutoModel, PreTrainedModel

from soupkitchen.errors import CheckpointError
from soupkitchen.options.kinds import AnyText, AtLeast1
from soupkitchen.tasks.base import Batch, Examples, Processor
from soupkitchen.tasks.columns import CAPTION, IMAGE
from soupkitchen.tasks.files import content_of
from soupkitchen.tasks.media import ImageTask, load_both
from soupkitchen.tasks.texts import check_tokens, longest

_OF_TEXTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


@dataclass(frozen=True)
class ImageTextRetrieval(ImageTask):
    """Scores models with one space for images and texts (CLIP, SigLIP).

    Each row is an image and a matching text. Candidates are all images, and all texts, of the split; an image
    in several rows has several right texts. No candidate is stopped early, because rows are right or wrong
    only once all are scored.

    Attributes:
        data: images and texts.
        metric: retrieval_recall.
        image: the column of images, `datasets.Image` or paths.
        text: the column of texts.
        prompt: text before each text, as "a photo of ", or None.
        max_length: the most tokens of a text; None for the model's limit.
    """

    model_class = AutoModel
    looked_for = (IMAGE, CAPTION)
    content = ("image", "text")

    text: str = "text"
    prompt: AnyText | None = None
    max_length: AtLeast1 | None = None

    def load_processor(self, folder: str, trust_remote_code: bool = False) -> Processor:
        return load_both(folder, trust_remote_code, "image_processor")

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
            raise CheckpointError(
                f"{type(model).__name__} does not put images and texts into one space; this task needs "
                "models such as CLIP and SigLIP"
            )
        images, texts = self.compared(split), self.texts(split, "text")
        prepared = self.prepared_images(images, processor.image_processor, model)
        # SigLIP was trained on texts of one length, and without a mask
        fixed = str(model.config.model_type).startswith("siglip")
        encoded = processor.tokenizer(
            [f"{self.prompt or ''}{text}" for text in texts],
            truncation=True,
            max_length=self.max_length or self._limit(processor.tokenizer, model),
            padding="max_length" if fixed else False,
        )
        check_tokens(self, split, "text", encoded["input_ids"], model, processor.tokenizer)
        taken = signature(model.forward).parameters
        columns = {name: list(values) for name, values in encoded.items() if name in taken}
        stored = images.select_columns([self.image]).with_format("arrow").iter(batch_size=100)
        contents = [content_of(file) for part in stored for file in part[self.image].to_pylist()]
        columns["labels"] = [list(pair) for pair in zip(_numbers(contents), _numbers(texts), strict=True)]
        return concatenate_datasets([prepared, Dataset.from_dict(columns)], axis=1).with_format("numpy")

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        names = [name for name in examples[0] if name != "labels"]
        columns = {name: [example[name] for example in examples] for name in names}
        texts = {name: [row.tolist() for row in columns[name]] for name in names if name in _OF_TEXTS}
        pixels = {name: torch.from_numpy(np.stack(columns[name])) for name in names if name not in texts}
        return {**processor.tokenizer.pad(texts, return_tensors="pt"), **pixels}

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        """Embeddings of image and text, of length 1, side by side: float32 (rows, 2 · width)."""
        output = model(**batch)
        embedded = (output.image_embeds.float(), output.text_embeds.float())
        return torch.cat([torch.nn.functional.normalize(part, dim=-1) for part in embedded], dim=1)

    def _limit(self, tokenizer: Processor, model: PreTrainedModel) -> int:
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return min(longest(tokenizer, model, None), positions or longest(tokenizer, model, None))


def _numbers(things: list[Any]) -> list[int]:
    """Numbers that are equal for equal things."""
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(thing, len(numbers)) for thing in things]
