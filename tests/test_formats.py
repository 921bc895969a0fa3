"""Pools as sweeps leave them: lists, Trainer folders, hub names, PyTorch files, mixed dtypes, prefixes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pandas as pd
import pytest
import torch
import transformers
from command import own, soupkitchen
from safetensors.torch import load_file, save_file
from tiny import LABELS, average, gpt2, llama, shake, text_classifier
from tokenizers import Tokenizer, models, pre_tokenizers

from soupkitchen.checkpoints import Pool, find_pool, tracker_runs
from soupkitchen.checkpoints.sources import find
from soupkitchen.checkpoints.tracker_runs import TrackerRun
from soupkitchen.errors import CheckpointError, ConfigError, IncompatibleError
from soupkitchen.evaluation import LiveModel
from soupkitchen.merging import Linear
from soupkitchen.output.mergekit import read_recipe
from soupkitchen.soup import Soup

CPU = torch.device("cpu")


def names(pool: Pool) -> list[str]:
    return [run.name for run in pool]


# Lists


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_list_of_runs_names_weighs_and_scores_them(suffix, text_runs, tmp_path):
    rows = [
        {"path": str(text_runs / "c"), "name": "third", "weight": 2.0, "accuracy": 0.5},
        {"path": "a", "name": None, "weight": None, "accuracy": 0.7},
    ]
    shutil.copytree(text_runs / "a", tmp_path / "a")  # beside the list: paths are relative to it
    frame, file = pd.DataFrame(rows), tmp_path / f"runs{suffix}"
    frame.to_csv(file, index=False) if suffix == ".csv" else frame.to_json(file, orient="records", lines=True)
    pool = find_pool(str(file))
    assert names(pool) == ["third", "a"]
    assert pool.weights == {"third": 2.0}
    assert pool.scores == {"third": {"accuracy": 0.5}, "a": {"accuracy": 0.7}}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("folder\na\n", "no column 'path'; it has: folder"),
        ("path,weight\na,much\n", "'weight' should hold numbers"),
        ("", "cannot be read as a table"),
        ("path\nnowhere\n", "nowhere is no folder"),
    ],
)
def test_a_list_that_is_none_is_named(content, complaint, tmp_path):
    (tmp_path / "runs.csv").write_text(content)
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError, match=complaint):
        find_pool(str(tmp_path / "runs.csv"))


def test_scores_of_a_list_rank_the_pool_where_they_are_trusted(text_runs, texts, tmp_path):
    listed = {"wild": 0.9, "d": 0.8, "a": 0.2, "b": 0.1}  # not what they score
    frame = pd.DataFrame(
        {"path": [str(text_runs / run) for run in listed], "heldout_accuracy": listed.values()}
    )
    frame.to_csv(tmp_path / "runs.csv", index=False)
    words = ("task=text_classification", f"task.data.path={texts}", "evaluation.cache=null", "name=x")
    result = soupkitchen(f"pool.path={tmp_path}/runs.csv", *words, "pool.trust_scores=true", cwd=tmp_path)
    assert "only wild was scored" in result.stderr
    trajectory = pd.read_csv(tmp_path / "results/x/trajectory.csv")
    assert trajectory.query("stage == 'merge'")["candidate"].tolist() == list(listed)
    assert trajectory.query("stage == 'rank'")["candidate"].tolist() == ["wild"]
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv").set_index("model")
    assert table.loc["d", "kind"] == "listed"
    assert table.loc["d", "heldout_accuracy"] == 0.8
    measured = table.loc["wild", "heldout_accuracy"]
    assert measured != 0.9
    assert table.loc["soup", "heldout_accuracy"] >= measured
    result = soupkitchen(
        f"pool.path={tmp_path}/runs.csv", *words[:-1], "name=y", "pool.trust_scores=true",
        "task.metric.name=f1_macro", cwd=tmp_path, fails=True,
    )  # fmt: skip
    assert "gives no f1_macro for wild; it has heldout_accuracy" in result.stderr


@pytest.mark.parametrize(
    ("score", "metric", "says"),
    [
        ("35.0", "accuracy", "35 for b, which is no accuracy, of which the best is 1: is it in percent"),
        ("inf", "accuracy", "inf for b, which is no accuracy"),
        ("-inf", "cross_entropy", "-inf for b, which is no cross_entropy"),
        ("-0.2", "cross_entropy", "-0.2 for b, which is no cross_entropy, of which the best is"),
        ("inf", "mine.Sum", "inf for b, which is no Sum"),
        ("", "accuracy", "gives no accuracy for b"),
    ],
)
def test_listed_scores_that_the_metric_cannot_give_are_refused(
    score, metric, says, text_runs, texts, tmp_path
):
    name = metric.removeprefix("mine.")
    (tmp_path / "runs.csv").write_text(f"path,{name}\n{text_runs}/a,0.4\n{text_runs}/b,{score}\n")
    (tmp_path / "mine.py").write_text("class Sum:\n    def of(self, predictions, references): return 0.5\n")
    words = ("task=text_classification", f"task.data.path={texts}", f"task.metric.name={metric}", "name=x")
    words = (*words, f"pool.path={tmp_path}/runs.csv", "pool.trust_scores=true", "evaluation.cache=null")
    assert says in soupkitchen(*words, cwd=tmp_path, fails=True).stderr


def test_listed_scores_in_another_unit_are_warned_of(text_runs, texts, tmp_path):
    (tmp_path / "runs.csv").write_text(f"path,cross_entropy\n{text_runs}/a,40.0\n{text_runs}/b,0.01\n")
    words = (
        "task=text_classification",
        f"task.data.path={texts}",
        "task.metric.name=cross_entropy",
        "name=x",
    )
    words = (*words, f"pool.path={tmp_path}/runs.csv", "pool.trust_scores=true", "evaluation.cache=null")
    error = soupkitchen(*words, cwd=tmp_path).stderr
    assert "the list says 0.01 of b, and it scores" in error
    assert "the listed scores differ by a factor of 4000" in error


def test_weights_of_a_list_are_the_methods(text_runs, texts, tmp_path):
    frame = pd.DataFrame({"path": [str(text_runs / "a"), str(text_runs / "b")], "weight": [3.0, 1.0]})
    frame.to_csv(tmp_path / "runs.csv", index=False)
    words = ("task=text_classification", f"task.data.path={texts}", "evaluation.cache=null", "name=x")
    words = (f"pool.path={tmp_path}/runs.csv", *words, "search=uniform")
    soupkitchen(*words, cwd=tmp_path)
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    a, b = (load_file(text_runs / run / "model.safetensors") for run in "ab")
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, (3 * a[name] + b[name]) / 4, rtol=1e-5, atol=1e-7)
    result = soupkitchen(*words[:-1], "name=y", "method.weights={a: 2}", cwd=tmp_path, fails=True)
    assert "both the list of runs (pool.path) and method.weights give weights" in result.stderr


def test_trusting_scores_needs_scores(text_runs):
    with pytest.raises(ConfigError, match="needs a list of runs with scores"):
        find_pool(str(text_runs), trust_scores=True)


# The Trainer's folders


@pytest.fixture
def trained(text_runs: Path, tmp_path: Path) -> Path:
    """Two output folders as the Trainer leaves them, each with three checkpoints."""
    for number, output in enumerate(("one", "two")):
        for step, run in zip((5, 10, 20), ("a", "b", "c") if number else ("b", "c", "d"), strict=True):
            folder = tmp_path / "out" / output / f"checkpoint-{step}"
            shutil.copytree(text_runs / run, folder)
            state = {"best_model_checkpoint": f"/elsewhere/{output}/checkpoint-10", "global_step": step}
            (folder / "trainer_state.json").write_text(json.dumps(state))
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (None, {"one": "checkpoint-10", "two": "checkpoint-10"}),
        ("best", {"one": "checkpoint-10", "two": "checkpoint-10"}),
        ("last", {"one": "checkpoint-20", "two": "checkpoint-20"}),
        ("all", {f"{o}/checkpoint-{s}": f"checkpoint-{s}" for o in ("one", "two") for s in (5, 10, 20)}),
    ],
)
def test_checkpoints_of_trainer_folders_are_runs(which, expected, trained):
    found = find(str(trained), checkpoints=which)
    assert {name: source.folder.name for name, source in found.items()} == expected
    assert list(found) == list(expected)  # by step, not by spelling


def test_a_trainers_own_model_comes_before_its_checkpoints(trained, text_runs):
    for file in (text_runs / "wild").iterdir():
        shutil.copy(file, trained / "one")
    assert find(str(trained))["one"].folder == trained / "one"
    assert find(str(trained), checkpoints="last")["one"].folder.name == "checkpoint-20"


def test_a_trainer_that_names_no_best_checkpoint_says_so(trained):
    for state in trained.glob("one/*/trainer_state.json"):
        state.write_text("{}")
    assert find(str(trained))["one"].folder.name == "checkpoint-20"
    with pytest.raises(CheckpointError, match="names no best checkpoint"):
        find(str(trained), checkpoints="best")
    with pytest.raises(ConfigError, match=r"pool\.checkpoints=first"):
        find(str(trained), checkpoints="first")


def test_copies_are_found_by_content(trained, caplog):
    pool = find_pool(str(trained), checkpoints="all")  # b and c are in both folders
    assert len(pool) == 4
    assert "two/checkpoint-10 has the same content as one/checkpoint-5" in caplog.text
    assert "two/checkpoint-20 has the same content as one/checkpoint-10" in caplog.text


# Names on the hub


@pytest.fixture
def hub(text_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache with two models, one of them in two revisions, as huggingface_hub lays it out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for repository, revisions in {"ann/x": {"main": "a", "v2": "b"}, "bob/y": {"main": "c"}}.items():
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        for number, (revision, run) in enumerate(revisions.items()):
            commit = f"{number:040x}"
            for file in sorted((text_runs / run).iterdir()):
                blob = folder / "blobs" / f"{commit}-{file.name}"
                blob.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, blob)
                link = folder / "snapshots" / commit / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(blob)
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs" / revision).write_text(commit)


def test_models_of_the_hub_are_runs_by_name_and_revision(hub, text_runs):
    pool = find_pool(["ann/x@v2", "bob/y", str(text_runs / "a")], base="ann/x")
    assert names(pool) == ["ann/x@v2", "bob/y", "a"]
    for run, local in zip(pool, ("b", "c", "a"), strict=True):
        expected = load_file(text_runs / local / "model.safetensors")
        assert all(torch.equal(tensor, expected[name]) for name, tensor in run.tensors())
    assert torch.equal(
        pool.base.tensor("classifier.bias"), load_file(text_runs / "a/model.safetensors")["classifier.bias"]
    )


def test_adapters_find_their_base_on_the_hub(hub, base, adapters, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--ann--llama" / "snapshots" / "f00"
    shutil.copytree(base, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "v1").write_text("f00")
    for name in ("a", "b"):
        shutil.copytree(adapters / name, tmp_path / "runs" / name)
        file = tmp_path / "runs" / name / "adapter_config.json"
        named = {"base_model_name_or_path": "ann/llama", "revision": "v1"}
        file.write_text(json.dumps(json.loads(file.read_text()) | named))
    pool = find_pool(str(tmp_path / "runs"))
    expected = dict(find_pool(str(adapters), exclude=["c", "d"])["b"].tensors())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in pool["b"].tensors())


class Asked(BaseHTTPRequestHandler):
    """A hub that has nothing, and notes what it is asked for."""

    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a hub that can be reached is asked for."""
    server = HTTPServer(("127.0.0.1", 0), Asked)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    for name in ("HF_ENDPOINT",):
        monkeypatch.setenv(name, address)
    Asked.paths.clear()
    yield Asked.paths
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_for_what_the_user_names_and_not_for_what_files_name(
    asked, base, adapters, tmp_path
):
    for name in ("a", "b"):
        shutil.copytree(adapters / name, tmp_path / "runs" / name)
        file = tmp_path / "runs" / name / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "ann/llama"}))
    with pytest.raises(
        IncompatibleError, match=r"the hub is asked only for what you name yourself, as pool.base"
    ):
        find_pool(str(tmp_path / "runs"))
    pool = find_pool(str(tmp_path / "runs"), base=str(base))
    LiveModel(pool.reference, transformers.AutoModelForCausalLM, CPU)
    assert asked == []
    with pytest.raises(CheckpointError, match="ann/llama is no folder here, and as a name on the hub"):
        find_pool(str(tmp_path / "runs"), base="ann/llama")
    assert any("ann/llama" in path for path in asked)


def as_csv(name: str, file: Path) -> None:
    file.write_text(f"path\n{name}\n")


def as_jsonl(name: str, file: Path) -> None:
    file.write_text(json.dumps({"path": name}) + "\n")


def as_wandb_exports(name: str, file: Path) -> None:
    file.write_text(f"Name,State,output_dir\nx,finished,{name}\n")


def as_mergekit(name: str, file: Path) -> None:
    file.write_text(f"merge_method: linear\nmodels: [{{model: {name}, parameters: {{weight: 1}}}}]\n")


def as_base_of_mergekit(name: str, file: Path) -> None:
    models = [{"model": str(file.parent)}, {"model": f"{file.parent}-2"}]
    told = {"merge_method": "ties", "base_model": name, "models": models, "parameters": {"weight": 1}}
    file.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("write", "kind"),
    [(as_csv, "csv"), (as_jsonl, "jsonl"), (as_wandb_exports, "csv"), (as_mergekit, "yaml"),
     (as_base_of_mergekit, "yaml")],
)  # fmt: skip
def test_of_what_a_list_names_the_hub_is_asked_for_what_begins_with_hf(write, kind, asked, base, tmp_path):
    for name in ("list", "list-2"):
        shutil.copytree(base, tmp_path / name)
    file = tmp_path / "list" / f"runs.{kind}"
    write("results/run-1", file)
    for taken in (find_pool, made_again) if kind == "yaml" else (find_pool,):
        with pytest.raises(CheckpointError, match="as hf://results/run-1 in a list, or by: hf download"):
            taken(str(file))
    assert asked == []
    write("hf://ann/llama", file)
    with pytest.raises(CheckpointError, match="ann/llama is no folder here, and as a name on the hub"):
        find_pool(str(file))
    assert any("ann/llama" in path for path in asked)


def made_again(file: str) -> None:
    read_recipe(Path(file))


def test_an_experiments_folder_is_not_asked_of_the_hub(asked, monkeypatch):
    runs = [TrackerRun("results/run-1", "x", {})]
    monkeypatch.setattr(tracker_runs, "of_mlflow", lambda experiment: runs)
    with pytest.raises(CheckpointError, match=r"results/run-1 is no folder here"):
        find_pool("mlflow:sweep")
    assert asked == []


def test_what_is_in_the_hubs_cache_is_taken_by_its_name_in_a_list(hub, tmp_path):
    (tmp_path / "runs.csv").write_text("path\nann/x\nhf://bob/y\n")
    assert names(find_pool(str(tmp_path / "runs.csv"))) == ["ann/x", "bob/y"]
    assert names(find_pool(["hf://ann/x@v2", "bob/y"], base="hf://ann/x")) == ["ann/x@v2", "bob/y"]


def test_a_name_that_the_hub_cannot_give_is_named(hub):
    with pytest.raises(CheckpointError, match=r"ann/x@v9 is no folder here, and as a name on the hub"):
        find_pool(["ann/x@v9", "bob/y"])


# Formats


def as_bin(run: Path, legacy: bool = False) -> None:
    tensors = load_file(run / "model.safetensors")
    torch.save(tensors, run / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    (run / "model.safetensors").unlink()


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_files_are_read(legacy, text_runs, copy_runs):
    runs = copy_runs("a", "b")
    as_bin(runs / "b", legacy)
    merged = dict(Soup(Linear()).blend(find_pool(str(runs)).runs))
    for name, tensor in average(text_runs, ["a", "b"]).items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=1e-7)


def test_sharded_pytorch_files_are_read(text_runs, copy_runs):
    runs = copy_runs("a", "b")
    tensors = load_file(runs / "b" / "model.safetensors")
    (runs / "b" / "model.safetensors").unlink()
    shards: dict[str, dict] = {"pytorch_model-1.bin": {}, "pytorch_model-2.bin": {}}
    weight_map = {name: list(shards)[number % 2] for number, name in enumerate(tensors)}
    for name, file in weight_map.items():
        shards[file][name] = tensors[name]
    for file, content in shards.items():
        torch.save(content, runs / "b" / file)
    (runs / "b" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    read = dict(find_pool(str(runs))["b"].tensors())
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read.items())
    assert read.keys() == tensors.keys()


@pytest.mark.parametrize("first", ["safetensors", "bin"])
def test_tied_weights_are_one_tensor_by_either_name(first, tmp_path):
    for number, kind in enumerate(("both", "neither", "head")):
        model = gpt2()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(number / 10)
        folder = tmp_path / "runs" / f"{number if first == 'safetensors' else 9 - number}-{kind}"
        model.save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        if kind == "both":  # as PyTorch's own files have it
            (folder / "model.safetensors").unlink()
            torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
        elif kind == "head":
            tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    pool = find_pool(str(tmp_path / "runs"))
    assert len({tuple(run.header) for run in pool}) == 1
    assert "lm_head.weight" not in pool.runs[0].header or "transformer.wte.weight" not in pool.runs[0].header
    live = LiveModel(pool.reference, transformers.AutoModelForCausalLM, CPU)
    live.fill(Soup(Linear()).blend(pool.runs))
    torch.testing.assert_close(live.model.lm_head.weight, gpt2().lm_head.weight + 0.1)


def test_runs_of_mixed_dtypes_are_taken_as_the_widest(text_runs, copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b", "c")
    for name, dtype in (("a", torch.float16), ("b", torch.bfloat16)):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(runs / name, dtype=dtype)
        model.save_pretrained(runs / name)
    pool = find_pool(str(runs))
    assert pool.dtype == torch.float32
    soupkitchen(*own(runs, texts), "search=uniform", "name=x", cwd=tmp_path)
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    for name, tensor in average(runs, ["a", "b", "c"]).items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_soup_is_scored_and_saved_in_the_dtype_asked_for(dtype, text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "search=uniform", f"output.dtype={dtype}", "name=x")
    soupkitchen(*words, cwd=tmp_path)
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    for name, tensor in average(text_runs, ["a", "b", "c", "d", "wild"]).items():
        assert saved[name].dtype == getattr(torch, dtype)
        torch.testing.assert_close(saved[name], tensor.to(saved[name].dtype), rtol=1e-2, atol=1e-6)


def test_a_large_soup_is_sharded(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "search=uniform", "output.max_shard_size=5KB", "name=x")
    soupkitchen(*words, cwd=tmp_path)
    assert len(list((tmp_path / "results/x/soup").glob("model-*.safetensors"))) > 1
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "results/x/soup")


def test_a_causal_models_generation_settings_and_chat_template_are_saved(tmp_path):
    words = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(48))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", eos_token="[PAD]"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    for number in range(3):
        model = llama()
        torch.manual_seed(number)
        shake(model, 0.01)
        model.generation_config.update(max_new_tokens=7, repetition_penalty=1.3)
        model.save_pretrained(tmp_path / "runs" / f"run{number}")
        tokenizer.save_pretrained(tmp_path / "runs" / f"run{number}")
    texts = pd.DataFrame({"text": [f"w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(12)]})
    texts.to_csv(tmp_path / "texts.csv", index=False)
    soupkitchen(
        f"pool.path={tmp_path}/runs", "task=language_modeling", f"task.data.path={tmp_path}/texts.csv",
        "evaluation.cache=null", "search=uniform", "output.max_shard_size=20KB", "name=x", cwd=tmp_path,
    )  # fmt: skip
    soup = tmp_path / "results" / "x" / "soup"
    assert transformers.GenerationConfig.from_pretrained(soup).max_new_tokens == 7
    assert transformers.GenerationConfig.from_pretrained(soup).repetition_penalty == 1.3
    assert transformers.AutoTokenizer.from_pretrained(soup).chat_template == tokenizer.chat_template
    assert len(list(soup.glob("model-*.safetensors"))) > 1
    tensors = transformers.AutoModelForCausalLM.from_pretrained(soup).state_dict()
    for name, tensor in average(tmp_path / "runs", ["run0", "run1", "run2"]).items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-6, atol=1e-7)


def test_a_bare_encoder_among_models_with_a_prefix(text_runs, tmp_path):
    from transformers import AutoModel

    for name in ("a", "b"):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(text_runs / name)
        (model.bert if name == "b" else model).save_pretrained(tmp_path / "runs" / name)
    with pytest.raises(IncompatibleError, match=r"lacks 2 tensors: classifier"):
        find_pool(str(tmp_path / "runs"))
    tensors = load_file(tmp_path / "runs" / "a" / "model.safetensors")
    bare = {name: tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    save_file(bare, tmp_path / "runs" / "a" / "model.safetensors", {"format": "pt"})
    pool = find_pool(str(tmp_path / "runs"))
    merged = dict(Soup(Linear()).blend(pool.runs))
    live = LiveModel(pool.reference, AutoModel, CPU)
    live.fill(merged.items())
    expected = average(text_runs, ["a", "b"])
    for name, tensor in live.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[f"bert.{name}"], rtol=1e-6, atol=1e-7)


def test_a_base_without_the_runs_prefix_is_their_base(text_runs, tmp_path):
    text_classifier().bert.save_pretrained(tmp_path / "base")
    base = find_pool(str(text_runs), base=str(tmp_path / "base")).base
    assert all(name.startswith("bert.") for name in base.header)
    assert len(base.header) > 10


# Labels


def relabel(run: Path, order: list[int]) -> None:
    """The same model with its labels in another order: rows of the head and names alike."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(run)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter[order])
    labels = [LABELS[index] for index in order]
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}
    model.save_pretrained(run)


def test_heads_with_labels_in_another_order_score_and_merge_as_if_in_the_same(
    text_runs, copy_runs, texts, tmp_path
):
    runs = copy_runs("a", "b", "c", "d")
    relabel(runs / "b", [2, 0, 1])
    words = ("search=uniform", "task.data.test=null")
    soupkitchen(*own(runs, texts), *words, "name=mixed", cwd=tmp_path)
    soupkitchen(*own(text_runs, texts), *words, "name=same", "pool.exclude=[wild]", cwd=tmp_path)
    mixed, same = (
        pd.read_csv(tmp_path / f"results/{name}/leaderboard.csv").set_index("model").sort_index()
        for name in ("mixed", "same")
    )
    assert mixed["heldout_accuracy"].to_dict() == same["heldout_accuracy"].to_dict()
    one, other = (load_file(tmp_path / f"results/{n}/soup/model.safetensors") for n in ("mixed", "same"))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("labels", [["apples", "boats", "cars"], ["apples", "apples", "boats"]])
def test_heads_with_other_labels_are_refused(labels, copy_runs):
    runs = copy_runs("a", "b", "c")
    config = json.loads((runs / "b" / "config.json").read_text())
    config["id2label"] = {str(number): label for number, label in enumerate(labels)}
    (runs / "b" / "config.json").write_text(json.dumps(config))
    with pytest.raises(IncompatibleError, match=r"b +its labels .*the rows of the two heads mean different"):
        find_pool(str(runs))


def test_labels_in_another_order_of_a_head_of_unknown_name_are_refused(copy_runs):
    runs = copy_runs("a", "b", "c")
    for run in runs.iterdir():
        tensors = load_file(run / "model.safetensors")
        renamed = {name.replace("classifier", "my_head"): tensor for name, tensor in tensors.items()}
        save_file(renamed, run / "model.safetensors", {"format": "pt"})
    config = json.loads((runs / "b" / "config.json").read_text())
    config["id2label"] = {"0": "clouds", "1": "apples", "2": "boats"}
    (runs / "b" / "config.json").write_text(json.dumps(config))
    with pytest.raises(IncompatibleError, match="which tensors are its head is not known"):
        find_pool(str(runs))


def test_an_odd_first_run_is_the_odd_one_out(copy_runs):
    runs = copy_runs("b", "c", "d")
    text_classifier(("x", "y")).save_pretrained(runs / "a")
    with pytest.raises(IncompatibleError) as error:
        find_pool(str(runs))
    assert "1 of the runs cannot be merged" in str(error.value)
    assert names(find_pool(str(runs), on_incompatible="skip")) == ["b", "c", "d"]
    with pytest.raises(ConfigError, match="choose error or skip"):
        find_pool(str(runs), on_incompatible="warn")


def test_a_reference_that_drops_out_does_not_turn_the_others_labels(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b", "c")
    tensors = load_file(runs / "a" / "model.safetensors")
    tensors["classifier.bias"][0] = float("nan")
    save_file(tensors, runs / "a" / "model.safetensors", {"format": "pt"})
    for name in ("b", "c"):
        relabel(runs / name, [2, 1, 0])
    words = (*own(runs, texts), "search=uniform", "pool.on_incompatible=skip", "name=x")
    soupkitchen(*words, cwd=tmp_path)
    soup = tmp_path / "results/x/soup"
    labels = json.loads((soup / "config.json").read_text())["id2label"]
    assert list(labels.values()) == [LABELS[2], LABELS[1], LABELS[0]]
    for name, tensor in average(runs, ["b", "c"]).items():
        torch.testing.assert_close(load_file(soup / "model.safetensors")[name], tensor)


def test_files_of_several_dtypes_are_scored_and_saved_in_the_widest(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b", "c")
    for run in runs.iterdir():
        tensors = load_file(run / "model.safetensors")
        narrow = {n: t if n.startswith("classifier") else t.bfloat16() for n, t in tensors.items()}
        save_file(narrow, run / "model.safetensors", {"format": "pt"})
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    soupkitchen(*own(runs, texts), "search=uniform", "name=x", cwd=tmp_path)
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    for name, tensor in average(runs, ["a", "b", "c"]).items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-6, atol=1e-7)


def test_names_in_lists_that_look_like_numbers_stay_names(text_runs, tmp_path):
    for run, name in (("a", "1e-3"), ("b", "001")):
        shutil.copytree(text_runs / run, tmp_path / name)
    (tmp_path / "runs.csv").write_text("path, weight\n1e-3, 2\n001, 3\n")
    pool = find_pool(str(tmp_path / "runs.csv"))
    assert names(pool) == ["1e-3", "001"]
    assert pool.weights == {"1e-3": 2.0, "001": 3.0}
    (tmp_path / "runs.jsonl").write_text('{"path": "1e-3", "name": "007"}\n{"path": "001", "name": "1e1"}\n')
    assert names(find_pool(str(tmp_path / "runs.jsonl"))) == ["007", "1e1"]


def test_runs_that_compute_otherwise_are_refused(copy_runs):
    runs = copy_runs("a", "b", "c")
    config = json.loads((runs / "b" / "config.json").read_text())
    (runs / "b" / "config.json").write_text(json.dumps({**config, "num_attention_heads": 4}))
    with pytest.raises(
        IncompatibleError, match=r"b +it computes otherwise: num_attention_heads .* is 4, not 2"
    ):
        find_pool(str(runs))
