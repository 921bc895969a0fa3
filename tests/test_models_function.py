"""Any PyTorch model: a function makes it, its runs are files with state dicts, of whatever trainer."""

from __future__ import annotations

import copy
import functools
import json
import os
import shutil
from argparse import Namespace
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from any_models import build, right
from command import as_module, forked, soupkitchen
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import swa_utils

import soupkitchen as api
from soupkitchen import tasks
from soupkitchen.checkpoints import Checkpoint, find_pool
from soupkitchen.checkpoints.checkpoint import log_choice
from soupkitchen.errors import CheckpointError, ConfigError, IncompatibleError
from soupkitchen.evaluation import Runtime
from soupkitchen.models import Function
from soupkitchen.output import Output
from soupkitchen.search import Uniform

NAMES = ("a", "b", "c")
MODULE = "any_models"


@pytest.fixture(scope="module")
def nets() -> dict[str, nn.Module]:
    """Three nets, fine-tuned from one."""
    pixels, labels = _drawn(240, 1)
    torch.manual_seed(0)
    first, tuned = build(), {}
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        net = copy.deepcopy(first).train()
        optimizer = torch.optim.Adam(net.parameters(), 0.02 + 0.01 * seed)
        for _ in range(40):
            chosen = torch.randperm(240)[:48]
            loss = nn.functional.cross_entropy(net(pixels[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tuned[name] = net.eval()
    return tuned


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pixels")
    for split, seed in (("validation", 2), ("test", 3)):
        pixels, labels = _drawn(120, seed)
        rows = [{"x": x.flatten().tolist(), "y": int(y)} for x, y in zip(pixels, labels, strict=True)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def _drawn(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    centre = torch.randn(3, 3, 1, 1, generator=torch.Generator().manual_seed(0)) / 5
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (number,), generator=generator)
    pixels = 0.5 + centre[labels] + torch.randn(number, 3, 4, 4, generator=generator) / 3
    return (pixels.clamp(0, 1) * 255).round() / 255, labels


FORMATS = {
    "a state dict": lambda state: state,
    "data parallel": lambda state: {f"module.{name}": x for name, x in state.items()},
    "compiled": lambda state: {"model": {f"_orig_mod.{name}": x for name, x in state.items()}, "iter_num": 5},
    "Lightning": lambda state: {
        "state_dict": {f"model.{name}": x for name, x in state.items()},
        "pytorch-lightning_version": "2.5",
        "hyper_parameters": {"width": 4},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}],
        "callbacks": {"best": {"score": torch.tensor(0.5)}},
    },
    "timm": lambda state: {
        "state_dict": state,
        "args": Namespace(lr=0.1, folder=Path("x")),
        "metric": np.float64(0.5),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
    },
}


def lay(nets: Mapping[str, nn.Module], folder: Path, form: str = "a state dict", suffix: str = ".pt") -> Path:
    folder.mkdir(parents=True)
    for name, net in nets.items():
        torch.save(FORMATS[form](net.state_dict()), folder / f"{name}{suffix}")
    return folder


def cook(runs: Path, data: Path, to: Path, model: Function | None = None, **more: Any) -> api.Result:
    task = tasks.function(data=tasks.Data(str(data)), function=f"{MODULE}.right")
    return api.cook(runs, task, model=model or Function(f"{MODULE}.build"), results_dir=to, name="x", **more)


def mean_of(nets: Mapping[str, nn.Module], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    states = [nets[name].state_dict() for name in names]
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0) if x.is_floating_point() else x
        for name, x in states[0].items()
    }


@pytest.mark.parametrize("form", FORMATS)
def test_the_soup_of_state_dicts_is_their_mean_in_safetensors_and_in_the_runs_own_format(
    form, nets, data, tmp_path
):
    runs = lay(nets, tmp_path / "runs", form, suffix=".ckpt")
    (runs / "optimizer.pt").write_bytes(b"")
    result = cook(runs, data, tmp_path)
    expected = mean_of(nets, result.ingredients)
    soup = result.model()
    for name, x in soup.state_dict().items():
        if x.is_floating_point():
            torch.testing.assert_close(x.double(), expected[name], rtol=0, atol=1e-7)
    own = torch.load(result.folder / "soup" / "model.ckpt", weights_only=False)
    told = torch.load(runs / "a.ckpt", weights_only=False)
    lost = {"optimizer", "optimizer_states", "callbacks"}
    assert own.keys() == told.keys() - lost
    read: dict[str, Any] = FORMATS[form](soup.state_dict())
    for key in own.keys() & {"state_dict", "model"}:
        assert own[key].keys() == told[key].keys()
        assert all(torch.equal(own[key][name], read[key][name]) for name in own[key])
    if form in ("a state dict", "data parallel"):
        assert all(torch.equal(own[name], read[name]) for name in own)
    assert own.get("hyper_parameters") == told.get("hyper_parameters")
    _, _, examples = _heldout(data)
    scored = np.mean(right(soup, None, examples))
    assert result.score == pytest.approx(scored, abs=1e-6)


def _heldout(data: Path) -> tuple[torch.Tensor, torch.Tensor, list[dict[str, Any]]]:
    rows = [json.loads(line) for line in (data / "validation.jsonl").read_text().splitlines()]
    return torch.tensor([row["x"] for row in rows]), torch.tensor([row["y"] for row in rows]), rows


def test_each_single_run_scores_what_its_net_does(nets, data, tmp_path):
    result = cook(lay(nets, tmp_path / "runs"), data, tmp_path)
    _, _, examples = _heldout(data)
    table = result.leaderboard.set_index("model")
    for name, net in nets.items():
        assert table.loc[name, "heldout_score"] == pytest.approx(np.mean(right(net, None, examples)))


def averaged(net: nn.Module) -> swa_utils.AveragedModel:
    model = swa_utils.AveragedModel(net, use_buffers=True)
    model.update_parameters(net)
    return model


def live(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x + 1 for name, x in state.items()}


COUNT = {"n_averaged": torch.tensor(3)}
AVERAGED: dict[str, tuple[str, Any]] = {
    "swa": ("", lambda state: COUNT | {f"module.{n}": x for n, x in state.items()}),
    "swa of data parallel": ("", lambda state: COUNT | {f"module.module.{n}": x for n, x in state.items()}),
    "swa, compiled": ("", lambda state: COUNT | {f"module._orig_mod.{n}": x for n, x in state.items()}),
    "fully sharded": ("", lambda state: {f"_fsdp_wrapped_module.{n.replace('.', '._fsdp_wrapped_module.')}": x
                                         for n, x in state.items()}),
    "DeepSpeed": ("", lambda state: {"module": dict(state), "ds_version": "0.15", "optimizer": None}),
    "Fabric": ("", lambda state: {"model": {f"_forward_module.{n}": x for n, x in state.items()}}),
    "ema-pytorch": ("online_model.", lambda state: {
        "initted": torch.tensor([True]), "step": torch.tensor([7]),
        **{f"online_model.{n}": x for n, x in live(state).items()},
        **{f"ema_model.{n}": x for n, x in state.items()},
    }),
    "ema-pytorch alone": ("", lambda state: {"initted": torch.tensor([True]), "step": torch.tensor([7]),
                                             **{f"ema_model.{n}": x for n, x in state.items()}}),
    "ema-pytorch in Lightning": ("ema.online_model.", lambda state: {"state_dict": {
        "ema.initted": torch.tensor([True]), "ema.step": torch.tensor([7]),
        **{f"ema.online_model.{n}": x for n, x in live(state).items()},
        **{f"ema.ema_model.{n}": x for n, x in state.items()},
    }}),
    "swa in Lightning": ("model.", lambda state: {"state_dict": {
        "swa.n_averaged": torch.tensor(3), **{f"model.{n}": x for n, x in live(state).items()},
        **{f"swa.module.{n}": x for n, x in state.items()},
    }}),
    "a copy in Lightning": ("model.", lambda state: {"state_dict": {
        **{f"model.{n}": x for n, x in live(state).items()},
        **{f"ema_model.{n}": x for n, x in state.items()},
    }}),
    "Lightning's WeightAveraging": ("current_model_state", lambda state: {
        "state_dict": dict(state), "current_model_state": live(state), "averaging_state": COUNT,
    }),
}  # fmt: skip


@pytest.mark.parametrize("kind", AVERAGED)
def test_weights_are_read_as_training_leaves_them(kind, nets, tmp_path, caplog):
    key, lay_out = AVERAGED[kind]
    (tmp_path / "runs").mkdir()
    for name, net in nets.items():
        torch.save(lay_out(net.state_dict()), tmp_path / "runs" / f"{name}.pt")
    log_choice.cache_clear()
    with caplog.at_level("INFO"):
        pool = find_pool(str(tmp_path / "runs"))
    expected = nets["a"].state_dict()
    read = {name: pool["a"].tensor(name) for name in pool["a"].header}
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], x) for name, x in expected.items())
    assert ("averaged weights" in caplog.text) == ("the averaged (" in caplog.text) == bool(key)
    if key:
        assert f"pool.key={key} takes the others" in caplog.text
        other = find_pool(str(tmp_path / "runs"), key=key)
        assert torch.equal(other["a"].tensor("head.bias"), expected["head.bias"] + 1)
        assert (
            find_pool(str(tmp_path / "runs"), key=other["a"].key)["a"].fingerprint == other["a"].fingerprint
        )


def test_an_average_that_a_callback_of_lightning_keeps_is_named(nets, tmp_path, caplog):
    (tmp_path / "runs").mkdir()
    for name, net in nets.items():
        kept = {"n_averaged": 3, "average_model_state": net.state_dict()}
        held = {"state_dict": live(net.state_dict()), "callbacks": {"StochasticWeightAveraging": kept}}
        torch.save(held, tmp_path / "runs" / f"{name}.ckpt")
    log_choice.cache_clear()
    bias = nets["a"].state_dict()["head.bias"]
    with caplog.at_level("INFO"):
        assert torch.equal(find_pool(str(tmp_path / "runs"))["a"].tensor("head.bias"), bias + 1)
    key = "callbacks.StochasticWeightAveraging.average_model_state"
    assert f"the live (state_dict) are taken; pool.key={key} takes the others" in caplog.text
    assert torch.equal(find_pool(str(tmp_path / "runs"), key=key)["a"].tensor("head.bias"), bias)


@pytest.mark.parametrize("kind", ["torch", "ema-pytorch", "ema-pytorch in Lightning"])
def test_the_soup_of_averages_is_one_that_loads_as_the_runs_do(kind, nets, data, tmp_path):
    (tmp_path / "runs").mkdir()
    for name, net in nets.items():
        state = averaged(net).state_dict() if kind == "torch" else AVERAGED[kind][1](net.state_dict())
        torch.save(state, tmp_path / "runs" / f"{name}.pt")
    result = cook(tmp_path / "runs", data, tmp_path, search=Uniform())
    saved = torch.load(result.folder / "soup" / "model.pt", weights_only=True)
    like = torch.load(tmp_path / "runs" / "a.pt", weights_only=True)
    assert saved.keys() == like.keys()
    mean = mean_of(nets, tuple(nets))["head.bias"]
    if kind == "torch":
        model = swa_utils.AveragedModel(build())
        model.load_state_dict(saved)
        torch.testing.assert_close(model.module.head.bias.double(), mean)
    else:
        ((_, inner),) = {"": saved}.items() if kind == "ema-pytorch" else saved.items()
        biases = [x for name, x in inner.items() if name.endswith("head.bias")]
        assert len(biases) == 2
        assert all(torch.allclose(x.double(), mean) for x in biases)


def test_a_parameter_called_step_is_one(nets, tmp_path):
    (tmp_path / "runs").mkdir()
    for number, (name, net) in enumerate(nets.items()):
        torch.save(net.state_dict() | {"step": torch.tensor([number])}, tmp_path / "runs" / f"{name}.pt")
    assert "step" in find_pool(str(tmp_path / "runs")).reference.header


def test_a_prefix_that_is_not_there_is_named(nets, tmp_path):
    runs = lay(nets, tmp_path / "runs", "Lightning")
    assert find_pool(str(runs), key="model.")["a"].key == "state_dict.model."
    with pytest.raises(
        IncompatibleError, match=r"no state dict called ema_model\. \(pool.key\); it has state_dict"
    ):
        find_pool(str(runs), key="ema_model.")


@pytest.mark.parametrize(("key", "other"), [("model", "ema.module"), ("ema.module", "model")])
def test_of_several_state_dicts_in_a_file_one_has_to_be_named(key, other, nets, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    for name, net in nets.items():
        average = {name: x + 1 for name, x in net.state_dict().items()}
        torch.save({"model": net.state_dict(), "ema": {"module": average, "steps": 3}}, runs / f"{name}.pth")
    with pytest.raises(IncompatibleError, match=r"several.*pool.key=model or pool.key=ema.module"):
        find_pool(str(runs))
    pool = find_pool(str(runs), key=key)
    bias = nets["a"].state_dict()["head.bias"]
    assert torch.equal(pool["a"].tensor("head.bias"), bias + (key != "model"))
    assert pool["a"].fingerprint != find_pool(str(runs), key=other)["a"].fingerprint
    with pytest.raises(IncompatibleError, match=r"no state dict called emma .*it has model, ema.module"):
        find_pool(str(runs), key="emma")


def test_a_key_is_for_files(text_runs):
    with pytest.raises(ConfigError, match=r"pool.key=ema is for runs that are files"):
        find_pool(str(text_runs), key="ema")


@dataclass
class Options:
    lr: float = 0.1


class Optimizer(Enum):
    ADAM = "adam"


class Trap:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, file: Path, how: str) -> None:
        self.file, self.how = file, how

    def __reduce__(self) -> Any:
        if self.how == "function":
            return os.mknod, (str(self.file),)
        if self.how == "method":
            return self.file.touch, ()
        return exec, (f"open({str(self.file)!r}, 'w')",)


HYPER: dict[str, Any] = {
    "OmegaConf": OmegaConf.create({"width": 4, "sizes": [1, 2], "deep": {"lr": "${width}"}}),
    "partial": {"width": 4, "optimizer": functools.partial(torch.optim.Adam, lr=0.1)},
    "dataclass": {"width": 4, "options": Options()},
    "enum": {"width": 4, "optimizer": Optimizer.ADAM},
    "paths": {"width": 4, "folder": Path("x"), "other": PurePosixPath("y"), "windows": PureWindowsPath("z")},
    "namespace": Namespace(width=4, inner=Namespace(options=Options())),
    "defaultdict": {"width": 4, "sizes": defaultdict(list, {"a": [1]})},
    "a class": {"width": 4, "net": nn.Linear, "activation": nn.ReLU()},
    "time": {"width": 4, "at": datetime(2026, 1, 1)},
}


@pytest.mark.parametrize("hyper", HYPER)
def test_classes_in_hyperparameters_are_neither_imported_nor_made(hyper, nets, data, tmp_path):
    (tmp_path / "runs").mkdir()
    for name, net in nets.items():
        held = FORMATS["Lightning"](net.state_dict()) | {"hyper_parameters": HYPER[hyper]}
        torch.save(held, tmp_path / "runs" / f"{name}.ckpt")
    pool = find_pool(str(tmp_path / "runs"))
    assert torch.equal(pool["a"].tensor("model.head.bias"), nets["a"].state_dict()["head.bias"])
    if hyper in ("OmegaConf", "dataclass"):
        result = cook(tmp_path / "runs", data, tmp_path, search=Uniform())
        saved = torch.load(result.folder / "soup" / "model.ckpt", weights_only=True)
        assert saved["pytorch-lightning_version"] == "2.5"
        assert saved.get("hyper_parameters") == (None if hyper == "OmegaConf" else {"width": 4})
        assert find_pool([str(result.folder / "soup" / "model.ckpt"), str(tmp_path / "runs")]).runs


@pytest.mark.parametrize("how", ["function", "method", "exec"])
@pytest.mark.parametrize("legacy", [False, True])
def test_what_a_file_would_run_is_not_run(legacy, how, nets, tmp_path):
    runs = lay(nets, tmp_path / "runs")
    held = {"state_dict": nets["a"].state_dict(), "fn": Trap(tmp_path / "trap", how)}
    torch.save(held, runs / "a.pt", _use_new_zipfile_serialization=not legacy)
    if legacy or how != "exec":  # what getattr gives is nothing to call, and modules such as os are not named
        with pytest.raises(IncompatibleError, match="could run code: it was not opened"):
            find_pool(str(runs))
    else:
        bias = find_pool(str(runs))["a"].tensor("head.bias")
        assert torch.equal(bias, nets["a"].state_dict()["head.bias"])
    assert not (tmp_path / "trap").exists()
    assert not any(
        name == "builtins.exec" for name in torch._weights_only_unpickler._get_user_allowed_globals()
    )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda state: state | {"extra.weight": torch.ones(2)}, "holds extra.weight, for which model.build"),
        (
            lambda state: {n: x for n, x in state.items() if "head" not in n},
            "no weights for head.weight, head.bias",
        ),
        (
            lambda state: state | {"head.bias": torch.ones(4)},
            r"has head.bias of shape \[4\], which does not fit",
        ),
    ],
)
def test_files_and_model_that_are_not_of_each_other_are_refused(spoil, says, nets, data, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    for name, net in nets.items():
        torch.save(spoil(net.state_dict()), runs / f"{name}.pt")
    with pytest.raises(CheckpointError, match=says):
        cook(runs, data, tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"build": f"{MODULE}.biuld"}, "model.build=.*cannot be imported"),
        ({"build": f"{MODULE}.no_module"}, "gives a int, and no torch.nn.Module"),
        (
            {"build": f"{MODULE}.build", "options": {"depth": 3}},
            "with model.options=.*fails: TypeError.*depth",
        ),
        ({"build": "sys.exit", "options": {}}, r"model.build=sys.exit: .* by sys.exit\("),
        ({"build": f"{MODULE}.build", "processor": f"{MODULE}.gone"}, "model.processor=.*cannot be imported"),
    ],
)
def test_a_function_that_makes_no_model_is_said_by_its_option(options, says, nets, data, tmp_path):
    with pytest.raises(ConfigError, match=says):
        cook(lay(nets, tmp_path / "runs"), data, tmp_path, Function(**options))


def test_state_dicts_without_a_function_are_refused(nets, data, tmp_path):
    task = tasks.function(data=tasks.Data(str(data)), function=f"{MODULE}.right")
    with pytest.raises(CheckpointError, match=r"no config.json .*model=function model.build="):
        api.cook(lay(nets, tmp_path / "runs"), task, results_dir=tmp_path, name="x")


def test_a_task_that_needs_transformers_is_refused(nets, data, tmp_path):
    with pytest.raises(ConfigError, match=r"TextClassification asks for .*task=function"):
        api.cook(
            lay(nets, tmp_path / "runs"),
            tasks.text_classification(str(data), text="x", label="y"),
            model=Function(f"{MODULE}.build"),
            results_dir=tmp_path,
            name="x",
        )


def test_half_precision_runs_stay_so_and_a_dtype_of_the_output_is_kept(nets, data, tmp_path):
    halves = {name: copy.deepcopy(net).to(torch.bfloat16) for name, net in nets.items()}
    result = cook(lay(halves, tmp_path / "runs"), data, tmp_path)
    saved = load_file(result.folder / "soup" / "model.safetensors")
    assert {x.dtype for x in saved.values()} == {torch.bfloat16, torch.int64}
    assert "again.weight" not in saved or "inner.weight" not in saved  # tied: once
    wide = cook(lay(nets, tmp_path / "wide"), data, tmp_path / "other", output=Output(dtype="float16"))
    saved = load_file(wide.folder / "soup" / "model.safetensors")
    assert {x.dtype for x in saved.values()} == {torch.float16, torch.int64}


def test_safetensors_files_are_runs_too_and_a_saved_soup_can_be_one_again(nets, data, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    for name, net in nets.items():
        state = {key: x.clone() for key, x in net.state_dict().items() if key != "again.weight"}
        save_file(state, runs / f"{name}.safetensors")
    result = cook(runs, data, tmp_path)
    soup = Checkpoint.open(result.folder / "soup")
    assert soup.config == {}
    again = find_pool([str(runs / "*.safetensors"), str(soup.path)], exclude=result.ingredients[0])
    assert "soup" in {run.name for run in again}
    assert not list((result.folder / "soup").glob("model.pt"))


@pytest.mark.slow
def test_images_are_classified_by_a_net_of_the_users_from_the_command_line(nets, tmp_path):
    lay(nets, tmp_path / "runs", "Lightning", ".ckpt")
    shutil.copy(Path(__file__).with_name("any_models.py"), tmp_path / "mine.py")
    for split, seed in (("validation", 2), ("test", 3)):
        pixels, labels = _drawn(90, seed)
        folder = tmp_path / "pixels" / split
        folder.mkdir(parents=True)
        rows = []
        for number, (x, y) in enumerate(zip(pixels, labels, strict=True)):
            Image.fromarray((x * 255).numpy().round().astype("uint8").transpose(1, 2, 0)).save(
                folder / f"{number}.png"
            )
            rows.append((str(folder / f"{number}.png"), int(y)))
        (tmp_path / "data").mkdir(exist_ok=True)
        pd.DataFrame(rows, columns=["image", "label"]).to_csv(tmp_path / "data" / f"{split}.csv", index=False)
    words = ["pool.path=runs/*.ckpt", "model=function", "model.build=mine.build", "model.options.width=4"]
    words += ["model.processor=mine.transform", "task=image_classification", "task.data.path=data", "name=x"]
    soupkitchen(*words, "report.write=true", cwd=tmp_path)
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv").set_index("model")
    pixels, labels = _drawn(90, 2)
    for name, net in nets.items():
        accuracy = (net(pixels).argmax(-1) == labels).float().mean().item()
        assert table.loc[name, "heldout_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    command = [as_module("soupkitchen.rebuild"), "results/x/recipe.yaml", "again"]
    refused = forked(*command, cwd=tmp_path)
    assert "it names mine.build, mine.transform, which soupkitchen does not have" in refused.stderr
    trusted = forked(*command, "--trust", "mine.build", "--trust", "mine.transform", cwd=tmp_path)
    assert trusted.returncode == 0, trusted.stderr
    for file in ("model.safetensors", "model.ckpt"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "results/x/soup" / file).read_bytes()
    card = (tmp_path / "results/x/soup/README.md").read_text()
    assert "library_name: pytorch" in card
    assert "from mine import build" in card


def test_batch_norm_is_recalibrated_with_a_function_of_the_users(nets, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    pixels, labels = _drawn(96, 5)
    rows = [{"x": x.flatten().tolist(), "y": int(y)} for x, y in zip(pixels, labels, strict=True)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    runs = lay(nets, tmp_path / "runs")
    more = {
        "method": api.methods.linear(recalibrate_batchnorm=20),
        "search": Uniform(),
        "runtime": Runtime(batch_size=48),
    }
    soup: Any = cook(runs, tmp_path / "data", tmp_path, **more).model()
    net: Any = build()
    net.load_state_dict(mean_of(nets, NAMES))
    with torch.no_grad():
        convolved = net.conv(pixels)
    torch.testing.assert_close(soup.norm.running_mean, convolved.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    task = tasks.function(
        data=tasks.Data(str(tmp_path / "data")), function=f"{MODULE}.right_in_evaluation_mode"
    )
    with pytest.raises(ConfigError, match=r"recalibrate_batchnorm: no forward pass .* model\.eval\(\)"):
        api.cook(runs, task, model=Function(f"{MODULE}.build"), results_dir=tmp_path, name="y", **more)
