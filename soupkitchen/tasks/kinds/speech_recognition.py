"""Speech recognition: transcripts compared with the spoken text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Literal

import datasets
import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq, PreTrainedModel
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.compatibility import check_generation
from soupkitchen.errors import ConfigError, DataError
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.tasks.base import Batch, DataTask, Examples, Processor, without
from soupkitchen.tasks.columns import AUDIO, TRANSCRIPT, check_column, row_of
from soupkitchen.tasks.media import PROCESSOR_FILES, load_both, prepared_once, to_inputs, undecoded
from soupkitchen.tasks.texts import unwrapped

log = logging.getLogger(__name__)

_BEGINNING = 4
"""Tokens before a transcript of Whisper: start, language, task, no timestamps."""


@dataclass(frozen=True)
class SpeechRecognition(DataTask):
    """Scores models that transcribe speech, by the likeliest tokens: no sampling, no language model.

    Recordings get the feature extractor's sampling rate. The extractor may cut long ones (Whisper's after 30
    seconds); a warning says how many.

    Attributes:
        data: recordings and transcripts.
        metric: word_error_rate, character_error_rate, exact_match.
        architecture: "seq2seq" models generate (Whisper, Speech2Text); "ctc" models label frames (wav2vec
            2.0, HuBERT), and repetitions and blanks are dropped.
        audio: the column of recordings: `datasets.Audio`, paths, bytes, numbers, or {array, sampling_rate}.
        text: the column of spoken texts.
        normalize: "none", or "basic": lower case, no punctuation or bracketed text, by Whisper's normaliser.
        sampling_rate: of columns of numbers, in Hz; None for the feature extractor's.
        language: for a multilingual Whisper; None for that of generation_config.json, else the model's guess.
        max_new_tokens: the most tokens to generate; None for the model's limit.
        num_beams: 1 for greedy decoding, more for beam search.

    Source: Graves et al. 2006, "Connectionist temporal classification", section 3.2.
        Radford et al. 2022, "Robust speech recognition via large-scale weak supervision", arXiv 2212.04356.
    """

    looked_for = (AUDIO, TRANSCRIPT)
    content = ("audio",)
    processor_files = PROCESSOR_FILES
    processor_name = "feature extractor"

    architecture: Literal["seq2seq", "ctc"] = "seq2seq"
    audio: str = "audio"
    text: str = "text"
    normalize: Literal["none", "basic"] = "none"
    sampling_rate: AtLeast1 | None = None
    language: str | None = None
    max_new_tokens: AtLeast1 | None = None
    num_beams: AtLeast1 = 1

    @property
    def model_class(self) -> type:
        return AutoModelForCTC if self.architecture == "ctc" else AutoModelForSpeechSeq2Seq

    def load_processor(self, folder: str, trust_remote_code: bool = False) -> Processor:
        return load_both(folder, trust_remote_code, "feature_extractor")

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        check_column(split, "task.audio", self.audio)
        self._check_model(model)
        references = [self._compared(text) for text in self.texts(split, "text")]
        if "" in references:
            raise DataError(
                f"task.text={self.text}: row {row_of(split, references.index(''))} has no words "
                f"(task.normalize={self.normalize}), and errors are a share of these; leave the row out"
            )
        extractor = processor.feature_extractor
        options = {
            "extractor": extractor,
            "default_rate": self.sampling_rate,
            "taken": tuple(signature(model.forward).parameters),
        }
        prepared = prepared_once(
            self.compared(split), self.audio, to_inputs, options, folder="sounds", batch_size=16
        )
        columns = prepared.with_format("numpy")
        sizes, steps = columns["samples"][:], columns["steps"][:]
        limit = getattr(extractor, "n_samples", None)
        if limit is not None and (cut := int((sizes > limit).sum())):
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

    def compared(self, split: Dataset) -> Dataset:
        feature = split.features[self.audio]
        is_struct = isinstance(feature, dict) and "array" not in feature
        if is_struct or isinstance(feature, (datasets.Audio, datasets.Value)):
            return undecoded(self, split, "audio", datasets.Audio, "recordings")
        return split  # of numbers

    def references(self, prepared: Dataset) -> list[str]:
        return prepared["reference"][:]

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        extractor = processor.feature_extractor
        inputs = [without(example, "reference", "frames") for example in examples]
        batch = dict(extractor.pad(inputs, padding=True, return_tensors="pt"))
        if "frames" in examples[0]:
            batch["frames"] = torch.tensor([int(example["frames"]) for example in examples])
        return batch

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[str]:
        inputs = without(batch, "frames")
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
        given = {option: value for option, value in options.items() if value is not None}
        generated = generator.generate(**inputs, do_sample=False, num_beams=self.num_beams, **given)
        written = processor.tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [self._compared(text) for text in written]

    def fitted_to(self, runs: Sequence[Checkpoint]) -> SpeechRecognition:
        """The task itself; runs that generate differently are refused."""
        if self.architecture != "ctc":
            check_generation(runs)
        return self

    def _compared(self, text: str) -> str:
        return (BasicTextNormalizer()(text) if self.normalize == "basic" else text).strip()

    def _check_model(self, model: PreTrainedModel) -> None:
        """Raises `ConfigError` if the model cannot generate as the options say."""
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

    def _frames(self, split: Dataset, steps: np.ndarray, model: PreTrainedModel) -> list[int] | None:
        """The number of frames of each recording; None if the model does not say.

        Raises:
            DataError: if a recording is too short for one.
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
