"""Finding a pool, and refusing what cannot be merged before any work is done."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
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


def test_another_architecture_is_refused(copy_runs):
    runs = copy_runs("a", "b")
    _edit_config(runs / "b", model_type="roberta")
    with pytest.raises(IncompatibleError, match=r"b +its model_type is 'roberta', not 'bert'"):
        find_pool(str(runs))


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
