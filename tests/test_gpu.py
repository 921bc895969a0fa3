"""What a GPU does, beside the CPU. Where there is none, what can be is run on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

import soupkitchen as api
from soupkitchen import metrics
from soupkitchen.checkpoints import Pool, find_pool
from soupkitchen.evaluation import Evaluator, Runtime, evaluator_of, load_splits
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.search import Mixture
from soupkitchen.soup import Mixer
from soupkitchen.soup.reader import ReadAhead
from soupkitchen.tasks import Data, Several, TextClassification

pytestmark = pytest.mark.gpu

THERE = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if THERE else torch.device("cpu")
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))


@pytest.fixture(scope="module")
def pool(text_runs: Path) -> Pool:
    return find_pool(str(text_runs), base=str(text_runs / "d"))


def evaluator(pool: Pool, texts: Path, **options: Any) -> Evaluator:
    tasks = Several.of(TextClassification(Data(str(texts)), metrics.load("cross_entropy")))
    runtime = Runtime(**{"device": str(DEVICE), "batch_size": 16, "threads": 1, **options})
    return evaluator_of(pool.reference, tasks, load_splits(tasks), runtime, pool=pool)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
def test_merges_are_those_of_the_cpu(pool, name, dtype):
    method: Any = getattr(api.methods, name)()
    recipes = [Recipes(method, dtype).of(Mixture(some))[0] for some in (("a", "b"), ("a", "b", "c"))]
    ours, theirs = Mixer(pool, DEVICE, reader=ReadAhead(DEVICE, 1 << 20)), Mixer(pool)
    for recipe, growing in zip([*recipes, recipes[1]], (True, True, False), strict=True):
        expected = {tensor: x.clone() for tensor, x in theirs.tensors(recipe, growing)}
        for tensor, x in ours.tensors(recipe, growing):
            assert x.device.type == DEVICE.type or not x.is_floating_point()
            loose = 2**-7 if dtype else 2e-6
            torch.testing.assert_close(x.cpu(), expected[tensor], rtol=loose, atol=1e-6, msg=tensor)


def test_mixed_precision_scores_about_the_same(pool, texts):
    exact, mixed = (evaluator(pool, texts, dtype=dtype).score("heldout") for dtype in ("auto", "bfloat16"))
    assert mixed.score == pytest.approx(exact.score, rel=0.05)
    assert mixed.score != exact.score


@pytest.mark.skipif(not THERE, reason="over one device nothing is spread")
def test_a_model_that_is_spread_scores_the_same(pool, texts):
    whole = evaluator(pool, texts).score("heldout").score
    spread = evaluator(pool, texts, device_map="auto", max_memory={0: "40KiB", "cpu": "1GiB"})
    assert spread.live.spread
    assert spread.score("heldout").score == pytest.approx(whole, rel=1e-5)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Leaves this process 64 MiB on the GPU, beside what it has."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.skipif(not THERE, reason="a host that has no memory left ends processes")
def test_batches_are_halved_where_memory_runs_out(pool, tmp_path, little_memory, caplog):
    data = tmp_path / "validation.csv"
    data.write_text("text,label\n" + "".join(f"{'w7 ' * 30}w{n % 60},apples\n" for n in range(20000)))
    scorer = evaluator(pool, tmp_path, batch_size=20000)
    whole = scorer.score("heldout")
    assert scorer.examples.batch_size < 20000
    assert whole.examples_scored == 20000
    assert "out of memory: batches of" in caplog.text
