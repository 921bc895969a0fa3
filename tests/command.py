"""The command as users run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def soupkitchen(*arguments: str, cwd: Path, fails: bool = False) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "soupkitchen", *arguments, "runtime.threads=1"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)
    assert result.returncode == (1 if fails else 0), result.stderr
    assert "Traceback" not in result.stderr
    return result


def own(runs: Path, texts: Path) -> tuple[str, ...]:
    """Words for a pool and texts of one's own, without a cache that other tests could fill."""
    task = ("task=text_classification", f"task.data.path={texts}")
    return f"pool.path={runs}/*", *task, "evaluation.cache=null", "runtime.batch_size=16"
