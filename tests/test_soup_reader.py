"""What is read of ingredients is held while the same are merged again, and changes no bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mixtures import METHODS as SHIPPED
from mixtures import same
from safetensors.torch import load_file
from tiny import adapter
from transformers import AutoModelForSequenceClassification

from soupkitchen import metrics
from soupkitchen.checkpoints import Checkpoint, Pool, find_pool
from soupkitchen.checkpoints.files import WeightFiles
from soupkitchen.checkpoints.weights import AdaptedWeights, Weights
from soupkitchen.errors import CheckpointError
from soupkitchen.evaluation import Runtime, evaluator_of, load_splits
from soupkitchen.executors import Bench, Request
from soupkitchen.merging import Karcher, Linear, Magnitude, MagnitudeOutliers, Random, TaskVectors
from soupkitchen.search.base import Coefficient
from soupkitchen.soup import Mixer, Recipe, StateMemory
from soupkitchen.soup.reader import CachingReader
from soupkitchen.tasks import Data, Several, TextClassification

METHODS = SHIPPED | {"ties by model": TaskVectors(Magnitude(0.3, trim="model"), "mass", normalize=True)}
CPU = torch.device("cpu")
PROPOSED: list[tuple[Coefficient, ...]] = [
    (1.0, 1.0, 1.0), (0.2, 0.7, 1.5), ((1.0, 0.0), (0.5, 1.0), (0.0, 2.0)), (0.0, 1.0, 1.0),
]  # fmt: skip


def made(mixer: Mixer, recipe: Recipe, again: bool = False) -> dict[str, torch.Tensor]:
    mixer.caching = again
    return {name: tensor.clone() for name, tensor in mixer.tensors(recipe)}


def proposals(method: Any, names: str = "abc") -> list[Recipe]:
    if method.weighs:
        return [Recipe.of(names, method, told) for told in PROPOSED]
    return [
        Recipe.of(names, method, told) for told in [(1.0, 1.0, 1.0), (1.0, (1.0, 0.0), 1.0), (1.0, 1.0, 0.0)]
    ]


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, kind: type[Weights], *methods: str) -> Iterator[Counter[str]]:
    """Counts by name the tensors that weights of a kind are asked for."""
    asked: Counter[str] = Counter()
    with monkeypatch.context() as patched:
        for method in methods:
            original = getattr(kind, method)

            def reading(self: Any, name: str, *more: Any, original: Any = original) -> Any:
                asked[name] += 1
                return original(self, name, *more)

            patched.setattr(kind, method, reading)
        yield asked


@pytest.fixture(scope="module")
def pickled(text_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in PyTorch's format."""
    folder = tmp_path_factory.mktemp("pickled")
    for name in "abc":
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes((text_runs / name / "config.json").read_bytes())
        tensors = {key: x.bfloat16() for key, x in load_file(text_runs / name / "model.safetensors").items()}
        torch.save(tensors, folder / name / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module", params=["adapters", "safetensors", "pickled"])
def pool(request: pytest.FixtureRequest, text_runs: Path, adapters: Path, pickled: Path) -> Pool:
    if request.param == "adapters":
        return find_pool(str(adapters), exclude=["d"])
    return find_pool(str(text_runs if request.param == "safetensors" else pickled), base=str(text_runs / "d"))


@pytest.mark.parametrize("name", METHODS)
def test_holding_changes_no_bit(name, pool):
    holding = Mixer(pool)
    for recipe in [*proposals(METHODS[name])[:3], proposals(METHODS[name], "aba")[1]]:
        expected = made(Mixer(pool), recipe)
        assert same(made(holding, recipe, again=True), expected)
    assert same(made(holding, recipe), expected)  # nor of what does not ask for it
    assert holding._cache is not None


def test_what_is_held_is_as_it_was_read(pool):
    """No method writes to what it is given."""
    mixer = Mixer(pool)
    for method in METHODS.values():
        made(mixer, proposals(method)[1], again=True)
    held = mixer._cache
    for (run, name), tensor in held._exact.items():
        assert torch.equal(tensor, run.weights.exact(name, CPU))
    for (run, name), tensor in held._changes.items():
        assert torch.equal(tensor, run.weights.task_vector(name, CPU))


def test_an_adapters_change_is_computed_once(adapters, monkeypatch):
    pool = find_pool(str(adapters))
    for method in (
        Linear(),
        TaskVectors(),
        TaskVectors(Magnitude(0.2), "mass"),
        TaskVectors(Random(0.5)),
        Karcher(),
    ):
        mixer = Mixer(pool)
        with counted(monkeypatch, AdaptedWeights, "_change") as asked:
            for recipe in proposals(method, "acd"):
                made(mixer, recipe, again=True)
            once = sum(asked.values())
            assert once == sum(len(pool[name].weights.changed) for name in "acd")
            made(mixer, Recipe.of("acda", method, (0.1, 0.2, 0.3, 0.4)), again=True)
            assert sum(asked.values()) == once  # the same runs, though it is another mixture
            made(mixer, Recipe.of("acd", method, PROPOSED[1]))
            assert sum(asked.values()) > once  # it did not ask for it


@pytest.mark.parametrize(
    "sparsifier", [Magnitude(0.2), MagnitudeOutliers(0.8, 0.1), Random(0.5, "l1")], ids=type
)
def test_thresholds_are_found_once_for_all_scales(sparsifier, text_runs, monkeypatch):
    mixer = Mixer(find_pool(str(text_runs), base=str(text_runs / "d")))
    planned: Counter[tuple[str, str]] = Counter()
    plan = type(sparsifier).plan

    def planning(self: Any, x: Any, origin: Any) -> Any:
        planned[origin.ingredient.name, origin.tensor] += 1
        return plan(self, x, origin)

    monkeypatch.setattr(type(sparsifier), "plan", planning)
    for scale in (0.3, 1.0):
        for recipe in proposals(TaskVectors(sparsifier, "mass", scale=scale)):
            made(mixer, recipe, again=True)
    assert set(planned.values()) == {1}
    assert {run for run, _ in planned} == set("abc")
    other = replace(sparsifier, density=0.4)
    for recipe in proposals(TaskVectors(other, "mass")):  # another has thresholds of its own
        assert same(made(mixer, recipe, again=True), made(Mixer(mixer.pool), recipe))


def test_unpickled_tensors_are_read_once(pickled, monkeypatch):
    pool, mixer = find_pool(str(pickled)), Mixer(find_pool(str(pickled)))
    with counted(monkeypatch, WeightFiles, "tensor") as asked:
        for recipe in proposals(Linear()):
            made(mixer, recipe, again=True)
    merged = {name: info for name, info in pool.reference.header.items() if info.is_floating_point}
    assert {asked[name] for name in merged} == {3}


def test_what_is_mapped_is_not_copied(text_runs):
    mixer = Mixer(find_pool(str(text_runs), base=str(text_runs / "d")))
    for recipe in proposals(TaskVectors()):
        made(mixer, recipe, again=True)
    assert {run.path.name for run, _ in mixer._cache._exact} == set("abcd")  # and the base
    mapped = [
        line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(text_runs) in line
    ]
    ranges = [(*(int(end, 16) for end in line[0].split("-")), line[-1]) for line in mapped]
    for (run, _), tensor in mixer._cache._exact.items():
        assert any(
            begin <= tensor.data_ptr() < end and file == str(run.path / "model.safetensors")
            for begin, end, file in ranges
        )


@pytest.mark.parametrize("budget", [0, 3000, 5000, 10**9])
def test_no_more_is_held_than_the_budget_allows(budget, adapters, monkeypatch):
    pool = find_pool(str(adapters))
    mixer = Mixer(pool, memory=lambda: StateMemory(CPU, on_host=budget))
    with counted(monkeypatch, AdaptedWeights, "_change") as asked:
        for recipe in proposals(Linear()):
            assert same(made(mixer, recipe, again=True), made(Mixer(pool), recipe))
    sizes = [x.nbytes for (run, name), x in mixer._cache._exact.items() if name in run.weights.changed]
    assert sum(x.nbytes for x in mixer._cache._exact.values()) <= budget
    assert bool(sizes) == (budget > 0)
    computed = sum(len(pool[name].weights.changed) for name in "abc")
    assert (len(sizes) == computed) == (budget == 10**9)
    assert sum(asked.values()) >= computed


def test_what_a_device_has_no_room_for_is_held_on_the_host_and_what_it_has_computed_is_not(
    text_runs, adapters
):
    """With torch's meta device in place of a GPU: what lies there has a size and no content."""
    meta, name = torch.device("meta"), "classifier.weight"
    run = find_pool(str(text_runs))["a"]
    size = run.tensor(name).nbytes
    assert CachingReader(StateMemory(meta, on_device=size, on_host=size)).exact(run, name).device == meta
    for on_host in (size, size - 1):
        crowded = CachingReader(StateMemory(meta, on_device=1, on_host=on_host))
        assert crowded.exact(run, name).device == CPU
        assert bool(crowded._exact) == (on_host == size)
    name = "model.layers.0.self_attn.q_proj.weight"
    crowded = CachingReader(StateMemory(meta, on_device=1, on_host=10**9))
    assert crowded.change(find_pool(str(adapters))["a"], name).device == meta
    assert not crowded._changes


def test_a_running_state_and_what_is_held_are_never_there_together(adapters):
    mixer = Mixer(find_pool(str(adapters)), caching=True)
    recipe = Recipe.of("abc", Linear())
    dict(mixer.tensors(recipe, growing=True))
    assert mixer._soup is not None
    assert mixer._cache is None
    dict(mixer.tensors(Recipe.of("abc", Linear(), (1.0, 2.0, 1.0))))
    assert mixer._soup is None
    held = mixer._cache
    assert held._exact
    dict(mixer.tensors(recipe, growing=True))
    assert mixer._soup is None
    assert mixer._cache is held
    mixer.caching = False
    dict(mixer.tensors(recipe, growing=True))
    assert mixer._soup is not None
    assert mixer._cache is None
    assert not held._exact


def test_what_is_held_is_let_go_when_the_soup_is_saved(adapters, text_runs):
    recipe = Recipe.of("abc", Linear())
    for saved in ("", adapters / "b", text_runs / "a"):  # of the last, names are others than the pool's
        mixer = Mixer(find_pool(str(adapters)), caching=True)
        dict(mixer.tensors(recipe))
        held = mixer._cache
        if saved:
            mixer.take_from(mixer.pool["b"] if saved == adapters / "b" else Checkpoint.open(saved), recipe)
        else:
            mixer.forget()
        assert mixer._cache is None
        assert not held._exact


def test_a_bench_holds_what_its_mixer_does_and_notices_files_that_change(tmp_path, texts, text_runs):
    options: dict[str, Any] = {"of": AutoModelForSequenceClassification, "task_type": "SEQ_CLS", "r": 2}
    for seed, name in enumerate("ab"):
        adapter(text_runs / "a", tmp_path / name, seed, target_modules=["query"], **options)
    tasks = Several.of(TextClassification(Data(str(texts)), metrics.load("accuracy")))
    pool = find_pool(str(tmp_path))
    runtime = Runtime(device="cpu", batch_size=16, threads=1)
    bench = Bench(evaluator_of(pool.reference, tasks, load_splits(tasks), runtime, pool=pool), Mixer(pool))
    recipe = Recipe.of("ab", Linear(), ((1.0, 2.0), 1.0))
    plain = bench.score(Request("", recipe)).evaluation
    assert bench.mixer._cache is None
    bench.mixer.caching = True
    held = bench.score(Request("", recipe)).evaluation
    assert bench.mixer._cache._exact
    assert held.score == plain.score
    file = pool["a"].path / "adapter_model.safetensors"
    file.write_bytes((pool["b"].path / "adapter_model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"a/adapter_model\.safetensors changed while this run read it"):
        bench.score(Request("", recipe))
