"""Loading through transformers: code that comes with a run, models of other kinds, composite models."""

from __future__ import annotations

import json
import os
import pty
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from command import forked, own, soupkitchen
from safetensors.torch import load_file
from tiny import (
    LABELS,
    VOCABULARY,
    WORDS,
    adapter,
    make_pictures,
    make_texts,
    save_tokenizer,
    shake,
    tokenizer,
)
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
from soupkitchen.checkpoints import Checkpoint, find_pool
from soupkitchen.errors import CheckpointError
from soupkitchen.evaluation import LiveModel
from soupkitchen.merging import Linear
from soupkitchen.models.auto import copy_code
from soupkitchen.search import Uniform
from soupkitchen.soup import Soup

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
import os, sys
os.dup2(os.open(sys.argv[2], os.O_RDWR), 0)
sys.stdin = open(0)
assert sys.stdin.isatty()
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
    result = forked(ASKS_NOTHING, str(with_code / "a"), os.ttyname(answers), cwd=with_code)
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


def trajectory(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "trajectory.csv", keep_default_na=True)


# What a model keeps in itself


def vision(folder: Path, kind: str, seed: int) -> Any:
    """A tiny image classifier and its processor, saved in `folder`."""
    labels = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}
    torch.manual_seed(seed)
    if kind == "levit":
        config: Any = transformers.LevitConfig(
            image_size=32, hidden_sizes=[16, 24, 32], num_attention_heads=[1, 2, 2], depths=[1, 1, 1],
            key_dim=[4, 4, 4], **labels,
        )  # fmt: skip
        processor: Any = transformers.LevitImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
    else:
        config = transformers.ViTConfig(
            image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, **labels,
        )  # fmt: skip
        processor = transformers.ViTImageProcessor(size={"height": 8, "width": 8})
    config.architectures = ["LevitForImageClassification" if kind == "levit" else "ViTForImageClassification"]
    model = transformers.AutoModelForImageClassification.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (3 if "attention_bias" in name else 0.1))
    processor.save_pretrained(folder)
    return model


def test_a_model_that_caches_what_it_computes_is_scored_with_each_runs_own(tmp_path):
    make_pictures(tmp_path / "pictures", 8)
    for number, name in enumerate("abc"):
        vision(tmp_path / "runs" / name, "levit", number).save_pretrained(tmp_path / "runs" / name)
    words = (
        f"pool.path={tmp_path}/runs/*",
        "task=image_classification",
        f"task.data.path={tmp_path}/pictures",
    )
    soupkitchen(
        *words, "task.metric.name=cross_entropy", "name=x", "evaluation.cache=null",
        "runtime.batch_size=16", cwd=tmp_path,
    )  # fmt: skip
    scores = trajectory(tmp_path / "results/x").query("stage == 'rank'").set_index("candidate").score
    for name in "abc":
        alone = tmp_path / "alone" / name
        pair = [tmp_path / "runs" / name, tmp_path / "runs" / ("b" if name == "a" else "a")]
        expected = plain_cross_entropy(
            transformers.AutoModelForImageClassification, pair[0], tmp_path / "pictures"
        )
        assert scores[name] == pytest.approx(expected, rel=1e-5), alone


def plain_cross_entropy(model_class: Any, run: Path, pictures: Path) -> float:
    """The mean cross-entropy of a freshly loaded model on the validation pictures, one by one."""
    from PIL import Image
    from transformers import AutoImageProcessor

    model, processor = model_class.from_pretrained(run).eval(), AutoImageProcessor.from_pretrained(run)
    losses = []
    for label, name in enumerate(("dark", "light")):
        for file in sorted((pictures / "validation" / name).iterdir()):
            pixels = processor(Image.open(file).convert("RGB"), return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                logits = model(pixel_values=pixels.to(model.dtype)).logits.double()
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor([label])).item())
    return float(np.mean(losses))


def test_a_model_that_scales_its_weights_for_inference_is_made_anew_for_each_candidate(tmp_path):
    config = transformers.RwkvConfig(
        vocab_size=64, hidden_size=16, attention_hidden_size=16, num_hidden_layers=8, context_length=32,
        rescale_every=2, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    for number, name in enumerate("abc"):
        torch.manual_seed(number)
        model = transformers.AutoModelForCausalLM.from_config(config)
        shake(model, 0.3)
        model.save_pretrained(tmp_path / "runs" / name)
        save_tokenizer(tmp_path / "runs" / name)
        config_file = tmp_path / "runs" / name / "tokenizer_config.json"
        told = json.loads(config_file.read_text())
        config_file.write_text(json.dumps({**told, "eos_token": "[SEP]", "bos_token": "[CLS]"}))
    make_texts(12, seed=5)[["text"]].to_csv(tmp_path / "texts.csv", index=False)
    words = (f"pool.path={tmp_path}/runs/*", "task=language_modeling", f"task.data.path={tmp_path}/texts.csv")
    result = soupkitchen(
        *words,
        "task.data.heldout=train",
        "task.data.test=null",
        "name=x",
        "evaluation.cache=null",
        cwd=tmp_path,
    )
    assert "slower than in place" in result.stderr
    scores = trajectory(tmp_path / "results/x").query("stage == 'rank'").set_index("candidate").score
    texts = pd.read_csv(tmp_path / "texts.csv")["text"]
    encode = transformers.AutoTokenizer.from_pretrained(tmp_path / "runs/a")
    for name in "abc":
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / name).eval()
        nats, count = 0.0, 0
        for text in texts:
            tokens = torch.tensor([[encode.bos_token_id, *encode(text)["input_ids"]]])
            with torch.inference_mode():
                log_p = model(tokens).logits[0, :-1].double().log_softmax(-1)
            nats -= float(log_p.gather(1, tokens[0, 1:, None]).sum())
            count += tokens.shape[1] - 1
        assert scores[name] == pytest.approx(np.exp(nats / count), rel=1e-4)
    assert count < len(WORDS) * 12


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_model_of_which_transformers_changes_a_row_on_load_is_saved_as_it_was_scored(
    texts, tmp_path, method
):
    for number, name in enumerate(("base", "runs/a", "runs/b")):
        torch.manual_seed(number)
        config = transformers.FunnelConfig(
            vocab_size=64, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=32, pad_token_id=0,
            id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)},
        )  # fmt: skip
        model = transformers.FunnelForSequenceClassification(config)
        shake(model, 0.1)
        model.save_pretrained(tmp_path / name)
        save_tokenizer(tmp_path / name)
    words = (*own(tmp_path / "runs", texts), f"pool.base={tmp_path / 'base'}", f"method={method}", "name=x")
    result = soupkitchen(*words, "task.metric.name=cross_entropy", "search=uniform", cwd=tmp_path)
    assert "it has the same weights and answers the same" in result.stderr
    soup = transformers.FunnelForSequenceClassification.from_pretrained(tmp_path / "results/x/soup").eval()
    encode, frame = (
        transformers.AutoTokenizer.from_pretrained(tmp_path / "base"),
        pd.read_csv(texts / "validation.csv"),
    )
    with torch.inference_mode():
        logits = [soup(**encode(text, return_tensors="pt")).logits for text in frame["text"]]
    labels = torch.tensor([LABELS.index(label) for label in frame["label"]])
    expected = torch.nn.functional.cross_entropy(torch.cat(logits).double(), labels).item()
    leaderboard = pd.read_csv(tmp_path / "results/x/leaderboard.csv").set_index("model")
    assert leaderboard.loc["soup", "heldout_cross_entropy"] == pytest.approx(expected, rel=1e-4)


def test_adapters_of_a_classifier_without_padding_are_scored_as_peft_does_to_the_last_control(tmp_path):
    from peft import AutoPeftModelForSequenceClassification

    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=64, **sizes)).save_pretrained(
        tmp_path / "base"
    )
    words_only = tokenizer()
    words_only.pad_token, words_only.eos_token = None, "[SEP]"
    words_only.save_pretrained(tmp_path / "base")
    for number, name in enumerate("abc"):
        adapter(
            tmp_path / "base", tmp_path / "runs" / name, number, r=4, target_modules=["c_attn"],
            of=transformers.AutoModelForSequenceClassification, task_type="SEQ_CLS",
        )  # fmt: skip
    frame = make_texts(60, seed=0)
    frame["label"] = (frame["label"] == LABELS[0]).astype(int)
    frame.to_csv(tmp_path / "texts.csv", index=False)
    words = (
        f"pool.path={tmp_path}/runs/*",
        "task=text_classification",
        f"task.data.path={tmp_path}/texts.csv",
    )
    result = soupkitchen(
        *(*words, "task.metric.name=cross_entropy", "task.data.heldout=train", "task.data.test=null"),
        *("evaluation.cache=null", "name=x"),
        cwd=tmp_path,
    )
    assert "taken is the tokenizer's '[SEP]'" in result.stderr
    table = trajectory(tmp_path / "results/x")
    assert "error" not in table["decision"].tolist()
    assert "uniform" in table["candidate"].tolist()
    scores = table.query("stage == 'rank'").set_index("candidate").score
    for name in "abc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft calls what transformers has renamed
            model = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "runs" / name).eval()
        with torch.inference_mode():
            logits = [model(**words_only(text, return_tensors="pt")).logits for text in frame["text"]]
        expected = torch.nn.functional.cross_entropy(torch.cat(logits), torch.tensor(frame["label"].tolist()))
        assert scores[name] == pytest.approx(expected.item(), rel=1e-5)


# Dtypes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_pixels_are_given_in_the_dtype_of_the_weights(tmp_path, dtype):
    make_pictures(tmp_path / "pictures", 8)
    for number, name in enumerate("ab"):
        model = vision(tmp_path / "runs" / name, "vit", number).to(getattr(torch, dtype))
        model.save_pretrained(tmp_path / "runs" / name)
    words = (
        f"pool.path={tmp_path}/runs/*",
        "task=image_classification",
        f"task.data.path={tmp_path}/pictures",
    )
    soupkitchen(*words, "task.metric.name=cross_entropy", "name=x", "evaluation.cache=null", cwd=tmp_path)
    scores = trajectory(tmp_path / "results/x").query("stage == 'rank'").set_index("candidate").score
    for name in "ab":
        expected = plain_cross_entropy(
            transformers.AutoModelForImageClassification, tmp_path / "runs" / name, tmp_path / "pictures"
        )
        assert scores[name] == pytest.approx(expected, rel=2e-2)
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {getattr(torch, dtype)}


def t5(folder: Path, seed: int, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    transformers.T5ForConditionalGeneration(config).to(dtype).save_pretrained(folder)
    # loaded and saved again, as fine-tuning does, transformers keeps `wo` in float32 beside float16
    transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    save_tokenizer(folder)


def test_a_half_precision_pool_with_tensors_kept_in_float32_stays_so(tmp_path):
    for number, name in enumerate("ab"):
        t5(tmp_path / "runs" / name, number, torch.float16)
    pool = find_pool(str(tmp_path / "runs"))
    kinds = {name: info.dtype for name, info in pool.reference.header.items()}
    assert set(kinds.values()) == {"F16", "F32"}  # or this test shows nothing
    assert pool.dtype is None
    soup = Soup(Linear())
    for run in pool:
        soup.keep(run)
    assert {name: str(x.dtype) for name, x in soup.tensors()} == {
        name: {"F16": "torch.float16", "F32": "torch.float32"}[kind] for name, kind in kinds.items()
    }


def test_output_dtype_leaves_what_transformers_keeps_in_float32(tmp_path):
    for number, name in enumerate("ab"):
        t5(tmp_path / "runs" / name, number, torch.float32)
    frame = pd.DataFrame({"prompt": ["w1 w2", "w3 w4", "w5"], "answer": ["w1", "w2", "w3"]})
    frame.to_csv(tmp_path / "texts.csv", index=False)
    soupkitchen(
        *(f"pool.path={tmp_path}/runs/*", "task=text_generation", f"task.data.path={tmp_path}/texts.csv"),
        *("task.architecture=seq2seq", "task.metric.name=exact_match", "task.data.heldout=train"),
        *("task.data.test=null", "output.dtype=float16", "search=uniform", "name=x", "evaluation.cache=null"),
        cwd=tmp_path,
    )
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    assert {name for name, x in saved.items() if x.dtype == torch.float32} == {
        name for name in saved if ".wo." in name
    }
