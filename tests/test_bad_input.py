"""What is wrong with files is said by name, in one line, and nothing is half-written."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command import as_module, forked, own, soupkitchen, with_full_disk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from soupkitchen.checkpoints import Checkpoint, find_pool
from soupkitchen.checkpoints.files import WeightFiles
from soupkitchen.errors import CheckpointError, ConfigError, IncompatibleError
from soupkitchen.evaluation import LiveModel, Runtime
from soupkitchen.models.auto import copy_code
from soupkitchen.output import Output


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def spoil_truncated(run: Path) -> None:
    file = run / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def spoil_lying_header(run: Path) -> None:
    file = run / "model.safetensors"
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header["classifier.bias"]["shape"] = [300]
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def spoil_pickle(run: Path) -> None:
    (run / "model.safetensors").unlink()
    torch.save({"x": Bomb(run / "executed")}, run / "pytorch_model.bin")


def spoil_old_pickle(run: Path) -> None:
    (run / "model.safetensors").unlink()
    torch.save({"x": Bomb(run / "executed")}, run / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def spoil_bin_without_tensors(run: Path) -> None:
    (run / "model.safetensors").unlink()
    torch.save({"state_dict": {"x": torch.zeros(1)}}, run / "pytorch_model.bin")


def spoil_broken_bin(run: Path) -> None:
    (run / "model.safetensors").unlink()
    (run / "pytorch_model.bin").write_bytes(b"not a pickle at all")


def spoil_config(run: Path) -> None:
    (run / "config.json").write_text("{")


def spoil_no_config(run: Path) -> None:
    (run / "config.json").unlink()


def spoil_unreadable(run: Path) -> None:
    (run / "model.safetensors").unlink()
    (run / "model.safetensors").mkdir()  # root reads whatever has no permissions


def spoil_nan(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    tensors["classifier.weight"][1, 2] = float("nan")
    tensors["classifier.weight"][0, 0] = float("inf")
    save_file(tensors, run / "model.safetensors", {"format": "pt"})


def spoil_shape(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    tensors["bert.pooler.dense.bias"] = torch.zeros(17)
    save_file(tensors, run / "model.safetensors", {"format": "pt"})


def spoil_missing_and_extra(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    tensors["mine"] = tensors.pop("bert.pooler.dense.bias")
    save_file(tensors, run / "model.safetensors", {"format": "pt"})


def spoil_quantised(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))


def spoil_dtype(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    tensors["classifier.bias"] = tensors["classifier.bias"].to(torch.float8_e4m3fn)
    save_file(tensors, run / "model.safetensors", {"format": "pt"})


def spoil_tokenizer(run: Path) -> None:
    tokenizer = json.loads((run / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["w1"], tokenizer["model"]["vocab"]["w2"] = 6, 5
    (run / "tokenizer.json").write_text(json.dumps(tokenizer))


def spoil_added_tokens(run: Path) -> None:
    tokenizer = json.loads((run / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 64, "content": "<mine>"})
    (run / "tokenizer.json").write_text(json.dumps(tokenizer))


SPOILS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (spoil_truncated, r"model\.safetensors cannot be read as safetensors"),
    "lying header": (spoil_lying_header, r"model\.safetensors cannot be read as safetensors"),
    "pickle with code": (spoil_pickle, r"pytorch_model\.bin holds more than tensors"),
    "old pickle with code": (spoil_old_pickle, r"pytorch_model\.bin holds more than tensors"),
    "nested pickle": (spoil_bin_without_tensors, r"pytorch_model\.bin should hold tensors by name"),
    "no pickle": (spoil_broken_bin, r"pytorch_model\.bin (cannot be read|holds more than tensors)"),
    "broken config": (spoil_config, r"config\.json cannot be read"),
    "no config": (spoil_no_config, r"not a checkpoint: it has no config\.json"),
    "unreadable": (spoil_unreadable, r"model\.safetensors cannot be read"),
    "nan": (spoil_nan, r"classifier\.weight has 2 values that are NaN or infinite"),
    "shape": (spoil_shape, r"bert\.pooler\.dense\.bias has shape \[17\], not \[16\]"),
    "missing": (spoil_missing_and_extra, r"lacks 1 tensor: bert\.pooler\.dense\.bias"),
    "extra": (spoil_missing_and_extra, r"has 1 tensor: mine besides"),
    "quantised": (spoil_quantised, r"its weights are quantised.*use the unquantised run"),
    "dtype": (spoil_dtype, r"classifier\.bias is of dtype F8_E4M3, which is not merged"),
    "tokenizer": (spoil_tokenizer, r"gives other numbers to 2 tokens: 'w1' is 6, not 5"),
    "added tokens": (spoil_added_tokens, r"gives other numbers to 1 tokens: '<mine>' is 64, not not there"),
}


@pytest.mark.parametrize("kind", SPOILS)
def test_a_spoilt_run_is_named_with_what_is_wrong(kind, copy_runs):
    spoil, complaint = SPOILS[kind]
    runs = copy_runs("a", "b", "c")
    spoil(runs / "b")
    with pytest.raises(IncompatibleError, match=complaint) as error:
        find_pool(str(runs))
    assert "\n  b  " in str(error.value)
    assert not (runs / "b" / "executed").exists()
    assert [run.name for run in find_pool(str(runs), on_incompatible="skip")] == ["a", "c"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permissions_is_named(copy_runs):
    runs = copy_runs("a", "b", "c")
    (runs / "b" / "model.safetensors").chmod(0)
    with pytest.raises(IncompatibleError, match=r"model\.safetensors cannot be read"):
        find_pool(str(runs))


def test_all_problems_are_in_one_table_on_the_command_line(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b", "c", "d", "wild")
    for run, kind in (("b", "nan"), ("c", "truncated"), ("wild", "pickle with code")):
        SPOILS[kind][0](runs / run)
    error = soupkitchen(*own(runs, texts), "name=x", cwd=tmp_path, fails=True).stderr
    assert "3 of the runs cannot be merged" in error
    assert all(f"\n  {run:<4}  " in error for run in ("b", "c", "wild"))
    assert not (tmp_path / "results" / "x").exists()
    result = soupkitchen(*own(runs, texts), "pool.on_incompatible=skip", "name=x", cwd=tmp_path)
    assert "left out (pool.on_incompatible=skip)" in result.stderr
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv")
    assert sorted(table[table["kind"] == "single"]["model"]) == ["a", "d"]


def test_copies_of_one_run_are_no_pool(text_runs, copy_runs):
    runs = copy_runs("a")
    shutil.copytree(runs / "a", runs / "again")
    with pytest.raises(CheckpointError, match="1 of 2 runs can be merged and are no copies"):
        find_pool(str(runs))
    with pytest.raises(CheckpointError, match="is no run: name its folder"):
        find_pool([str(runs / "a" / "config.json")])


def test_a_disk_that_is_full_leaves_nothing_half_written(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "search=uniform", "name=x")
    model = (text_runs / "a" / "model.safetensors").stat().st_size

    result = with_full_disk(*words, size=model - 1, cwd=tmp_path)  # the journal is smaller
    assert result.returncode == 1
    assert "error: the soup could not be written to" in result.stderr
    assert "Traceback" not in result.stderr
    left = {file.name for file in (tmp_path / "results" / "x").iterdir()}
    assert left == {"config.yaml", "evaluations", "journal.jsonl", "soupkitchen.log", "trajectory.csv"}
    soupkitchen(*words, cwd=tmp_path)  # and with room it goes on
    assert (tmp_path / "results/x/soup/model.safetensors").exists()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Runtime(device="cuda:7").accelerator(), "runtime.device=cuda:7 cannot be used here"),
        (lambda: Runtime(max_memory={"cpu": "much"}), "runtime.max_memory"),
        (lambda: Runtime(offload_folder="nowhere"), "runtime.offload_folder=nowhere is no folder"),
        (lambda: Output(max_shard_size="big"), "output.max_shard_size=big"),
    ],
)
def test_options_that_cannot_be_are_named(make, complaint):
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        make()


def test_a_traceback_is_there_for_those_who_ask(tmp_path):
    full = {"HYDRA_FULL_ERROR": "1"}
    result = forked(as_module("soupkitchen"), "pool.path=nowhere", cwd=tmp_path, env=full)
    assert "Traceback" in result.stderr
    assert result.returncode == 1


# Code that comes with a checkpoint


@pytest.fixture
def with_code(copy_runs: Callable[..., Path]) -> Path:
    """Runs that name Python code of their own, which leaves a file behind where it is run."""
    runs = copy_runs("a", "b")
    for run in runs.iterdir():
        config = json.loads((run / "config.json").read_text())
        config["auto_map"] = {"AutoModelForSequenceClassification": "mine.Mine"}
        config |= {"_target_": "os.system", "_args_": [f"touch {runs.parent / 'executed'}"]}
        (run / "config.json").write_text(json.dumps(config))
        code = (
            "from pathlib import Path\nfrom transformers import BertForSequenceClassification\n"
            f"Path({str(runs.parent / 'executed')!r}).touch()\n"
            "class Mine(BertForSequenceClassification): pass\n"
        )
        (run / "mine.py").write_text(code)
    return runs


def test_custom_code_is_copied_and_not_run(with_code, texts, tmp_path):
    soupkitchen(*own(with_code, texts), "name=x", cwd=tmp_path)
    assert (tmp_path / "results/x/soup/mine.py").read_text() == (with_code / "a" / "mine.py").read_text()
    assert not (tmp_path / "executed").exists()


def test_custom_code_is_run_for_those_who_trust_it(with_code, texts, tmp_path):
    soupkitchen(*own(with_code, texts), "trust_remote_code=true", "name=x", cwd=tmp_path)
    assert (tmp_path / "executed").exists()


ASKS_NOTHING = """
import sys
from pathlib import Path
from soupkitchen.checkpoints.names import tied_names
print(dict(tied_names(Path(sys.argv[1]))))
"""


@pytest.mark.parametrize("model_type", ["bert", "mine"])
def test_nobody_is_asked_whether_code_may_run(model_type, with_code):
    for run in with_code.iterdir():
        config = json.loads((run / "config.json").read_text())
        config |= {"model_type": model_type, "auto_map": {"AutoConfig": "mine.Mine", **config["auto_map"]}}
        (run / "config.json").write_text(json.dumps(config))
    terminal, answers = pty.openpty()
    os.write(terminal, b"y\n" * 20)
    command = [sys.executable, "-c", ASKS_NOTHING, str(with_code / "a")]
    result = subprocess.run(
        command, stdin=answers, capture_output=True, text=True, check=True, timeout=120, cwd=with_code
    )
    os.close(terminal)
    os.close(answers)
    assert result.stdout == "{}\n"
    assert "run the custom code" not in result.stderr
    assert not (with_code.parent / "executed").exists()


def change(run: Path, **values: Any) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | values))


def test_a_folder_called_as_code_is_none(with_code, texts, tmp_path):
    for run in with_code.iterdir():
        (run / "x.py").mkdir()
    soupkitchen(*own(with_code, texts), "name=x", cwd=tmp_path)
    assert sorted(file.name for file in (tmp_path / "results/x/soup").glob("*.py")) == ["mine.py"]


def test_code_in_the_hubs_cache_is_a_runs_own(with_code, tmp_path):
    repository = tmp_path / "hub" / "models--ann--x"
    snapshot = repository / "snapshots" / "f00"
    for run in (snapshot, repository / "blobs"):
        run.mkdir(parents=True)
    for file in (with_code / "a").iterdir():
        shutil.copy(file, repository / "blobs" / f"hash-of-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/hash-of-{file.name}")
    checkpoint = Checkpoint.open(snapshot)
    (tmp_path / "soup").mkdir()
    copy_code(checkpoint, tmp_path / "soup")
    copied = tmp_path / "soup" / "mine.py"
    assert not copied.is_symlink()
    assert copied.read_text() == (with_code / "a" / "mine.py").read_text()
    (repository / "secret").write_text("x = 1")
    (snapshot / "other.py").symlink_to("../../secret")
    with pytest.raises(CheckpointError, match=r"other\.py is a link to .*secret, out of the run's folder"):
        Checkpoint.open(snapshot)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_flash_attention_that_a_configuration_names_is_not_fetched(key, copy_runs):
    runs = copy_runs("a")
    change(runs / "a", **{key: "flash_attention_2"})
    live = LiveModel(Checkpoint.open(runs / "a"), AutoModelForSequenceClassification, torch.device("cpu"))
    assert live.model.config._attn_implementation in ("sdpa", "eager")
    change(runs / "a", **{key: "eager"})
    live = LiveModel(Checkpoint.open(runs / "a"), AutoModelForSequenceClassification, torch.device("cpu"))
    assert live.model.config._attn_implementation == "eager"


# Files that are none, and files that may not be read


def test_a_file_that_may_not_be_read_is_told_from_one_that_is_not_there(text_runs):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        file = folder / "model.safetensors"
        shutil.copy(text_runs / "a" / "model.safetensors", file)
        file.chmod(0)
        told = as_nobody(lambda: str(WeightFiles.open(folder).header))
    assert f"{file} cannot be read: you are not allowed to (permission denied)" in told
    assert "copy the run again" not in told


def as_nobody(what: Callable[[], str]) -> str:
    """What `what` gives, or the error that it raises, for a user who is not root."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.seteuid(65534)
            told = what()
        except CheckpointError as error:
            told = str(error)
        finally:
            os.write(there, told.encode())
            os._exit(0)
    os.close(there)
    os.waitpid(child, 0)
    with os.fdopen(here) as handle:
        return handle.read()


LEFT_BY_TRAINING = {
    "optimizer.pt": b"",
    "scheduler.pt": b"",
    "scaler.pt": b"",
    "rng_state.pth": b"",
    "rng_state_0.pth": b"",
    "training_args.bin": b"",
    "checkpoint-5/model.safetensors": b"",
    "checkpoint-5/optimizer.pt": b"",
    "runs/events.pt": b"",
    "global_step7/mp_rank_00_model_states.pt": b"",
    "optimizer_0/__0_0.pt": b"",
    ".cache/x.bin": b"",
    "onnx/model.bin": b"",
    "openvino/openvino_model.bin": b"",
    "original/consolidated.00.pth": b"",
    "consolidated.safetensors": b"",
    "model.fp16.safetensors": b"",
    "pytorch_model.bin": b"",
    "pytorch_model-00001-of-00002.bin": b"",
    "adapter/adapter_config.json": b"{}",
    "adapter/adapter_model.safetensors": b"",
    "best/config.json": b'{"model_type": "bert"}',
    "best/model.safetensors": b"",
    "vocabulary.bin": b"no tensors",
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "modules.json": b"""[{"path": "", "type": "sentence_transformers.models.Transformer"},
                         {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]""",
}


def test_what_training_and_exports_leave_is_no_part_of_a_run(text_runs, copy_runs):
    runs = copy_runs("a", "b")
    for name, data in LEFT_BY_TRAINING.items():
        file = runs / "b" / name
        file.parent.mkdir(exist_ok=True)
        if data:
            file.write_bytes(data)
        elif file.suffix == ".safetensors":
            shutil.copy(text_runs / "b" / "model.safetensors", file)
        else:
            torch.save({"x": torch.zeros(2)}, file)
    assert [run.name for run in find_pool(str(runs))] == ["a", "b"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "2_Dense/pytorch_model.bin",
        "2_Dense/model.safetensors",
        "a/b/x.pth",
        "v.pt",
        "adapter_model.bin",
        "model_head.bin",
    ],
)
def test_weights_that_would_be_lost_are_named(name, legacy, copy_runs):
    runs = copy_runs("a", "b", "c")
    file = runs / "b" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        save_file({"linear.weight": torch.zeros(2)}, file)
    else:
        torch.save({"x": torch.zeros(2)}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        IncompatibleError, match=rf"b +it holds weights besides its model's.*: {re.escape(name)}\."
    ):
        find_pool(str(runs))
    assert [run.name for run in find_pool(str(runs), on_incompatible="skip")] == ["a", "c"]


def test_tied_tensors_of_a_pickle_may_be_the_same_bytes(copy_runs):
    runs = copy_runs("a")
    (runs / "a" / "model.safetensors").unlink()
    shared = torch.randn(5, 3)
    names = ["shared.weight", "encoder.embed.weight", "decoder.embed.weight", "lm_head.weight"]
    held = {**dict.fromkeys(names, shared), "row": shared[1], "p": torch.nn.Parameter(torch.ones(2))}
    torch.save(held, runs / "a" / "pytorch_model.bin")
    weights = WeightFiles.open(runs / "a")
    assert all(torch.equal(weights.tensor(name), x) for name, x in held.items())
    assert not any(weights.tensor(name).requires_grad for name in held)


def test_what_a_library_raises_of_one_run_is_that_runs_problem(copy_runs):
    runs = copy_runs("a", "b", "c")
    change(runs / "b", id2label={"9" * 5000: "x"})  # more digits than Python reads
    with pytest.raises(IncompatibleError, match=r"\n  b  it cannot be understood \(ValueError"):
        find_pool(str(runs))
    assert [run.name for run in find_pool(str(runs), on_incompatible="skip")] == ["a", "c"]


def test_a_model_of_another_kind_is_refused_in_a_few_words(tmp_path):
    T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    ).save_pretrained(tmp_path / "t5")
    with pytest.raises(CheckpointError) as error:
        LiveModel(Checkpoint.open(tmp_path / "t5"), AutoModelForImageClassification, torch.device("cpu"))
    assert "a t5 model is none of these: it would fit task=" in str(error.value)
    assert "text_generation" in str(error.value)
    assert len(str(error.value)) < 400


# Fuzzing


def header_and_data() -> tuple[dict[str, Any], bytes, bytes]:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4, dtype=torch.int64)}
    content = save(tensors)
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :], content


HEADER, DATA, WHOLE = header_and_data()
values = st.one_of(
    st.integers(-(2**40), 2**70), st.none(), st.text(max_size=5), st.lists(st.integers(-3, 2**65), max_size=4)
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A safetensors file with something wrong in its header, or in its bytes."""
    if draw(st.booleans()):
        content = bytearray(WHOLE)
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)
    header = json.loads(json.dumps(HEADER))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(["a", "b", "c", "__metadata__"]))
        entry = header.setdefault(name, {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
        if draw(st.integers(0, 4)) == 0 or not isinstance(entry, dict):
            header[name] = draw(values)
        else:
            entry[draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = draw(
                st.one_of(values, st.sampled_from(["F32", "I64", "BF16", "F8_E4M3", "BOOL", "F4"]))
            )
    text = json.dumps(header).encode()
    size = draw(st.one_of(st.just(len(text)), st.integers(0, 2**64 - 1)))
    return struct.pack("<Q", size) + text + DATA


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutated())
@example(WHOLE)
def test_a_mutated_file_is_refused_or_read_right(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    try:
        weights = WeightFiles.open(tmp_path)
        read = {name: weights.tensor(name) for name in weights.header}
    except CheckpointError:
        return
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    assert read.keys() == header.keys() - {"__metadata__"}
    for name, tensor in read.items():
        begin, end = header[name]["data_offsets"]
        assert list(tensor.shape) == header[name]["shape"] == list(weights.header[name].shape)
        assert tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() == data[begin:end]


names = st.one_of(
    st.sampled_from(["model-1.safetensors", "model-2.safetensors", "../x", "/etc/passwd", "", ".", "x/y"]),
    st.text(max_size=8), st.integers(), st.none(), st.lists(st.text(max_size=2), max_size=2),
)  # fmt: skip
indices = st.one_of(
    st.binary(max_size=30),
    st.dictionaries(st.sampled_from(["weight_map", "metadata"]), st.one_of(st.none(), st.dictionaries(
        st.sampled_from(["a", "b", "c"]), names, max_size=3))).map(lambda index: json.dumps(index).encode()),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(indices)
@example(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode())
def test_a_mutated_index_is_refused_or_read_right(tmp_path, content):
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "model-2.safetensors")
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    try:
        weights = WeightFiles.open(tmp_path)
    except CheckpointError:
        return
    assert {file.name for file in weights.files} <= {"model-1.safetensors", "model-2.safetensors"}
    for name in weights.header:
        assert torch.equal(weights.tensor(name), torch.ones(2) if name == "a" else torch.zeros(3))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | mutated())
def test_any_bytes_as_a_pickle_are_refused(tmp_path, content):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        WeightFiles.open(tmp_path)
