"""What trackers hold of our runs, read back by their own means, or from the files that they keep."""

from __future__ import annotations

import contextlib
import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Tracked:
    """One run, as its tracker has it.

    Attributes:
        points: by figure, its step numbers and values, in the order in which they were told.
        options: the run's options.
        table: the final table, in whichever form.
        files: the text of each file that is kept with the run, by name.
        complete: whether the tracker takes it for finished; None where it does not know.
    """

    points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    table: str = ""
    files: dict[str, str] = field(default_factory=dict)
    complete: bool | None = None

    def add(self, figure: str, step: int, value: float) -> None:
        self.points.setdefault(figure, []).append((step, value))


def tensorboard(folder: Path) -> list[Tracked]:
    """Those in `folder`, and the folders in it, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found = []
    for logs in sorted(folder.glob("*/tensorboard")):
        one = Tracked()
        reader = EventAccumulator(str(logs), size_guidance={"scalars": 0}).Reload()
        for name in reader.Tags()["scalars"]:
            # files of one second are read in the order of their names, which is not that of their writing
            for event in sorted(reader.Scalars(name), key=lambda event: event.wall_time):
                one.add(name, event.step, event.value)
        for name in reader.Tags()["tensors"]:
            one.table += reader.Tensors(name)[-1].tensor_proto.string_val[0].decode()
        for file in sorted(logs.glob("*/events*")):
            told = (
                EventAccumulator(str(file.parent)).Reload().summary_metadata["_hparams_/session_start_info"]
            )
            started = HParamsPluginData.FromString(told.plugin_data.content).session_start_info
            one.options |= {
                name: getattr(value, value.WhichOneof("kind")) for name, value in started.hparams.items()
            }
        found.append(one)
    return found


def mlflow(folder: Path) -> list[Tracked]:
    """Those of the experiment in the store that is in use, by its client."""
    from mlflow import MlflowClient

    client, found = MlflowClient(), []
    experiment = client.get_experiment_by_name("soupkitchen")
    for run in client.search_runs([experiment.experiment_id]) if experiment else ():
        one = Tracked(options=run.data.params, complete=run.info.status == "FINISHED")
        for name in run.data.metrics:
            for point in client.get_metric_history(run.info.run_id, name):
                one.add(name, point.step, point.value)
        for file in client.list_artifacts(run.info.run_id):
            text = Path(client.download_artifacts(run.info.run_id, file.path)).read_text()
            if file.path == "leaderboard.json":
                one.table = text
            else:
                one.files[file.path] = text
        found.append(one)
    return found


def wandb(folder: Path) -> list[Tracked]:
    """Those that lie in `folder`, told offline; starts of the same run are one, as in a sync."""
    from wandb.proto.wandb_internal_pb2 import Record

    close_wandb()  # which writes what it has not written yet
    found: dict[str, Tracked] = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        one = found.setdefault(file.stem, Tracked())
        for content in _records(file.read_bytes()):
            record = Record.FromString(content)
            for item in record.run.config.update:
                one.options[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            for item in record.config.update:
                one.options[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            told = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            step = told.get("_step", record.history.step.num)
            for name, value in told.items():
                if not name.startswith("_") and isinstance(value, (int, float)):
                    one.add(name, step, value)
            for kept in record.request.log_artifact.artifact.manifest.contents:
                one.files[kept.path] = Path(kept.local_path).read_text()
            for kept in record.artifact.manifest.contents:
                one.files[kept.path] = Path(kept.local_path).read_text()
            if record.HasField("exit"):
                one.complete = record.exit.exit_code == 0
        for table in file.parent.glob("files/media/table/*.json"):
            one.table += table.read_text()
    return list(found.values())


def trackio(folder: Path) -> list[Tracked]:
    """Those of the project, from the database of this machine."""
    from trackio.sqlite_storage import SQLiteStorage

    found = []
    for name in SQLiteStorage.get_runs("soupkitchen"):
        one = Tracked(options=SQLiteStorage.get_run_config("soupkitchen", name) or {})
        for told in SQLiteStorage.get_logs("soupkitchen", name):
            for figure, value in told.items():
                if isinstance(value, (int, float)) and figure != "step":
                    one.add(figure, told["step"], value)
                elif figure == "leaderboard":
                    one.table = json.dumps(value)
        found.append(one)
    if found:
        for artifact in SQLiteStorage.get_artifacts("soupkitchen"):
            manifest = SQLiteStorage.get_artifact_manifest("soupkitchen", artifact["name"], None)
            found[-1].files |= {entry["path"]: "" for entry in manifest["manifest"]}
    return found


def trackio_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has trackio, which looks once, keep its database in `folder`."""
    for module in [one for name, one in sys.modules.items() if name.startswith("trackio.")]:
        for constant, below in (("TRACKIO_DIR", ""), ("MEDIA_DIR", "media"), ("ARTIFACTS_DIR", "artifacts")):
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, folder / below)


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a file of W&B's: LevelDB's log format, behind a header of seven bytes."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


def close_wandb() -> None:
    """Ends W&B's process beside ours."""
    if "wandb" in sys.modules:
        with contextlib.suppress(Exception):
            sys.modules["wandb"].teardown()
