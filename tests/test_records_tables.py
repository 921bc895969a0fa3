"""The tables: their columns, their order, and that a reader never sees half of one."""

from __future__ import annotations

import math
import shutil
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from command import Fork
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from soupkitchen.experiment.ledger import Ledger
from soupkitchen.options import files
from soupkitchen.records import (
    Entry,
    Step,
    ranking,
    read_csv,
    separated,
    trajectory,
    update_sweep_leaderboard,
    write_csv,
)
from soupkitchen.records.tables import joined
from soupkitchen.records.terminal import print_leaderboard
from soupkitchen.store.journal import Journal

ENTRIES = [
    Entry("a", "single", ("a",), 0.50),
    Entry("b", "single", ("b",), 0.60, test_score=0.55, interval=(0.5, 0.7)),
    Entry("broken", "single", ("broken",), math.nan),
    Entry("uniform", "uniform", ("a", "b", "broken"), 0.60),
    Entry("soup", "soup", ("b", "a"), 0.60, test_score=0.58),
]


def test_the_trajectory_has_the_documented_columns():
    columns = trajectory([]).columns
    assert (
        list(columns)
        == (
            "step stage candidate variant decision split metric score score_on_part score_at_most "
            "best_before gain gain_low gain_high p_value fixed broken soup_size ingredients coefficients "
            "examples_scored examples_total stopped_early stopped_by explained merge_seconds eval_seconds "
            "cached rule reason"
        ).split()
    )


def test_each_step_is_on_disk_as_soon_as_it_is_told(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin({}, {}, metric="accuracy", greater_is_better=True, columns=["x"])
    for number in range(3):
        ledger.step(Step("merge", f"run{number}", "keep", soup_size=2, ingredients=("a", f"run{number}")))
        table = pd.read_csv(tmp_path / "trajectory.csv")
        assert table["step"].tolist() == list(range(number + 1))
        assert table["ingredients"].iloc[-1] == f"a;run{number}"
        assert table["soup_size"].iloc[-1] == 2
    assert pd.isna(table["score"]).all()
    assert pd.isna(table["score_x"]).all()


def test_the_leaderboard_is_best_first_and_the_soup_first_among_equals():
    table = ranking(ENTRIES, "accuracy", sign=1)
    assert (
        list(table.columns)
        == (
            "rank model kind ingredients heldout_accuracy test_accuracy ci_low ci_high delta_vs_best_single"
        ).split()
    )
    assert table["model"].tolist() == ["soup", "b", "uniform", "a", "broken"]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table["delta_vs_best_single"].tolist()[:4] == pytest.approx([0.0, 0.0, 0.0, -0.1])


def test_a_loss_is_shown_with_its_own_sign_and_the_lowest_first():
    losses = [Entry("x", "single", ("x",), -2.0, -2.5, (-2.2, -1.9)), Entry("soup", "soup", ("x", "y"), -1.5)]
    table = ranking(losses, "cross_entropy", sign=-1)
    assert table["heldout_cross_entropy"].tolist() == [1.5, 2.0]
    assert table["test_cross_entropy"].iloc[1] == 2.5
    assert table[["ci_low", "ci_high"]].iloc[1].tolist() == [1.9, 2.2]
    assert table["delta_vs_best_single"].tolist() == [0.5, 0.0]


def finished(run: Path, score: float, metric: str = "accuracy", better: bool = True, data: str = "d") -> None:
    """The folder of a finished run, as far as the table of all runs looks at it."""
    run.mkdir(parents=True)
    sign = 1 if better else -1
    entries = [
        Entry("soup", "soup", ("a", "b"), sign * score),
        Entry("a", "single", ("a",), sign * score - 1),
    ]
    write_csv(run / "leaderboard.csv", ranking(entries, metric, sign))
    Journal(run / "journal.jsonl").add(event="finish", greater_is_better=better)
    task = {"_target_": "soupkitchen.tasks.TextClassification", "data": {"path": data}}
    OmegaConf.save({"task": task}, run / "config.yaml")


def test_the_table_of_all_runs_ranks_each_metric_and_each_data_by_itself_in_its_own_direction(tmp_path):
    assert update_sweep_leaderboard(tmp_path) is None
    finished(tmp_path / "good", 0.9)
    finished(tmp_path / "bad", 0.2)
    finished(tmp_path / "much_loss", 3.0, "cross_entropy", better=False)
    finished(tmp_path / "little_loss", 0.5, "cross_entropy", better=False)
    finished(tmp_path / "nan", math.nan, "cross_entropy", better=False)
    finished(tmp_path / "elsewhere", 0.1, data="other")
    (tmp_path / "unfinished").mkdir()
    table = pd.read_csv(update_sweep_leaderboard(tmp_path), keep_default_na=False)
    told = [(row.rank, row.run, row.task, row.data, row.metric) for row in table.itertuples()]
    assert told == [
        (1, "good", "TextClassification", "d", "accuracy"),
        (2, "bad", "TextClassification", "d", "accuracy"),
        (1, "little_loss", "TextClassification", "d", "cross_entropy"),
        (2, "much_loss", "TextClassification", "d", "cross_entropy"),
        (3, "nan", "TextClassification", "d", "cross_entropy"),
        (1, "elsewhere", "TextClassification", "other", "accuracy"),
    ]


def test_a_loss_is_ranked_as_one_though_no_journal_says_so(tmp_path):
    for name, loss in {"much": 3.0, "little": 0.5}.items():
        finished(tmp_path / name, loss, "cross_entropy", better=False)
        (tmp_path / name / "journal.jsonl").write_text('{"event": "finish"}\n')
    assert pd.read_csv(update_sweep_leaderboard(tmp_path))["run"].tolist() == ["little", "much"]


def test_tables_of_others_are_neither_read_nor_overwritten(tmp_path, caplog):
    finished(tmp_path / "nest" / "x", 0.5)
    finished(tmp_path / "nest" / "exp1" / "y", 0.6)
    assert update_sweep_leaderboard(tmp_path / "nest" / "exp1")
    assert update_sweep_leaderboard(tmp_path / "nest")
    assert caplog.text == ""  # a table of all runs below is ours
    for name, content in {
        "foreign": "model,elo\nx,1500\n",
        "empty": "",
        "torn": '"',
        "raw": "\xff\0",
    }.items():
        (tmp_path / "nest" / name).mkdir()
        (tmp_path / "nest" / name / "leaderboard.csv").write_text(content)
    finished(tmp_path / "nest" / "damaged", 0.7)
    (tmp_path / "nest" / "damaged" / "leaderboard.csv").write_text("rank,model\n1\n")
    (tmp_path / "nest" / "folder" / "leaderboard.csv").mkdir(parents=True)
    table = pd.read_csv(update_sweep_leaderboard(tmp_path / "nest"))
    assert table["run"].tolist() == ["x"]
    for name in ("foreign", "empty", "torn", "raw", "damaged"):
        assert f"{tmp_path / 'nest' / name / 'leaderboard.csv'} was left out" in caplog.text

    mine = tmp_path / "nest" / "leaderboard.csv"
    mine.write_text("team,points\n")
    assert update_sweep_leaderboard(tmp_path / "nest") is None
    assert mine.read_text() == "team,points\n"
    assert "is not ours, and stays as it is" in caplog.text
    assert [path.name for path in (tmp_path / "nest").glob(".*")] == []


def test_runs_may_vanish_while_the_table_of_all_runs_is_made(tmp_path):
    for number in range(30):
        finished(tmp_path / "results" / f"run{number}", number / 30)

    def vanish() -> None:
        for run in sorted((tmp_path / "results").glob("run*"))[:20]:
            shutil.rmtree(run)

    other = threading.Thread(target=vanish)
    other.start()
    while other.is_alive():
        update_sweep_leaderboard(tmp_path / "results")
    other.join()
    table = pd.read_csv(update_sweep_leaderboard(tmp_path / "results"))
    assert set(table["run"]) == {path.name for path in (tmp_path / "results").glob("run*")}


NAMES = ["NA", "nan", "", "a;b", "a\\;b", "a\\", "a\rb", "a\nb", 'a"b', "a,b", "=1+1", "-x", "@x", "+x",
         "'=x", "'x", "\t=x", "è", "\x1b[31m", "1", "True"]  # fmt: skip


@given(
    st.lists(st.one_of(st.sampled_from(NAMES), st.text(st.characters(exclude_categories=["Cs"]))), min_size=1)
)
@example(NAMES)
def test_names_come_out_of_a_table_as_they_went_in_and_no_cell_is_a_formula(tmp_path_factory, names):
    file = tmp_path_factory.mktemp("names") / "table.csv"
    table = pd.DataFrame({"rank": range(len(names)), "model": names, "score": [0.1] * len(names)})
    write_csv(file, table)
    pd.testing.assert_frame_equal(read_csv(file), table, check_dtype=False)
    read = pd.read_csv(file, keep_default_na=False, dtype={"model": str}, lineterminator=None)
    assert len(read) == len(names)
    for name, cell in zip(names, read["model"], strict=True):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        if not name.lstrip("'").startswith(("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")):
            assert cell == name


@given(st.lists(st.text(min_size=1), min_size=1))
@example(["a;b", "c\\", ";", "\\;"])
def test_names_with_separators_are_one_ingredient_each(names):
    assert separated(joined(tuple(names))) == tuple(names)
    assert joined(("a", "b-1")) == "a;b-1"


def test_numbers_stay_numbers(tmp_path):
    table = pd.DataFrame({"model": ["a", "b"], "delta": [-0.5, None], "rank": [1, 2]})
    write_csv(tmp_path / "t.csv", table)
    assert (tmp_path / "t.csv").read_text() == "model,delta,rank\na,-0.5,1\nb,,2\n"
    assert read_csv(tmp_path / "t.csv")["delta"].tolist()[0] == -0.5


def test_what_is_printed_of_names_obeys_no_escape_sequence(capsys):
    entries = [Entry("\x1b]0;gone\x07\r", "soup", ("a;b", "NA"), 0.5), Entry("NA", "single", ("NA",), 0.4)]
    print_leaderboard(ranking(entries, "accuracy", 1))
    out = capsys.readouterr().out
    first, second = out.splitlines()[1:3]
    assert r"\x1b]0;gone\x07\r" in first
    assert first.split()[2:4] == ["soup", "2"]
    assert second.split()[1] == "NA"
    assert not set(out) & {"\x1b", "\x07", "\r"}


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    file = tmp_path / "table.csv"
    write_csv(file, pd.DataFrame({"x": [1]}))

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_csv(file, pd.DataFrame({"x": [2]}))
    assert pd.read_csv(file)["x"].tolist() == [1]
    assert [f.name for f in tmp_path.iterdir()] == ["table.csv"]


def cooked(run: Path, score: float, method: str, choices: bool = True, **options: object) -> None:
    """The folder of a finished run by a preset with some options of its own, by dotted key."""
    finished(run, score)
    config = OmegaConf.load(run / "config.yaml")
    config.method, config.search = files.compose("method", method), files.compose("search", "greedy")
    config.runtime, config.top_k = files.compose("runtime", "default"), None
    for key, value in options.items():
        OmegaConf.update(config, key, value, force_add=True)
    if choices:
        config.choices = {"method": method, "search": "greedy"}
    OmegaConf.save(config, run / "config.yaml")


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(update_sweep_leaderboard(folder), keep_default_na=False, dtype=str).set_index("run")


LEFT = ["rank", "task", "data", "metric", "method", "search"]


def options_in(table: pd.DataFrame) -> list[str]:
    columns = list(table.columns)
    assert columns[: len(LEFT)] == LEFT
    return columns[len(LEFT) : columns.index("model")]


def test_an_option_is_a_column_where_runs_differ_in_it_and_no_name_says_so(tmp_path):
    cooked(tmp_path / "linear", 0.1, "linear")
    cooked(tmp_path / "dare_ties", 0.2, "dare_ties")
    assert options_in(table_of(tmp_path)) == []  # what differs follows from the methods' names
    cooked(tmp_path / "ties", 0.3, "ties", **{"method.sparsifier.density": 0.5, "runtime.device": "cuda"})
    table = table_of(tmp_path)
    assert options_in(table) == ["method.sparsifier.density"]
    assert dict(table["method.sparsifier.density"]) == {"ties": "0.5", "dare_ties": "0.5", "linear": ""}
    more = {"top_k": 3, "runtime.seed": 1, "method.scale": [0.5, 1], "method.normalize": False}
    cooked(tmp_path / "more", 0.4, "ties", **more)
    table = table_of(tmp_path)
    assert options_in(table) == [
        "method.normalize", "method.scale", "method.sparsifier.density", "runtime.seed", "top_k"
    ]  # fmt: skip
    assert list(table.loc["more", options_in(table)]) == ["false", "[0.5, 1]", "0.2", "1", "3"]
    assert list(table.loc["linear", options_in(table)]) == ["true", "", "", "0", "null"]
    assert list(table["method"]) == ["ties", "ties", "dare_ties", "linear"]
    assert set(table["search"]) == {"greedy"}


def test_scores_have_columns_in_the_order_of_the_groups(tmp_path):
    finished(tmp_path / "a", 0.5, "cross_entropy", better=False)
    finished(tmp_path / "b", 0.5)
    columns = [column for column in table_of(tmp_path).columns if column.startswith("heldout_")]
    assert columns == ["heldout_accuracy", "heldout_cross_entropy"]


def test_only_runs_that_can_be_compared_make_a_column_of_what_they_differ_in(tmp_path):
    cooked(tmp_path / "one", 0.1, "linear", top_k=2)
    cooked(tmp_path / "other", 0.1, "linear", top_k=3, **{"task.data.path": "elsewhere"})
    assert options_in(table_of(tmp_path)) == []


def test_where_nobody_noted_the_presets_the_nearest_is_named_or_the_class(tmp_path):
    names = files.names("method")
    for name in names:
        cooked(tmp_path / name, 0.1, name, choices=False)
    cooked(tmp_path / "sparse", 0.1, "ties", choices=False, **{"method.sparsifier.density": 0.9})
    cooked(tmp_path / "mine", 0.1, "linear", choices=False, **{"method._target_": "my_module.Boldest"})
    cooked(tmp_path / "own", 0.1, "slerp", **{"choices.method": "boldest"}, choices=False)  # --config-dir
    table = table_of(tmp_path)
    assert {name: table.loc[name, "method"] for name in names} == {name: name for name in names}
    assert table.loc["sparse", "method"] == "ties"
    assert table.loc["sparse", "method.sparsifier.density"] == "0.9"
    assert table.loc["mine", "method"] == "Boldest"
    assert table.loc["own", "method"] == "boldest"


def test_equals_keep_the_order_of_their_names_and_no_number_comes_last(tmp_path):
    for name, score in {"b": 0.5, "a": 0.5, "c": 0.5, "d": math.nan, "e": -math.inf, "f": 0.6}.items():
        finished(tmp_path / name, score)
    assert list(table_of(tmp_path).index) == ["f", "a", "b", "c", "e", "d"]
    for name, score in {"b": 0.5, "a": 0.5, "d": math.nan, "e": math.inf, "f": 0.4}.items():
        finished(tmp_path / "losses" / name, score, "mse", better=False)
    assert list(table_of(tmp_path / "losses").index) == ["f", "a", "b", "e", "d"]


def test_an_edited_configuration_or_journal_costs_a_run_no_more_than_what_they_say(tmp_path):
    odd = "task: {_target_: x.Y, tasks: [a, b]}"
    for name, content in {"text": "a", "list": "- 1", "bad": "{", "odd": odd}.items():
        finished(tmp_path / name, 0.5)
        (tmp_path / name / "config.yaml").write_text(content)
        (tmp_path / name / "journal.jsonl").write_text(f'{{"event": "score"}}\n{content}\n')
    table = table_of(tmp_path)
    assert set(table.index) == {"text", "list", "bad", "odd"}
    assert list(table.loc["odd", ["task", "data", "method"]]) == ["Y", "a, b", ""]
    assert set(table["examples_scored"]) == {""}


WRITER = """
import sys, time
from pathlib import Path
from soupkitchen.records import Entry, ranking, update_sweep_leaderboard, write_csv
from soupkitchen.store.journal import Journal
folder, me = Path(sys.argv[1]), sys.argv[2]
while not (folder / "go").exists():
    time.sleep(0.001)
for number in range(6):
    run = folder / f"{me}-{number}"
    run.mkdir()
    Journal(run / "journal.jsonl").add(event="finish", greater_is_better=True)
    write_csv(run / "leaderboard.csv", ranking([Entry("soup", "soup", ("a",), number / 6)], "accuracy", 1))
    assert update_sweep_leaderboard(folder) is not None
"""


def test_processes_that_end_runs_at_once_leave_a_table_of_all_and_nobody_sees_half_of_one(tmp_path):
    processes = [Fork(WRITER, str(tmp_path), str(number), cwd=tmp_path) for number in range(3)]
    (tmp_path / "go").touch()
    seen = [0]
    while any(process.poll() is None for process in processes):
        if (tmp_path / "leaderboard.csv").exists():
            seen.append(len(read_csv(tmp_path / "leaderboard.csv")))
        time.sleep(0.002)
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert seen == sorted(seen)
    assert len(read_csv(tmp_path / "leaderboard.csv")) == 18
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_text_of_any_column_comes_out_of_a_table_as_it_went_in(tmp_path):
    table = pd.DataFrame({"method.x": ["=1", "'+a", "b", "-"], "n": [1, 2, 3, 4]})
    write_csv(tmp_path / "t.csv", table)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "t.csv"), table, check_dtype=False)
