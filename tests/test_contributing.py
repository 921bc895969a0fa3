"""What CONTRIBUTING.md shows works as shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from safetensors.torch import load_file

PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def block(language: str) -> str:
    found, *_ = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.mark.slow
def test_the_example_method_runs_the_whole_job(text_runs: Path, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text(block("python"))
    (tmp_path / "my_conf" / "method").mkdir(parents=True)
    yaml = block("yaml").replace("soupkitchen.merging.Boldest", "my_module.Boldest")
    (tmp_path / "my_conf" / "method" / "boldest.yaml").write_text(yaml)
    words = [
        *(
            "--config-dir",
            "my_conf",
            "method=boldest",
            "search=uniform",
            "name=x",
            "task=text_classification",
        ),
        *(f"task.data.path={texts}", f"pool.path={text_runs}", f"pool.base={text_runs / 'd'}"),
        *("pool.exclude=[d,wild]", "runtime.threads=1"),
    ]
    command = [sys.executable, "-m", "soupkitchen", *words]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, check=True, env=environment, timeout=300)
    saved = load_file(tmp_path / "results" / "x" / "soup" / "model.safetensors")
    base = load_file(text_runs / "d" / "model.safetensors")
    for name, tensor in saved.items():
        runs = [load_file(text_runs / run / "model.safetensors")[name] for run in "abc"]
        deltas = np.stack([(run - base[name]).double().numpy() for run in runs])
        boldest = np.take_along_axis(deltas, np.abs(deltas).argmax(0)[None], 0)[0]
        np.testing.assert_allclose(tensor, base[name].double().numpy() + boldest, atol=1e-6)


def test_every_folder_that_is_named_exists() -> None:
    for path in re.findall(r"`(soupkitchen/[\w/.]+|tests/[\w.]+)`", PAGE):
        assert (ROOT / path).exists(), path
