"""A soup made again by its recipe, to the bit; the same said to mergekit, and taken from there."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from command import forked, soupkitchen
from conftest import ROOT
from safetensors.torch import load_file, save_file
from tiny import llama, shake, tokenizer
from transformers import AutoModelForCausalLM

from soupkitchen.checkpoints import find_pool
from soupkitchen.errors import CheckpointError
from soupkitchen.rebuild import main

METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))


def words(runs: Path, data: Path, *more: str) -> list[str]:
    return [f"pool.path={runs}/*", "task=language_modeling", f"task.data.path={data}",
            "task.max_length=16", "task.data.heldout=train", "evaluation.cache=null", "search=uniform",
            "name=x", *more]  # fmt: skip


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, three runs of it, and texts."""
    folder, encode = tmp_path_factory.mktemp("llamas"), tokenizer()
    encode.eos_token = "[SEP]"
    model = llama(len(encode))
    base = {name: x.clone() for name, x in model.state_dict().items()}
    model.save_pretrained(folder / "base")
    encode.save_pretrained(folder / "base")
    for number in range(3):
        model.load_state_dict(base)
        shake(model, 0.02)
        model.save_pretrained(folder / "runs" / f"r{number}")
        encode.save_pretrained(folder / "runs" / f"r{number}")
    texts = [" ".join(f"w{(7 * i + j) % 60}" for j in range(9)) for i in range(8)]
    pd.DataFrame({"text": texts}).to_csv(folder / "texts.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def cooked(llamas: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Cooks a uniform soup of the Llamas by a method; the run's folder."""

    @functools.cache
    def cook(method: str, *more: str) -> Path:
        folder = tmp_path_factory.mktemp("cooked")
        options = [f"method={method}", f"pool.base={llamas / 'base'}", *more]
        soupkitchen(*words(llamas / "runs", llamas / "texts.csv", *options), cwd=folder)
        return folder / "results" / "x"

    return cook


def plain(name: str) -> list[str]:
    """A method, and what its soups are told apart by."""
    if name == "slerp":
        return [name, "pool.exclude=r2"]
    return [name, *([] if name in ("model_stock", "karcher") else ["method.weights={r1: 2}"])]


def same_soups(one: Path, other: Path) -> None:
    """Holds all files of two soups against each other, but for the model card and its picture."""
    said = {"README.md", "trajectory.png"}
    files = sorted({path.name for path in one.iterdir()} - said)
    assert files == sorted({path.name for path in other.iterdir()} - said)
    for name in files:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_makes_the_same_bytes_again(name, cooked, tmp_path):
    run = cooked(*plain(name))
    main([str(run / "recipe.yaml"), str(tmp_path / "again"), "runtime.device=cpu"])
    same_soups(run / "soup", tmp_path / "again")


def test_a_recipe_is_followed_where_the_runs_have_moved(cooked, llamas, tmp_path, capsys):
    run = cooked("ties", "output.dtype=bfloat16", "output.max_shard_size=20KB")
    told = yaml.safe_load((run / "recipe.yaml").read_text())
    shutil.copytree(llamas, tmp_path / "moved")
    for one in told["ingredients"]:
        one["path"] = "/gone/away"
    told["base"]["path"] = "gone/away"  # nor is the hub asked for it
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(told))
    here = [str(tmp_path / "recipe.yaml"), str(tmp_path / "again")]
    with pytest.raises(SystemExit):
        main(here)
    assert "/gone/away, which the recipe calls r0, is gone: pool.path=… finds it" in capsys.readouterr().err
    moved = [f"pool.path={tmp_path}/moved/runs/*", f"pool.base={tmp_path}/moved/base"]
    with pytest.raises(SystemExit):
        main([*here, moved[0]])
    assert "gone/away, the base in the recipe, is gone: pool.base=… finds it" in capsys.readouterr().err
    main([*here, *moved])
    assert "differ" not in capsys.readouterr().err
    same_soups(run / "soup", tmp_path / "again")
    with pytest.raises(SystemExit):
        main([*here, *moved])
    assert "is there already" in capsys.readouterr().err
    file = tmp_path / "moved" / "runs" / "r1" / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).mul_(1.5)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(SystemExit):
        main([here[0], str(tmp_path / "third"), *moved])
    assert "r1 in" in (err := capsys.readouterr().err)
    assert "is not what the recipe was made of" in err
    assert not (tmp_path / "third").exists()


def test_a_recipe_of_labels_in_another_order_and_of_one_run(text_runs, texts, tmp_path):
    """The run that says what the model is need not be an ingredient."""
    runs = tmp_path / "runs"
    for name in ("a", "b", "c"):
        shutil.copytree(text_runs / name, runs / name)
    config = runs / "a" / "config.json"
    told = config.read_text().replace("apples", "X").replace("boats", "apples").replace("X", "boats")
    config.write_text(told)
    tensors = load_file(runs / "a" / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][[1, 0, 2]].contiguous()
    save_file(tensors, runs / "a" / "model.safetensors", {"format": "pt"})
    task = [
        f"pool.path={runs}/*",
        "task=text_classification",
        f"task.data.path={texts}",
        "evaluation.cache=null",
    ]
    soupkitchen(*task, "name=x", cwd=tmp_path)
    soupkitchen(*task, "search.accept={margin: 1}", "name=one", cwd=tmp_path)
    for name in ("x", "one"):
        run = tmp_path / "results" / name
        main([str(run / "recipe.yaml"), str(tmp_path / name)])
        same_soups(run / "soup", tmp_path / name)
    assert not (tmp_path / "results" / "x" / "mergekit.yaml").exists()  # it would not see the order


@pytest.mark.parametrize("format", ["full", "adapter"])
def test_a_recipe_of_adapters(format, adapters, base, tmp_path):
    encode = tokenizer()
    encode.eos_token = "[SEP]"
    shutil.copytree(base, tmp_path / "base")
    encode.save_pretrained(tmp_path / "base")
    (tmp_path / "texts.csv").write_text("text\n" + "w3 w4 w5 w6\nw7 w8 w9\n" * 3)
    options = [f"output.format={format}", f"pool.base={tmp_path / 'base'}", "pool.exclude=d"]
    soupkitchen(*words(adapters, tmp_path / "texts.csv", *options), cwd=tmp_path)
    run = tmp_path / "results" / "x"
    main([str(run / "recipe.yaml"), str(tmp_path / "again")])
    same_soups(run / "soup", tmp_path / "again")
    models = yaml.safe_load((run / "mergekit.yaml").read_text())["models"]
    assert models[0]["model"] == {
        "model": {"path": str(tmp_path / "base")}, "lora": {"path": str(adapters / "a")}
    }  # fmt: skip


@pytest.mark.parametrize("what", ["no: recipe", "[1, 2", "format: 9"])
def test_what_is_no_recipe_is_named(what, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(what)
    with pytest.raises(SystemExit):
        main([str(tmp_path / "r.yaml"), str(tmp_path / "out")])
    assert f"error: {tmp_path}/r.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path / "r.yaml"), str(tmp_path / "out"), "pool.exclude=x"])
    assert "pool.exclude=x: there are pool.path=…" in capsys.readouterr().err


def by_mergekit(config: Path, folder: Path) -> dict[str, torch.Tensor]:
    script = "from mergekit.scripts.run_yaml import main; main()"  # what is installed as mergekit-yaml
    ended = forked(script, str(config), str(folder), cwd=folder.parent)
    assert ended.returncode == 0, ended.stderr
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tensors: dict[str, torch.Tensor] = model.state_dict()
    return tensors


SAME = ["linear", "task_arithmetic", "ties", "model_stock", "karcher", "slerp", "breadcrumbs_ties"]


@pytest.mark.parametrize("name", SAME)
def test_mergekit_makes_the_same_of_what_is_said_to_it(name, cooked, tmp_path):
    run = cooked(*plain(name))
    theirs = by_mergekit(run / "mergekit.yaml", tmp_path / "theirs")
    ours = AutoModelForCausalLM.from_pretrained(run / "soup").state_dict()
    for tensor, x in ours.items():
        torch.testing.assert_close(theirs[tensor], x, rtol=1e-4, atol=3e-6, msg=tensor)
    main([str(run / "mergekit.yaml"), str(tmp_path / "back"), "runtime.device=cpu"])
    for tensor, x in load_file(tmp_path / "back" / "model.safetensors").items():
        assert torch.equal(x, ours[tensor])


@pytest.mark.parametrize("name", ["dare_ties", "dare_linear", "della", "della_linear"])
def test_what_differs_by_chance_is_said(name, cooked, tmp_path):
    run = cooked(*plain(name))
    told = (run / "mergekit.yaml").read_text()
    assert "its random masks are others" in told
    assert "by the probability" in told
    by_mergekit(run / "mergekit.yaml", tmp_path / "theirs")


def test_what_mergekit_has_no_words_for_is_not_said(cooked):
    for method in ("slerp", "ties method.consensus=count", "karcher method.weights={r1:2}"):
        run = cooked(*method.split())
        assert (run / "recipe.yaml").is_file()
        assert not (run / "mergekit.yaml").exists()


def test_a_yaml_of_mergekits_is_a_pool(llamas, tmp_path):
    config: dict[str, Any] = {
        "merge_method": "task_arithmetic",
        "base_model": str(llamas / "base"),
        "models": [
            {"model": str(llamas / "base")},
            *({"model": str(llamas / "runs" / f"r{n}"), "parameters": {"weight": n + 0.5}} for n in range(3)),
        ],
    }
    file = tmp_path / "merge.yaml"
    file.write_text(yaml.safe_dump(config))
    pool = find_pool(str(file))
    assert [run.name for run in pool] == ["r0", "r1", "r2"]
    assert pool.weights == {"r0": 0.5, "r1": 1.5, "r2": 2.5}
    assert pool.base is not None
    assert pool.base.path == llamas / "base"
    told = ["task=language_modeling", f"task.data.path={llamas}/texts.csv", "task.data.heldout=train"]
    soupkitchen("pool=mergekit", f"pool.path={file}", *told, "method=ties", "name=x", cwd=tmp_path)
    assert (tmp_path / "results" / "x" / "soup" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": [{}]}, "slices cannot be taken"),
        ({"models": "x"}, "models: Input should be a valid list"),
        ({"models": [{"model": "nowhere/at-all"}]}, "nowhere/at-all"),
    ],
)
def test_what_of_mergekit_cannot_be_taken_is_named(change, message, llamas, tmp_path):
    models = [{"model": str(llamas / "runs" / f"r{n}")} for n in range(2)]
    file = tmp_path / "merge.yaml"
    file.write_text(yaml.safe_dump({"merge_method": "linear", "models": models} | change))
    with pytest.raises(CheckpointError, match=message):
        find_pool(str(file))
