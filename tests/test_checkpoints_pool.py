"""Finding a pool, and refusing what cannot be merged before any work is done."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command import own, soupkitchen
from safetensors.torch import load_file, save_file
from tiny import text_classifier

from soupkitchen.checkpoints import find_pool
from soupkitchen.errors import CheckpointError, IncompatibleError
from soupkitchen.tasks import speech_recognition, text_generation


def _names(pool: object) -> list[str]:
    return [run.name for run in pool]


def test_a_folder_a_glob_and_a_list_find_the_same_runs(text_runs):
    expected = ["a", "b", "c", "d", "wild"]
    assert _names(find_pool(str(text_runs))) == expected
    assert _names(find_pool(f"{text_runs}/*")) == expected
    assert _names(find_pool([str(text_runs / name) for name in expected])) == expected


def test_a_list_keeps_its_own_order_and_drops_repeats(text_runs):
    pool = find_pool([str(text_runs / "c"), str(text_runs / "a"), f"{text_runs}/[ab]"])
    assert _names(pool) == ["c", "a", "b"]


def test_exclude_takes_names_and_globs(text_runs):
    assert _names(find_pool(str(text_runs), exclude=["w*", "b"])) == ["a", "c", "d"]


def test_one_name_may_be_excluded_by_itself(text_runs):
    assert _names(find_pool(str(text_runs), exclude="wild")) == ["a", "b", "c", "d"]


def test_a_name_that_is_there_is_taken_as_it_stands(copy_runs, tmp_path):
    copy_runs("a", "b", "c").rename(tmp_path / "runs[1]")
    assert _names(find_pool(str(tmp_path / "runs[1]"))) == ["a", "b", "c"]
    (tmp_path / "runs[1]" / "a").rename(tmp_path / "runs[1]" / "a[x]")
    assert _names(find_pool(str(tmp_path / "runs[1]"), exclude="a[x]")) == ["b", "c"]


def test_runs_of_one_name_are_told_apart(text_runs, copy_runs):
    other = copy_runs("a", "b")
    shutil.copy(other / "b" / "model.safetensors", other / "a" / "model.safetensors")
    names = _names(find_pool([str(text_runs / "a"), str(other / "a")]))
    assert len(set(names)) == 2
    assert all(name.endswith("/a") for name in names)


def test_hidden_and_half_written_folders_are_no_runs(copy_runs):
    runs = copy_runs("a", "b")
    (runs / "b").rename(runs / ".b.partial")
    (runs / "logs").mkdir()
    with pytest.raises(CheckpointError, match="gives 1 run"):
        find_pool(str(runs))


def test_an_empty_pool_says_where_it_looked(tmp_path):
    with pytest.raises(CheckpointError, match="names no folder"):
        find_pool(f"{tmp_path}/nothing/*")
    with pytest.raises(CheckpointError, match="gives 0 runs"):
        find_pool(str(tmp_path))


def test_one_run_is_no_pool(text_runs):
    with pytest.raises(CheckpointError, match="at least two"):
        find_pool(str(text_runs / "a"))
    with pytest.raises(CheckpointError, match=r"after pool\.exclude"):
        find_pool(str(text_runs), exclude=["[b-w]*"])


def test_a_base_is_given_or_named_by_the_runs(text_runs, copy_runs):
    runs = copy_runs("a", "b")
    assert find_pool(str(runs)).base is None
    assert find_pool(str(runs), base=str(text_runs / "c")).base.path == text_runs / "c"
    for name in ("a", "b"):
        _edit_config(runs / name, _name_or_path=str(text_runs / "c"))
    assert find_pool(str(runs)).base.path == text_runs / "c"
    _edit_config(runs / "b", _name_or_path="org/some-model")
    assert find_pool(str(runs)).base is None


def test_a_base_that_runs_name_is_one_only_if_it_is_a_model_as_they_are(
    text_runs, copy_runs, tmp_path, caplog
):
    caplog.set_level("INFO", "soupkitchen")
    runs = copy_runs("a", "b")
    shutil.copytree(text_runs / "c", tmp_path / "base")
    for name in ("a", "b"):
        _edit_config(runs / name, _name_or_path=str(tmp_path / "base"))
    assert find_pool(str(runs)).base.path == tmp_path / "base"
    assert f"{tmp_path / 'base'}, which the runs name; pool.base=… takes another" in caplog.text

    _edit_config(tmp_path / "base", model_type="roberta")
    assert find_pool(str(runs)).base is None
    assert "is another model" in caplog.text
    (tmp_path / "base" / "config.json").write_text("{")
    assert find_pool(str(runs)).base is None
    (tmp_path / "base" / "config.json").unlink()
    os.mkfifo(tmp_path / "base" / "config.json")
    assert find_pool(str(runs)).base is None
    (tmp_path / "base" / "config.json").unlink()
    shutil.copy(text_runs / "c" / "config.json", tmp_path / "base" / "config.json")
    tensors = load_file(text_runs / "c" / "model.safetensors")
    few = {name: tensors[name] for name in ("classifier.weight", "classifier.bias")}
    save_file(few, tmp_path / "base" / "model.safetensors")
    assert find_pool(str(runs)).base is None
    assert find_pool(str(runs), base=str(tmp_path / "base")).base.path == tmp_path / "base"  # it is asked for


def test_a_list_or_device_as_a_name_of_a_base_is_none(copy_runs):
    runs = copy_runs("a", "b")
    for name in (
        ["/etc"],
        {"x": 1},
        "/dev/zero",
        "/proc/self/fd/0",
        "~nobody-here/x",
        "/" + "a" * 5000,
        "/\0",
    ):
        for run in ("a", "b"):
            _edit_config(runs / run, _name_or_path=name)
        assert find_pool(str(runs)).base is None


def test_a_base_that_shares_no_tensor_is_refused(text_runs, copy_runs):
    runs = copy_runs("a", "b")
    save_file({"other": torch.zeros(2)}, runs / "b" / "model.safetensors")
    (runs / "b").rename(runs.parent / "elsewhere")
    shutil.copytree(text_runs / "c", runs / "c")
    with pytest.raises(IncompatibleError, match=r"pool\.base=.*is it their base"):
        find_pool(str(runs), base=str(runs.parent / "elsewhere"))


def _edit_config(run: Path, **values: object) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | values))


def test_all_problems_of_all_runs_are_reported_at_once(copy_runs, tmp_path):
    runs = copy_runs("a", "b", "c")
    text_classifier(("x", "y")).save_pretrained(runs / "two-labels")
    text_classifier().bert.save_pretrained(runs / "z-no-head")
    with pytest.raises(IncompatibleError) as error:
        find_pool(str(runs))
    message = str(error.value)
    assert "two-labels  classifier.weight has shape [2, 16], not [3, 16]" in message
    assert "z-no-head   lacks" in message
    assert "pool.exclude" in message


def test_settings_that_differ_are_named_and_whose_go_with_the_soup(copy_runs, caplog):
    runs = copy_runs("a", "b", "c", "d")
    for name, heat, template in (("a", 0.5, "x"), ("b", 0.7, "x"), ("c", 0.5, "y"), ("d", 0.5, "x")):
        told = {"temperature": heat, "transformers_version": name}
        (runs / name / "generation_config.json").write_text(json.dumps(told))
        (runs / name / "chat_template.jinja").write_text(template)
        (runs / name / "tokenizer_config.json").write_text('{"model_max_length": 9}')
    cased = json.loads((runs / "d" / "tokenizer.json").read_text()) | {"normalizer": {"type": "Lowercase"}}
    (runs / "d" / "tokenizer.json").write_text(json.dumps(cased))
    (runs / "d" / "chat_template.jinja").unlink()
    (runs / "d" / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    find_pool(str(runs))
    told = [record.getMessage() for record in caplog.records if "goes with the soup" in record.getMessage()]
    assert told == [
        "b differs from a in temperature (generation_config.json): what a says goes with the soup",
        "c differs from a in chat_template: what a says goes with the soup",
        "d differs from a in normalizer (tokenizer.json), model_max_length (tokenizer_config.json): what a "
        "says goes with the soup",
    ]


def test_tasks_that_generate_refuse_runs_that_end_with_other_tokens(copy_runs):
    runs = copy_runs("a", "b")
    (runs / "a" / "generation_config.json").write_text('{"eos_token_id": 3, "top_p": 0.5}')
    (runs / "b" / "generation_config.json").write_text('{"eos_token_id": 4}')
    pool = find_pool(str(runs))
    with pytest.raises(
        IncompatibleError, match=r"a and b generate in different ways: eos_token_id .* is 3 and 4"
    ):
        text_generation("data").fitted_to(pool.runs)
    (runs / "b" / "generation_config.json").write_text('{"eos_token_id": 3}')
    assert text_generation("data").fitted_to(pool.runs)
    with pytest.raises(IncompatibleError, match=r"top_p .* is 0.5 and None"):
        speech_recognition("data").fitted_to(pool.runs)


def test_a_variant_of_the_weights_is_named(copy_runs):
    runs = copy_runs("a", "b")
    (runs / "b" / "model.safetensors").rename(runs / "b" / "model.fp16.safetensors")
    with pytest.raises(
        IncompatibleError, match=r"but the variant model\.fp16\.safetensors: call it model\.safetensors"
    ):
        find_pool(str(runs))


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"
Spoil = Callable[[Path], Any]


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Spoil:
    """Changes the tensors of a run."""

    def spoil(run: Path) -> None:
        held = load_file(run / WEIGHTS)
        change(held)
        save_file(held, run / WEIGHTS, {"format": "pt"})

    return spoil


def pickled(make: Callable[[Path], Any], **options: Any) -> Spoil:
    """Puts something that PyTorch saves in place of a run's weights."""

    def spoil(run: Path) -> None:
        (run / WEIGHTS).unlink()
        torch.save(make(run), run / PICKLE, **options)

    return spoil


def told(name: str, change: Callable[[Any], Any]) -> Spoil:
    """Changes what a JSON file of a run says."""

    def spoil(run: Path) -> None:
        content = json.loads((run / name).read_text())
        change(content)
        (run / name).write_text(json.dumps(content))

    return spoil


def with_a_lying_header(run: Path) -> None:
    file = run / WEIGHTS
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header["classifier.bias"]["shape"] = [300]
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def broken_pickle(run: Path) -> None:
    (run / WEIGHTS).unlink()
    (run / PICKLE).write_bytes(b"not a pickle at all")


def unreadable(run: Path) -> None:
    (run / WEIGHTS).unlink()
    (run / WEIGHTS).mkdir()  # root reads whatever has no permissions


def not_finite(held: dict[str, torch.Tensor]) -> None:
    held["classifier.weight"][1, 2] = float("nan")
    held["classifier.weight"][0, 0] = float("inf")


def added(tokenizer: Any) -> None:
    tokens = tokenizer["added_tokens"]
    tokens.append({**tokens[0], "id": 64, "content": "<mine>"})


def bomb(run: Path) -> Any:
    return {"x": Bomb(run / "executed")}


renamed = weights(lambda held: held.update(mine=held.pop("bert.pooler.dense.bias")))
SPOILS: dict[str, tuple[Spoil, str]] = {
    "truncated": (
        lambda run: (run / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:-100]),
        r"model\.safetensors cannot be read as safetensors",
    ),
    "lying header": (with_a_lying_header, r"model\.safetensors cannot be read as safetensors"),
    "pickle with code": (pickled(bomb), r"pytorch_model\.bin holds more than tensors"),
    "old pickle with code": (
        pickled(bomb, _use_new_zipfile_serialization=False),
        r"pytorch_model\.bin holds more than tensors",
    ),
    "nested pickle": (
        pickled(lambda run: {"state_dict": {"x": torch.zeros(1)}}),
        r"pytorch_model\.bin should hold tensors by name",
    ),
    "no pickle": (broken_pickle, r"pytorch_model\.bin (cannot be read|holds more than tensors)"),
    "broken config": (lambda run: (run / "config.json").write_text("{"), r"config\.json cannot be read"),
    "no config": (lambda run: (run / "config.json").unlink(), r"not a checkpoint: it has no config\.json"),
    "unreadable": (unreadable, r"model\.safetensors cannot be read"),
    "nan": (weights(not_finite), r"classifier\.weight has 2 values that are NaN or infinite"),
    "shape": (
        weights(lambda held: held.update({"bert.pooler.dense.bias": torch.zeros(17)})),
        r"bert\.pooler\.dense\.bias has shape \[17\], not \[16\]",
    ),
    "missing": (renamed, r"lacks 1 tensor: bert\.pooler\.dense\.bias"),
    "extra": (renamed, r"has 1 tensor: mine besides"),
    "quantised": (
        told("config.json", lambda config: config.update(quantization_config={"bits": 4})),
        r"its weights are quantised.*use the unquantised run",
    ),
    "dtype": (
        weights(lambda held: held.update({"classifier.bias": torch.zeros(3, dtype=torch.float8_e4m3fn)})),
        r"classifier\.bias is of dtype F8_E4M3, which is not merged",
    ),
    "tokenizer": (
        told("tokenizer.json", lambda tokenizer: tokenizer["model"]["vocab"].update(w1=6, w2=5)),
        r"gives other numbers to 2 tokens: 'w1' is 6, not 5",
    ),
    "added tokens": (
        told("tokenizer.json", added),
        r"gives other numbers to 1 tokens: '<mine>' is 64, not not there",
    ),
    "architecture": (
        told("config.json", lambda config: config.update(model_type="roberta")),
        r"its model_type is 'roberta', not 'bert'",
    ),
    "heads": (
        told("config.json", lambda config: config.update(num_attention_heads=4)),
        r"it computes otherwise: num_attention_heads .* is 4, not 2",
    ),
    "label": (
        told("config.json", lambda config: config["id2label"].update({"2": "cars"})),
        r"its labels .*the rows of the two heads mean different",
    ),
    "label twice": (
        told("config.json", lambda config: config["id2label"].update({"1": "apples"})),
        r"its labels .*the rows of the two heads mean different",
    ),
    "digits": (  # more of them than Python reads
        told("config.json", lambda config: config.update(id2label={"9" * 5000: "x"})),
        r"it cannot be understood \(ValueError",
    ),
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
