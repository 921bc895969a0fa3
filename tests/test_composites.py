"""Models of several parts, as vision-language ones: told what takes them, and scored by a function."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import VOCABULARY, save_tokenizer, shake
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, SmolVLMConfig

import soupkitchen as api
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import CheckpointError
from soupkitchen.evaluation import LiveModel
from soupkitchen.search import Uniform

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
