"""Tiny models that write down tones: each letter is a tone of its own, a space is silence."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

RATE = 2000
LETTERS = "abcde"
WORDS = ("ab", "bad", "cab", "dead", "ace", "be")


def sentences(number: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, 4))) for _ in range(number)]


def spoken(text: str, seed: int, rate: int = RATE) -> np.ndarray:
    """Float32 samples, `rate` a second."""
    time = np.arange(int(0.06 * rate)) / rate
    tones = [
        0.5 * np.sin(2 * np.pi * (150 + 120 * LETTERS.index(letter)) * time) if letter != " " else 0 * time
        for letter in text
    ]
    whole = np.concatenate(tones)
    return (whole + 0.05 * np.random.default_rng(seed).standard_normal(len(whole))).astype(np.float32)


def write(file: Path, samples: np.ndarray, rate: int = RATE) -> None:
    """A .wav of 16 bits."""
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(np.round(samples * 2**15).astype("<i2").tobytes())


def ctc(folder: Path) -> tuple[transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2Processor]:
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(["<pad>", "|", *LETTERS])}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        folder / "vocab.json", unk_token="<pad>", pad_token="<pad>", bos_token=None, eos_token=None
    )
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, conv_dim=(32, 32), conv_kernel=(16, 4), conv_stride=(8, 3),
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, feat_extract_norm="layer",
        do_stable_layer_norm=True, pad_token_id=0, ctc_loss_reduction="mean", mask_time_prob=0,
    )  # fmt: skip
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True)
    return transformers.Wav2Vec2ForCTC(config), transformers.Wav2Vec2Processor(extractor, tokenizer)


def whisper(*more: str) -> tuple[transformers.WhisperForConditionalGeneration, transformers.WhisperProcessor]:
    """Hears a second; `more` are special tokens, numbered from 3 on."""
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>", *more]
    vocabulary = {token: number for number, token in enumerate([*special, *LETTERS, "Ġ"])}
    named = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), special[0])
    tokenizer = transformers.WhisperTokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=special[1:], **named
    )
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=10, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_source_positions=50, max_target_positions=24, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    extractor = transformers.WhisperFeatureExtractor(
        feature_size=10, sampling_rate=RATE, hop_length=20, chunk_length=1, n_fft=80
    )
    return transformers.WhisperForConditionalGeneration(config), transformers.WhisperProcessor(
        extractor, tokenizer
    )


def train(model: Any, processor: Any, rate: float, steps: int, seed: int) -> Any:
    """Trains `model` in place, without dropout."""
    said = sentences(64, seed=1)
    heard = [spoken(text, seed=number) for number, text in enumerate(said)]
    optimizer = torch.optim.AdamW(model.eval().parameters(), lr=rate)
    random = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = random.integers(0, len(said), 16)
        options = {"padding": True} if isinstance(model, transformers.Wav2Vec2ForCTC) else {}
        inputs = processor.feature_extractor(
            [heard[n] for n in chosen], sampling_rate=RATE, return_tensors="pt", **options
        )
        tokens = [processor.tokenizer(said[n])["input_ids"] for n in chosen]
        width = max(map(len, tokens))
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in tokens])
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model
