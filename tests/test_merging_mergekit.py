"""The same checkpoints merged by mergekit 0.1.5 and by us, in float32, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
)

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.merging import Karcher, Linear, Magnitude, ModelStock, Random, Slerp, TaskVectors
from soupkitchen.soup import Soup

mergekit_api = pytest.importorskip("mergekit.merge_methods.api")

BERT = {"vocab_size": 101, "max_position_embeddings": 32}
GPT2 = {"vocab_size": 101, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
FAMILIES: dict[str, tuple[Any, Any]] = {
    "llama": (AutoModelForCausalLM, LlamaConfig(vocab_size=101, num_key_value_heads=2, **SMALL)),
    "bert": (AutoModelForSequenceClassification, BertConfig(**BERT, **SMALL)),
    "gpt2": (AutoModelForCausalLM, GPT2Config(**GPT2)),
}
WEIGHTS = [1.0, 0.5, 2.0, 1.0, 0.25]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A base and five fine-tunes of it, as files."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    model_class, config = FAMILIES[request.param]
    torch.manual_seed(0)
    model = model_class.from_config(config)
    model.save_pretrained(folder / "base")
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for index in range(5):
        model.load_state_dict(start)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        model.save_pretrained(folder / f"run{index}")
    runs = [Checkpoint.open(folder / f"run{index}") for index in range(5)]
    return Checkpoint.open(folder / "base"), runs


def by_mergekit(method: str, base: Checkpoint | None, runs: list[Checkpoint], **parameters: Any):
    models = {run.name: dict(run.tensors()) for run in runs}
    if base is not None:
        models = {"base": dict(base.tensors()), **models}
    with torch.no_grad():
        return mergekit_api.merge_state_dicts(
            models,
            method,
            parameters=parameters,
            base="base" if base else None,
            dtype=torch.float32,
            out_dtype=torch.float32,
        )


def by_us(method: Any, base: Checkpoint | None, runs: list[Checkpoint]) -> dict[str, torch.Tensor]:
    soup = Soup(method, base=base)
    for run in runs:
        soup.keep(run)
    return dict(soup.tensors())


def assert_same(
    theirs: dict[str, torch.Tensor], ours: dict[str, torch.Tensor], tolerance: float = 1e-6
) -> None:
    assert theirs.keys() == ours.keys()
    for name, tensor in ours.items():
        limit = tolerance * theirs[name].abs().max().item()
        assert (tensor - theirs[name]).abs().max().item() <= limit, name


def named(runs: list[Checkpoint]) -> dict[str, float]:
    return {run.name: weight for run, weight in zip(runs, WEIGHTS, strict=True)}


@pytest.mark.parametrize("normalize", [True, False])
def test_linear(family, normalize: bool) -> None:
    _, runs = family
    theirs = by_mergekit("linear", None, runs, weight=WEIGHTS, normalize=normalize)
    assert_same(theirs, by_us(Linear(normalize, weights=named(runs)), None, runs))


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp(family, t: float) -> None:
    _, runs = family
    theirs = by_mergekit("slerp", runs[0], runs[1:2], t=t)
    assert_same(theirs, by_us(Slerp(t=t), None, runs[:2]))


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_task_arithmetic(family, scale: float) -> None:
    base, runs = family
    theirs = by_mergekit("task_arithmetic", base, runs, weight=WEIGHTS, **{"lambda": scale}, normalize=False)
    assert_same(theirs, by_us(TaskVectors(scale=scale, weights=named(runs)), base, runs))


@pytest.mark.parametrize("density", [0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties(family, density: float, normalize: bool) -> None:
    base, runs = family
    theirs = by_mergekit("ties", base, runs, weight=WEIGHTS, density=density, normalize=normalize)
    method = TaskVectors(Magnitude(density), "mass", normalize, weights=named(runs))
    assert_same(theirs, by_us(method, base, runs))


def test_model_stock(family) -> None:
    base, runs = family
    assert_same(by_mergekit("model_stock", base, runs), by_us(ModelStock(), base, runs), tolerance=3e-6)


def test_karcher(family) -> None:
    _, runs = family
    theirs = by_mergekit("karcher", None, runs, max_iter=10, tol=1e-5)
    assert_same(theirs, by_us(Karcher(), None, runs), tolerance=1e-5)


def test_dare_agrees_in_what_can_be_compared_of_random_masks(family) -> None:
    base, runs = family
    density = 0.3
    theirs = by_mergekit("dare_linear", base, runs[:1], weight=1.0, density=density, normalize=False)
    ours = by_us(TaskVectors(Random(density, "l1")), base, [runs[0], runs[0]])  # the same mask twice
    start = dict(base.tensors())
    for merged, times in ((theirs, 1), (ours, 2)):
        deltas = torch.cat([(merged[name] - start[name]).reshape(-1) / times for name in start])
        kept = deltas.abs() > 1e-7
        assert kept.double().mean().item() == pytest.approx(density, abs=0.01)
        full = torch.cat([(dict(runs[0].tensors())[name] - start[name]).reshape(-1) for name in start])
        ratio = (deltas[kept] / full[kept]).double().median().item()
        assert ratio == pytest.approx(1 / density, rel=0.03)
