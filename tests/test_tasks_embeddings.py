"""Retrieval, reranking and pairs, held against the evaluators of sentence-transformers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from command import soupkitchen
from hypothesis import given
from hypothesis import strategies as st
from tiny import save_tokenizer, shake, text_classifier

from soupkitchen import cook, metrics, tasks
from soupkitchen.checkpoints import find_pool
from soupkitchen.errors import ConfigError, DataError, IncompatibleError, MetricError
from soupkitchen.evaluation import (
    EvaluationOptions,
    Identity,
    Runtime,
    evaluator_of,
    find_columns,
    fit_to,
    load_splits,
)
from soupkitchen.executors import Bench
from soupkitchen.models import Auto
from soupkitchen.records import read_csv
from soupkitchen.soup import Mixer, Recipe
from soupkitchen.tasks import Several
from soupkitchen.tasks.kinds.embeddings import ranks

pytest.importorskip("sentence_transformers")
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.sentence_transformer.evaluation import (
    BinaryClassificationEvaluator,
    InformationRetrievalEvaluator,
    RerankingEvaluator,
)
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import dot_score

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
RUNS = ("a", "b", "c")
METRICS = {
    "ndcg_at_10": "ndcg@10",
    "mrr_at_10": "mrr@10",
    "recall_at_10": "recall@10",
    "map_at_100": "map@100",
}
PROMPTS = {"query": "w3 w4 ", "document": "w5 "}


def runs(folder: Path, **told: Any) -> Path:
    """Three runs, saved by the library."""
    model = text_classifier().bert
    torch.manual_seed(0)
    for name in RUNS:
        shake(model, 0.05)
        model.save_pretrained(folder / "plain")
        save_tokenizer(folder / "plain")
        modules = [Transformer(str(folder / "plain")), Pooling(16, pooling_mode="mean")]
        SentenceTransformer(modules=modules, **told).save_pretrained(str(folder / "runs" / name))
    return folder / "runs"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs(tmp_path_factory.mktemp("retrieval"), prompts=PROMPTS)


def words(random: np.random.Generator, number: int) -> list[str]:
    return [f"w{n}" for n in random.integers(0, 60, number)]


def lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def queries_and_corpus() -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
    """Queries of words of the passages that are relevant to them, by id."""
    random = np.random.default_rng(0)
    corpus = {f"d{n}": words(random, int(random.integers(3, 14))) for n in range(70)}
    queries, relevant = {}, {}
    for number in range(25):
        found = random.choice(list(corpus), int(random.integers(1, 5)), replace=False).tolist()
        known = [word for one in found for word in corpus[one][:3]]
        queries[f"q{number}"] = " ".join([*known[:6], *words(random, 2)])
        relevant[f"q{number}"] = set(found)
    return queries, {name: " ".join(told) for name, told in corpus.items()}, relevant


QUERIES, CORPUS, RELEVANT = queries_and_corpus()


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each query with what is relevant to it, and the corpus beside."""
    folder = tmp_path_factory.mktemp("lists")
    rows = [{"query": QUERIES[name], "relevant": sorted(RELEVANT[name])} for name in QUERIES]
    lines(folder / "dev.jsonl", rows)
    lines(folder / "corpus.jsonl", [{"id": name, "text": text} for name, text in CORPUS.items()])
    return folder


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as BEIR has it, with a passage that is judged not to be relevant."""
    folder = tmp_path_factory.mktemp("beir")
    lines(folder / "queries.jsonl", [{"_id": q, "text": text, "metadata": {}} for q, text in QUERIES.items()])
    halves = {name: text.partition(" ") for name, text in CORPUS.items()}
    rows = [
        {"_id": n, "title": title, "text": text, "metadata": {}} for n, (title, _, text) in halves.items()
    ]
    lines(folder / "corpus.jsonl", rows)
    judged = [(q, d, 1) for q in QUERIES for d in sorted(RELEVANT[q])]
    judged += [(q, next(d for d in CORPUS if d not in RELEVANT[q]), 0) for q in QUERIES]
    (folder / "qrels").mkdir()
    table = pd.DataFrame(judged, columns=["query-id", "corpus-id", "score"])
    table.to_csv(folder / "qrels" / "dev.tsv", sep="\t", index=False)
    return folder


def bench_of(pool: Path, task: Any, batch_size: int = 8) -> Bench:
    found = find_pool(str(pool))
    several = fit_to(find_columns(Several.of(task)), found)
    runtime = Runtime(device="cpu", batch_size=batch_size, threads=1)
    splits, maker = load_splits(several), Auto().maker(several, found)
    evaluator = evaluator_of(found.reference, several, splits, runtime, pool=found, maker=maker)
    return Bench(evaluator, Mixer(found))


def task(folder: Path, metric: str = "ndcg_at_10", **options: Any) -> Any:
    return tasks.retrieval(str(folder), metric=metric, **options)


def scored(bench: Bench, name: str) -> Any:
    bench.fill(Recipe.single(name))
    return bench.evaluator.score("heldout")


def by_the_library(model: Path, **told: Any) -> dict[str, float]:
    evaluator = InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, write_csv=False, **told)
    found = evaluator(SentenceTransformer(str(model), device="cpu"))
    return {name.split("_", 1)[1]: float(value) for name, value in found.items()}


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_those_of_the_librarys_evaluator(metric, pool, lists):
    bench = bench_of(pool, task(lists, metric))
    scores = {name: scored(bench, name).score for name in RUNS}
    for name, score in scores.items():
        assert score == pytest.approx(by_the_library(pool / name)[METRICS[metric]], abs=1e-6)
    assert len(set(scores.values())) == 3
    assert 0.1 < min(scores.values()) < max(scores.values()) < 0.9


def test_options_win_over_what_the_runs_say_of_prompts_and_similarity(pool, lists, tmp_path):
    dotted = runs(tmp_path, prompts={"query": "w3 ", "document": "w9 w9 "}, similarity_fn_name="dot")
    task_of_dotted = bench_of(dotted, task(lists)).evaluator.tasks.alone
    told = task_of_dotted.similarity, task_of_dotted.query_prompt, task_of_dotted.passage_prompt
    assert told == ("dot", "w3 ", "w9 w9 ")
    expected = by_the_library(dotted / "b")["ndcg@10"]
    assert scored(bench_of(dotted, task(lists)), "b").score == pytest.approx(expected, abs=1e-6)
    options = {"similarity": "dot", "query_prompt": "w3 ", "passage_prompt": "w9 w9 "}
    assert scored(bench_of(pool, task(lists, **options)), "b").score == pytest.approx(expected, abs=1e-6)
    assert by_the_library(pool / "b")["ndcg@10"] != pytest.approx(expected, abs=1e-3)
    file = dotted / "c" / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prompts": {"query": "w4 "}}))
    with pytest.raises(IncompatibleError, match=r"c +its config_sentence_transformers.json says prompts="):
        bench_of(dotted, task(lists))


def test_a_run_decides_on_a_folder_of_beir_as_the_library_would(pool, beir, lists, tmp_path):
    words = [
        f"pool.path={pool}/*",
        "task=retrieval",
        f"task.data.path={beir}",
        "task.passage='{title} {text}'",
    ]
    soupkitchen(*words, "evaluation.cache=null", "runtime.batch_size=8", "name=x", cwd=tmp_path)
    results = tmp_path / "results" / "x"
    scores = read_csv(results / "leaderboard.csv").set_index("model")["heldout_ndcg_at_10"]
    for name, folder in {**{name: pool / name for name in RUNS}, "soup": results / "soup"}.items():
        assert scores[name] == pytest.approx(by_the_library(folder)["ndcg@10"], abs=1e-4)
    steps = read_csv(results / "trajectory.csv")
    assert set(steps["examples_total"]) == {len(QUERIES)}
    assert scored(bench_of(pool, task(lists)), "a").score == pytest.approx(scores["a"], abs=1e-4)


def test_early_stopping_ends_among_the_queries_and_what_is_scored_until_then_stays(pool, lists):
    bench = bench_of(pool, task(lists), batch_size=4)
    whole = scored(bench, "a").parts[""]
    asked: list[int] = []

    def ended(so_far: Any, *others: Any) -> Any:
        asked.append(so_far.examples_scored)
        return so_far if so_far.examples_scored >= 8 else None

    threshold: Any = SimpleNamespace(ended=ended)
    part = bench.evaluator.score("heldout", threshold).parts[""]
    assert asked == [4, 8]
    assert (part.examples_scored, part.examples_total) == (8, len(QUERIES))
    np.testing.assert_array_equal(part.values[part.order], whole.values[part.order])
    assert whole.score <= part.score
    assert (np.delete(part.values, part.order) == 1).all()


def test_predictions_are_the_same_in_whatever_order_and_pieces_queries_come(pool, lists):
    bench = bench_of(pool, task(lists), batch_size=4)
    whole = scored(bench, "a").parts[""].predictions
    shuffled = {"": np.random.default_rng(0).permutation(len(QUERIES))}
    assert bench.evaluator.score("heldout", order=shuffled).parts[""].predictions == whole
    large = bench_of(pool, task(lists), batch_size=64)
    assert scored(large, "a").parts[""].predictions == whole
    sizes = {len(batch) for batch in large.evaluator.examples.corpus("heldout")[""]}
    assert sizes == {64, len(CORPUS) - 64}


def test_a_passage_that_is_there_several_times_is_a_tie_whatever_the_batch(pool, tmp_path):
    """Each passage has a copy that is not relevant, some have five: the relevant one comes last."""
    copies = {name: 5 if number % 7 == 0 else 1 for number, name in enumerate(CORPUS)}
    more = [{"id": f"{name}-{n}", "text": CORPUS[name]} for name in CORPUS for n in range(copies[name])]
    ranked = {}
    for folder, extra in {"once": [], "more": more}.items():
        queries = [{"query": QUERIES[name], "relevant": sorted(RELEVANT[name])} for name in QUERIES]
        lines(tmp_path / folder / "dev.jsonl", queries)
        corpus = [*({"id": name, "text": text} for name, text in CORPUS.items()), *extra]
        random = np.random.default_rng(3)
        lines(tmp_path / folder / "corpus.jsonl", [corpus[at] for at in random.permutation(len(corpus))])
        for size in (3, 16, 64):
            bench = bench_of(pool, task(tmp_path / folder), batch_size=size)
            ranked[folder, size] = scored(bench, "a").parts[""].predictions
    assert ranked["more", 3] == ranked["more", 16] == ranked["more", 64]
    assert ranked["once", 3] == ranked["once", 64]
    model = SentenceTransformer(str(pool / "a"), device="cpu")
    passages = model.encode_document(list(CORPUS.values()), normalize_embeddings=True)
    for query, found in zip(QUERIES, ranked["more", 16], strict=True):
        scores = model.encode_query(QUERIES[query], normalize_embeddings=True) @ passages.T
        of_name = dict(zip(CORPUS, scores.tolist(), strict=True))
        relevant = sorted((of_name[name] for name in RELEVANT[query]), reverse=True)
        others = [of_name[n] for n in CORPUS for _ in range(1 + copies[n] - (n in RELEVANT[query]))]
        assert found == [sum(o >= one for o in others) + n for n, one in enumerate(relevant, start=1)]


def test_the_corpus_is_embedded_anew_for_each_filling(pool, lists):
    bench = bench_of(pool, task(lists))
    first, second = scored(bench, "a"), scored(bench, "b")
    assert second.parts[""].predictions != first.parts[""].predictions
    assert scored(bench, "a").parts[""].predictions == first.parts[""].predictions


def test_what_is_kept_is_known_by_the_corpus_and_by_how_it_is_put_into_batches(pool, lists, tmp_path):
    def known(folder: Path, batch_size: int) -> str:
        bench = bench_of(pool, task(folder), batch_size)
        return Identity(bench.evaluator, bench.mixer.pool).predictions(Recipe.single("a"), "heldout")

    for file in ("dev.jsonl", "corpus.jsonl"):
        (tmp_path / file).write_text((lists / file).read_text())
    assert known(tmp_path, 30) == known(lists, 30)
    assert known(lists, 30) != known(lists, 40)  # all queries are one batch in both
    (tmp_path / "corpus.jsonl").write_text(
        (lists / "corpus.jsonl").read_text() + '{"id": "x", "text": "w1"}\n'
    )
    assert known(tmp_path, 30) != known(lists, 30)


def test_a_model_without_finite_embeddings_has_no_score(pool, lists):
    bench = bench_of(pool, task(lists))
    bench.fill(Recipe.single("a"))
    next(iter(bench.evaluator.live.model.parameters())).data[10] = math.nan  # a word of few passages
    assert math.isnan(bench.evaluator.score("heldout").score)


# What is wrong is said


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ([], {"corpus": "none.jsonl"}, r"task\.corpus=none\.jsonl: there is no such file"),
        (
            [{"query": "w1", "relevant": ["nowhere"]}],
            {},
            r"row 26 names the passage 'nowhere', whose id is not",
        ),
        ([{"query": "w1", "relevant": []}], {}, "row 26 names no relevant passage; leave the row out"),
        ([], {"id": "text_id"}, r"task\.id=text_id: the data has no such column"),
        ([], {"passage": "{body}"}, r"body.*the data has no such column"),
        ([], {"id": "text"}, "is not in the corpus; is task.id the right column"),
    ],
)
def test_data_that_does_not_fit_is_named(rows, options, says, pool, lists, tmp_path):
    for file in ("dev.jsonl", "corpus.jsonl"):
        (tmp_path / file).write_text((lists / file).read_text())
    with (tmp_path / "dev.jsonl").open("a") as file:
        file.write("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(DataError, match=says):
        bench_of(pool, task(tmp_path, **options))


def test_ids_that_are_there_twice_and_judgements_of_other_queries_are_named(pool, beir, tmp_path):
    lines(tmp_path / "queries.jsonl", [{"_id": "q0", "text": "w1"}])
    lines(tmp_path / "corpus.jsonl", [{"_id": "d1", "text": "w1"}, {"_id": "d1", "text": "w2"}])
    (tmp_path / "qrels").mkdir()
    file = tmp_path / "qrels" / "dev.tsv"
    file.write_text("query-id\tcorpus-id\tscore\nq0\td1\t1\n")
    with pytest.raises(DataError, match="rows 1 and 2 have the same id 'd1'"):
        bench_of(pool, task(tmp_path))
    file.write_text("query-id\tcorpus-id\tscore\nq0\td1\t1\nq1\td1\t1\n")
    with pytest.raises(DataError, match="row 2 judges the query 'q1', whose id is not in the file"):
        bench_of(pool, task(tmp_path))
    file.unlink()
    rows = [f"q0\td{n}\t1\n" for n in range(40)]
    (tmp_path / "qrels" / "train.tsv").write_text("".join(["query-id\tcorpus-id\tscore\n", *rows]))
    with pytest.raises(DataError, match="a share of the training judgements was drawn"):
        bench_of(pool, task(tmp_path))


# Ranks, and what is made of them


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.lists(st.integers(0, 4), max_size=12))
def test_of_passages_with_the_same_score_the_relevant_ones_come_last(relevant, others):
    listed = [(-score, True) for score in relevant] + [(-score, False) for score in others]
    expected = [rank for rank, (_, mine) in enumerate(sorted(listed), start=1) if mine]
    assert ranks(np.array(relevant, np.float32), np.array(others, np.float32)) == expected


@pytest.mark.parametrize("k", [1, 3, 10, 100])
def test_metrics_of_ranks_are_the_librarys(k):
    random = np.random.default_rng(0)
    documents = [f"d{n:03}" for n in range(150)]
    relevant = {f"q{n}": set(random.choice(documents, random.integers(1, 30)).tolist()) for n in range(40)}
    cuts = {f"{name}_at_k": [k] for name in ("mrr", "ndcg", "accuracy", "precision_recall", "map")}
    library = InformationRetrievalEvaluator(
        dict.fromkeys(relevant, "-"), dict.fromkeys(documents, "-"), relevant, **cuts
    )
    orders = [random.permutation(documents).tolist() for _ in relevant]
    hits = [[{"corpus_id": d, "score": -place} for place, d in enumerate(order)] for order in orders]
    expected = library.compute_metrics(hits)
    found = [
        [place for place, d in enumerate(order, start=1) if d in told]
        for order, told in zip(orders, relevant.values(), strict=True)
    ]
    for name, default in METRICS.items():
        metric = metrics.load(name, options={"k": k})
        assert metric.name == re.sub(r"\d+$", str(k), name)
        score = metric.score(found, [sorted(told) for told in relevant.values()])
        assert score == pytest.approx(expected[re.sub(r"\d+$", "k", default)][k], abs=1e-12)


def test_k_is_a_whole_number():
    for k in (0, 2.5, True, "ten"):
        with pytest.raises(MetricError, match=f"k={k} should be a whole number of at least 1"):
            metrics.load("recall_at_10", options={"k": k})


RERANKING = {"ndcg_at_10": "ndcg@10", "mrr_at_10": "mrr@10", "map_at_100": "map"}


@pytest.fixture(scope="module")
def cross_encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classifiers with one output."""
    folder, model = tmp_path_factory.mktemp("cross"), text_classifier(("score",))
    model.classifier.weight.data.mul_(30)  # scores that the library's sigmoid does not make equal
    torch.manual_seed(0)
    for name in RUNS:
        shake(model, 0.05).save_pretrained(folder / name)
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
def reranked(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reranking")
    pd.DataFrame(rows).to_json(folder / "dev.jsonl", orient="records", lines=True)
    return folder


@pytest.mark.parametrize("metric", RERANKING)
@pytest.mark.parametrize("architecture", ["bi", "cross"])
def test_scores_are_those_of_the_librarys_evaluators(
    metric, architecture, pool, cross_encoders, reranked, rows
):
    bi = architecture == "bi"
    pool = pool if bi else cross_encoders
    bench = bench_of(pool, tasks.reranking(str(reranked), metric=metric, architecture=architecture))
    scores = {name: scored(bench, name).score for name in RUNS}
    for name, score in scores.items():
        kind: Any = SentenceTransformer if bi else CrossEncoder
        library: Any = RerankingEvaluator if bi else CrossEncoderRerankingEvaluator
        told = library(rows, write_csv=False)(kind(str(pool / name), device="cpu"))
        assert score == pytest.approx(told[RERANKING[metric]], abs=1e-6)
    assert len(set(scores.values())) == 3
    assert 0.1 < min(scores.values()) < max(scores.values()) < 0.9


def test_encoders_that_compare_by_products_are_scored_so(pool, reranked, rows):
    task = tasks.reranking(str(reranked), metric="mrr_at_10", similarity="dot")
    told = RerankingEvaluator(rows, write_csv=False, similarity_fct=dot_score)
    expected = told(SentenceTransformer(str(pool / "b"), device="cpu"))["mrr@10"]
    assert scored(bench_of(pool, task), "b").score == pytest.approx(expected, abs=1e-6)
    cosine = bench_of(pool, tasks.reranking(str(reranked), metric="mrr_at_10"))
    assert scored(cosine, "b").score != pytest.approx(expected, abs=1e-3)


def test_cross_encoders_become_a_soup_that_the_library_loads_and_that_scores_as_it_did(
    cross_encoders, reranked, rows, tmp_path
):
    result = cook(
        str(cross_encoders / "*"),
        tasks.reranking(str(reranked), architecture="cross"),
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
    architecture, cross_encoders, pool, rows, tmp_path
):
    """A right passage that is among the wrong ones, too, comes after all of its copies."""
    twice = [{**row, "negative": [*row["negative"], *row["positive"], *row["positive"]]} for row in rows]
    pool = pool if architecture == "bi" else cross_encoders
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


def test_a_cell_may_hold_one_text_and_columns_may_have_the_names_of_other_data(pool, tmp_path):
    random = np.random.default_rng(2)
    table = [
        {"question": text(random), "positive": text(random), "negative": text(random)} for _ in range(20)
    ]
    pd.DataFrame(table).to_csv(tmp_path / "dev.csv", index=False)
    bench = bench_of(pool, tasks.reranking(str(tmp_path), metric="mrr_at_10"))
    assert bench.evaluator.tasks.alone.query == "question"
    scores = [{"query": r["question"], "positive": r["positive"], "negative": r["negative"]} for r in table]
    expected = RerankingEvaluator(scores, write_csv=False)(SentenceTransformer(str(pool / "a")))["mrr@10"]
    assert scored(bench, "a").score == pytest.approx(expected, abs=1e-6)


def test_a_model_that_finds_all_passages_alike_finds_nothing(cross_encoders, reranked):
    bench = bench_of(cross_encoders, tasks.reranking(str(reranked), metric="mrr_at_10", architecture="cross"))
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
def test_passages_that_are_not_there_are_named(row, says, pool, tmp_path):
    whole = {"query": "w1", "positive": ["w2"], "negative": ["w3"]}
    pd.DataFrame([whole, whole | row]).to_json(tmp_path / "dev.jsonl", orient="records", lines=True)
    with pytest.raises(DataError, match=says):
        bench_of(pool, tasks.reranking(str(tmp_path)))


def test_models_and_options_that_do_not_fit_are_named(text_runs, reranked):
    with pytest.raises(
        DataError, match=r"the model has 3 outputs; a cross-encoder needs one \(num_labels=1\)"
    ):
        bench_of(text_runs, tasks.reranking(str(reranked), architecture="cross"))
    with pytest.raises(ConfigError, match="architecture=tri"):
        tasks.reranking(str(reranked), architecture="tri")


PAIRED = {"average_precision": "cosine_ap", "best_accuracy": "cosine_accuracy", "best_f1": "cosine_f1"}
PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), min_size=1, max_size=25)


def pairs(number: int) -> pd.DataFrame:
    """Pairs that share words where they belong together, and now and then where they do not."""
    random, rows = np.random.default_rng(0), []
    for index in range(number):
        words = [f"w{n}" for n in random.integers(0, 60, 8)]
        shared = random.integers(1, 5) if index % 3 == 0 else random.integers(0, 3)
        other = [*words[:shared], *(f"w{n}" for n in random.integers(0, 60, 5))]
        rows.append(
            {"sentence1": " ".join(words), "sentence2": " ".join(other), "label": int(index % 3 == 0)}
        )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("metric", PAIRED)
def test_the_table_has_what_the_librarys_evaluator_says(metric, pool, tmp_path):
    table = pairs(60)
    (tmp_path / "data").mkdir()
    table.to_csv(tmp_path / "data" / "dev.csv", index=False)
    result = cook(
        str(pool / "*"),
        tasks.pair_classification(str(tmp_path / "data"), metric=metric),
        name="x",
        results_dir=tmp_path,
        runtime=Runtime(device="cpu", batch_size=8, threads=1),
        evaluation=EvaluationOptions(cache=None),
    )
    board = result.leaderboard.set_index("model")
    told = BinaryClassificationEvaluator(*(table[column].tolist() for column in table), write_csv=False)
    for name, folder in {**{n: pool / n for n in "abc"}, "soup": tmp_path / "x" / "soup"}.items():
        expected = told(SentenceTransformer(str(folder), device="cpu"))[PAIRED[metric]]
        assert board.loc[name, f"heldout_{metric}"] == pytest.approx(expected, abs=1e-4)
    assert len(set(board[f"heldout_{metric}"])) > 1
    assert board["ci_low"].notna().all()


@given(PAIRS)
def test_best_accuracy_and_best_f1_are_the_librarys(rows):
    scores, labels = np.array(rows).T
    accuracy, _ = BinaryClassificationEvaluator.find_best_acc_and_threshold(scores / 3, labels, True)
    f1, *_ = BinaryClassificationEvaluator.find_best_f1_and_threshold(scores / 3, labels, True)
    assert metrics.load("best_accuracy").score(scores / 3, labels) == pytest.approx(accuracy, abs=1e-12)
    assert metrics.load("best_f1").score(scores / 3, labels) == pytest.approx(f1, abs=1e-12)


@pytest.mark.filterwarnings("ignore:No positive class")
@given(PAIRS)
def test_average_precision_is_scikit_learns(rows):
    scores, labels = np.array(rows).T
    expected = sklearn.metrics.average_precision_score(labels, scores)
    assert metrics.load("average_precision").score(scores / 3, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", PAIRED)
def test_scores_are_resampled_as_a_whole_and_are_none_without_an_answer(metric):
    loaded = metrics.load(metric)
    assert loaded.can_be_resampled
    assert not loaded.is_mean
    assert np.isnan(loaded.score(np.array([0.1, np.nan]), np.array([0, 1])))
