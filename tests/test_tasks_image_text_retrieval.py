"""Image-text retrieval, held against plain transformers and loops over queries and candidates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from scoring import score
from tiny import TOKENS, bert_tokenizer

from soupkitchen import metrics
from soupkitchen.errors import CheckpointError, DataError, MetricError
from soupkitchen.evaluation.statistics import _of_task
from soupkitchen.tasks import Data, ImageTextRetrieval

COLOURS = ((230, 30, 30), (30, 220, 30), (40, 40, 230), (220, 220, 40), (20, 20, 20))


def picture(left: int, right: int, seed: int) -> Image.Image:
    """Two colours side by side, with noise."""
    pixels = np.repeat(np.array([[COLOURS[left]] * 4 + [COLOURS[right]] * 4]), 8, axis=0)
    noise = np.random.default_rng(seed).normal(0, 30, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype("uint8"))


def caption(left: int, right: int, more: str = "") -> str:
    return f"w{left} w{10 + right}{more}"


def tiny(kind: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    text = {**small, "vocab_size": len(TOKENS), "max_position_embeddings": 8}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    vision = {**small, "image_size": 8, "patch_size": 4}
    size = {"height": 8, "width": 8}
    if kind == "clip":
        model: Any = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        )
        images = transformers.CLIPImageProcessor(size=size, crop_size=size)
        return model, transformers.CLIPProcessor(images, bert_tokenizer())
    model = transformers.SiglipModel(
        transformers.SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=vision)
    )
    tokens = bert_tokenizer()
    tokens.model_input_names = ["input_ids"]  # as those of the hub's SigLIPs
    return model, transformers.SiglipProcessor(transformers.SiglipImageProcessor(size=size), tokens)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, trained a little."""
    folder = tmp_path_factory.mktemp(request.param)
    model, processor = tiny(request.param)
    optimizer = torch.optim.AdamW(model.eval().parameters(), lr=3e-3)
    random = np.random.default_rng(0)
    for step in range(20):
        pairs = [divmod(code, 5) for code in random.permutation(25)[:16].tolist()]
        inputs = processor(
            images=[picture(*pair, seed=100 * step + n) for n, pair in enumerate(pairs)],
            text=[caption(*pair) for pair in pairs],
            padding="max_length", max_length=8, return_tensors="pt",
        )  # fmt: skip
        embedded = model(**inputs)
        near = 10 * embedded.image_embeds @ embedded.text_embeds.T
        numbers = torch.arange(len(near))
        loss = sum(torch.nn.functional.cross_entropy(logits, numbers) for logits in (near, near.T))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 images; the first three have a second text, the fourth and the fifth have the same one."""
    folder = tmp_path_factory.mktemp("pairs")
    random, examples = np.random.default_rng(5), []
    chosen = random.permutation(25)[:17].tolist()
    for number, code in enumerate([*chosen[:4], chosen[3], *chosen[4:]]):
        left, right = divmod(code, 5)
        picture(left, right, seed=10_000 + number).save(folder / f"{number}.png")
        examples.append({"image": str(folder / f"{number}.png"), "text": caption(left, right)})
        if number < 3:
            (folder / f"again{number}.png").write_bytes((folder / f"{number}.png").read_bytes())
            more = caption(left, right, " w30 w31")
            examples.append({"image": str(folder / f"again{number}.png"), "text": more})
    (folder / "validation.jsonl").write_text("\n".join(map(json.dumps, examples)))
    return folder / "validation.jsonl"


def task(data: Path, **options: Any) -> ImageTextRetrieval:
    metric = metrics.load("retrieval_recall", options=options)
    return ImageTextRetrieval(Data(str(data), heldout="train", test=None), metric)


def naive(near: np.ndarray, right: list[list[int]], k: int) -> float:
    """The share of rows of which fewer than `k` wrong columns are as near as the nearest right one."""
    hits = []
    for row, own in zip(near, right, strict=True):
        best = max(row[column] for column in own)
        wrong = [value for column, value in enumerate(row) if column not in own]
        hits.append(sum(value >= best for value in wrong) < k)
    return float(np.mean(hits))


def recalls(image: np.ndarray, text: np.ndarray, named: list[tuple[Any, Any]], k: int) -> tuple[float, float]:
    """Of embeddings and what tells their images and texts apart: image to text, and text to image."""
    images, texts = (list(dict.fromkeys(column)) for column in zip(*named, strict=True))
    first_image = [[i for i, _ in named].index(one) for one in images]
    first_text = [[t for _, t in named].index(one) for one in texts]
    to_text = [[n for n, t in enumerate(texts) if (i, t) in named] for i, _ in named]
    to_image = [[n for n, i in enumerate(images) if (i, t) in named] for _, t in named]
    return naive(image @ text[first_text].T, to_text, k), naive(text @ image[first_image].T, to_image, k)


@pytest.mark.parametrize("k", [1, 2])
def test_recall_is_that_of_single_images_and_texts_one_by_one(k, run, pairs):
    model, processor = (
        transformers.AutoModel.from_pretrained(run).eval(),
        transformers.AutoProcessor.from_pretrained(run),
    )
    examples = [json.loads(line) for line in pairs.read_text().splitlines()]
    padding = {"padding": "max_length", "max_length": 8} if "siglip" in model.config.model_type else {}
    image, text = [], []
    for example in examples:
        with Image.open(example["image"]) as opened:
            pixels = processor.image_processor(opened.convert("RGB"), return_tensors="pt")
        tokens = processor.tokenizer(example["text"], return_tensors="pt", **padding)
        names = {"input_ids", "attention_mask"} & set(processor.tokenizer.model_input_names)
        with torch.inference_mode():
            told = model.get_image_features(**pixels).pooler_output[0].double().numpy()
            image.append(told / np.linalg.norm(told))
            told = model.get_text_features(**{name: tokens[name] for name in names})
            vector = told.pooler_output[0].double().numpy()
            text.append(vector / np.linalg.norm(vector))
    named = [(Path(example["image"]).read_bytes(), example["text"]) for example in examples]
    to_text, to_image = recalls(np.array(image), np.array(text), named, k)
    assert min(to_text, to_image) > 1 / 18
    assert max(to_text, to_image) < 1 or k > 1
    part = score(task(pairs, k=k), run, batch_size=5)  # type: ignore[arg-type]
    assert part.score == pytest.approx((to_text + to_image) / 2)
    np.testing.assert_allclose(part.predictions, np.hstack([image, text]), atol=1e-4)
    one_way = score(task(pairs, k=k, direction="text_to_image"), run)  # type: ignore[arg-type]
    assert one_way.score == pytest.approx(to_image)


def test_data_and_models_of_another_kind_are_named(run, pairs, tmp_path):
    made = task(pairs)
    split, processor = made.data.load_splits()["heldout"], made.load_processor(str(run))
    bert = transformers.BertModel(
        transformers.BertConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    )
    with pytest.raises(CheckpointError, match="BertModel does not put images and texts into one space"):
        made.prepare(split, processor, bert)
    (tmp_path / "x.jsonl").write_text(json.dumps({"image": str(tmp_path / "no.png"), "text": "w1"}))
    with pytest.raises(DataError, match=r"row 1 .*no\.png"):
        score(task(tmp_path / "x.jsonl"), run)  # type: ignore[arg-type]


# The metric


@pytest.mark.parametrize("k", [1, 3])
def test_recall_is_that_of_loops_where_rows_share_images_and_texts(k):
    random = np.random.default_rng(k)
    named = list(zip(random.integers(0, 12, 30).tolist(), random.integers(0, 14, 30).tolist(), strict=True))
    of_image, of_text = random.normal(size=(12, 6)), random.normal(size=(14, 6))
    for image, text in named:  # so that what belongs together is near
        of_text[text] += 0.2 * of_image[image]
    rows = np.array([np.hstack([of_image[image], of_text[text]]) for image, text in named])
    to_text, to_image = recalls(rows[:, :6], rows[:, 6:], named, k)
    for direction, expected in {
        "image_to_text": to_text, "text_to_image": to_image, "both": (to_text + to_image) / 2,
    }.items():  # fmt: skip
        metric = metrics.load("retrieval_recall", options={"k": k, "direction": direction})
        assert metric.score(rows, np.array(named)) == pytest.approx(expected)
    assert 0 < to_text < 1
    assert 0 < to_image < 1


def test_a_model_that_tells_nothing_apart_finds_nothing():
    numbers = np.stack([np.arange(9)] * 2, axis=1)
    assert metrics.load("retrieval_recall").score(np.ones((9, 4)), numbers) == 0


def test_a_resample_is_one_of_queries_among_the_same_candidates():
    random = np.random.default_rng(0)
    rows, numbers = random.normal(size=(40, 8)), np.stack([np.arange(40)] * 2, axis=1)
    rows[:, 4:] += rows[:, :4]
    metric = metrics.load("retrieval_recall")
    part = type("Part", (), {"values": None, "predictions": rows})
    rescored = _of_task(part, metric, numbers)  # type: ignore[arg-type]
    assert rescored is not None
    assert rescored(np.arange(40)[None]) == [metric.score(rows, numbers)]
    halves = rescored(np.arange(40).reshape(2, 20))
    assert np.mean(halves) == pytest.approx(metric.score(rows, numbers))
    assert metric.score(rows[:20], numbers[:20]) > halves[0]  # among fewer candidates


@pytest.mark.parametrize("options", [{"k": 0}, {"direction": "sideways"}, {"n": 1}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(MetricError, match=next(iter(options))):
        metrics.load("retrieval_recall", options=options)
