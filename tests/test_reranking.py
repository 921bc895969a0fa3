"""Reranking, held against the evaluators of sentence-transformers, for encoders and for cross-encoders."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import save_tokenizer, shake, text_classifier

from soupkitchen import cook, tasks
from soupkitchen.checkpoints import find_pool
from soupkitchen.errors import ConfigError, DataError
from soupkitchen.evaluation import EvaluationOptions, Runtime, evaluator_of, find_columns, fit_to, load_splits
from soupkitchen.executors import Bench
from soupkitchen.soup import Mixer, Recipe
from soupkitchen.tasks import Several

pytest.importorskip("sentence_transformers")
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.sentence_transformer.evaluation import RerankingEvaluator
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import dot_score

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
RUNS = ("a", "b", "c")
METRICS = {"ndcg_at_10": "ndcg@10", "mrr_at_10": "mrr@10", "map_at_100": "map"}


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    shake(model, 0.05)
    return model


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs with prompts, saved by the library."""
    folder, model = tmp_path_factory.mktemp("encoders"), text_classifier().bert
    torch.manual_seed(0)
    for name in RUNS:
        perturbed(model).save_pretrained(folder / "plain")
        save_tokenizer(folder / "plain")
        modules = [Transformer(str(folder / "plain")), Pooling(16, pooling_mode="mean")]
        prompts = {"query": "w3 w4 ", "document": "w5 "}
        SentenceTransformer(modules=modules, prompts=prompts).save_pretrained(str(folder / "runs" / name))
    return folder / "runs"


@pytest.fixture(scope="module")
def cross_encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classifiers with one output."""
    folder, model = tmp_path_factory.mktemp("cross"), text_classifier(("score",))
    model.classifier.weight.data.mul_(30)  # scores that the library's sigmoid does not make equal
    torch.manual_seed(0)
    for name in RUNS:
        perturbed(model).save_pretrained(folder / name)
        save_tokenizer(folder / name)
    return folder


def text(random: np.random.Generator) -> str:
    return " ".join(f"w{n}" for n in random.integers(0, 60, random.integers(3, 14)))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Queries with 1 to 3 right passages and 4 to 20 wrong ones."""
    random = np.random.default_rng(0)
    return [
        {
            "query": text(random),
            "positive": [text(random) for _ in range(random.integers(1, 4))],
            "negative": [text(random) for _ in range(random.integers(4, 21))],
        }
        for _ in range(30)
    ]


@pytest.fixture(scope="module")
def data(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reranking")
    pd.DataFrame(rows).to_json(folder / "dev.jsonl", orient="records", lines=True)
    return folder


def bench_of(pool: Path, task: Any, batch_size: int = 4) -> Bench:
    found = find_pool(str(pool))
    several = fit_to(find_columns(Several.of(task)), found)
    runtime = Runtime(device="cpu", batch_size=batch_size, threads=1)
    evaluator = evaluator_of(found.reference, several, load_splits(several), runtime, pool=found)
    return Bench(evaluator, Mixer(found))


def scored(bench: Bench, name: str) -> float:
    bench.fill(Recipe.single(name))
    return bench.evaluator.score("heldout").score


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("architecture", ["bi", "cross"])
def test_scores_are_those_of_the_librarys_evaluators(
    metric, architecture, encoders, cross_encoders, data, rows
):
    bi = architecture == "bi"
    pool = encoders if bi else cross_encoders
    bench = bench_of(pool, tasks.reranking(str(data), metric=metric, architecture=architecture))
    scores = {name: scored(bench, name) for name in RUNS}
    for name, score in scores.items():
        kind: Any = SentenceTransformer if bi else CrossEncoder
        library: Any = RerankingEvaluator if bi else CrossEncoderRerankingEvaluator
        told = library(rows, write_csv=False)(kind(str(pool / name), device="cpu"))
        assert score == pytest.approx(told[METRICS[metric]], abs=1e-6)
    assert len(set(scores.values())) == 3
    assert 0.1 < min(scores.values()) < max(scores.values()) < 0.9


def test_encoders_that_compare_by_products_are_scored_so(encoders, data, rows):
    task = tasks.reranking(str(data), metric="mrr_at_10", similarity="dot")
    told = RerankingEvaluator(rows, write_csv=False, similarity_fct=dot_score)
    expected = told(SentenceTransformer(str(encoders / "b"), device="cpu"))["mrr@10"]
    assert scored(bench_of(encoders, task), "b") == pytest.approx(expected, abs=1e-6)
    cosine = bench_of(encoders, tasks.reranking(str(data), metric="mrr_at_10"))
    assert scored(cosine, "b") != pytest.approx(expected, abs=1e-3)


def test_cross_encoders_become_a_soup_that_the_library_loads_and_that_scores_as_it_did(
    cross_encoders, data, rows, tmp_path
):
    result = cook(
        str(cross_encoders / "*"),
        tasks.reranking(str(data), architecture="cross"),
        name="x",
        results_dir=tmp_path,
        runtime=Runtime(device="cpu", batch_size=8, threads=1),
        evaluation=EvaluationOptions(cache=None),
    )
    told = CrossEncoderRerankingEvaluator(rows, write_csv=False)
    expected = told(CrossEncoder(str(tmp_path / "x" / "soup"), device="cpu"))["ndcg@10"]
    board = result.leaderboard.set_index("model")
    assert board.loc["soup", "heldout_ndcg_at_10"] == pytest.approx(expected, abs=1e-4)
    assert set(result.trajectory["examples_total"]) == {30}


def test_mixed_precision_rounds_no_similarity():
    query, near, nearer = [1.0, 0.0], [1.0, 0.031], [1.0, 0.03]
    hidden = torch.tensor([query, nearer, near, near])[:, None, :]
    batch = {"attention_mask": torch.ones(4, 1, dtype=torch.long), "sizes": torch.tensor([[4, 3, 1]])}
    batch["which"] = torch.arange(3)

    def model(**inputs: Any) -> Any:
        return SimpleNamespace(last_hidden_state=hidden)

    task: Any = tasks.reranking("-")
    with torch.autocast("cpu", torch.bfloat16):
        assert task.step(model, batch, None) == [[1]]


@pytest.mark.parametrize("architecture", ["bi", "cross"])
def test_a_passage_that_is_there_twice_is_a_tie_whatever_the_batch(
    architecture, cross_encoders, encoders, rows, tmp_path
):
    """A right passage that is among the wrong ones, too, comes after all of its copies."""
    twice = [{**row, "negative": [*row["negative"], *row["positive"], *row["positive"]]} for row in rows]
    pool = encoders if architecture == "bi" else cross_encoders
    ranked = []
    for name, examples in {"once": rows, "twice": twice}.items():
        (tmp_path / name).mkdir()
        pd.DataFrame(examples).to_json(tmp_path / name / "dev.jsonl", orient="records", lines=True)
        for size in (1, 3, 30):
            task: Any = tasks.reranking(str(tmp_path / name), architecture=architecture)
            bench = bench_of(pool, task, size)
            bench.fill(Recipe.single("a"))
            ranked.append(bench.evaluator.score("heldout").parts[""].predictions)
    assert ranked[0] == ranked[1] == ranked[2]
    assert ranked[3] == ranked[4] == ranked[5]
    for once, again in zip(ranked[0], ranked[3], strict=True):
        assert again == [rank + 2 * (place + 1) for place, rank in enumerate(once)]


def test_a_cell_may_hold_one_text_and_columns_may_have_the_names_of_other_data(encoders, tmp_path):
    random = np.random.default_rng(2)
    table = [
        {"question": text(random), "positive": text(random), "negative": text(random)} for _ in range(20)
    ]
    pd.DataFrame(table).to_csv(tmp_path / "dev.csv", index=False)
    bench = bench_of(encoders, tasks.reranking(str(tmp_path), metric="mrr_at_10"))
    assert bench.evaluator.tasks.alone.query == "question"
    scores = [{"query": r["question"], "positive": r["positive"], "negative": r["negative"]} for r in table]
    expected = RerankingEvaluator(scores, write_csv=False)(SentenceTransformer(str(encoders / "a")))["mrr@10"]
    assert scored(bench, "a") == pytest.approx(expected, abs=1e-6)


def test_a_model_that_finds_all_passages_alike_finds_nothing(cross_encoders, data):
    bench = bench_of(cross_encoders, tasks.reranking(str(data), metric="mrr_at_10", architecture="cross"))
    bench.fill(Recipe.single("a"))
    head = bench.evaluator.live.model.classifier
    head.weight.data.zero_()
    rows = bench.evaluator.prepared("heldout")[""]
    others = [len(texts) - right for texts, right in zip(rows["texts"][:], rows["right"][:], strict=True)]
    expected = np.mean([1 / (1 + n) if n < 10 else 0 for n in others])
    assert bench.evaluator.score("heldout").score == pytest.approx(expected)
    head.bias.data.fill_(math.nan)
    assert math.isnan(bench.evaluator.score("heldout").score)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"positive": []}, "row 2 should hold a text or a list of texts, none of them empty"),
        ({"negative": []}, r"task\.negative=negative: row 2 should hold"),
        ({"negative": ["w1", " "]}, r"task\.negative=negative: row 2 should hold"),
        ({"positive": None}, r"task\.positive=positive: row 2 is empty"),
    ],
)
def test_passages_that_are_not_there_are_named(row, says, encoders, tmp_path):
    whole = {"query": "w1", "positive": ["w2"], "negative": ["w3"]}
    pd.DataFrame([whole, whole | row]).to_json(tmp_path / "dev.jsonl", orient="records", lines=True)
    with pytest.raises(DataError, match=says):
        bench_of(encoders, tasks.reranking(str(tmp_path)))


def test_models_and_options_that_do_not_fit_are_named(text_runs, data):
    with pytest.raises(
        DataError, match=r"the model has 3 outputs; a cross-encoder needs one \(num_labels=1\)"
    ):
        bench_of(text_runs, tasks.reranking(str(data), architecture="cross"))
    with pytest.raises(ConfigError, match="architecture=tri"):
        tasks.reranking(str(data), architecture="tri")
