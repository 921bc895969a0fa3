"""A merge method over whole checkpoints: tasting, keeping, and what it must not touch."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import torch
from command import own, soupkitchen
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import text_classifier

from soupkitchen.checkpoints import Checkpoint, find_pool
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation import Runtime
from soupkitchen.merging import (
    Karcher,
    Linear,
    Magnitude,
    ModelStock,
    Random,
    Slerp,
    TaskVectors,
    alternatives,
    chunks,
)
from soupkitchen.soup import Soup
from soupkitchen.soup.memory import StateMemory


def run(folder: Path, name: str, **tensors: torch.Tensor) -> Checkpoint:
    (folder / name).mkdir(parents=True)
    (folder / name / "config.json").write_text("{}")
    save_file(tensors, folder / name / "model.safetensors")
    return Checkpoint.open(folder / name)


def runs(folder: Path, number: int, dtype: torch.dtype = torch.float32) -> list[Checkpoint]:
    torch.manual_seed(0)
    return [
        run(
            folder,
            f"run{i}",
            matrix=torch.randn(30, 7).to(dtype),
            scalar=torch.randn(()).to(dtype),
            empty=torch.zeros(0, 3).to(dtype),
        )
        for i in range(number)
    ]


def soup_of(method: Any, ingredients: Sequence[Checkpoint], base: Checkpoint | None = None) -> Soup:
    """A soup of these, one after the other."""
    made = Soup(method, base=base)
    for ingredient in ingredients:
        made.keep(ingredient)
    return made


def mean(checkpoints: list[Checkpoint]) -> dict[str, np.ndarray]:
    """The plain float64 average of the files' tensors."""
    files = [load_file(c.path / "model.safetensors") for c in checkpoints]
    return {name: np.mean([f[name].double().numpy() for f in files], axis=0) for name in files[0]}


@pytest.mark.parametrize("chunk", [1, 16, 1 << 16])
def test_a_soup_is_the_mean_of_its_ingredients(tmp_path, chunk, monkeypatch):
    monkeypatch.setattr(chunks, "CPU_CHUNK", chunk)
    pool = runs(tmp_path, 4)
    soup = soup_of(Linear(), pool)
    merged = dict(soup.tensors())
    assert merged.keys() == pool[0].header.keys()
    for name, expected in mean(pool).items():
        assert merged[name].shape == expected.shape
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-7)


def test_tasting_gives_to_the_last_bit_what_keeping_gives(tmp_path):
    pool = runs(tmp_path, 3)
    soup = soup_of(Linear(), pool[:2])
    tasted = dict(soup.taste(pool[2]))
    soup.keep(pool[2])
    kept = dict(soup.tensors())
    assert all(torch.equal(tasted[name], kept[name]) for name in kept)


def test_discarding_leaves_the_soup_unchanged(tmp_path):
    pool = runs(tmp_path, 4)
    soup, other = Soup(Linear()), Soup(Linear())
    for ingredient in pool[:2]:
        soup.keep(ingredient)
        other.keep(ingredient)
    before = {name: tensor.clone() for name, tensor in soup.tensors()}
    dict(soup.taste(pool[2]))
    assert soup.ingredients == ("run0", "run1")
    assert all(torch.equal(before[name], tensor) for name, tensor in soup.tensors())
    soup.keep(pool[3])
    other.keep(pool[3])
    expected = dict(other.tensors())
    assert all(torch.equal(expected[name], tensor) for name, tensor in soup.tensors())


def test_a_soup_of_one_is_that_ingredient_even_unnormalised(tmp_path):
    (first,) = runs(tmp_path, 1)
    for method in (Linear(), Linear(normalize=False, weights={"run0": 3.0})):
        soup = Soup(method)
        assert all(torch.equal(dict(first.tensors())[name], x) for name, x in soup.taste(first))
        soup.keep(first)
        assert all(torch.equal(dict(first.tensors())[name], x) for name, x in soup.tensors())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_arithmetic_is_float32_and_rounds_once(tmp_path, dtype):
    pool = runs(tmp_path, 5, dtype)
    soup = soup_of(Linear(), pool)
    merged = dict(soup.tensors())
    for name, expected in mean(pool).items():
        assert merged[name].dtype == dtype
        rounded = torch.tensor(expected, dtype=torch.float32).to(dtype)
        if dtype == torch.float64:
            torch.testing.assert_close(merged[name], rounded, rtol=1e-6, atol=1e-7)
        else:  # a float32 sum may fall to the other side of a rounding boundary, rarely
            assert (merged[name] == rounded).double().mean().nan_to_num(1.0) > 0.99


KEEPING = [
    Linear(), Linear(weights={"run0": 3.0, "run2": 0.3}), Slerp(), Slerp(t=0.3), Slerp(space="task_vectors"),
    Karcher(), ModelStock(), TaskVectors(normalize=True), TaskVectors(consensus="mass", normalize=True),
    TaskVectors(Magnitude(1.0), "count", normalize=True, weights={"run1": 7.0}),
]  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.sampled_from([torch.float32, torch.bfloat16]))
def test_tensors_that_are_equal_in_all_ingredients_stay_as_they_are(seed, number, dtype):
    torch.manual_seed(seed)
    equal = torch.randn(40).exp().to(dtype)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = run(folder, "base", equal=torch.randn(40).exp().to(dtype), own=torch.randn(40).to(dtype))
        own = [torch.randn(40).to(dtype) for _ in range(number + 1)]
        pool = [run(folder, f"run{i}", equal=equal, own=x) for i, x in enumerate(own[:-1])]
        other = run(folder, "other", equal=own[-1], own=own[0])
        for method in KEEPING:
            soup = Soup(method, base=base)
            for one in pool[:-1]:
                soup.keep(one)
            tasted = dict(soup.taste(pool[-1]))
            spoilt = dict(soup.taste(other))
            soup.keep(pool[-1])
            for tensors in (tasted, dict(soup.tensors()), dict(Soup(method, base=base).blend(pool))):
                assert torch.equal(tensors["equal"], equal), method
                assert torch.equal(tensors["own"], tasted["own"])
                assert not torch.equal(tensors["own"], own[0])
            assert not torch.equal(spoilt["equal"], equal), method
            soup.keep(other)
            again = dict(Soup(method, base=base).blend([*pool, other]))
            assert all(torch.equal(tensor, again[name]) for name, tensor in soup.tensors())


@given(st.integers(0, 2**32 - 1), st.lists(st.floats(0.01, 100), min_size=1, max_size=9))
def test_an_average_of_equal_values_is_that_value_beside_others(seed, weights):
    torch.manual_seed(seed)
    method, state = Linear(), Linear().init(torch.empty(50))
    equal = torch.randn(25).exp() * 1e3
    for weight in weights:
        state = method.add(state, torch.cat([equal, torch.randn(25)]), weight, 0)
    assert torch.equal(method.result(state)[:25], equal)


@pytest.mark.parametrize(
    "method", [Linear(normalize=False), TaskVectors(), TaskVectors(Magnitude(0.5), normalize=True)]
)
def test_methods_that_change_what_is_equal_still_do(method, tmp_path):
    x = torch.randn(40)
    base, pool = run(tmp_path, "base", x=torch.randn(40)), [run(tmp_path, name, x=x) for name in "ab"]
    assert not torch.equal(dict(Soup(method, base=base).blend(pool))["x"], x)


def test_weights_are_looked_up_by_name(tmp_path):
    pool = runs(tmp_path, 2)
    soup = soup_of(Linear(weights={"run1": 3.0}), pool)
    one, other = (dict(c.tensors())["matrix"].double() for c in pool)
    torch.testing.assert_close(dict(soup.tensors())["matrix"].double(), (one + 3 * other) / 4)


def test_integer_buffers_are_the_best_runs_and_differences_are_named_once(tmp_path, caplog):
    pool = [
        run(tmp_path, f"run{i}", weight=torch.randn(3), same=torch.arange(3), steps=torch.tensor(10 + i // 1))
        for i in range(3)
    ]
    soup = Soup(Linear())
    with caplog.at_level(logging.WARNING):
        for ingredient in pool:
            dict(soup.taste(ingredient))
            soup.keep(ingredient)
    merged = dict(soup.tensors())
    assert merged["steps"] == 10
    assert torch.equal(merged["same"], torch.arange(3))
    (warning,) = caplog.messages
    assert "steps" in warning
    assert "run0" in warning


# Task vectors, and tensors that are not like the others


def with_base(folder: Path) -> tuple[Checkpoint, list[Checkpoint]]:
    """A base without "head", and runs with one."""
    torch.manual_seed(3)
    shared = torch.randn(20, 5)
    base = run(folder, "base", body=shared, old=torch.randn(2))
    pool = []
    for index in range(4):
        body, head, old = shared + 0.1 * torch.randn(20, 5), torch.randn(4, 5), torch.randn(3)
        pool.append(run(folder, f"run{index}", body=body, head=head, old=old))
    return base, pool


def arrays(checkpoints: list[Checkpoint], name: str) -> list[np.ndarray]:
    return [dict(c.tensors())[name].double().numpy() for c in checkpoints]


def test_a_method_on_task_vectors_adds_its_result_to_the_base(tmp_path):
    base, pool = with_base(tmp_path)
    soup = soup_of(TaskVectors(Magnitude(0.3), "mass", normalize=True, scale=0.7), pool[:3], base)
    (start,) = arrays([base], "body")
    deltas = [naive.trim(x - start, 0.3) for x in arrays(pool, "body")]
    expected = start + 0.7 * naive.consensus(deltas, [1.0] * 4)
    tasted = dict(soup.taste(pool[3]))
    np.testing.assert_allclose(tasted["body"], expected, rtol=0, atol=1e-6)
    soup.keep(pool[3])
    assert all(torch.equal(tasted[name], x) for name, x in soup.tensors())


def test_tensors_that_the_base_lacks_are_averaged_and_said_once(tmp_path, caplog):
    base, pool = with_base(tmp_path)
    soup = Soup(TaskVectors(weights={"run1": 3.0, "run2": -1.0}), base=base)
    with caplog.at_level(logging.WARNING):
        for ingredient in pool:
            soup.keep(ingredient)
    merged = dict(soup.tensors())
    for name in ("head", "old"):  # one missing, one of another shape
        expected = naive.linear(arrays(pool, name), [1.0, 3.0, 0.0, 1.0])
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-6)
    (message,) = caplog.messages
    assert "head" in message
    assert "old" in message


def test_a_method_on_task_vectors_without_a_base_is_refused():
    for method in (TaskVectors(), ModelStock(), Slerp(space="task_vectors")):
        with pytest.raises(ConfigError, match=r"pool\.base"):
            Soup(method)


def test_slerp_on_task_vectors_is_slerp_of_them(tmp_path):
    base, pool = with_base(tmp_path)
    soup = soup_of(Slerp(space="task_vectors"), pool, base)
    (start,) = arrays([base], "body")
    expected = start + naive.slerp([x - start for x in arrays(pool, "body")], [1.0] * 4)
    np.testing.assert_allclose(dict(soup.tensors())["body"], expected, atol=1e-6)


def test_masks_do_not_depend_on_order_names_or_shards(tmp_path):
    base, pool = with_base(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    again = []
    for index, original in enumerate(pool):  # other names, two files each
        folder = elsewhere / f"other{3 - index}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        weight_map = {}
        for name, tensor in original.tensors():
            save_file({name: tensor}, folder / f"{name}.safetensors")
            weight_map[name] = f"{name}.safetensors"
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        again.append(Checkpoint.open(folder))
    assert [c.fingerprint for c in pool] == [c.fingerprint for c in again]
    merged = []
    for ingredients in (pool, again[::-1]):
        soup = soup_of(TaskVectors(Random(0.5), "mass", normalize=True), ingredients, base)
        merged.append(dict(soup.tensors()))
    for name, tensor in merged[0].items():
        torch.testing.assert_close(tensor, merged[1][name], rtol=1e-5, atol=1e-6)


def test_a_method_that_is_no_fold_reads_all_ingredients_again(tmp_path):
    pool = runs(tmp_path, 3)
    soup = soup_of(Karcher(), pool[:2])
    tasted = dict(soup.taste(pool[2]))
    expected = Karcher().merge([dict(c.tensors())["matrix"] for c in pool], [1.0] * 3)
    assert torch.equal(tasted["matrix"], expected)
    soup.keep(pool[2])
    assert all(torch.equal(tasted[name], x) for name, x in soup.tensors())


@pytest.mark.parametrize(
    "method", [Linear(), Slerp(), TaskVectors(Random(0.5), "mass"), ModelStock(), Karcher()], ids=type
)
def test_blending_gives_to_the_last_bit_what_keeping_one_by_one_gives(tmp_path, method):
    base, pool = with_base(tmp_path)
    soup = soup_of(method, pool, base)
    blended = dict(Soup(method, base=base).blend(pool))
    kept = dict(soup.tensors())
    assert blended.keys() == kept.keys()
    assert all(torch.equal(blended[name], kept[name]) for name in kept)
    assert all(torch.equal(x, dict(pool[0].tensors())[name]) for name, x in soup.blend(pool[:1]))


@pytest.mark.parametrize("elect", ["mass", "count"])
@pytest.mark.parametrize(
    ("weights", "rounds", "stored"),
    [([1, 2, 3, 1], 1, torch.int8), ([1, 2, 0.5, 1], 2, torch.float32), ([1, 1, 1, 1], 33, torch.float32)],
    ids=["whole", "not whole", "too many for a byte"],
)
def test_weights_of_signs_are_exact_however_they_are_stored(weights, rounds, stored, elect, tmp_path):
    base, pool = with_base(tmp_path)
    by_name = {run.name: weight for run, weight in zip(pool, weights, strict=True)}
    method = TaskVectors(Magnitude(0.3), elect, normalize=True, weights=by_name)
    soup = Soup(method, base=base)
    for ingredient in pool * rounds:
        tasted = dict(soup.taste(ingredient))
        soup.keep(ingredient)
        kept = dict(soup.tensors())
        assert all(torch.equal(tasted[name], kept[name]) for name in kept)
    (state,) = [fold._state for name, fold in soup._folds.items() if name == "body"]
    assert state.positive_weight.dtype == state.negative_weight.dtype == stored
    start = load_file(base.path / "model.safetensors")["body"].double().numpy()
    deltas = [naive.trim(x - start, 0.3) for x in arrays(pool, "body")] * rounds
    expected = start + naive.consensus(deltas, weights * rounds, elect)
    np.testing.assert_allclose(kept["body"].double().numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("together", [False, True])
def test_trimming_by_model_is_the_papers_definition_on_whole_checkpoints(tmp_path, together):
    base = run(tmp_path, "base", body=torch.randn(20, 5), z=torch.randn(40), a=torch.randn(3, 3))
    pool = [
        run(tmp_path, f"run{i}", head=torch.randn(4), body=torch.randn(20, 5), z=torch.randn(40) * 3,
            a=torch.randn(3, 3))
        for i in range(3)
    ]  # fmt: skip
    method = TaskVectors(Magnitude(0.3, trim="model"), "mass", normalize=True)
    soup = Soup(method, base=base)
    if together:
        merged = dict(soup.blend(pool))
    else:
        for ingredient in pool:
            soup.keep(ingredient)
        merged = dict(soup.tensors())
    names, start = ["a", "body", "z"], load_file(base.path / "model.safetensors")
    flat = [
        np.concatenate([(x[n].double() - start[n].double()).reshape(-1).numpy() for n in names])
        for x in (dict(c.tensors()) for c in pool)
    ]
    expected = naive.consensus([naive.trim(np.float32(x), 0.3) for x in flat], [1.0] * 3)
    expected += np.concatenate([start[n].double().reshape(-1).numpy() for n in names])
    found = np.concatenate([merged[n].reshape(-1).numpy() for n in names])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(merged["head"], np.mean(arrays(pool, "head"), axis=0), atol=1e-6)


def test_a_survey_of_the_whole_model_holds_less_than_one_task_vector(tmp_path):
    """Measured from outside: the anonymous memory of a process, while it surveys 64 MB."""
    elements = 16_000_000
    for name in ("base", "run"):
        run(tmp_path, name, **{f"t{i}": torch.randn(elements // 4) for i in range(4)})
    script = f"""
import threading, torch
from soupkitchen.checkpoints import Checkpoint, find_pool
from soupkitchen.merging import Magnitude, TaskVectors
from soupkitchen.soup import Soup
from soupkitchen.soup.memory import StateMemory
torch.set_num_threads(1)
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
base, run = (Checkpoint.open(r"{tmp_path}/" + name) for name in ("base", "run"))
soup = Soup(TaskVectors(Magnitude(0.2, "model"), "mass"), base=base)
peak, done = [anonymous()], threading.Event()
def watch():
    while not done.wait(0.001):
        peak.append(anonymous())
watcher = threading.Thread(target=watch); watcher.start()
soup._survey(run)
done.set(); watcher.join()
print((max(peak) - peak[0]) * 1024)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0 <= int(result.stdout) < 0.6 * 4 * elements


def test_a_head_of_subtracted_runs_only_is_still_averaged(tmp_path):
    base, pool = with_base(tmp_path)
    soup = soup_of(TaskVectors(weights={"run0": -1.0, "run1": -2.0}), pool[:2], base)
    np.testing.assert_allclose(
        dict(soup.tensors())["head"], np.mean(arrays(pool[:2], "head"), axis=0), rtol=1e-5
    )


def test_how_many_arcs_were_chords_is_logged(tmp_path, caplog):
    x = torch.randn(50)
    pool = [run(tmp_path, f"run{i}", near=x + 0.001 * i, far=torch.randn(50)) for i in range(2)]
    soup = Soup(Slerp())
    soup.keep(pool[0])
    with caplog.at_level(logging.INFO):
        dict(soup.taste(pool[1]))
    assert "the arc was a plain chord in 1 of 2 tensors" in caplog.messages


def test_methods_that_differ_in_late_options_share_a_state(tmp_path):
    base, pool = with_base(tmp_path)
    methods = alternatives(TaskVectors(scale=[0.5, 2.0]))
    soup = Soup(methods["scale=0.5"], base=base)
    soup.keep(pool[0])
    for scale, method in zip([0.5, 2.0], methods.values(), strict=True):
        (start,) = arrays([base], "body")
        expected = start + scale * sum(x - start for x in arrays(pool[:2], "body"))
        soup.method = method
        np.testing.assert_allclose(dict(soup.taste(pool[1]))["body"], expected, atol=1e-5)
        np.testing.assert_allclose(dict(soup.blend(pool[:2]))["body"], expected, atol=1e-5)
    soup.keep(pool[1])
    np.testing.assert_allclose(dict(soup.tensors())["body"], expected, atol=1e-5)


@pytest.mark.parametrize("budget", [0, 500, 10**9])
def test_states_that_exceed_the_memory_lie_in_files_and_change_nothing(budget, text_runs, tmp_path):
    pool = find_pool(str(text_runs), base=str(text_runs / "a"))
    for method in (TaskVectors(Magnitude(0.2), "mass", True), ModelStock(), Linear()):
        memory = StateMemory(torch.device("cpu"), on_host=budget, folder=tmp_path)
        soup, usual = Soup(method, base=pool.base, memory=memory), Soup(method, base=pool.base)
        for run in pool.runs[1:]:
            tasted, expected = dict(soup.taste(run)), dict(usual.taste(run))
            assert all(torch.equal(tasted[name], expected[name]) for name in expected)
            soup.keep(run)
            usual.keep(run)
        kept = dict(soup.tensors())
        assert all(torch.equal(kept[name], tensor) for name, tensor in usual.tensors())
    assert list(tmp_path.iterdir()) == []  # files are deleted as soon as they are mapped


@pytest.mark.parametrize(("on_host", "left"), [(1000, 600), (500, 100), (450, 450), (99, 99)])
def test_a_field_that_grows_takes_the_room_of_its_new_size_alone(on_host, left, tmp_path):
    memory = StateMemory(torch.device("cpu"), on_host=on_host, folder=tmp_path)
    empty = torch.empty(0, dtype=torch.int8)
    field = memory._place(empty, 100).fill_(3)
    assert memory.converted(field, torch.float32).tolist() == [3.0] * 100
    assert memory.room(left + 1) is None
    assert memory.room(left) is not None


def test_a_full_disk_for_states_is_named(text_runs, tmp_path):
    memory = StateMemory(torch.device("cpu"), on_host=0, folder=tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"runtime\.max_memory"):
        Soup(Linear(), memory=memory).keep(find_pool(str(text_runs)).runs[0])


CPU = torch.device("cpu")


def test_the_state_has_the_room_of_its_own_device_only():
    runtime = Runtime(max_memory={0: 1000, 1: 5000, "cpu": 700})
    taken = {torch.device("cuda:0"): 300, torch.device("cuda:1"): 10, CPU: 100}
    # a thirty-second is for batches
    on_host = 700 - 100 - 700 // 32
    assert runtime.state_budget(taken, torch.device("cuda", 0)) == (1000 - 300 - 1000 // 32, on_host)
    assert runtime.state_budget(taken, torch.device("cuda")) == (1000 - 300 - 1000 // 32, on_host)
    assert runtime.state_budget(taken, torch.device("cuda", 1)) == (5000 - 10 - 5000 // 32, on_host)
    assert runtime.state_budget(taken, CPU) == (0, on_host)


def test_the_bases_tensors_count_as_state():
    device = torch.device("meta")  # any other than the CPU
    memory = StateMemory(device, on_device=100)
    small, large = torch.zeros(20), torch.zeros(10)
    assert memory.hold(small).device == device  # 80 bytes
    assert memory.hold(large).device == CPU  # 40 more do not fit
    assert memory.hold(torch.zeros(5)).device == device
    assert StateMemory(CPU).hold(small) is small


# Remarks


def test_buffers_that_differ_are_named_once_for_all(tmp_path, caplog):
    for number, name in enumerate("abc"):
        model = text_classifier()
        folder = tmp_path / name
        model.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        weights |= {f"bert.layer{i}.num_batches_tracked": torch.tensor(number) for i in range(7)}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    runs = [Checkpoint.open(tmp_path / name) for name in "abc"]
    warned: set[str] = set()
    soup = Soup(Linear(), warned=warned)
    soup.keep(runs[0])
    for run in runs[1:]:
        list(soup.taste(run))
        soup.keep(run)
    list(Soup(Linear(), warned=warned).blend(runs))
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "bert.layer0.num_batches_tracked" in warning
    assert "and 2 more" in warning
    assert "those of a" in warning


def test_a_uniform_soup_names_what_the_base_lacks(copy_runs, text_runs, texts, tmp_path):
    import shutil

    shutil.copytree(text_runs / "a", tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    kept = {name: x for name, x in weights.items() if not name.startswith("classifier")}
    save_file(kept, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    words = (*own(copy_runs("b", "c"), texts), f"pool.base={tmp_path / 'base'}", "method=task_arithmetic")
    result = soupkitchen(*words, "search=uniform", "name=x", cwd=tmp_path)
    assert result.stderr.count("the base model lacks 2 tensors of the runs") == 1
