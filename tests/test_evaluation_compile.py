"""`runtime.compile=true`: the forward pass through torch.compile, for what is scored and not for proofs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soupkitchen import metrics
from soupkitchen.checkpoints import find_pool
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation import Evaluator, Runtime, evaluator_of, load_splits
from soupkitchen.evaluation.identity import Identity
from soupkitchen.executors import Bench
from soupkitchen.soup import Mixer, Recipe
from soupkitchen.tasks import Data, Several, TextClassification

pytestmark = pytest.mark.filterwarnings("ignore")
"""Of torch's own modules, which torch itself finds outdated."""


@pytest.fixture(autouse=True)
def _in_this_process() -> Iterator[None]:
    """Processes that compile side by side first have to import torch, which takes longer than two kernels."""
    import torch._inductor.config as inductor

    with inductor.patch(compile_threads=1):
        yield


def bench_of(runs: Path, texts: Path, **options: Any) -> Bench:
    tasks = Several.of(TextClassification(Data(str(texts)), metrics.load("cross_entropy")))
    pool = find_pool(str(runs))
    runtime = Runtime(device="cpu", batch_size=80, threads=1, **options)
    return Bench(evaluator_of(pool.reference, tasks, load_splits(tasks), runtime, pool=pool), Mixer(pool))


def predictions(evaluator: Evaluator) -> np.ndarray:
    (part,) = evaluator.score("heldout").parts.values()
    return np.asarray(part.predictions)


@pytest.mark.slow
@pytest.mark.skipif(" " in torch.__file__, reason="torch cannot compile if its own path has a space")
def test_what_is_compiled_scores_as_what_is_not(text_runs, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    compiled, plain = bench_of(text_runs, texts, compile=True), bench_of(text_runs, texts)
    assert isinstance(compiled.evaluator._model, torch._dynamo.eval_frame.OptimizedModule)
    torch._dynamo.utils.counters.clear()
    told = {}
    for run in ("a", "b"):  # the second is written into what was compiled for the first
        recipe = Recipe.single(run)
        for bench in (compiled, plain):
            bench.fill(recipe)
        told[run] = predictions(compiled.evaluator)
        np.testing.assert_allclose(told[run], predictions(plain.evaluator), atol=1e-5)
    assert not np.allclose(told["a"], told["b"], atol=1e-3)
    assert torch._dynamo.utils.counters["inductor"]["fxgraph_cache_miss"] > 0
    before = dict(torch._dynamo.utils.counters["stats"])
    compiled.evaluator.outputs("heldout", {"": np.arange(3)})  # of proofs each is a model of its own
    assert dict(torch._dynamo.utils.counters["stats"]) == before
    keys = {Identity(b.evaluator, b.mixer.pool).predictions(recipe, "heldout") for b in (compiled, plain)}
    assert len(keys) == 2  # neither takes what the other has kept
    torch._dynamo.reset()


def test_no_compiler_is_said_before_any_work(tmp_path, monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    torch._dynamo.reset()
    with pytest.raises(ConfigError, match=r"runtime\.compile=true cannot be used here .*no-such-compiler"):
        Runtime(device="cpu", compile=True).accelerator()
    torch._dynamo.reset()
