"""Pair classification, held against the evaluator of sentence-transformers and against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import save_tokenizer, shake, text_classifier

from soupkitchen import cook, metrics, tasks
from soupkitchen.evaluation import EvaluationOptions, Runtime

pytest.importorskip("sentence_transformers")
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator
from sentence_transformers.sentence_transformer.modules import Pooling

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
METRICS = {"average_precision": "cosine_ap", "best_accuracy": "cosine_accuracy", "best_f1": "cosine_f1"}
PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), min_size=1, max_size=25)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, model = tmp_path_factory.mktemp("pairs"), text_classifier().bert
    torch.manual_seed(0)
    for name in ("a", "b", "c"):
        shake(model, 0.05)
        model.save_pretrained(folder / "plain")
        save_tokenizer(folder / "plain")
        modules = [Transformer(str(folder / "plain")), Pooling(16, pooling_mode="mean")]
        SentenceTransformer(modules=modules).save_pretrained(str(folder / "runs" / name))
    return folder / "runs"


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


@pytest.mark.parametrize("metric", METRICS)
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
        expected = told(SentenceTransformer(str(folder), device="cpu"))[METRICS[metric]]
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


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_resampled_as_a_whole_and_are_none_without_an_answer(metric):
    loaded = metrics.load(metric)
    assert loaded.can_be_resampled
    assert not loaded.is_mean
    assert np.isnan(loaded.score(np.array([0.1, np.nan]), np.array([0, 1])))
