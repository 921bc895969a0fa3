"""The command as users run it."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

SECONDS = ["merge_seconds", "eval_seconds"]
"""The columns in which two runs that did the same differ."""
_COMMAND = "from soupkitchen.__main__ import main; main()"


def soupkitchen(
    *arguments: str,
    cwd: Path,
    fails: bool | int = False,
    before: str = "",
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess:
    """Runs the command, in a fork of a process that has imported everything.

    Args:
        arguments: its words.
        cwd: where it runs.
        fails: the exit code that it must end with, True for 1.
        before: code that runs before it in the same process, to plant a fault.
        env: what is set in its environment; too late for what modules read when they are imported.
    """
    words = with_defaults(arguments)
    result = forked(f"{before}\n{_COMMAND}", *words, cwd=cwd, env=env)
    assert result.returncode == int(fails), result.stderr
    assert "Traceback" not in result.stderr
    return result


def with_defaults(arguments: Sequence[str]) -> list[str]:
    """The words, with one thread and no report, which takes longer than a small run, unless they say."""
    words = list(arguments)
    for option, word in {"runtime.threads": "runtime.threads=1", "report": "report.write=false"}.items():
        if not any(given.startswith(option) for given in words):
            words.append(word)
    return words


def forked(
    code: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Runs code as `python -c` does, but in a fork of a process that has imported everything."""
    process = Fork(code, *arguments, cwd=cwd, env=env)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.poll() or 0, out, err)


class Fork:
    """Code that runs as by `python -c` with a session of its own, in a fork; to be asked as a `Popen` is.

    `env` is set too late for what modules read when they are imported: what is set `early` makes another
    process to fork from. What is written to a `terminal`, which takes the place of stderr, is not told.
    """

    def __init__(
        self,
        code: str,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        early: Mapping[str, str] | None = None,
        terminal: str | None = None,
    ) -> None:
        self.args = ["soupkitchen", *arguments]
        self.returncode: int | None = None
        self._told: list[str] = []
        self._early = tuple(sorted((early or {}).items()))
        with _asking:
            _zygote(self._early)  # with --quick, the test ends here
        self._said = tempfile.TemporaryDirectory()
        self._files = [str(Path(self._said.name) / name) for name in ("stdout", "stderr")]
        places = {"cwd": str(cwd), "stdout": self._files[0], "stderr": terminal or self._files[1]}
        self.pid = _ask({"code": code, "arguments": self.args, "env": dict(env or {}), **places}, self._early)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask(self.pid, self._early)
        return self.returncode

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        if not self._told:
            self._told = [file.read_text() if file.exists() else "" for file in map(Path, self._files)]
            self._said.cleanup()
        out, err = self._told
        return out, err

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def as_module(name: str) -> str:
    """Code that runs a module, as `python -m` does."""
    return f"import runpy; runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"


def as_script(file: Path) -> str:
    """Code that runs a script, as `python` does."""
    beside = f"import runpy, sys; sys.path[0] = {str(file.parent)!r}"
    return f"{beside}; runpy.run_path({str(file)!r}, run_name='__main__')"


def with_full_disk(*arguments: str, size: int, cwd: Path) -> subprocess.CompletedProcess:
    """Runs the command, which must fail, where no file may grow beyond `size` bytes, as on a full disk."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    return soupkitchen(*arguments, cwd=cwd, fails=True, before=limit)


def started(
    *arguments: str,
    cwd: Path,
    before: str = "",
    env: Mapping[str, str] | None = None,
    early: Mapping[str, str] | None = None,
) -> Fork:
    """Starts the command, in a fork of a process that has imported everything, after code of a test's own."""
    return Fork(f"{before}\n{_COMMAND}", *with_defaults(arguments), cwd=cwd, env=env, early=early)


def started_anew(
    *arguments: str,
    cwd: Path,
    by: Sequence[str] = ("-m", "soupkitchen"),
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen:
    """Starts the command, as what a new Python is given `by`, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, *by, *with_defaults(arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # a shell has what it starts in the background ignore Ctrl-C, so perhaps these tests
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen | Fork) -> None:
    until = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.004)


def events(folder: Path) -> list[dict[str, Any]]:
    """What the journal of the run in `folder` says so far."""
    file = folder / "journal.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def same(one: Path, other: Path) -> None:
    """Holds two runs' tables and soups against each other, byte for byte but for the seconds."""
    for name in ("trajectory.csv", "leaderboard.csv"):
        tables = [pd.read_csv(folder / name, dtype=str, keep_default_na=False) for folder in (one, other)]
        first, second = (table.drop(columns=SECONDS, errors="ignore") for table in tables)
        pd.testing.assert_frame_equal(first, second)
    files = [file.name for file in sorted((one / "soup").iterdir())]
    assert files == [file.name for file in sorted((other / "soup").iterdir())]
    for name in files:
        assert (one / "soup" / name).read_bytes() == (other / "soup" / name).read_bytes()


_asking = threading.Lock()


def _ask(request: Any, early: tuple[tuple[str, str], ...]) -> Any:
    """What the process that forks says to a request."""
    with _asking:
        process = _zygote(early)
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{json.dumps(request)}\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())


@functools.cache
def _zygote(early: tuple[tuple[str, str], ...]) -> subprocess.Popen:
    """The process that runs are forked from, with that much set in its environment."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
        env={**os.environ, **dict(early)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    atexit.register(process.communicate)
    return process


def own(runs: Path, texts: Path) -> tuple[str, ...]:
    """Words for a pool and texts of one's own, without a cache that other tests could fill."""
    task = ("task=text_classification", f"task.data.path={texts}")
    return f"pool.path={runs}/*", *task, "evaluation.cache=null", "runtime.batch_size=16"
