#!/usr/bin/env python
"""Kills runs at random moments until they are done, and compares with runs that were left alone.

    python scripts/kill_runs.py --kills 200          (some twenty minutes on two cores)
    python scripts/kill_runs.py --kills 25 pool.path='runs/*' task=… (a pool of your own)

Each run is killed with SIGKILL, half the time when its journal has reached a random number of
events, else after a random time, and started again with the same words until enough kills were
made; then it is left to finish. Trajectory (but for its columns of seconds and memory), leaderboard and all
files of the soup must be those of the run that was left alone, byte for byte. Processes are forked from
one that has imported everything, so that time goes into runs and not into imports. Exits with 1 where
anything differs.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

WHAT = {
    "linear": ["method=linear"],
    "ties": ["method=ties"],
    "evolve": ["method=linear", "search=evolve", "search.evaluations=14"],
}
DEMO = (
    "pool=demo", "pool.exclude=['*smooth','lr-4*']", "task.data.heldout='validation[:48]'",
    "task.data.test='test[:48]'", "runtime.batch_size=16",
)  # fmt: skip
TIMES = ["merge_seconds", "eval_seconds", "peak_device_gib", "peak_host_gib"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--what", default=",".join(WHAT), help="which of these, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("words", nargs="*", default=DEMO, help="what is run")
    arguments = parser.parse_args()
    words = [*arguments.words, "evaluation.cache=null", "runtime.threads=1"]
    chance, what = random.Random(arguments.seed), arguments.what.split(",")
    import_everything()
    with tempfile.TemporaryDirectory() as scratch:
        kills = runs = 0
        expected, seconds, events = {}, {}, {}
        for method in what:
            alone = Path(scratch) / f"alone-{method}"
            started = time.perf_counter()
            finish(start(words, method, alone), alone)
            seconds[method] = time.perf_counter() - started
            events[method] = lines(alone / "x" / "journal.jsonl")
            expected[method] = outcome(alone / "x")
        while kills < arguments.kills:
            method = what[runs % len(what)]
            folder = Path(scratch) / f"killed-{runs}"
            made = 0
            while made < 6 and kills < arguments.kills:
                process = start(words, method, folder)
                if not kill(process, folder / "x" / "journal.jsonl", chance, seconds[method], events[method]):
                    break  # it was faster
                made, kills = made + 1, kills + 1
            finish(start(words, method, folder), folder)
            if (now := outcome(folder / "x")) != expected[method]:
                differing = [name for name in expected[method] if now.get(name) != expected[method][name]]
                sys.exit(f"{method}, after {made} kills: other {', '.join(differing) or 'files'} than alone")
            runs += 1
    print(f"{kills} kills in {runs} runs ({', '.join(what)}): each ended as if it had been left alone")


def import_everything() -> None:
    import datasets  # noqa: F401
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: F401

    import soupkitchen.demo
    import soupkitchen.experiment  # noqa: F401

    transformers.utils.logging.set_verbosity_error()


def start(words: list[str], method: str, folder: Path) -> int:
    """Starts the command in a process of its own; its number."""
    process = os.fork()
    if process:
        return process
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    log = os.open(log_of(folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    sys.argv = ["soupkitchen", *words, *WHAT[method], f"results_dir={folder}", "name=x"]
    from soupkitchen.__main__ import main as run

    try:
        run()
    except SystemExit as left:
        os._exit(int(left.code or 0))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def kill(process: int, journal: Path, chance: random.Random, seconds: float, events: int) -> bool:
    """Kills the process at a random moment; False where it had ended before."""
    wanted = chance.randint(1, events) if chance.random() < 0.5 else None
    until = time.monotonic() + (600 if wanted else chance.uniform(0, seconds))
    while time.monotonic() < until and (wanted is None or lines(journal) < wanted):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            check(status, log_of(journal.parent.parent))
            return False
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def finish(process: int, folder: Path) -> None:
    check(os.waitpid(process, 0)[1], log_of(folder))


def log_of(folder: Path) -> Path:
    return folder.with_suffix(".log")


def check(status: int, log: Path) -> None:
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"a run ended with {code}:\n{log.read_text()[-3000:]}")


def lines(file: Path) -> int:
    try:
        return file.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def outcome(folder: Path) -> dict[str, bytes]:
    """Reads a run's files for its user, without columns of seconds and memory."""
    import pandas as pd

    def told(file: Path) -> bytes:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        text = io.StringIO()
        table.drop(columns=TIMES, errors="ignore").to_csv(text)
        return text.getvalue().encode()

    files = {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted((folder / "soup").iterdir())
    }
    leftovers = [file.name for file in folder.iterdir() if file.name.startswith(".")]
    return {
        "trajectory.csv": told(folder / "trajectory.csv"),
        "leaderboard.csv": (folder / "leaderboard.csv").read_bytes(),
        "leaderboard of the sweep": told(folder.parent / "leaderboard.csv"),
        "leftovers": " ".join(leftovers).encode(),
        **files,
    }


if __name__ == "__main__":
    main()
