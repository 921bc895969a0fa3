"""Real checkpoints for the tests: tiny ones, made by transformers on the spot, and the demo's."""

from __future__ import annotations

import copy
import gc
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# No test may reach for a hub; caches of the tests are the tests' own.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = str(ROOT / ".cache" / "huggingface")
os.environ["XDG_CACHE_HOME"] = str(ROOT / ".cache" / "others")
os.environ["SOUPKITCHEN_CACHE"] = str(ROOT / ".cache" / "soupkitchen")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 – what a test waits for is not to wait for all other tests
if not os.access(Path.home(), os.W_OK):
    os.environ.setdefault("RAY_AUTH_TOKEN", "tests")  # which Ray else writes into the home
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ["OMP_NUM_THREADS"] = "1"
os.fsync = lambda descriptor: None  # type: ignore[assignment]  # waiting shows nothing while the power stays on

import hypothesis  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from tiny import adapter, llama, make_texts, save_tokenizer, text_classifier, train_text_classifier  # noqa: E402

hypothesis.settings.register_profile("here", deadline=None)  # machines are shared, and noisy
hypothesis.settings.load_profile("here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="skip tests that are slow or start a process")


def pytest_configure(config: pytest.Config) -> None:
    """What an earlier session kept would hide what this one breaks."""
    if not hasattr(config, "workerinput"):
        for kept in ("evaluations", "fingerprints"):
            shutil.rmtree(Path(os.environ["SOUPKITCHEN_CACHE"]) / kept, ignore_errors=True)


LONGEST = (
    "demo executors_ray cli_errors cli_sweeper executors_spmd models_sentence_transformers cli_command "
    "experiment_resume experiment_algorithm devices trackers store_documents cli_launchers "
    "experiment_race docs_commands records_report cli_config search_window rebuild tasks_harness "
    "tasks_lm_eval models_auto checkpoints_adapters evaluation_compile evaluation_confidence tasks "
    "tasks_embeddings models_function experiment_api experiment_scores models_families checkpoints_files "
    "checkpoints_sources docs"
).split()
"""The files whose tests take most of the time, the longest first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no worker ends late."""
    longest = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: longest.get(item.path.name, len(LONGEST)))
    if config.getoption("--quick"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip("slow"))


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--quick`, skips a test when it starts a process."""
    if request.config.getoption("--quick"):
        monkeypatch.setattr(subprocess.Popen, "__init__", lambda *_, **__: pytest.skip("starts a process"))


@pytest.fixture(scope="module", autouse=True)
def _modules_stay() -> None:
    """What was imported so far is not looked through for garbage again, as in the command's own process."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv, validation.csv and test.csv: columns text and label (a name)."""
    folder = tmp_path_factory.mktemp("texts")
    frame = make_texts(260, seed=0)
    for name, part in {"train": frame[:100], "validation": frame[100:180], "test": frame[180:]}.items():
        part.to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def text_runs(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    """A folder of five runs of one tiny BERT, fine-tuned from one init; "wild" has diverged."""
    folder = tmp_path_factory.mktemp("text") / "runs"
    train = pd.read_csv(texts / "train.csv")
    init = train_text_classifier(text_classifier(), train, rate=4e-3, epochs=14, seed=9)
    rates = {"a": 0.015, "b": 0.02, "c": 0.025, "d": 0.02, "wild": 0.5}
    for seed, (name, rate) in enumerate(rates.items()):
        model = train_text_classifier(copy.deepcopy(init), train, rate, epochs=4, seed=seed)
        model.save_pretrained(folder / name)
        save_tokenizer(folder / name)
    return folder


@pytest.fixture(scope="module")
def bench(text_runs: Path, texts: Path) -> Any:
    """A live model, and what fills it with `text_runs` and scores it."""
    from soupkitchen import metrics
    from soupkitchen.checkpoints import find_pool
    from soupkitchen.evaluation import Runtime, evaluator_of, load_splits
    from soupkitchen.executors import Bench
    from soupkitchen.soup import Mixer
    from soupkitchen.tasks import Data, Several, TextClassification

    tasks = Several.of(TextClassification(Data(str(texts)), metrics.load("accuracy")))
    pool = find_pool(str(text_runs))
    runtime = Runtime(device="cpu", batch_size=16, threads=1)
    evaluator = evaluator_of(pool.reference, tasks, load_splits(tasks), runtime, pool=pool)
    return Bench(evaluator, Mixer(pool))


@pytest.fixture
def copy_runs(text_runs: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies some of `text_runs` to where a test may spoil them."""

    def copy(*names: str) -> Path:
        for name in names:
            shutil.copytree(text_runs / name, tmp_path / "runs" / name)
        return tmp_path / "runs"

    return copy


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    folder = tmp_path_factory.mktemp("base") / "llama"
    llama().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four adapters of `base`, different in rank, alpha and target modules; "d" has DoRA."""
    runs = tmp_path_factory.mktemp("adapters")
    adapter(base, runs / "a", 1, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    adapter(base, runs / "b", 2, r=2, lora_alpha=2, target_modules=["q_proj"])
    adapter(base, runs / "c", 3, r=3, lora_alpha=9, use_rslora=True, target_modules=["v_proj", "up_proj"])
    adapter(base, runs / "d", 4, r=2, lora_alpha=4, use_dora=True, target_modules=["q_proj"])
    return runs


@pytest.fixture
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    from soupkitchen.evaluation import statistics

    monkeypatch.setattr(statistics, "RESAMPLES", 19)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def causal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny model that continues texts."""
    from causal import saved_causal

    return saved_causal(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
