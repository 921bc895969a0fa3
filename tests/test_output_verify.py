"""What was saved is loaded back and held against what was scored."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from command import own, soupkitchen
from tiny import save_tokenizer


def test_there_are_never_two_models(text_runs, texts, tmp_path):
    code = (
        "import gc, soupkitchen.models.auto as l\n"
        "from transformers import PreTrainedModel\n"
        "load = l.load_model\n"
        "def counted(*more):\n"
        "    alive = [m for m in gc.get_objects() if isinstance(m, PreTrainedModel)]\n"
        "    alive = [m for m in alive if not next(m.parameters()).is_meta]\n"
        "    print('alive', len(alive)); return load(*more)\n"
        "l.load_model = counted"
    )
    result = soupkitchen(*own(text_runs, texts), "name=x", cwd=tmp_path, before=code)
    counts = [line for line in result.stdout.splitlines() if line.startswith("alive")]
    assert len(counts) >= 4  # the first, two for the proof of filling, the saved one
    assert set(counts) == {"alive 0"}


@pytest.mark.parametrize("verify", ["batch", "full"])
def test_a_saved_soup_of_other_weights_is_not_passed(text_runs, texts, tmp_path, verify):
    code = (
        "import soupkitchen.output.model as s\n"
        "from safetensors.torch import load_file, save_file\n"
        "save = s.Output.save\n"
        "def spoilt(self, live, processor, folder, like):\n"
        "    save(self, live, processor, folder, like)\n"
        "    file = folder / 'model.safetensors'\n"
        "    tensors = load_file(file)\n"
        "    tensors['bert.embeddings.position_embeddings.weight'][31, 0] += 1\n"  # changes no answer
        "    save_file(tensors, file, {'format': 'pt'})\n"
        "    return s.Checkpoint.open(folder)\n"
        "s.Output.save = spoilt"
    )
    words = (*own(text_runs, texts), f"output.verify={verify}", "name=x")
    result = soupkitchen(*words, cwd=tmp_path, before=code, fails=True)
    assert (
        "position_embeddings.weight, as loaded from the saved soup, is not what was scored" in result.stderr
    )
    assert not (tmp_path / "results" / "x" / "leaderboard.csv").exists()


def test_all_of_held_out_is_scored_again_for_those_who_ask(text_runs, texts, tmp_path):
    result = soupkitchen(*own(text_runs, texts), "output.verify=full", "name=x", cwd=tmp_path)
    assert "loaded back, it has the same weights and answers the same" in result.stderr
    assert "loaded back, it scores the same" in result.stderr


def test_a_uniform_soup_as_an_adapter_may_be_worse_than_the_best_run(adapters, base, tmp_path):
    import shutil

    shutil.copytree(base, tmp_path / "base")
    save_tokenizer(tmp_path / "base")
    for name in "abc":
        shutil.copytree(adapters / name, tmp_path / "runs" / name)
    texts = pd.DataFrame({"text": [f"w{i} w{i + 1} w{i + 2}" for i in range(20)]})
    texts.to_csv(tmp_path / "texts.csv", index=False)
    config = tmp_path / "base" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": "[SEP]"}))
    result = soupkitchen(
        *(f"pool.path={tmp_path}/runs/*", f"pool.base={tmp_path / 'base'}", "task=language_modeling"),
        *(f"task.data.path={tmp_path}/texts.csv", "task.data.heldout=train", "task.data.test=null"),
        *("search=uniform", "output.format=adapter", "name=x", "evaluation.cache=null"),
        cwd=tmp_path,
    )
    assert "worse than the best single run" in result.stderr  # or this test shows nothing
    assert (tmp_path / "results/x/soup/adapter_model.safetensors").exists()
