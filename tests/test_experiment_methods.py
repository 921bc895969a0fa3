"""Options of merge methods that decide with data: λ from a list, weights by score, batch norm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from command import own, soupkitchen
from PIL import Image
from safetensors.torch import load_file
from tiny import make_pictures

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("early", [True, False])
def test_each_candidate_is_scored_at_each_scale_and_the_best_is_kept(text_runs, texts, tmp_path, early):
    words = (*own(text_runs, texts), f"pool.base={text_runs / 'd'}", "pool.exclude=[d]", "name=x")
    scales = "[0.2,0.6,1.0]"
    soupkitchen(
        *words,
        "method=task_arithmetic",
        f"method.scale={scales}",
        f"evaluation.early_stopping={early}",
        cwd=tmp_path,
    )
    trajectory = pd.read_csv(tmp_path / "results/x/trajectory.csv")
    merges = trajectory[(trajectory["stage"] == "merge") & (trajectory["decision"] != "start")]
    base = load_file(text_runs / "d" / "model.safetensors")
    best = None
    for name, tried in merges.groupby("candidate", sort=False):
        assert tried["variant"].tolist() == ["scale=0.2", "scale=0.6", "scale=1"], name
        kept = tried[tried["decision"] == "keep"]
        assert len(kept) <= 1
        if len(kept):
            best = kept.iloc[0]
            assert best["score"] == np.nanmax(tried["score"])
            assert best["score"] > best["best_before"]
    assert best is not None
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    ingredients = [load_file(text_runs / run / "model.safetensors") for run in best["ingredients"].split(";")]
    for name, start in base.items():
        expected = start + float(best["variant"].split("=")[1]) * sum(
            run[name] - start for run in ingredients
        )
        torch.testing.assert_close(saved[name], expected, rtol=1e-5, atol=1e-6)


def test_weights_by_score_follow_the_ranking(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "search=uniform", "pool.exclude=[d]", "name=x")
    soupkitchen(*words, "method.weights={by: score, temperature: 0.1}", cwd=tmp_path)
    ranking = (
        pd.read_csv(tmp_path / "results/x/trajectory.csv").query("stage == 'rank'").set_index("candidate")
    )
    weights = np.exp(ranking["score"] / 0.1)
    weights /= weights.sum()
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    runs = {run: load_file(text_runs / run / "model.safetensors") for run in weights.index}
    for name, tensor in saved.items():
        expected = sum(weight * runs[run][name].double() for run, weight in weights.items())
        torch.testing.assert_close(tensor, expected.float(), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two brightnesses by split and label, and runs of a tiny ResNet, in training's habit."""
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder / "data")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        id2label={0: "dark", 1: "light"}, label2id={"dark": 0, "light": 1},
    )  # fmt: skip
    for seed in range(3):
        torch.manual_seed(seed)
        model = transformers.ResNetForImageClassification(config).train()
        with torch.no_grad():
            for _ in range(20):
                model(torch.randn(4, 3, 8, 8) * (seed + 1))
        model.eval().save_pretrained(folder / "runs" / f"run{seed}")
        transformers.ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(
            folder / "runs" / f"run{seed}"
        )
    return folder


def test_batch_norm_is_recalibrated_on_training_batches(pictures, tmp_path):
    words = (
        f"pool.path={pictures}/runs/*", "task=image_classification", f"task.data.path={pictures}/data",
        "evaluation.cache=null", "runtime.batch_size=8", "search=uniform",
    )  # fmt: skip
    advised = "method.recalibrate_batchnorm=20"
    assert advised not in soupkitchen(*words, "name=x", "method.recalibrate_batchnorm=4", cwd=tmp_path).stderr
    assert advised in soupkitchen(*words, "name=averaged", cwd=tmp_path).stderr
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    # the same by hand: average the weights, then one pass over the same 32 training images
    model = transformers.AutoModelForImageClassification.from_pretrained(pictures / "runs" / "run0")
    runs = [load_file(pictures / "runs" / f"run{i}" / "model.safetensors") for i in range(3)]
    model.load_state_dict({name: sum(run[name] for run in runs) / 3 for name in runs[0]})
    files = sorted((pictures / "data" / "train").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    images = (torch.tensor(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    first = model.resnet.embedder.embedder
    with torch.no_grad():
        convolved = first.convolution(images)
    means = torch.stack([part.mean((0, 2, 3)) for part in convolved.split(8)]).mean(0)
    torch.testing.assert_close(
        saved["resnet.embedder.embedder.normalization.running_mean"], means, rtol=1e-4, atol=1e-5
    )
    weight = "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"
    torch.testing.assert_close(saved[weight], sum(run[weight] for run in runs) / 3, rtol=1e-5, atol=1e-6)
    name = "resnet.encoder.stages.1.layers.0.layer.1.normalization.running_var"
    assert not torch.allclose(saved[name], sum(run[name] for run in runs) / 3, rtol=0.01)


def test_recalibrating_a_model_without_batch_norm_is_refused(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "method.recalibrate_batchnorm=4", "name=x")
    assert "no batch norm" in soupkitchen(*words, cwd=tmp_path, fails=True).stderr


def test_a_model_spread_over_devices_gives_the_same_soup(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "method=ties", f"pool.base={text_runs}/a", "pool.exclude=[a]")
    soupkitchen(*words, "name=one", cwd=tmp_path)
    spread = (
        "runtime.device_map=auto",
        "runtime.max_memory={cpu: 1MB}",
        f"runtime.offload_folder={tmp_path}",
    )
    soupkitchen(*words, *spread, "name=spread", cwd=tmp_path)
    one, other = (
        load_file(tmp_path / f"results/{name}/soup/model.safetensors") for name in ("one", "spread")
    )
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())
    columns = ["candidate", "decision", "score", "score_at_most"]
    first, second = (
        pd.read_csv(tmp_path / f"results/{n}/trajectory.csv")[columns] for n in ("one", "spread")
    )
    pd.testing.assert_frame_equal(first, second)


def test_a_model_that_fits_nowhere_is_refused(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "runtime.device_map=auto", "runtime.max_memory={cpu: 1KB}")
    assert "runtime.device_map" in soupkitchen(*words, cwd=tmp_path, fails=True).stderr
