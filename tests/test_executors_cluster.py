"""A Ray cluster of several nodes, reached by its address: a node that dies, a node that sees another file.

On two busy cores Ray's own time-outs are too short for that, so it is run by itself:

    CLUSTER=1 scripts/test tests/test_cluster.py
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from command import same, soupkitchen

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "CLUSTER" not in os.environ, reason="CLUSTER=1 runs it: it needs the machine for itself"
    ),
    pytest.mark.skipif(" " in sys.executable, reason="Ray's client server starts no Python in such a path"),
]

_PATIENCE = {
    "health_check_initial_delay_ms": 5000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 8,
    "raylet_start_wait_time_s": 150,
}
"""When Ray takes a node for dead: soon, but not as soon as other tests keep both cores busy."""


class Nodes:
    """Nodes of one cluster on this machine, each as `ray start` makes it on a machine of its own."""

    def __init__(self, wish: Path) -> None:
        self.folder = tempfile.mkdtemp(prefix="ray")  # Ray's sockets allow no long paths
        self.gcs, client = (_free_port() for _ in range(2))
        self.address = f"ray://127.0.0.1:{client}"
        self.wish = wish
        self._environment = {
            **os.environ,
            **{f"RAY_{name}": str(value) for name, value in _PATIENCE.items()},
            **{"PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))},
            "DYING": str(wish),
            "RAY_AUTH_MODE": "disabled",
        }
        head = self._start(
            "--head", f"--port={self.gcs}", f"--ray-client-server-port={client}", "--num-cpus=0",
            "--include-dashboard=false", f"--temp-dir={self.folder}",
        )  # fmt: skip
        self._finished(head)
        until = time.monotonic() + 100
        while not _listens(client):  # it begins a little later
            assert time.monotonic() < until
            time.sleep(0.1)

    def join(self, number: int = 1, through: str = "") -> None:
        """Adds nodes with one CPU each; `through` is a command of the shell that runs there before."""
        words = (f"--address=127.0.0.1:{self.gcs}", "--num-cpus=1")
        for _ in range(number):
            self._finished(self._start(*words, through=through))

    def end(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("DYING") == str(self.wish):
                    process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _finished(self, started: subprocess.Popen) -> None:
        assert started.wait(timeout=200) == 0, Path(self.folder, "said").read_text()

    def _start(self, *words: str, through: str = "") -> subprocess.Popen:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--disable-usage-stats"]
        if through:
            ray = ["unshare", "-m", "sh", "-c", f'{through} && exec "$@"', "sh", *ray]
        with Path(self.folder, "said").open("ab") as said:
            return subprocess.Popen(ray, env=self._environment, stdout=said, stderr=said)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head without CPUs, and two nodes with one each."""
    nodes = Nodes(tmp_path_factory.mktemp("wish") / "how")
    try:
        nodes.join(2)
        yield nodes
    finally:
        nodes.end()


def test_a_driver_outside_decides_as_one_process_does_though_a_node_dies(nodes, text_runs, texts, tmp_path):
    words = (
        f"pool.path={text_runs}/*", "task=function", f"task.data.path={texts}", "task.function=dying.score",
        "task.model=AutoModelForSequenceClassification", "task.best=1.0", "evaluation.cache=null",
        "runtime.batch_size=16", "name=x",
    )  # fmt: skip
    alone = f"import sys; sys.path.append({str(Path(__file__).parent)!r})"
    soupkitchen(*words, "results_dir=one", cwd=tmp_path, before=alone)
    nodes.wish.write_text("with its node")
    told = soupkitchen(
        *words, "results_dir=ray", "executor=ray", f"executor.address={nodes.address}",
        cwd=tmp_path, before=alone,
    )  # fmt: skip
    assert not nodes.wish.exists()
    assert "its worker was lost" in told.stderr
    same(tmp_path / "one" / "x", tmp_path / "ray" / "x")


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="only root may give a node a file system of its own",
)
def test_a_node_that_sees_another_file_is_told_before_any_work(nodes, copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b")
    (other,) = (runs / "a").glob("*.safetensors")
    shutil.copy(runs / "b" / other.name, tmp_path / "other")
    nodes.join(through=f"mount --bind '{tmp_path / 'other'}' '{other}'")
    told = soupkitchen(
        f"pool.path={runs}/*", "task=text_classification", f"task.data.path={texts}", "evaluation.cache=null",
        "name=x", "executor=ray", f"executor.address={nodes.address}", "executor.workers=2",
        cwd=tmp_path, fails=True,
    ).stderr  # fmt: skip
    assert "other runs than this process" in told
    assert not (tmp_path / "results" / "x" / "trajectory.csv").exists()


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
