"""Speech recognition, held against plain transformers and the table of edit distances."""

from __future__ import annotations

import io
import logging
import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import speech
import torch
from command import soupkitchen
from hypothesis import given
from hypothesis import strategies as st
from scoring import rows, score
from speech import RATE, sentences, spoken
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor, GenerationConfig

from soupkitchen import metrics
from soupkitchen.errors import CheckpointError, ConfigError, DataError, MetricError
from soupkitchen.metrics.texts import edits
from soupkitchen.records import read_csv
from soupkitchen.tasks import Data, SpeechRecognition
from soupkitchen.tasks.files import count_overlap
from soupkitchen.tasks.media import _wav, resampled, samples

pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By architecture, two runs of one tiny model."""
    folder = tmp_path_factory.mktemp("speech")
    for architecture, steps in {"ctc": 80, "seq2seq": 60}.items():
        model, processor = speech.ctc(folder) if architecture == "ctc" else speech.whisper()
        speech.train(model, processor, rate=5e-3, steps=steps, seed=0)
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for number, name in enumerate(("a", "b")):
            model.load_state_dict(start)
            speech.train(model, processor, rate=3e-3, steps=10, seed=number + 1)
            model.save_pretrained(folder / architecture / name)
            processor.save_pretrained(folder / architecture / name)
    return folder


@pytest.fixture(scope="module")
def said() -> list[str]:
    return sentences(14, seed=2)


@pytest.fixture(scope="module")
def recorded(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Files at the model's rate, and what is said in them."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "data").mkdir()
    examples = []
    for number, text in enumerate(said):
        speech.write(folder / f"{number}.wav", spoken(text, seed=100 + number))
        examples.append({"audio": str(folder / f"{number}.wav"), "text": text})
    return rows(folder / "data", examples)


def task(data: Data, architecture: str, metric: str = "word_error_rate", **options: Any) -> SpeechRecognition:
    return SpeechRecognition(data, metrics.load(metric), architecture, **options)  # type: ignore[arg-type]


def naive(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The whole table of distances."""
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    table[:, 0], table[0] = range(len(one) + 1), range(len(other) + 1)
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
    return int(table[-1, -1])


def plain(folder: Path, architecture: str, heard: Sequence[np.ndarray]) -> list[str]:
    """What a run writes down, one recording at a time."""
    kind = AutoModelForCTC if architecture == "ctc" else AutoModelForSpeechSeq2Seq
    model, processor = kind.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    written = []
    for one in heard:
        inputs = processor(one, sampling_rate=RATE, return_tensors="pt")
        with torch.inference_mode():
            if architecture == "ctc":
                tokens = model(**inputs).logits.argmax(-1)
                written += processor.batch_decode(tokens)
            else:
                tokens = model.generate(**inputs, do_sample=False, max_length=24)
                written += processor.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip() for text in written]


@pytest.mark.parametrize("architecture", ["ctc", "seq2seq"])
def test_a_batch_is_written_down_as_single_recordings_are(architecture, pool, recorded, said):
    part = score(task(recorded, architecture), pool / architecture / "a", batch_size=5)
    heard = [spoken(text, seed=100 + number) for number, text in enumerate(said)]
    expected = plain(pool / architecture / "a", architecture, heard)
    assert part.predictions == expected
    assert len(set(expected)) > 5 if architecture == "ctc" else len(set(expected)) > 1
    total = sum(naive(p.split(), r.split()) for p, r in zip(expected, said, strict=True))
    assert 0 < -part.score == pytest.approx(total / sum(len(text.split()) for text in said))
    characters = score(task(recorded, architecture, "character_error_rate"), pool / architecture / "a")
    total = sum(map(naive, expected, said))
    assert -characters.score == pytest.approx(total / sum(map(len, said)))


def test_frames_of_padding_are_not_read(pool, recorded, said, tmp_path):
    """By a model that never says nothing."""
    model = AutoModelForCTC.from_pretrained(pool / "ctc" / "a")
    with torch.no_grad():
        model.lm_head.bias[0] -= 100
    model.save_pretrained(tmp_path / "run")
    AutoProcessor.from_pretrained(pool / "ctc" / "a").save_pretrained(tmp_path / "run")
    heard = [spoken(text, seed=100 + number) for number, text in enumerate(said)]
    part = score(task(recorded, "ctc"), tmp_path / "run", batch_size=len(said))
    assert part.predictions == plain(tmp_path / "run", "ctc", heard)


def test_the_soup_of_runs_is_scored_and_saved_with_its_processor(pool, recorded, said, tmp_path):
    words = [f"pool.path={pool}/ctc/*", "task=speech_recognition", f"task.data.path={recorded.path}",
             "task.architecture=ctc", "search=uniform", "evaluation.cache=null", "name=x"]  # fmt: skip
    soupkitchen(*words, "report.write=true", cwd=tmp_path)
    table = read_csv(tmp_path / "results/x/leaderboard.csv").set_index("model")["heldout_word_error_rate"]
    heard = [spoken(text, seed=100 + number) for number, text in enumerate(said)]
    for name in ("a", "b", "soup"):
        folder = tmp_path / "results/x/soup" if name == "soup" else pool / "ctc" / name
        pairs = zip(plain(folder, "ctc", heard), said, strict=True)
        total = sum(naive(p.split(), r.split()) for p, r in pairs)
        assert table[name] == pytest.approx(total / sum(len(text.split()) for text in said), abs=1e-6)
    assert "automatic-speech-recognition" in (tmp_path / "results/x/soup/README.md").read_text()


# Where sounds come from


def test_recordings_are_the_same_from_files_bytes_and_numbers(pool, recorded, said, tmp_path):
    files = [Path(str(recorded.path)).parent / f"{number}.wav" for number in range(len(said))]
    heard = [np.round(spoken(text, seed=100 + n) * 2**15) / 2**15 for n, text in enumerate(said)]
    ways: dict[str, list[Any]] = {
        "bytes": [file.read_bytes() for file in files],
        "numbers": [one.tolist() for one in heard],
        "dictionaries": [{"array": one.tolist(), "sampling_rate": RATE} for one in heard],
    }
    expected = score(task(recorded, "ctc"), pool / "ctc" / "a").predictions
    for name, column in ways.items():
        datasets.Dataset.from_dict({"audio": column, "text": said}).save_to_disk(str(tmp_path / name))
        data = Data(str(tmp_path / name), heldout="train", test=None)
        assert score(task(data, "ctc"), pool / "ctc" / "a").predictions == expected
    stored = datasets.Dataset.from_dict({"audio": list(map(str, files)), "text": said})
    stored = stored.cast_column("audio", datasets.Audio())
    stored.save_to_disk(str(tmp_path / "audio"))
    data = Data(str(tmp_path / "audio"), heldout="train", test=None)
    assert score(task(data, "ctc"), pool / "ctc" / "a").predictions == expected
    other = datasets.Dataset.from_dict({"audio": ways["bytes"][:3], "text": said[:3]})
    compared = [task(data, "ctc").compared(split) for split in (stored, other)]
    assert count_overlap(*compared, ["audio"]) == 3


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_files_of_each_width_are_read_and_their_channels_averaged(width, tmp_path):
    left, right = (spoken("ab", seed) for seed in (1, 2))
    scaled = np.round(np.stack([left, right], 1).astype(float) * (2 ** (8 * width - 1) - 1))
    content = (
        (scaled + 128).astype("u1").tobytes()
        if width == 1
        else scaled.astype("<i4").view("u1").reshape(-1, 4)[:, :width].tobytes()
    )
    with wave.open(str(tmp_path / "x.wav"), "wb") as sound:
        sound.setparams((2, width, RATE, 0, "NONE", ""))
        sound.writeframes(content)
    heard = samples({"bytes": None, "path": str(tmp_path / "x.wav")}, RATE, None)
    np.testing.assert_allclose(heard, (left + right) / 2, atol=2.0 ** (2 - 8 * min(width, 3)))


@pytest.mark.parametrize("rate", [8000, 11025, 1000])
def test_a_tone_at_another_rate_is_the_same_tone(rate):
    def tone(per_second: int) -> np.ndarray:
        return np.sin(2 * np.pi * 220 * np.arange(per_second) / per_second).astype(np.float32)

    put = resampled(tone(rate), rate, RATE)
    assert len(put) == RATE
    assert put.dtype == np.float32
    np.testing.assert_allclose(put[100:-100], tone(RATE)[100:-100], atol=0.01)


def test_recordings_at_another_rate_are_put_to_the_models(pool, said, tmp_path):
    heard = [spoken(text, seed=number, rate=8000) for number, text in enumerate(said)]
    examples = [{"audio": one.tolist(), "text": text} for one, text in zip(heard, said, strict=True)]
    data = rows(tmp_path, examples)
    part = score(task(data, "ctc", sampling_rate=8000), pool / "ctc" / "a")
    assert part.predictions == plain(pool / "ctc" / "a", "ctc", [resampled(one, 8000, RATE) for one in heard])
    slow = score(task(data, "ctc"), pool / "ctc" / "a")
    assert part.score > slow.score


def test_what_is_no_plain_wav_is_named_with_its_row_and_the_extra(pool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "x.flac").write_bytes(b"fLaC and more")
    speech.write(tmp_path / "y.wav", spoken("ab", 0))
    examples = [{"audio": str(tmp_path / name), "text": "ab"} for name in ("y.wav", "x.flac")]
    (tmp_path / "data").mkdir()
    made = task(rows(tmp_path / "data", examples), "ctc")
    with pytest.raises(DataError, match=r"row 2 .*x\.flac.*soupkitchen\[audio\]"):
        score(made, pool / "ctc" / "a")
    (tmp_path / "x.flac").unlink()
    with pytest.raises(DataError, match=r"row 2 .*x\.flac.*No such file"):
        score(made, pool / "ctc" / "a")


def test_other_formats_are_read_by_soundfile(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    left, right = (spoken("ab", seed) for seed in (1, 2))
    soundfile.write(tmp_path / "x.flac", np.stack([left, right], 1), RATE)
    heard = samples({"bytes": (tmp_path / "x.flac").read_bytes(), "path": None}, RATE, None)
    np.testing.assert_allclose(heard, (left + right) / 2, atol=1e-4)
    with pytest.raises(ValueError, match="soundfile cannot read it"):
        samples({"bytes": b"nothing of the kind", "path": None}, RATE, None)


# What is refused, and what is said
GOOD = {"audio": [0.1] * 900, "text": "ab"}


@pytest.mark.parametrize(
    ("examples", "options", "says"),
    [
        ([GOOD, {**GOOD, "text": " "}], {}, "row 2 has no words"),
        ([{**GOOD, "text": "(ab)!"}], {"normalize": "basic"}, "row 1 has no words"),
        ([GOOD, {**GOOD, "audio": [0.1] * 9}], {}, "row 2 is shorter"),
        ([GOOD, {**GOOD, "audio": []}], {}, "row 2 .*at least one"),
        ([GOOD, {**GOOD, "audio": None}], {}, "row 2 .*it is empty"),
        ([{**GOOD, "audio": 3}], {}, "holds no recordings"),
        ([{"sounds": [0.1] * 900, "text": "ab"}], {}, "task.audio=audio: the data has no such column"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_scored_is_named_by_row(examples, options, says, pool, tmp_path):
    with pytest.raises(DataError, match=says):
        score(task(rows(tmp_path, examples), "ctc", **options), pool / "ctc" / "a")


def test_what_a_model_cannot_do_is_refused_before_scoring(pool, recorded):
    run = pool / "seq2seq" / "a"
    with pytest.raises(ConfigError, match=r"task.max_new_tokens=21.*set 20 or less"):
        score(task(recorded, "seq2seq", max_new_tokens=21), run)
    with pytest.raises(ConfigError, match=r"task.language=de: .*no multilingual Whisper"):
        score(task(recorded, "seq2seq", language="de"), run)
    with pytest.raises(
        CheckpointError, match=r"would fit task=speech_recognition with task.architecture=ctc"
    ):
        score(task(recorded, "seq2seq"), pool / "ctc" / "a")
    assert all(len(text) <= 3 for text in score(task(recorded, "seq2seq", max_new_tokens=3), run).predictions)


def test_that_a_recording_is_cut_is_said(pool, tmp_path, caplog):
    heard = spoken("ab bad be ace cab", seed=0), spoken("ab", seed=0)
    data = rows(tmp_path, [{"audio": one.tolist(), "text": "ab"} for one in heard])
    with caplog.at_level(logging.WARNING):
        part = score(task(data, "seq2seq"), pool / "seq2seq" / "a")
    assert "1 of 2 recordings are longer than the 1 s that the model hears" in caplog.text
    assert part.predictions == plain(pool / "seq2seq" / "a", "seq2seq", [heard[0][:RATE], heard[1]])


def test_a_multilingual_model_is_told_the_language(pool, recorded, said, tmp_path):
    model, processor = speech.whisper("<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    options = {
        "is_multilingual": True, "lang_to_id": {"<|en|>": 3, "<|de|>": 4}, "no_timestamps_token_id": 2,
        "task_to_id": {"transcribe": 5, "translate": 6}, "suppress_tokens": list(range(7)), "max_length": 24,
    }  # fmt: skip
    model.generation_config = GenerationConfig(
        decoder_start_token_id=1, eos_token_id=0, pad_token_id=0, **options
    )
    model.save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    heard = [spoken(text, seed=100 + number) for number, text in enumerate(said)]
    inputs = processor(heard, sampling_rate=RATE, return_tensors="pt")
    told = {}
    for language in ("en", "de"):
        with torch.inference_mode():
            tokens = model.eval().generate(**inputs, language=language, do_sample=False)
        told[language] = [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
        part = score(task(recorded, "seq2seq", language=language), tmp_path / "run", batch_size=14)
        assert part.predictions == told[language]
    assert told["en"] != told["de"]


def test_half_precision_reaches_the_encoder(pool, recorded, tmp_path):
    model = AutoModelForSpeechSeq2Seq.from_pretrained(pool / "seq2seq" / "a").bfloat16()
    model.save_pretrained(tmp_path / "run")
    AutoProcessor.from_pretrained(pool / "seq2seq" / "a").save_pretrained(tmp_path / "run")
    assert np.isfinite(score(task(recorded, "seq2seq"), tmp_path / "run").score)


# The metrics


@given(*[st.lists(st.sampled_from("abc"), max_size=70)] * 2)
def test_edits_are_those_of_the_whole_table(one, other):
    assert edits(one, other) == naive(one, other)


def test_rates_are_those_of_the_corpus_and_not_the_mean_of_the_examples():
    references, predictions = ["a b c d", "e"], ["a x c", "e f g"]
    for name, expected in {"word_error_rate": 4 / 5, "character_error_rate": 7 / 8}.items():
        metric = metrics.load(name)
        assert metric.shown(metric.score(predictions, references)) == pytest.approx(expected)
        assert metric.best == 0
        with pytest.raises(MetricError, match="a reference is empty"):
            metric.score(["a"], [" "])


def test_both_texts_are_normalized_alike():
    made = task(Data("-"), "ctc", normalize="basic")
    assert made._compared(" Well, [laughs] DON'T (I mean it)  go! ") == "well don t go"
    assert task(Data("-"), "ctc")._compared(" Well,  DON'T ") == "Well,  DON'T"


@pytest.mark.parametrize("rate", [2_000_000_000, 1, 1_000_003])
def test_a_recording_costs_no_more_than_its_size_whatever_rate_it_claims(rate):
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(b"\0\1" * 100_000)
    with pytest.raises(ValueError, match=f"{rate:,} samples a second"):
        samples({"bytes": out.getvalue(), "path": None}, RATE if rate > 1 else 16_000, None)
    assert len(_wav(out.getvalue())[0]) == 100_000


def test_a_recording_of_silence_that_grows_when_unpacked_is_refused(monkeypatch):
    soundfile = pytest.importorskip("soundfile")
    monkeypatch.setattr("soupkitchen.tasks.media._MOST", 100_000)
    for length, fits in ((60_000, True), (300_000, False)):
        out = io.BytesIO()
        soundfile.write(out, np.zeros(length), RATE, format="FLAC")
        audio = {"bytes": out.getvalue(), "path": None}
        if fits:
            assert len(samples(audio, RATE, None)) == length
        else:
            with pytest.raises(ValueError, match="more than 100,000 samples"):
                samples(audio, RATE, None)
