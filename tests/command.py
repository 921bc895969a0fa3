"""The command as users run it."""

from __future__ import annotations

import atexit
import functools
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path


def soupkitchen(*arguments: str, cwd: Path, fails: bool | int = False) -> subprocess.CompletedProcess:
    """Runs the command; `fails` is the exit code that it must end with, True for 1."""
    words = list(arguments)
    if not any(word.startswith("runtime.threads=") for word in words):
        words.append("runtime.threads=1")
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder) / "stdout", Path(folder) / "stderr"
        request = {"arguments": words, "cwd": str(cwd), "stdout": str(stdout), "stderr": str(stderr)}
        process = _zygote()
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{json.dumps(request)}\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        result = subprocess.CompletedProcess(words, code, stdout.read_text(), stderr.read_text())
    assert result.returncode == int(fails), result.stderr
    assert "Traceback" not in result.stderr
    return result


def with_full_disk(*arguments: str, size: int, cwd: Path) -> subprocess.CompletedProcess:
    """Runs the command where no file may grow beyond `size` bytes, as on a disk that is full."""
    command = [sys.executable, "-m", "soupkitchen", *arguments]
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300, preexec_fn=limit
    )


@functools.cache
def _zygote() -> subprocess.Popen:
    """The process that runs are forked from."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
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
