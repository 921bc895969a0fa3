"""Runs of sentence-transformers, scored and saved as that library uses them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command import soupkitchen
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from tiny import bert_tokenizer, save_tokenizer, shake, text_classifier, tokenizer
from tokenizers import Tokenizer
from transformers import BertForMaskedLM

import soupkitchen as api
from soupkitchen import tasks
from soupkitchen.checkpoints import Checkpoint, find_pool
from soupkitchen.errors import CheckpointError, ConfigError, IncompatibleError
from soupkitchen.evaluation import Runtime, evaluator_of, find_columns, fit_to, load_splits
from soupkitchen.executors import Bench
from soupkitchen.models import Auto, Loading, maker_named
from soupkitchen.output.recipe_file import RecipeFile, saved_fingerprint
from soupkitchen.output.recipe_file import rebuild as rebuilt
from soupkitchen.records import read_csv
from soupkitchen.search import Uniform
from soupkitchen.soup import Mixer, Recipe
from soupkitchen.tasks import Several

pytest.importorskip("sentence_transformers")
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.evaluation import RerankingEvaluator
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, StaticEmbedding
from sentence_transformers.util import dot_score

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
UNIFORM = Uniform()
POOLINGS = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ["mean", "cls"]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)

    def text() -> str:
        return " ".join(f"w{n}" for n in random.integers(0, 60, random.integers(2, 12)))

    folder = tmp_path_factory.mktemp("pairs")
    table = pd.DataFrame([{"text": text(), "text_pair": text(), "label": random.random()} for _ in range(24)])
    table.to_csv(folder / "validation.csv", index=False)
    return folder


def runs(folder: Path, pooling: Any, **told: Any) -> Path:
    """Three runs that pool in that way, saved by the library."""
    model = text_classifier().bert
    torch.manual_seed(0)
    for name in ("a", "b", "c"):
        shake(model, 0.05)
        model.save_pretrained(folder / "plain")
        save_tokenizer(folder / "plain")
        modules = [Transformer(str(folder / "plain")), Pooling(16, pooling_mode=pooling), Normalize()]
        SentenceTransformer(modules=modules, **told).save_pretrained(str(folder / "runs" / name))
    return folder / "runs"


def by_the_library(model: Path, pairs: Path, kind: Any = SentenceTransformer) -> float:
    table = pd.read_csv(pairs / "validation.csv")
    used = kind(str(model), device="cpu")
    dense = {"convert_to_sparse_tensor": False} if kind is SparseEncoder else {}
    one, other = (
        np.asarray(used.encode(table[column].tolist(), **dense)) for column in ("text", "text_pair")
    )
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return float(spearmanr(cosines, table["label"]).statistic)


def words(pool: Path, pairs: Path) -> list[str]:
    return [f"pool.path={pool}/*", "task=embedding_similarity", f"task.data.path={pairs}",
            "evaluation.cache=null", "runtime.batch_size=5", "name=x"]  # fmt: skip


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_the_soup_is_the_model_that_was_scored(pooling, pairs, tmp_path):
    pool = runs(tmp_path, pooling, prompts={"query": "w3 w4 "}, default_prompt_name="query")
    result = soupkitchen(*words(pool, pairs), "search=uniform", cwd=tmp_path)
    assert "embeddings as the runs say (modules.json)" in result.stderr
    table = read_csv(tmp_path / "results" / "x" / "leaderboard.csv").set_index("model")["heldout_spearman"]
    assert table["soup"] == pytest.approx(
        by_the_library(tmp_path / "results" / "x" / "soup", pairs), abs=2e-3
    )
    for name in ("a", "b", "c"):
        assert table[name] == pytest.approx(by_the_library(pool / name, pairs), abs=2e-3)
    assert len(set(table)) > 2


PROMPTED: dict[str, Any] = {"prompts": {"query": "w3 w4 "}, "default_prompt_name": "query"}
REPOSITORIES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "mean": ("mean", "", {}),
    "cls": ("cls", "N", {}),
    "max": ("max", "N", PROMPTED),
    "lasttoken": ("lasttoken", "N", PROMPTED),
    "two": (["mean", "cls"], "N", {}),
    "dense": ("cls", "D", PROMPTED),
    "dot": ("mean", "", {"similarity_fn_name": "dot"}),
    "normalised dot": ("mean", "N", {"similarity_fn_name": "dot"}),
    "normalised dense": ("mean", "DN", {}),
}
"""Pooling, modules after it (Dense and Normalize) and options, by name."""


def repository(folder: Path, name: str, padding_side: str = "right", cut: int | None = None) -> Path:
    """Two runs of the repository `name`, saved by the library."""
    (pooling, after, options), model = REPOSITORIES[name], text_classifier().bert
    torch.manual_seed(0)
    encode = bert_tokenizer()
    encode.padding_side = padding_side
    for run in ("a", "b"):
        shake(model, 0.1)
        model.save_pretrained(folder / "plain")
        encode.save_pretrained(folder / "plain")
        modules = [Transformer(str(folder / "plain")), Pooling(16, pooling_mode=pooling)]
        modules += [Dense(16, 8) if letter == "D" else Normalize() for letter in after]
        whole = SentenceTransformer(modules=modules, **options)
        whole.max_seq_length = cut or whole.max_seq_length
        whole.save_pretrained(str(folder / "runs" / run))
    return folder / "runs"


def bench_of(folder: Path, task: Any, pool: Any = None, **options: Any) -> Bench:
    pool = pool or find_pool(str(folder))
    several = fit_to(find_columns(Several.of(task)), pool)
    runtime = Runtime(device="cpu", batch_size=5, threads=1, **options)
    maker = Auto().maker(several, pool)
    evaluator = evaluator_of(pool.reference, several, load_splits(several), runtime, pool=pool, maker=maker)
    return Bench(evaluator, Mixer(pool))


def check_cosines(bench: Bench, pairs: Path, used: Any, prompt: str | None = None) -> None:
    """Compares the cosine of each pair by run b with that of the library's embeddings."""
    bench.fill(Recipe.single("b"))
    found = bench.evaluator.score("heldout").parts[""].predictions
    table = pd.read_csv(pairs / "validation.csv")
    one, other = (
        used.encode(table[column].tolist(), prompt=prompt, convert_to_tensor=True)
        for column in ("text", "text_pair")
    )
    expected = torch.cosine_similarity(one.double(), other.double())
    torch.testing.assert_close(torch.as_tensor(found).double(), expected, rtol=0, atol=1e-6)


def by_path(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("name", REPOSITORIES)
def test_every_pair_has_the_cosine_of_the_librarys_embeddings(name, pairs, tmp_path):
    pool = repository(tmp_path, name)
    check_cosines(bench_of(pool, tasks.embedding_similarity(str(pairs))), pairs, by_path(pool / "b"))


@pytest.mark.parametrize("name", ["lasttoken", "dense"])
def test_padding_on_the_left_and_a_shorter_length_are_kept(name, pairs, tmp_path):
    pool = repository(tmp_path, name, padding_side="left", cut=6)
    check_cosines(bench_of(pool, tasks.embedding_similarity(str(pairs))), pairs, by_path(pool / "b"))


@pytest.mark.parametrize("name", ["max", "dense"])
def test_what_the_user_says_of_prompts_and_lengths_comes_first(name, pairs, tmp_path):
    pool = repository(tmp_path, name)
    used, prompt = by_path(pool / "b"), "w9 w8 "
    check_cosines(bench_of(pool, tasks.embedding_similarity(str(pairs), prompt=prompt)), pairs, used, prompt)
    used.max_seq_length = 5
    check_cosines(bench_of(pool, tasks.embedding_similarity(str(pairs), max_length=5)), pairs, used)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_encoders_without_modules_pool_as_the_library_would(pooling, padding_side, pairs, tmp_path):
    model, encode = text_classifier().bert, bert_tokenizer()
    encode.padding_side = padding_side
    torch.manual_seed(0)
    for run in ("a", "b"):
        shake(model, 0.1).save_pretrained(tmp_path / "runs" / run)
        encode.save_pretrained(tmp_path / "runs" / run)
    modules = [Transformer(str(tmp_path / "runs" / "b")), Pooling(16, pooling_mode=pooling)]
    bench = bench_of(tmp_path / "runs", tasks.embedding_similarity(str(pairs), pooling=pooling))
    check_cosines(bench, pairs, SentenceTransformer(modules=modules, device="cpu"))


@pytest.mark.parametrize("name", ["mean", "dense"])
def test_positions_in_old_files_are_left_out(name, pairs, tmp_path):
    pool = repository(tmp_path, name)
    for run in ("a", "b"):
        file = pool / run / "model.safetensors"
        tensors = load_file(file) | {"embeddings.position_ids": torch.arange(32)[None]}
        save_file(tensors, file, {"format": "pt"})
    task = api.tasks.embedding_similarity(str(pairs))
    result = api.cook(pool, task, results_dir=tmp_path, name="x", search=UNIFORM)
    table = result.leaderboard.set_index("model")["heldout_spearman"]
    for run, folder in {"soup": result.folder / "soup", "b": pool / "b"}.items():
        assert table[run] == pytest.approx(by_the_library(folder, pairs), abs=2e-3)
    assert "embeddings.position_ids" not in load_file(result.folder / "soup" / "model.safetensors")


WRONG: dict[str, tuple[Any, str]] = {
    "other": (lambda tensors: {**tensors, "other.weight": torch.ones(2)},
              r"holds other\.weight, for which SentenceTransformer has no place"),
    "missing": (lambda tensors: {name: x for name, x in tensors.items() if name != "pooler.dense.weight"},
                r"has no weights for \S+\.pooler\.dense\.weight, which SentenceTransformer needs"),
    "larger": (lambda tensors: {**tensors, "embeddings.word_embeddings.weight": torch.ones(90, 16)},
               r"embeddings\.word_embeddings\.weight has shape \[90, 16\], where BertModel has \[64, 16\]"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_tensors_that_do_not_fit_the_modules_are_named(what, pairs, tmp_path):
    pool, (changed, told) = repository(tmp_path, "dense"), WRONG[what]
    for run in ("a", "b"):
        file = pool / run / "model.safetensors"
        save_file(changed(load_file(file)), file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=told):
        bench_of(pool, tasks.embedding_similarity(str(pairs)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="flash attention may be there")
def test_flash_attention_of_another_machine_is_not_asked_for(pairs, tmp_path):
    pool = repository(tmp_path, "mean")
    used = by_path(pool / "b")
    for run in ("a", "b"):
        edit(pool / run / "config.json", _attn_implementation="flash_attention_2")
    check_cosines(bench_of(pool, tasks.embedding_similarity(str(pairs))), pairs, used)


@pytest.mark.parametrize("device_map", [None, {"": "cpu"}], ids=["whole", "spread"])
@pytest.mark.parametrize("base", ["mean", "plain"])
def test_adapters_take_their_base_where_the_pool_finds_it(base, device_map, pairs, tmp_path):
    """Bases with modules, and bases of transformers, whose adapters bring them."""
    peft = pytest.importorskip("peft")
    pool = repository(tmp_path / "of", "mean")
    shutil.copytree(pool / "a" if base == "mean" else tmp_path / "of" / "plain", tmp_path / "base")
    for run in ("a", "b"):
        modules = [Transformer(str(tmp_path / "base")), Pooling(16, pooling_mode="max")]
        model = SentenceTransformer(modules=modules, device="cpu")
        model.add_adapter(peft.LoraConfig(r=4, target_modules=["query", "value"]))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(0, 0.3)
        model.save_pretrained(str(tmp_path / "runs" / run))
    used = SentenceTransformer(str(tmp_path / "runs" / "b"), device="cpu")
    (tmp_path / "base").rename(tmp_path / "moved")
    found = find_pool(str(tmp_path / "runs"), base=str(tmp_path / "moved"))
    task = tasks.embedding_similarity(str(pairs))
    bench = bench_of(tmp_path / "runs", task, pool=found, device_map=device_map)
    check_cosines(bench, pairs, used)


def test_a_transformer_that_is_spread_over_devices_stays_where_it_is(pairs, tmp_path):
    pool, task = repository(tmp_path, "dense"), tasks.embedding_similarity(str(pairs))
    live = bench_of(pool, task).evaluator.live
    assert not live.spread
    live.model[0].auto_model.hf_device_map = {"": "cpu"}  # as of accelerate, with several devices
    assert live.spread
    with pytest.raises(ConfigError, match="the model does not fit into the memory of the devices"):
        bench_of(pool, task, device_map="auto", max_memory={"cpu": "1KB"})


@pytest.mark.parametrize("similarity", [None, "dot"])
@pytest.mark.parametrize("name", ["dot", "normalised dot", "normalised dense"])
def test_products_are_of_embeddings_that_the_modules_have_normalised(name, similarity, tmp_path):
    random = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in random.integers(0, 60, random.integers(2, 12))) for _ in range(300)]
    rows = [
        {"query": texts[n], "positive": [texts[n + 30]], "negative": texts[n + 60 : 300 : 30]}
        for n in range(30)
    ]
    pd.DataFrame(rows).to_json(tmp_path / "dev.jsonl", orient="records", lines=True)
    pool = repository(tmp_path, name)
    bench = bench_of(pool, tasks.reranking(str(tmp_path), metric="mrr_at_10", similarity=similarity))
    bench.fill(Recipe.single("b"))
    library = RerankingEvaluator(rows, write_csv=False, similarity_fct=dot_score)
    expected = library(SentenceTransformer(str(pool / "b"), device="cpu"))["mrr@10"]
    assert bench.evaluator.score("heldout").score == pytest.approx(expected, abs=1e-6)


def test_runs_that_pool_in_other_ways_are_named(pairs, tmp_path):
    pool = runs(tmp_path, "cls")
    file = pool / "b" / "1_Pooling" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pooling_mode": "mean"}))
    told = soupkitchen(*words(pool, pairs), cwd=tmp_path, fails=True).stderr
    assert re.search(
        r"  b +its 1_Pooling/config.json says pooling_mode=\('mean',\), and that of a \('cls',\)", told
    )
    file.write_text(json.dumps({"word_embedding_dimension": 16, "pooling_mode_cls_token": True}))  # before 6
    soupkitchen(*words(pool, pairs), cwd=tmp_path)
    (pool / "c" / "modules.json").unlink()
    told = soupkitchen(*words(pool, pairs), "name=y", cwd=tmp_path, fails=True).stderr
    assert "c has no modules.json, as others have" in told


def test_the_modules_alone_say_how_tokens_are_pooled(pairs, tmp_path):
    for name in ("cls", "dense"):
        with pytest.raises(
            ConfigError, match=r"task.pooling=mean: the modules of the runs \(modules.json\) say"
        ):
            bench_of(
                repository(tmp_path / name, name), tasks.embedding_similarity(str(pairs), pooling="mean")
            )
    with pytest.raises(ConfigError, match=r"task\.pooling=median: choose cls, max, mean"):
        tasks.embedding_similarity(str(pairs), pooling="median")


def test_without_the_library_its_extra_is_named(pairs, tmp_path, monkeypatch):
    pool = repository(tmp_path, "mean")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'soupkitchen\[sentence-transformers\]'"):
        bench_of(pool, tasks.embedding_similarity(str(pairs)))


def dense(folder: Path) -> SentenceTransformer:
    """Four modules, of which two have weights."""
    model = text_classifier().bert
    model.save_pretrained(folder / "plain")
    save_tokenizer(folder / "plain")
    parts = [Transformer(str(folder / "plain")), Pooling(16, pooling_mode="cls"), Dense(16, 8), Normalize()]
    return SentenceTransformer(modules=parts, prompts={"query": "w3 "}, default_prompt_name="query")


def static(folder: Path) -> SentenceTransformer:
    """A table of embeddings, and no transformer."""
    save_tokenizer(folder / "plain")
    tokenizer = Tokenizer.from_file(str(folder / "plain" / "tokenizer.json"))
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)])


def sparse(folder: Path) -> SparseEncoder:
    """SPLADE: a masked language model's logits, pooled."""
    config = text_classifier().config
    BertForMaskedLM(config).save_pretrained(folder / "plain")
    save_tokenizer(folder / "plain")
    return SparseEncoder(str(folder / "plain"))


@pytest.mark.parametrize("kind", [dense, static, sparse], ids=lambda kind: kind.__name__)
def test_modules_with_weights_are_merged_scored_and_saved_as_the_library_does(kind, pairs, tmp_path):
    torch.manual_seed(0)
    model, states = kind(tmp_path), {}
    for name in ("a", "b", "c"):
        shake(model, 0.3)
        states[name] = {key: x.double() for key, x in model.state_dict().items() if x.is_floating_point()}
        model.save_pretrained(str(tmp_path / "runs" / name))
    task = api.tasks.embedding_similarity(str(pairs))
    result = api.cook(tmp_path / "runs", task, results_dir=tmp_path, name="x", search=Uniform())
    for file in (result.folder / "soup").rglob("*"):  # safetensors writes for its owner alone
        assert file.stat().st_mode & 0o777 == (0o755 if file.is_dir() else 0o644), file
    soup = type(model)(str(result.folder / "soup"), device="cpu")
    found = soup.state_dict()
    for key in states["a"]:
        mean = torch.stack([state[key] for state in states.values()]).mean(0)
        torch.testing.assert_close(found[key].double(), mean, rtol=0, atol=1e-6)
    table = result.leaderboard.set_index("model")["heldout_spearman"]
    assert table["soup"] == pytest.approx(
        by_the_library(result.folder / "soup", pairs, type(model)), abs=2e-3
    )
    for name in states:
        expected = by_the_library(tmp_path / "runs" / name, pairs, type(model))
        assert table[name] == pytest.approx(expected, abs=2e-3)
    assert len(set(table)) > 2
    again = result.model()
    assert isinstance(again, type(model))
    assert all(torch.equal(x, found[key]) for key, x in again.state_dict().items())
    card = (result.folder / "soup" / "README.md").read_text()
    assert f"from sentence_transformers import {type(model).__name__}" in card
    made = rebuilt(RecipeFile.read(result.folder / "recipe.yaml"), tmp_path / "again")
    assert made
    for file in sorted((tmp_path / "again").rglob("*.safetensors")):  # each module's has a part in the digest
        before = saved_fingerprint(tmp_path / "again")
        save_file({key: x + 1 for key, x in load_file(file).items()}, file, {"format": "pt"})
        assert saved_fingerprint(tmp_path / "again") != before


@pytest.mark.parametrize("kind", [dense, static], ids=lambda kind: kind.__name__)
def test_compiled_modules_score_as_others(kind, pairs, tmp_path):
    torch.manual_seed(0)
    model = kind(tmp_path)
    for run in ("a", "b"):
        shake(model, 0.3).save_pretrained(str(tmp_path / "runs" / run))
    bench = bench_of(tmp_path / "runs", tasks.embedding_similarity(str(pairs)))
    before = bench.evaluator.score("heldout").parts[""].predictions
    bench.evaluator._model = torch.compile(bench.evaluator.live.model, backend="eager")
    assert bench.evaluator.compiled
    again = bench.evaluator.score("heldout").parts[""].predictions
    np.testing.assert_allclose(again, before, rtol=0, atol=1e-6)


def test_adapters_of_its_models_are_scored_as_the_library_loads_them(pairs, tmp_path):
    peft = pytest.importorskip("peft")
    base = runs(tmp_path / "first", "cls") / "a"
    for seed, name in enumerate(("a", "b", "c")):
        torch.manual_seed(seed)
        model = SentenceTransformer(str(base))
        model.add_adapter(peft.LoraConfig(r=4, target_modules=["query", "value"]))
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.data.normal_(0, 0.3)
        model.save_pretrained(str(tmp_path / "runs" / name))
    task = api.tasks.embedding_similarity(str(pairs))
    result = api.cook(tmp_path / "runs", task, results_dir=tmp_path, name="x", search=UNIFORM)
    table = result.leaderboard.set_index("model")["heldout_spearman"]
    for name, folder in {"soup": result.folder / "soup", "b": tmp_path / "runs" / "b"}.items():
        assert table[name] == pytest.approx(by_the_library(folder, pairs), abs=2e-3)


def test_such_runs_are_for_tasks_on_embeddings(pairs, tmp_path):
    for number, name in enumerate(("a", "b")):
        model = dense(tmp_path)
        model[2].linear.weight.data.fill_(number)
        model.save_pretrained(str(tmp_path / "runs" / name))
    with pytest.raises(ConfigError, match=r"is a SentenceTransformer \(modules.json\): take a task on emb"):
        api.cook(tmp_path / "runs", api.tasks.text_classification(str(pairs)), results_dir=tmp_path, name="x")


@pytest.mark.parametrize("type", ["os.path.Dense", "sentence_transformers.base.modules.router.Router"])
def test_modules_that_are_not_known_are_refused_unimported(type, pairs, tmp_path):
    for number, name in enumerate(("a", "b")):
        model = dense(tmp_path)
        model[2].linear.weight.data.fill_(number)
        model.save_pretrained(str(tmp_path / "runs" / name))
        file = tmp_path / "runs" / name / "modules.json"
        told = json.loads(file.read_text())
        file.write_text(json.dumps([*told[:2], told[2] | {"type": type}, *told[3:]]))
    task = api.tasks.embedding_similarity(str(pairs))
    refused = pytest.raises(CheckpointError, match=f"names {type}, and of such modules it is not known")
    with refused:
        api.cook(tmp_path / "runs", task, results_dir=tmp_path, name="x")
    with refused:  # as of a recipe, which names the class alone
        maker_named("SentenceTransformer", None).load(Checkpoint.open(tmp_path / "runs" / "a"), Loading())


CHANGES: dict[str, tuple[str, dict[str, Any], str]] = {
    "pooling": ("1_Pooling/config.json", {"pooling_mode": "mean"},
                "pooling_mode=('mean',), and that of a ('cls',)"),
    "prompt in the pooling": ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt=False"),
    "activation": ("2_Dense/config.json", {"activation_function": "torch.nn.modules.linear.Identity"},
                   "activation_function='torch.nn.modules.linear.Identity', and that of a None"),
    "bias": ("2_Dense/config.json", {"bias": False}, "bias=False"),
    "residual": ("2_Dense/config.json", {"use_residual": True}, "use_residual=True"),
    "input": ("2_Dense/config.json", {"module_input_name": "x"}, "module_input_name='x'"),
    "output": ("2_Dense/config.json", {"module_output_name": "x"}, "module_output_name='x'"),
    "normalisation": ("3_Normalize/config.json", {"module_input_name": "x"}, "module_input_name='x'"),
    "prompts": ("config_sentence_transformers.json", {"prompts": {"query": "w4 "}}, "{'query': 'w4 '}"),
    "default prompt": ("config_sentence_transformers.json", {"default_prompt_name": None}, "=None, and"),
    "similarity": ("config_sentence_transformers.json", {"similarity_fn_name": "dot"}, "'dot'"),
    "dimensions": ("config_sentence_transformers.json", {"truncate_dim": 4}, "truncate_dim=4"),
    "length": ("sentence_bert_config.json", {"max_seq_length": 5}, "max_seq_length=5"),
    "case": ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case=True"),
    "kind": ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task='fill-mask'"),
}  # fmt: skip


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | values))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with modules of their own that say the same."""
    folder = tmp_path_factory.mktemp("two")
    model = dense(folder)
    for name in ("a", "b"):
        model[2].linear.weight.data.add_(0.5)
        model.save_pretrained(str(folder / "runs" / name))
    return folder / "runs"


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_their_modules_say_otherwise_is_refused_with_both_values(what, two, tmp_path):
    pool = shutil.copytree(two, tmp_path / "runs")
    file, values, told = CHANGES[what]
    edit(pool / "b" / file, **values)
    with pytest.raises(IncompatibleError, match=rf"  b  its {file} says .*{re.escape(told)}"):
        find_pool(str(pool))


def test_modules_in_another_order_are_refused(two, tmp_path):
    pool = shutil.copytree(two, tmp_path / "runs")
    file = pool / "b" / "modules.json"
    first, second, third, fourth = json.loads(file.read_text())
    file.write_text(json.dumps([first, second, fourth, third]))
    with pytest.raises(
        IncompatibleError,
        match=r"b +its modules\.json says modules=\[.*'Normalize', 'Dense'\], and that of a",
    ):
        find_pool(str(pool))


def test_what_the_library_takes_for_the_same_is_the_same(two, tmp_path):
    """Files of version 3: fewer keys, other names for them."""
    pool = shutil.copytree(two, tmp_path / "runs")
    told = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (pool / "b/1_Pooling/config.json").write_text(json.dumps(told))
    tanh = "torch.nn.modules.activation.Tanh"
    told = {"in_features": 16, "out_features": 8, "bias": True, "activation_function": tanh}
    (pool / "b/2_Dense/config.json").write_text(json.dumps(told))
    shutil.rmtree(pool / "b/3_Normalize")
    (pool / "b/sentence_bert_config.json").write_text('{"do_lower_case": false}')
    told = {"__version__": {}, "prompts": {"query": "w3 "}, "default_prompt_name": "query"}
    (pool / "b/config_sentence_transformers.json").write_text(json.dumps(told))
    texts = ["w1 w2", "w5"]
    of_a, of_b = (SentenceTransformer(str(pool / name), device="cpu") for name in "ab")
    of_b[2].linear.load_state_dict(of_a[2].linear.state_dict())
    assert np.array_equal(of_a.encode(texts), of_b.encode(texts))
    assert [run.name for run in find_pool(str(pool))] == ["a", "b"]


def test_a_normalisation_before_the_pooling_is_the_librarys(pairs, tmp_path):
    model = text_classifier().bert
    model.save_pretrained(tmp_path / "plain")
    save_tokenizer(tmp_path / "plain")
    tokens = Normalize(module_input_name="token_embeddings")
    used = SentenceTransformer(modules=[Transformer(str(tmp_path / "plain")), tokens, Pooling(16)])
    for name in ("a", "b"):
        shake(used, 0.3)
        used.save_pretrained(str(tmp_path / "runs" / name))
    task = api.tasks.embedding_similarity(str(pairs))
    result = api.cook(tmp_path / "runs", task, results_dir=tmp_path, name="x", search=UNIFORM)
    table = result.leaderboard.set_index("model")["heldout_spearman"]
    assert table["b"] == pytest.approx(by_the_library(tmp_path / "runs" / "b", pairs), abs=2e-3)


def test_embeddings_that_the_library_cuts_are_refused(two, pairs, tmp_path):
    pool = shutil.copytree(two, tmp_path / "runs")
    for name in ("a", "b"):
        edit(pool / name / "config_sentence_transformers.json", truncate_dim=4)
    with pytest.raises(CheckpointError, match=r"cuts embeddings to 4 numbers \(truncate_dim"):
        api.cook(pool, api.tasks.embedding_similarity(str(pairs)), results_dir=tmp_path, name="x")


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("modules.json", "{}", "modules.json: all of it"),
        ("modules.json", DEEP, "modules.json cannot be read"),
        ("modules.json", '[{"path": 3, "type": "x"}]', r"modules.json: 0\.path"),
        ("modules.json", '[{"path": "", "type": null}]', r"modules.json: 0\.type"),
        ("1_Pooling/config.json", '{"pooling_mode": {"a": 1}}', "1_Pooling/config.json: pooling_mode"),
        ("1_Pooling/config.json", "[]", "1_Pooling/config.json should hold a JSON object"),
        ("2_Dense/config.json", DEEP, "2_Dense/config.json cannot be read"),
        ("2_Dense/config.json", "3", "2_Dense/config.json should hold a JSON object"),
        ("config_sentence_transformers.json", '{"prompts": ["x"]}', "transformers.json: prompts"),
        ("config_sentence_transformers.json", '{"default_prompt_name": {}}', "json: default_prompt_name"),
        ("config_sentence_transformers.json", '{"model_type": "Router"}', "json: model_type"),
        ("sentence_bert_config.json", '{"max_seq_length": "many"}', "config.json: max_seq_length"),
    ],
)
def test_files_of_modules_with_something_else_in_them_are_named(file, text, told, two, tmp_path):
    pool = shutil.copytree(two, tmp_path / "runs")
    (pool / "b" / file).write_text(text)
    with pytest.raises(IncompatibleError, match=rf"  b  \S*{told}"):
        find_pool(str(pool))


def test_a_cross_encoders_soup_is_one_of_the_library(pairs, tmp_path):
    text_classifier(("score",)).save_pretrained(tmp_path / "plain")
    save_tokenizer(tmp_path / "plain")
    model = CrossEncoder(str(tmp_path / "plain"), num_labels=1)
    for name in ("a", "b", "c"):
        shake(model, 0.1)
        model.save_pretrained(str(tmp_path / "runs" / name))
    task = api.tasks.text_regression(str(pairs), text_pair="text_pair", metric="spearman")
    result = api.cook(tmp_path / "runs", task, results_dir=tmp_path, name="x", search=Uniform())
    rows = pd.read_csv(pairs / "validation.csv")
    table = result.leaderboard.set_index("model")["heldout_spearman"]
    for name, folder in {"soup": result.folder / "soup", "a": tmp_path / "runs" / "a"}.items():
        scores = CrossEncoder(str(folder)).predict(list(zip(rows["text"], rows["text_pair"], strict=True)))
        assert table[name] == pytest.approx(spearmanr(scores, rows["label"]).statistic, abs=2e-3)


@pytest.mark.parametrize("rows", [1, 3, 5, 17])
def test_rounding_does_not_choose_between_two_texts_that_are_equal(rows):
    """A forward pass that gives each row another rounding, as kernels for the rest of a batch do."""

    def model(input_ids: torch.Tensor, **inputs: Any) -> Any:
        noise = torch.linspace(0, 1e-6, len(input_ids)).flip(0)[:, None, None]
        return SimpleNamespace(last_hidden_state=torch.nn.functional.one_hot(input_ids, 9) + noise)

    task, encode = tasks.triplets("-"), tokenizer()
    tokens = [{"anchor": [1, 2], "positive": [3], "negative": [3]}] * rows
    batch = task.collate(tokens, encode)
    assert task.step(model, batch, encode).tolist() == [0] * rows


def test_triplets_are_right_where_the_library_says_so(tmp_path):
    pool = runs(tmp_path, "mean")
    random = np.random.default_rng(1)
    texts = [" ".join(f"w{n}" for n in random.integers(0, 60, 6)) for _ in range(90)]
    table = pd.DataFrame({"query": texts[:30], "positive": texts[30:60], "negative": texts[60:]})
    (tmp_path / "data").mkdir()
    table.to_csv(tmp_path / "data" / "dev.csv", index=False)
    told = [f"pool.path={pool}/*", "task=triplets", f"task.data.path={tmp_path / 'data'}", "name=x"]
    result = soupkitchen(*told, "evaluation.cache=null", "search=uniform", cwd=tmp_path)
    assert "task.anchor=query" in result.stderr
    scores = read_csv(tmp_path / "results" / "x" / "leaderboard.csv").set_index("model")["heldout_accuracy"]
    for name, folder in {"a": pool / "a", "c": pool / "c", "soup": tmp_path / "results/x/soup"}.items():
        used = SentenceTransformer(str(folder), device="cpu")
        parts = [used.encode(table[column].tolist()) for column in ("query", "positive", "negative")]
        anchor, positive, negative = (part / np.linalg.norm(part, axis=1)[:, None] for part in parts)
        expected = ((anchor * positive).sum(1) > (anchor * negative).sum(1)).mean()
        assert scores[name] == pytest.approx(expected)
    assert 0.2 < scores["a"] < 0.8
