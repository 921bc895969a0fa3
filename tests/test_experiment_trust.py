"""No score is wrong without a word: what is not finite, what changes meanwhile, what a model keeps."""

from __future__ import annotations

import json
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from command import own, soupkitchen
from safetensors.torch import load_file, save_file
from tiny import (
    LABELS,
    WORDS,
    adapter,
    make_pictures,
    make_texts,
    save_tokenizer,
    shake,
    text_classifier,
    tokenizer,
)

from soupkitchen import metrics
from soupkitchen.checkpoints import Checkpoint, find_pool
from soupkitchen.evaluation import LiveModel, Runtime
from soupkitchen.evaluation.forward import FiniteCheck
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.scores import Scored
from soupkitchen.merging import Linear
from soupkitchen.search import AcceptRule
from soupkitchen.soup import Soup
from soupkitchen.soup.memory import StateMemory

CPU = torch.device("cpu")


def trajectory(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "trajectory.csv", keep_default_na=True)


# What is not finite


def test_a_soup_that_puts_out_nothing_but_nan_is_an_error_and_not_the_first_label(
    copy_runs, text_runs, tmp_path
):
    frame = make_texts(200, seed=3)
    mostly_first = pd.concat([frame[frame.label == "apples"], frame[frame.label != "apples"][:20]])
    (tmp_path / "texts").mkdir()
    mostly_first.to_csv(tmp_path / "texts" / "validation.csv", index=False)
    runs = copy_runs("b", "c")
    words = (*own(runs, tmp_path / "texts"), f"pool.base={text_runs / 'a'}", "method=task_arithmetic")
    result = soupkitchen(*words, "method.scale=1e38", "name=x", cwd=tmp_path)
    table = trajectory(tmp_path / "results/x")
    merged = table[table.stage == "merge"].iloc[1]
    assert (merged.decision, merged.reason) == ("error", "its score is NaN")
    assert "No run improved" in result.stderr
    leaderboard = pd.read_csv(tmp_path / "results/x/leaderboard.csv")
    assert leaderboard.set_index("model").loc["soup", "delta_vs_best_single"] == 0


def test_only_what_decides_has_to_be_finite():
    def seen(logits: list[list[float]], **inputs: Any) -> bool:
        class Model(torch.nn.Module):
            def forward(self, **inputs: Any) -> dict[str, torch.Tensor]:
                return {"logits": torch.tensor(logits)}

        model = Model()
        boundary = FiniteCheck(model)
        model(**inputs)
        return boundary.finite

    nan, inf = float("nan"), float("inf")
    assert seen([[1.0, 2.0], [3.0, -inf]])
    assert not seen([[1.0, 2.0], [3.0, nan]])
    assert not seen([[1.0, inf], [3.0, 0.0]])
    assert not seen([[1.0, 2.0], [-inf, -inf]])


def test_padding_may_be_anything():
    class Model(torch.nn.Module):
        def forward(self, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
            return (torch.tensor([[[1.0], [2.0]], [[3.0], [float("nan")]]]),)

    model = Model()
    boundary = FiniteCheck(model)
    model(attention_mask=torch.tensor([[1, 1], [1, 0]]))
    assert boundary.finite
    model(attention_mask=torch.tensor([[1, 1], [1, 1]]))
    assert not boundary.finite


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "mse", "exact_match"])
def test_one_prediction_that_is_nan_makes_a_score_nan(name):
    metric = metrics.load(name)
    predictions: Any = np.array([1.0, float("nan"), 0.0])
    references: Any = np.array([1, 0, 0])
    if name == "exact_match":
        predictions, references = ["a", float("nan"), "b"], ["a", "b", "b"]
    assert np.isnan(metric.score(predictions, references))
    values = metric.per_example(predictions, references)
    if values is not None:
        assert np.isnan(values).tolist() == [False, True, False]


def test_any_number_is_better_than_nan():
    scores = {"first": float("nan"), "second": 0.2, "third": float("nan")}

    def each(requests: Any, *options: Any) -> Any:
        for request in requests:
            evaluation = SimpleNamespace(score=scores[request.recipe], complete=True, parts={})
            yield Scored(request.recipe, evaluation, 0.0, False, {})  # type: ignore[arg-type]

    judge = Judge(AcceptRule(), SimpleNamespace(each=each), None)  # type: ignore[arg-type]
    assert judge.best("", ["first", "second", "third"]).recipe == "second"  # type: ignore[list-item]


def test_a_uniform_soup_of_several_scales_is_never_that_which_is_nan(copy_runs, text_runs, texts, tmp_path):
    words = (*own(copy_runs("b", "c"), texts), f"pool.base={text_runs / 'a'}", "method=task_arithmetic")
    soupkitchen(*words, "search=uniform", "method.scale=[1e38,0.5]", "name=x", cwd=tmp_path)
    leaderboard = pd.read_csv(tmp_path / "results/x/leaderboard.csv").set_index("model")
    assert not np.isnan(leaderboard.loc["soup", "heldout_accuracy"])


# One order


@pytest.mark.parametrize(("accept", "decision"), [("better", "discard"), ("not_worse", "keep")])
def test_a_twin_neither_gains_nor_loses(copy_runs, texts, tmp_path, accept, decision):
    runs = copy_runs("a", "b")
    for name in ("a", "b"):
        weights = load_file(runs / "a" / "model.safetensors")
        weights["bert.embeddings.position_embeddings.weight"][31] += name == "b"  # no text is so long
        save_file(weights, runs / name / "model.safetensors", {"format": "pt"})
    words = (*own(runs, texts), "task.metric.name=cross_entropy", f"search.accept={accept}", "name=x")
    soupkitchen(*words, "runtime.batch_size=7", cwd=tmp_path)
    table = trajectory(tmp_path / "results/x")
    twin = table[(table.stage == "merge") & (table.candidate == "b")].iloc[0]
    assert (twin.decision, twin.gain) == (decision, 0.0)
    leaderboard = pd.read_csv(tmp_path / "results/x/leaderboard.csv").set_index("model")
    assert leaderboard.loc["soup", "delta_vs_best_single"] == 0


# What changes meanwhile


def test_a_weight_file_that_is_replaced_while_it_is_scored_is_named_and_not_kept(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b", "c")
    file = runs / "b" / "model.safetensors"
    other = tmp_path / "other.safetensors"
    other.write_bytes((runs / "c" / "model.safetensors").read_bytes())
    words = (*own(runs, texts), f"evaluation.cache={tmp_path / 'cache'}", "name=x")
    code = (
        "import os, soupkitchen.evaluation.evaluator as e\n"
        "score, count = e.Evaluator.score, [0]\n"
        "def replaced(self, split, *more):\n"
        "    count[0] += 1\n"
        f"    if count[0] == 2: os.replace({str(other)!r}, {str(file)!r})\n"
        "    return score(self, split, *more)\n"
        "e.Evaluator.score = replaced"
    )
    before = file.read_bytes()
    result = soupkitchen(*words, cwd=tmp_path, before=code, fails=True)
    assert f"{file} changed while this run read it" in result.stderr
    events = [json.loads(line) for line in (tmp_path / "results/x/journal.jsonl").read_text().splitlines()]
    assert [e["what"] for e in events if e["event"] == "score"] == ["ranking a (1 of 3)"]
    file.write_bytes(before)
    soupkitchen(*own(runs, texts), "name=y", f"evaluation.cache={tmp_path / 'cache'}", cwd=tmp_path)
    soupkitchen(*own(runs, texts), "name=z", cwd=tmp_path)  # no cache
    tables = [trajectory(tmp_path / f"results/{name}")[["candidate", "score"]] for name in "yz"]
    pd.testing.assert_frame_equal(*tables)


@pytest.fixture
def of_ones_own(tmp_path: Path) -> Callable[[str], None]:
    """Writes a module `mine` with a function of one's own that imports another."""
    tmp_path.joinpath("mine.py").write_text(
        "from beside import number\n"
        "def function(model, tokenizer, examples):\n"
        "    return [number(model) for _ in examples]\n"
    )

    def write(body: str) -> None:
        tmp_path.joinpath("beside.py").write_text(f"def number(model):\n    return {body}\n")

    return write


def test_a_function_that_was_rewritten_gets_no_old_scores(copy_runs, texts, tmp_path, of_ones_own):
    words = (
        *(f"pool.path={copy_runs('a', 'b')}/*", "task=function", "task.function=mine.function"),
        *("task.model=AutoModelForSequenceClassification", f"task.data.path={texts}", "task.data.test=null"),
        f"evaluation.cache={tmp_path / 'cache'}",
    )
    weights = "float(model.classifier.weight.sum())"
    of_ones_own(weights)
    soupkitchen(*words, "name=before", cwd=tmp_path)
    of_ones_own(f"2 + {weights}")
    soupkitchen(*words, "name=after", cwd=tmp_path)
    soupkitchen(*words, "name=again", cwd=tmp_path)
    before, after, again = (
        trajectory(tmp_path / f"results/{n}").query("stage == 'rank'") for n in ("before", "after", "again")
    )
    np.testing.assert_allclose(after.score, before.score + 2, rtol=1e-6)
    assert not after.cached.any()
    assert again.cached.all()


def test_a_method_of_ones_own_that_was_rewritten_gets_no_old_scores(copy_runs, texts, tmp_path):
    def write(factor: str) -> None:
        tmp_path.joinpath("mine.py").write_text(
            "from dataclasses import dataclass\n"
            "from soupkitchen.merging import Linear\n"
            "@dataclass(frozen=True, kw_only=True)\n"
            "class Mine(Linear):\n"
            f"    def result(self, state): return super().result(state) * {factor}\n"
        )

    words = (*own(copy_runs("a", "b"), texts)[:-2], "task.metric.name=cross_entropy")
    words = (*words, "+method._target_=mine.Mine", f"evaluation.cache={tmp_path / 'cache'}")
    words = tuple(w.replace("+method", "method") for w in words)
    for factor in ("1", "0.5"):
        write(factor)
        soupkitchen(*words, f"name=times-{factor}", "search=uniform", cwd=tmp_path)
    soups = [
        pd.read_csv(tmp_path / f"results/times-{f}/leaderboard.csv").set_index("model") for f in ("1", "0.5")
    ]
    assert soups[0].loc["soup", "heldout_cross_entropy"] != soups[1].loc["soup", "heldout_cross_entropy"]


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


# The end of a run, and memory


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


def test_the_state_has_the_room_of_its_own_device_only():
    runtime = Runtime(max_memory={0: 1000, 1: 5000, "cpu": 700})
    taken = {torch.device("cuda:0"): 300, torch.device("cuda:1"): 10, CPU: 100}
    # a thirty-second is for batches
    on_host = 700 - 100 - 700 // 32
    assert runtime.state_budget(taken, torch.device("cuda", 0)) == (1000 - 300 - 1000 // 32, on_host)
    assert runtime.state_budget(taken, torch.device("cuda")) == (1000 - 300 - 1000 // 32, on_host)
    assert runtime.state_budget(taken, torch.device("cuda", 1)) == (5000 - 10 - 5000 // 32, on_host)
    assert runtime.state_budget(taken, CPU) == (0, on_host)


def test_the_bases_tensors_count_as_state():
    device = torch.device("meta")  # any other than the CPU
    memory = StateMemory(device, on_device=100)
    small, large = torch.zeros(20), torch.zeros(10)
    assert memory.hold(small).device == device  # 80 bytes
    assert memory.hold(large).device == CPU  # 40 more do not fit
    assert memory.hold(torch.zeros(5)).device == device
    assert StateMemory(CPU).hold(small) is small


# Faults of the machine, and of candidates


def test_a_failing_disk_ends_the_run_and_is_no_fault_of_a_run(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x")
    code = (
        "import soupkitchen.soup.reader as h\n"
        "tensors = h.TensorReader.tensors\n"
        "def fail(self, run):\n"
        "    if run.name == 'c': raise OSError(5, 'Input/output error')\n"
        "    return tensors(self, run)\n"
        "h.TensorReader.tensors = fail"
    )
    result = soupkitchen(*words, cwd=tmp_path, before=code, fails=True)
    assert "ranking c (3 of 5): [Errno 5] Input/output error" in result.stderr
    assert "the same command continues" in result.stderr
    assert '"event": "error"' not in (tmp_path / "results/x/journal.jsonl").read_text()
    soupkitchen(*words, cwd=tmp_path)
    assert "error" not in trajectory(tmp_path / "results/x")["decision"].tolist()


def test_whatever_a_forward_pass_raises_is_a_row_with_the_runs_name(copy_runs, texts, tmp_path, of_ones_own):
    runs = copy_runs("a", "b", "c")
    marked = float(load_file(runs / "b" / "model.safetensors")["classifier.bias"][0])
    of_ones_own(f"1 / (abs(float(model.classifier.bias[0]) - {marked!r}) > 1e-9)")
    words = (
        *(f"pool.path={runs}/*", "task=function", "task.function=mine.function", "evaluation.cache=null"),
        *("task.model=AutoModelForSequenceClassification", f"task.data.path={texts}", "name=x"),
    )
    soupkitchen(*words, cwd=tmp_path)
    errors = trajectory(tmp_path / "results/x").query("decision == 'error'")
    assert errors[["stage", "candidate"]].to_numpy().tolist() == [["rank", "b"]]
    assert errors.reason.tolist() == ["ZeroDivisionError: division by zero"]


def test_a_control_that_cannot_be_scored_is_a_row_and_not_the_end(copy_runs, texts, tmp_path, of_ones_own):
    runs = copy_runs("a", "b", "c")
    bias = [float(load_file(runs / n / "model.safetensors")["classifier.bias"][0]) for n in "abc"]
    of_ones_own(f"1 / (abs(float(model.classifier.bias[0]) - {sum(bias) / 3!r}) > 1e-6)")
    words = (
        *(f"pool.path={runs}/*", "task=function", "task.function=mine.function", "evaluation.cache=null"),
        *("task.model=AutoModelForSequenceClassification", f"task.data.path={texts}", "name=x"),
    )
    soupkitchen(*words, cwd=tmp_path)
    errors = trajectory(tmp_path / "results/x").query("decision == 'error'")
    assert ["final", "uniform"] in errors[["stage", "candidate"]].to_numpy().tolist()
    assert "uniform" not in pd.read_csv(tmp_path / "results/x/leaderboard.csv")["model"].tolist()


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


# Remarks


def test_buffers_that_differ_are_named_once_for_all(tmp_path, caplog):
    for number, name in enumerate("abc"):
        model = text_classifier()
        folder = tmp_path / name
        model.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        weights |= {f"bert.layer{i}.num_batches_tracked": torch.tensor(number) for i in range(7)}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    runs = [Checkpoint.open(tmp_path / name) for name in "abc"]
    warned: set[str] = set()
    soup = Soup(Linear(), warned=warned)
    soup.keep(runs[0])
    for run in runs[1:]:
        list(soup.taste(run))
        soup.keep(run)
    list(Soup(Linear(), warned=warned).blend(runs))
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "bert.layer0.num_batches_tracked" in warning
    assert "and 2 more" in warning
    assert "those of a" in warning


def test_a_uniform_soup_names_what_the_base_lacks(copy_runs, text_runs, texts, tmp_path):
    import shutil

    shutil.copytree(text_runs / "a", tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    kept = {name: x for name, x in weights.items() if not name.startswith("classifier")}
    save_file(kept, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    words = (*own(copy_runs("b", "c"), texts), f"pool.base={tmp_path / 'base'}", "method=task_arithmetic")
    result = soupkitchen(*words, "search=uniform", "name=x", cwd=tmp_path)
    assert result.stderr.count("the base model lacks 2 tensors of the runs") == 1


def test_released_models_are_gone(text_runs):
    live = LiveModel(Checkpoint.open(text_runs / "a"), transformers.AutoModelForSequenceClassification, CPU)
    before = weakref.ref(live.model)
    live.load(Checkpoint.open(text_runs / "b"))
    assert before() is None
    expected = load_file(text_runs / "b" / "model.safetensors")["classifier.bias"]
    torch.testing.assert_close(live.model.classifier.bias.data, expected, rtol=0, atol=0)
