"""The command as users run it."""

from __future__ import annotations

import atexit
import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def soupkitchen(*arguments: str, cwd: Path, fails: bool = False) -> subprocess.CompletedProcess:
    words = [*arguments, "runtime.threads=1"]
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
    assert result.returncode == (1 if fails else 0), result.stderr
    assert "Traceback" not in result.stderr
    return result


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
