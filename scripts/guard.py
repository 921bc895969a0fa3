"""Records what users see, and compares two records: the guard of a rewrite that may change nothing of it.

    python scripts/guard.py record FOLDER [WORDS]    every command that the tests run, and 1,000 pools
    python scripts/guard.py compare OLD NEW          says what differs; ends with 1 if anything does

WORDS go to pytest; with them, the pools are left out.

A record holds, for each command of each test: its words, exit code, standard output and error, the names
of what it wrote, and the content of its tables, recipes and cards. Paths of the tests, seconds, sizes in
memory and digests are left out. Of each of 1,000 random pools without models (test_experiment_algorithm) it
holds the decisions, the soup, its score and the number of scored examples.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = ("trajectory.csv", "leaderboard.csv", "recipe.yaml", "mergekit.yaml", "README.md", "config.yaml")
"""The files whose content is recorded."""
_ASIDE = [
    (rf"{re.escape(str(ROOT))}", "<root>"),
    (r"\S*pytest-of-\w+/pytest-\d+(/popen-gw\d+)?", "<tmp>"),
    (r"/tmp/[\w.-]*", "<tmp>"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*", "<time>"),
    (r"\b[\d.,]+ ?(s|ms|seconds|minutes|MB|GB|MiB|GiB|KiB|kB)\b", "<amount>"),
    (r"\b[0-9a-f]{12,64}\b", "<digest>"),
    (r"before-\d{8}-\d{6}-\d+", "<before>"),
    (r"\bpid \d+|process \d+|0x[0-9a-f]+|:\d{4,5}\b", "<number>"),
    (r"(?m)^\[[^\]]*\]", "<stamp>"),
]


def cleaned(text: str) -> str:
    """The text without what two runs that do the same differ in."""
    for pattern, instead in _ASIDE:
        text = re.sub(pattern, instead, text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def written(folder: Path) -> dict[str, str]:
    """Reads the results folders below `folder`: names of files, and the content of `WRITTEN`."""
    import pandas as pd

    found = {}
    for journal in sorted(folder.rglob("journal.jsonl")):
        for path in sorted(journal.parent.rglob("*")):
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            text = ""
            if path.suffix == ".csv":
                table = pd.read_csv(path, dtype=str, keep_default_na=False)
                text = table.drop(columns=["merge_seconds", "eval_seconds"], errors="ignore").to_csv(
                    index=False
                )
            elif path.name in WRITTEN:
                text = path.read_text(encoding="utf-8", errors="replace")
            found[path.relative_to(folder).as_posix()] = cleaned(text)
    return found


def pytest_configure(config: Any) -> None:
    """Has each command of the tests recorded; pytest calls it, as this module is a plugin (`-p guard`)."""
    import command  # type: ignore[import-not-found]

    folder = Path(os.environ["GUARD"])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}.jsonl"
    counts: dict[str, int] = {}
    fork = command.forked

    @functools.wraps(fork)
    def recorded(code: str, *arguments: str, cwd: Path, **options: Any) -> Any:
        result = fork(code, *arguments, cwd=cwd, **options)
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0]
        counts[test] = counts.get(test, 0) + 1
        try:
            there = written(Path(cwd))
        except (OSError, ValueError) as error:
            there = {"": type(error).__name__}
        record = {
            "test": f"{test} {counts[test]}",
            "words": [cleaned(str(word)) for word in arguments],
            "code": result.returncode,
            "out": cleaned(result.stdout),
            "err": cleaned(result.stderr),
            "written": there,
        }
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        return result

    command.forked = recorded


def pools(file: Path) -> None:
    """Writes what the search decides for 1,000 random pools."""
    sys.path.insert(0, str(ROOT / "tests"))
    import test_experiment_algorithm as decisions  # type: ignore[import-not-found]

    from soupkitchen.evaluation import statistics

    statistics.RESAMPLES = 19
    lines = []
    for seed in range(1000):
        search = None if seed % 2 else decisions.SEARCHES[seed // 2 % len(decisions.SEARCHES)]
        metric = "mse" if seed % 5 == 0 else "accuracy"
        variants, tasks = (1 + seed % 3, 1 + seed % 2) if search is None else (1, 1)
        accept = decisions.RULES[seed % 4]
        *told, _ = decisions.cook(
            seed, accept, seed % 7 > 0, 2 + seed % 13, metric, variants, tasks, 1 + seed % 4, search
        )
        lines.append(json.dumps({"test": f"pool {seed}", "told": repr(told)}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def record(folder: Path, words: list[str]) -> None:
    """Records everything, or what pytest's words name, into `folder`."""
    environment = {**os.environ, "GUARD": str(folder.absolute()), "COLUMNS": "120"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "scripts", ROOT / "tests")))
    options = words or ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "guard", "-q", *options],
        cwd=ROOT,
        env=environment,
        check=False,
    )
    if not words:
        pools(folder / "pools.jsonl")


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records in a folder, by test and number of the command in it."""
    lines = (line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines())
    found = {one["test"]: one for one in map(json.loads, lines)}
    for one in found.values():
        one["err"], one["out"] = (cleaned(one.get(stream, "")) for stream in ("err", "out"))
        one["written"] = sorted((cleaned(name), text) for name, text in one.get("written", {}).items())
    return found


def compare(old: Path, new: Path) -> int:
    """Says what differs between two records; the number of commands that do."""
    before, after = records(old), records(new)
    differing = 0
    for test in sorted(before.keys() & after.keys()):
        if before[test] == after[test]:
            continue
        differing += 1
        print(f"=== {test}")
        old_text, new_text = (
            json.dumps(one[test], indent=1).replace("\\n", "\n   ").splitlines() for one in (before, after)
        )
        for line in difflib.unified_diff(old_text, new_text, lineterm="", n=0):
            if not line.startswith(("---", "+++", "@@")):
                print(f"  {line}")
    both = len(before.keys() & after.keys())
    print(f"{both} commands in both, {differing} differ")
    print(f"{len(before) - both} only old, {len(after) - both} only new")
    return differing


def main() -> None:
    what, *words = sys.argv[1:]
    if what == "record":
        record(Path(words[0]), words[1:])
    elif what == "pools":
        pools(Path(words[0]))
    else:
        sys.exit(compare(Path(words[0]), Path(words[1])) > 0)


if __name__ == "__main__":
    main()
