#!/usr/bin/env python
"""Cooks a tiny pool of every architecture that transformers has for our tasks: writes docs/coverage.md.

    python scripts/coverage.py --jobs 2                  (about two hours on two cores)
    python scripts/coverage.py --tasks text_classification --types bert,gpt2 --again

Three runs and a base of each model type are made on the spot: random weights, and noise. Of each pool the
uniform soup, in float32 the greedy soup and TIES with a base too, are held, tensor by tensor, to formulas in
float64; the logits of a model that the soup is written into are held to those of the soup as transformers
loads it. What comes of a pool is a line of `results/coverage.jsonl`, so that it goes on where it stopped.
Exits with 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "coverage.md"
EQUAL, REFUSED, WRONG, NOT_MADE = "equal", "refused", "wrong", "not made"
WAYS = ("float32", "bfloat16", "cooked")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="pools at once")
    parser.add_argument("--tasks", default="", help="which of the tasks, with commas between")
    parser.add_argument("--types", default="", help="which of the model types, with commas between")
    parser.add_argument("--ways", default="", help=f"which of {', '.join(WAYS)}, with commas between")
    parser.add_argument("--seconds", type=int, default=180, help="the most that a pool may take")
    parser.add_argument("--retry", default=WRONG, help="outcomes of which pools are made again: these")
    parser.add_argument("--again", action="store_true", help="also those that there is a line of")
    parser.add_argument("--lines", type=Path, default=ROOT / "results" / "coverage.jsonl")
    parser.add_argument("--page", action="store_true", help="only write docs/coverage.md")
    arguments = parser.parse_args()
    if not arguments.page:
        import_everything()
        arguments.lines.parent.mkdir(exist_ok=True)
        told = [
            set(filter(None, words.split(",")))
            for words in (arguments.tasks, arguments.types, arguments.ways)
        ]
        lines = {} if arguments.again else read(arguments.lines)
        known = {pool for pool, line in lines.items() if line["outcome"] not in arguments.retry.split(",")}
        pools = [pool for pool in all_pools(*told) if pool not in known]
        cook_all(pools, arguments.jobs, arguments.seconds, arguments.lines)
    lines = read(arguments.lines)
    PAGE.write_text(page(lines))
    counts = Counter(line["outcome"] for line in lines.values())
    print(", ".join(f"{counts[outcome]} {outcome}" for outcome in (EQUAL, REFUSED, WRONG, NOT_MADE)))
    sys.exit(counts[WRONG] > 0)


def import_everything() -> None:
    """Once, for all pools: each is cooked in a fork of this process."""
    sys.path.insert(0, str(ROOT / "tests"))
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    os.environ["HF_HOME"] = str(ROOT / ".cache" / "huggingface")
    import family_pools  # type: ignore[import-not-found]  # noqa: F401
    import torch
    import transformers

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        outcome_of(("text_classification", "bert", "float32"), Path(scratch))  # which imports what is left
    gc.collect()
    gc.freeze()  # modules stay: nobody need look through them for garbage


def all_pools(tasks: set[str], types: set[str], ways: set[str]) -> Iterator[tuple[str, str, str]]:
    from families import KINDS, classes_of  # type: ignore[import-not-found]

    for task in KINDS:
        for model_type in classes_of(task):
            if (not tasks or task in tasks) and (not types or model_type in types):
                for way in WAYS:
                    if not ways or way in ways:
                        yield task, model_type, way


def cook_all(pools: list[tuple[str, str, str]], jobs: int, seconds: int, lines: Path) -> None:
    running: dict[int, tuple[str, str, str]] = {}
    waiting = list(reversed(pools))
    while waiting or running:
        while waiting and len(running) < jobs:
            pool = waiting.pop()
            process = os.fork()
            if not process:
                cook_in_fork(pool, seconds, lines)
            running[process] = pool
        process, status = os.wait()
        pool = running.pop(process)
        if status:
            note(lines, pool, WRONG, f"its process ended with {os.waitstatus_to_exitcode(status)}", 0.0)


def cook_in_fork(pool: tuple[str, str, str], seconds: int, lines: Path) -> None:
    started = time.perf_counter()
    signal.alarm(seconds)  # which ends the process
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    with tempfile.TemporaryDirectory() as scratch:
        outcome, why = outcome_of(pool, Path(scratch))
    note(lines, pool, outcome, why, time.perf_counter() - started)
    os._exit(0)


def outcome_of(pool: tuple[str, str, str], folder: Path) -> tuple[str, str]:
    from family_pools import NotMadeError, WrongError, check

    from soupkitchen.errors import GuaranteeError, SoupkitchenError

    task, model_type, way = pool
    try:
        return EQUAL, check(model_type, task, way, folder)
    except NotMadeError as error:
        return NOT_MADE, str(error)
    except (WrongError, GuaranteeError) as error:
        return WRONG, str(error)
    except SoupkitchenError as error:
        return REFUSED, f"{type(error).__name__}: {error}".replace(f"{folder}/", "")
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
        return WRONG, f"{type(error).__name__}: {str(error)[:300]} ({where})"


def note(lines: Path, pool: tuple[str, str, str], outcome: str, why: str, seconds: float) -> None:
    told = dict(zip(("task", "type", "way"), pool, strict=True))
    with lines.open("a") as file:
        file.write(json.dumps({**told, "outcome": outcome, "why": why, "seconds": round(seconds, 1)}) + "\n")


def read(lines: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Reads the last outcome of each pool."""
    told = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    return {(line["task"], line["type"], line["way"]): line for line in told}


HEAD = """\
# Which architectures were tried

`python scripts/coverage.py` makes a tiny pool of every architecture that transformers {version} has for our
tasks, three runs and a base each, and holds every tensor of the saved soups to formulas in float64, to one
unit in the last place:

- **float32**: the uniform soup, and that of TIES with the base, where one entry of a tensor, or two in a
  thousand, may differ (two changes of nearly one size may change places). A model that the uniform soup was
  written into puts out what the saved one does, as `from_pretrained` loads it.
- **bfloat16**: the same for the uniform soup of runs in half precision.
- **cooked**: all that `cook` does, with greedy search, on eight examples, in float32.

| way | equal | refused by name | wrong |
|---|---|---|---|
{counts}

"equal" says so of all tensors; "equal, slower" of models that transformers rearranges when it loads them (the
experts of mixtures, mostly), for which each candidate is loaded anew. "–" is where nothing was tried: there
was no time, or transformers cannot make such a model here, or cannot run it on the task's inputs or in that
precision, or no small configuration is known; types of which that is so in every way are [below](#not-tried).
"""


def page(lines: dict[tuple[str, str, str], dict[str, Any]]) -> str:
    import transformers

    tried = [line for line in lines.values() if line["outcome"] != NOT_MADE]
    counts = Counter((line["way"], line["outcome"]) for line in tried)
    rows = [
        f"| {way} | {' | '.join(str(counts[way, outcome]) for outcome in (EQUAL, REFUSED, WRONG))} |"
        for way in WAYS
    ]
    text = HEAD.format(version=transformers.__version__, counts="\n".join(rows))
    reasons: dict[str, None] = {}
    for task in dict.fromkeys(line["task"] for line in lines.values()):
        types = sorted({line["type"] for line in tried if line["task"] == task})
        text += f"\n## {task}\n\n| model type | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}\n"
        for model_type in types:
            cells = [cell(lines.get((task, model_type, way)), reasons) for way in WAYS]
            text += f"| {model_type} | {' | '.join(cells)} |\n"
    if reasons:
        text += "\n## Why\n\n"
        text += "".join(f"{number}. {plain(why)}\n" for number, why in enumerate(reasons, 1))
    text += "\n## Not tried\n\n| model type | task | why |\n|---|---|---|\n"
    seen = {(line["task"], line["type"]) for line in tried}
    left = {(x["type"], x["task"]): x["why"] for x in lines.values() if (x["task"], x["type"]) not in seen}
    text += "".join(
        f"| {model_type} | {task} | {plain(why)} |\n" for (model_type, task), why in sorted(left.items())
    )
    return text


def cell(line: dict[str, Any] | None, reasons: dict[str, None]) -> str:
    """Writes a pool's cell; a refusal is a number, which stands for its reason."""
    if line is None or line["outcome"] == NOT_MADE:
        return "–"
    if line["outcome"] == EQUAL:
        return "equal, slower" if line["why"] == "through transformers" else "equal"
    reasons.setdefault(line["why"])
    return f"{line['outcome']} ({list(reasons).index(line['why']) + 1})"


def plain(why: str) -> str:
    """A reason as a cell of a table, in short."""
    return (
        " ".join(why.split())[:160]
        .replace("|", "\\|")
        .replace("<", "&lt;")
        .replace("`", "'")
        .replace("[", "\\[")
    )


if __name__ == "__main__":
    main()
