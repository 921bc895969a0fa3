"""The tables: their columns, their order, and that a reader never sees half of one."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from soupkitchen.records import Entry, Step, Trajectory, leaderboard, update_sweep_leaderboard, write_csv

ENTRIES = [
    Entry("a", "single", ("a",), 0.50),
    Entry("b", "single", ("b",), 0.60, test_score=0.55, interval=(0.5, 0.7)),
    Entry("broken", "single", ("broken",), math.nan),
    Entry("uniform", "uniform", ("a", "b", "broken"), 0.60),
    Entry("soup", "soup", ("b", "a"), 0.60, test_score=0.58),
]


def test_the_trajectory_has_the_documented_columns(tmp_path: Path) -> None:
    Trajectory(tmp_path / "trajectory.csv")
    columns = pd.read_csv(tmp_path / "trajectory.csv").columns
    assert (
        list(columns)
        == (
            "step stage candidate variant decision split metric score score_at_most best_before gain "
            "gain_low gain_high p_value fixed broken soup_size ingredients examples_scored examples_total "
            "stopped_early merge_seconds eval_seconds cached rule reason"
        ).split()
    )


def test_each_step_is_on_disk_as_soon_as_it_is_added(tmp_path: Path) -> None:
    trajectory = Trajectory(tmp_path / "trajectory.csv")
    for number in range(3):
        trajectory.add(Step("merge", f"run{number}", "keep", soup_size=2, ingredients=("a", f"run{number}")))
        table = pd.read_csv(tmp_path / "trajectory.csv")
        assert table["step"].tolist() == list(range(number + 1))
        assert table["ingredients"].iloc[-1] == f"a;run{number}"
        assert table["soup_size"].iloc[-1] == 2
    assert pd.isna(table["score"]).all()


def test_the_leaderboard_is_best_first_and_the_soup_first_among_equals() -> None:
    table = leaderboard(ENTRIES, "accuracy", sign=1)
    assert (
        list(table.columns)
        == (
            "rank model kind ingredients heldout_accuracy test_accuracy ci_low ci_high delta_vs_best_single"
        ).split()
    )
    assert table["model"].tolist() == ["soup", "b", "uniform", "a", "broken"]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table["delta_vs_best_single"].tolist()[:4] == pytest.approx([0.0, 0.0, 0.0, -0.1])


def test_a_loss_is_shown_with_its_own_sign_and_the_lowest_first() -> None:
    losses = [Entry("x", "single", ("x",), -2.0, -2.5, (-2.2, -1.9)), Entry("soup", "soup", ("x", "y"), -1.5)]
    table = leaderboard(losses, "cross_entropy", sign=-1)
    assert table["heldout_cross_entropy"].tolist() == [1.5, 2.0]
    assert table["test_cross_entropy"].iloc[1] == 2.5
    assert table[["ci_low", "ci_high"]].iloc[1].tolist() == [1.9, 2.2]
    assert table["delta_vs_best_single"].tolist() == [0.5, 0.0]


@pytest.mark.parametrize(("greater_is_better", "expected"), [(True, ["two", "one"]), (False, ["one", "two"])])
def test_the_sweeps_leaderboard_has_one_row_a_finished_run(
    tmp_path: Path, greater_is_better: bool, expected: list[str]
) -> None:
    assert update_sweep_leaderboard(tmp_path, greater_is_better) is None
    for name, score in {"one": 0.6, "two": 0.7}.items():
        (tmp_path / name).mkdir()
        entries = [Entry("soup", "soup", ("a", "b"), score), Entry("a", "single", ("a",), 0.99)]
        write_csv(tmp_path / name / "leaderboard.csv", leaderboard(entries, "m", 1))
    (tmp_path / "unfinished").mkdir()
    table = pd.read_csv(update_sweep_leaderboard(tmp_path, greater_is_better))
    assert table["run"].tolist() == expected
    assert table["rank"].tolist() == [1, 2]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "table.csv"
    write_csv(file, pd.DataFrame({"x": [1]}))

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_csv(file, pd.DataFrame({"x": [2]}))
    assert pd.read_csv(file)["x"].tolist() == [1]
    assert [f.name for f in tmp_path.iterdir()] == ["table.csv"]
