"""Speech recognition: what a model writes down of a recording, compared with what was said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
import torch
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor, PreTrainedModel
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.beside import check_generation
from soupkitchen.errors import CheckpointError, ConfigError, DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.columns import AUDIO, TRANSCRIPT, Wanted
from soupkitchen.tasks.data import Data, check_columns, first_line, folders_of
from soupkitchen.tasks.media import prepared_once, undecoded
from soupkitchen.tasks.sound import to_inputs
from soupkitchen.tasks.texts import has_vocabulary, unwrapped
from soupkitchen.tasks.values import row_of, texts_of

log = logging.getLogger(__name__)

_BEGINNING = 4
"""Tokens with which Whisper begins a transcript: its start, the language, the task, and no timestamps."""


@dataclass(frozen=True)
class SpeechRecognition:
    """Scores models that write down speech, by the likeliest tokens: no sampling, no language model beside.

    A recording is put to the feature extractor's sampling rate. What that cuts off (Whisper's, after 30
    seconds) is not heard, and a warning says of how many recordings.

    Attributes:
        data: where recordings and transcripts are.
        metric: word_error_rate, character_error_rate, exact_match.
        architecture: "seq2seq" models generate (Whisper, Speech2Text); "ctc" models say a character for each
            frame (wav2vec 2.0, HuBERT): the likeliest are taken, without repetitions and blanks.
        audio: the column of recordings: `datasets.Audio`, paths, bytes, numbers, or {array, sampling_rate}.
        text: the column of what is said.
        normalize: what is done to both texts before they are compared: "none", or "basic" for lower case
            without punctuation and what stands in brackets, as Whisper's basic normaliser has it.
        sampling_rate: of columns of numbers; None for the feature extractor's.
        language: that a multilingual Whisper is told; None for what the model's generation_config.json
            says, and else what it finds by itself for each recording.
        max_new_tokens: how much is generated at most; None for the model's limit.
        num_beams: 1 for the likeliest token each time, more for beam search.

    Source: Graves et al. 2006, "Connectionist temporal classification", section 3.2.
        Radford et al. 2022, "Robust speech recognition via large-scale weak supervision", arXiv 2212.04356.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (AUDIO, TRANSCRIPT)

    data: Data
    metric: TaskMetric
    architecture: Literal["seq2seq", "ctc"] = "seq2seq"
    audio: str = "audio"
    text: str = "text"
    normalize: Literal["none", "basic"] = "none"
    sampling_rate: AtLeast1 | None = None
    language: str | None = None
    max_new_tokens: AtLeast1 | None = None
    num_beams: AtLeast1 = 1

    def __post_init__(self) -> None:
        for option, choices in {"architecture": ("seq2seq", "ctc"), "normalize": ("none", "basic")}.items():
            if getattr(self, option) not in choices:
                raise ConfigError(f"task.{option}={getattr(self, option)}: choose {' or '.join(choices)}")

    @property
    def model_class(self) -> type:
        return AutoModelForCTC if self.architecture == "ctc" else AutoModelForSpeechSeq2Seq

    @property
    def processor_files(self) -> tuple[str, ...]:
        """The files of which a folder with a feature extractor has one."""
        return "preprocessor_config.json", "processor_config.json"

    @property
    def processor_name(self) -> str:
        """What such files are of, in words."""
        return "feature extractor"

    @property
    def content_columns(self) -> tuple[str, ...]:
        return (self.audio,)

    @property
    def stratify_column(self) -> str | None:
        return None

    def load_processor(self, folder: str, trust_remote_code: bool = False) -> Processor:
        try:
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except Exception as error:  # whatever a strange preprocessor_config.json makes of it
            raise CheckpointError(
                f"{folder} has no feature extractor and tokenizer that transformers can load "
                f"({first_line(error)}); install what they lack, or copy the base model's files there"
            ) from error
        tokenizer = getattr(processor, "tokenizer", None)
        if not hasattr(processor, "feature_extractor") or tokenizer is None:
            raise CheckpointError(
                f"{folder} has files of a {type(processor).__name__}, where a feature extractor and a "
                "tokenizer are needed; copy those of the base model there"
            )
        if not has_vocabulary(tokenizer, Path(folder)):
            raise CheckpointError(
                f"{folder} has no file with the vocabulary of its tokenizer ({type(tokenizer).__name__}); "
                "copy the base model's tokenizer files there"
            )
        return processor

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        check_columns(split, {"task.audio": self.audio, "task.text": self.text})
        self._check_model(model)
        references = [self._compared(text) for text in texts_of(split, "task.text", self.text)]
        for number, reference in enumerate(references):
            if not reference:
                raise DataError(
                    f"task.text={self.text}: row {row_of(split, number)} has no words (task.normalize="
                    f"{self.normalize}), and errors are a share of these; leave the row out"
                )
        extractor = processor.feature_extractor
        options = {
            "extractor": extractor,
            "told": self.sampling_rate,
            "taken": tuple(signature(model.forward).parameters),
        }
        prepared = prepared_once(
            self.compared(split), self.audio, to_inputs, options, folder="sounds", batch_size=16
        )
        told = prepared.with_format("numpy")
        sizes, steps = told["samples"][:], told["steps"][:]
        if (limit := getattr(extractor, "n_samples", None)) is not None and (
            cut := int((sizes > limit).sum())
        ):
            log.warning(
                "%d of %d recordings are longer than the %g s that the model hears: the rest of them is cut",
                cut,
                len(sizes),
                limit / extractor.sampling_rate,
            )
        prepared = prepared.remove_columns(["samples", "steps"]).add_column("reference", references)
        if self.architecture == "ctc":
            prepared = prepared.add_column("length", sizes)
            if (frames := self._frames(split, steps, model)) is not None:
                prepared = prepared.add_column("frames", frames)
        return prepared.with_format("numpy")

    def compared(self, split: datasets.Dataset) -> datasets.Dataset:
        """The split with its recordings as they are stored: what makes two examples the same."""
        feature = split.features[self.audio]
        is_numbers = not isinstance(feature, (datasets.Audio, datasets.Value, dict)) or (
            isinstance(feature, dict) and "array" in feature
        )
        if is_numbers:
            return split
        folders = folders_of(self.data)
        return undecoded(split, "task.audio", self.audio, datasets.Audio, "recordings", folders)

    def references(self, prepared: datasets.Dataset) -> list[str]:
        return prepared["reference"][:]

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        extractor = processor.feature_extractor

        def collate(examples: list[dict[str, Any]]) -> Batch:
            inputs = [{n: x for n, x in one.items() if n not in ("reference", "frames")} for one in examples]
            batch = dict(extractor.pad(inputs, padding=True, return_tensors="pt"))
            if "frames" in examples[0]:
                batch["frames"] = torch.tensor([int(example["frames"]) for example in examples])
            return batch

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[str]:
        inputs = {name: value for name, value in batch.items() if name != "frames"}
        if self.architecture == "ctc":
            likeliest = model(**inputs).logits.argmax(-1)
            frames = batch["frames"].tolist() if "frames" in batch else [likeliest.shape[1]] * len(likeliest)
            spoken = [row[:number].tolist() for row, number in zip(likeliest, frames, strict=True)]
            return [self._compared(processor.tokenizer.decode(row)) for row in spoken]
        generator = unwrapped(model)
        for name, value in inputs.items():  # the encoder is called by itself, and takes its own dtype only
            inputs[name] = value.to(generator.dtype) if value.is_floating_point() else value
        options = {"language": self.language, "max_new_tokens": self.max_new_tokens}
        if self.max_new_tokens is None:
            options["max_length"] = getattr(generator.config, "max_target_positions", None)
        told = {option: value for option, value in options.items() if value is not None}
        generated = generator.generate(**inputs, do_sample=False, num_beams=self.num_beams, **told)
        written = processor.tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [self._compared(text) for text in written]

    def fitted_to(self, runs: Sequence[Checkpoint]) -> SpeechRecognition:
        """The task itself; runs that generate in other ways are refused."""
        if self.architecture != "ctc":
            check_generation(runs)
        return self

    def _compared(self, text: str) -> str:
        return (BasicTextNormalizer()(text) if self.normalize == "basic" else text).strip()

    def _check_model(self, model: PreTrainedModel) -> None:
        """Checks that the model can do what the options ask of its generation.

        Raises:
            ConfigError: where it cannot.
        """
        limit = getattr(model.config, "max_target_positions", None)
        if self.max_new_tokens and limit and self.max_new_tokens > limit - _BEGINNING:
            raise ConfigError(
                f"task.max_new_tokens={self.max_new_tokens}: the model writes {limit} tokens at most, with "
                f"the {_BEGINNING} that a transcript begins with; set {limit - _BEGINNING} or less, or null"
            )
        if self.language is not None and not hasattr(model.generation_config, "lang_to_id"):
            raise ConfigError(
                f"task.language={self.language}: {type(model).__name__} is no multilingual Whisper, whose "
                "generation_config.json lists languages as lang_to_id; leave it null"
            )

    def _frames(self, split: datasets.Dataset, steps: np.ndarray, model: PreTrainedModel) -> list[int] | None:
        """How many frames the model makes of each recording; None where it does not tell.

        Raises:
            DataError: where a recording is too short for one.
        """
        of_steps = getattr(model, "_get_feat_extract_output_lengths", None)
        if of_steps is None:
            return None
        frames: list[int] = of_steps(torch.tensor(steps)).tolist()
        if min(frames) < 1:
            raise DataError(
                f"task.audio={self.audio}: row {row_of(split, int(np.argmin(frames)))} is shorter than one "
                "frame of the model; leave it out"
            )
        return frames
