"""Loading through transformers: code that comes with a run, models of other kinds, composite models."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from command import own, soupkitchen
from safetensors.torch import load_file
from tiny import VOCABULARY, save_tokenizer, shake
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    SmolVLMConfig,
    T5Config,
    T5ForConditionalGeneration,
)

import soupkitchen as api
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import CheckpointError
from soupkitchen.evaluation import LiveModel
from soupkitchen.models.auto import copy_code
from soupkitchen.search import Uniform

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


def test_a_model_of_another_kind_is_refused_in_a_few_words(tmp_path):
    T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    ).save_pretrained(tmp_path / "t5")
    with pytest.raises(CheckpointError) as error:
        LiveModel(Checkpoint.open(tmp_path / "t5"), AutoModelForImageClassification, torch.device("cpu"))
    assert "a t5 model is none of these: it would fit task=" in str(error.value)
    assert "text_generation" in str(error.value)
    assert len(str(error.value)) < 400


NAMES = ("a", "b", "c")
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
BESIDE = {
    "preprocessor_config.json": '{"image_processor_type": "SmolVLMImageProcessor"}',
    "chat_template.jinja": "{{ x }}",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of a tiny SmolVLM, with what its processor needs."""
    folder, size = tmp_path_factory.mktemp("composites"), len(VOCABULARY)
    text = {**SMALL, "model_type": "llama", "num_key_value_heads": 2, "vocab_size": size, "pad_token_id": 0}
    config = SmolVLMConfig(
        vision_config={**SMALL, "image_size": 16, "patch_size": 8},
        text_config=text,
        image_token_id=size - 1,
        scale_factor=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    for name in NAMES:
        shake(model, 0.1)
        model.save_pretrained(folder / name)
        save_tokenizer(folder / name)
        for file, content in BESIDE.items():
            (folder / name / file).write_text(content)
    return folder


def likelihood(model: Any, tokenizer: Any, examples: list[dict[str, Any]]) -> list[float]:
    """How likely two tokens are after an image."""
    values = []
    for example in examples:
        tokens = torch.tensor([[model.config.image_token_id, example["one"], example["other"]]])
        image = torch.randn(1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(example["one"]))
        values.append(-model(input_ids=tokens, pixel_values=image, labels=tokens).loss.item())
    return values


def test_a_composite_model_is_told_what_takes_it(runs):
    with pytest.raises(CheckpointError, match=r"a smolvlm model .*task.model=AutoModelForImageTextToText"):
        LiveModel(Checkpoint.open(runs / "a"), AutoModelForCausalLM, torch.device("cpu"))


def test_a_composite_model_is_scored_by_a_function_and_saved_with_its_processor(runs, tmp_path, monkeypatch):
    module = ModuleType("of_a_user")
    module.likelihood = likelihood  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "of_a_user", module)
    examples = [{"one": 3 + number % 7, "other": 4 + number % 5} for number in range(8)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "validation.jsonl").write_text("\n".join(map(json.dumps, examples)))
    task = api.tasks.function(
        str(tmp_path / "data"), function="of_a_user.likelihood", model="AutoModelForImageTextToText"
    )
    uniform = Uniform()
    result = api.cook(runs, task, search=uniform, results_dir=tmp_path, name="x")
    soup = load_file(result.folder / "soup" / "model.safetensors")
    files = [load_file(runs / name / "model.safetensors") for name in NAMES]
    assert soup.keys() == files[0].keys()
    for name, tensor in soup.items():
        mean = torch.stack([file[name].double() for file in files]).mean(0)
        torch.testing.assert_close(tensor.double(), mean, rtol=0, atol=1e-6)
    model = AutoModelForImageTextToText.from_pretrained(result.folder / "soup").eval()
    with torch.inference_mode():
        assert result.score == pytest.approx(np.mean(likelihood(model, None, examples)), abs=1e-5)
    for file, content in BESIDE.items():
        assert (result.folder / "soup" / file).read_text() == content
