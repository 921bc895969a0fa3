"""The report: made of the journal, one file, right in its numbers, and looked at in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import Browser, browser, chromium
from command import events, own, soupkitchen
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import norm

from soupkitchen.checkpoints import find_pool
from soupkitchen.errors import JournalError
from soupkitchen.experiment.finishing import write_map
from soupkitchen.records import read_csv
from soupkitchen.records.chance import by_chance
from soupkitchen.records.report import page
from soupkitchen.records.results import report
from soupkitchen.records.run import Run
from soupkitchen.report import main, make


@pytest.fixture(scope="module")
def results(text_runs: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of finished runs."""
    folder = tmp_path_factory.mktemp("reported")
    runs = folder / "runs"
    shutil.copytree(text_runs, runs)
    (runs / "d").rename(runs / "d<b>&'x'")
    words = own(runs, texts)
    soupkitchen(
        *words,
        "name=x",
        "report.write=true",
        "report.contributions=true",
        f"pool.base={text_runs}/d",
        cwd=folder,
    )
    soupkitchen(*words, "name=loss", "task.metric.name=cross_entropy", "task.data.test=null",
                "report.write=true", "report.map_gib=0", cwd=folder)  # fmt: skip
    soupkitchen("-m", *words, "method=linear,slerp", "search=greedy,uniform", "report.write=true", cwd=folder)
    soupkitchen(f"pool.path={runs}/*", "task=several", "evaluation.cache=null", "name=two",
                "report.write=true",
                "+task@task.tasks.kind=text_classification", f"task.tasks.kind.data.path={texts}",
                "+task@task.tasks.loss=text_classification", f"task.tasks.loss.data.path={texts}",
                "task.tasks.loss.metric.name=cross_entropy", cwd=folder)  # fmt: skip
    return folder / "results"


def test_a_report_is_made_of_what_lies_in_the_folder_alone(results, tmp_path):
    bare = tmp_path / "x"
    bare.mkdir()
    for name in ("journal.jsonl", "map.json", "recipe.yaml", "mergekit.yaml", "config.yaml"):
        shutil.copy(results / "x" / name, bare)
    assert [file.name for file in make(bare)] == ["report.html", "trajectory.png", "trajectory.svg"]
    for name in ("report.html", "trajectory.png", "trajectory.svg"):
        assert (bare / name).read_bytes() == (results / "x" / name).read_bytes()


def test_of_an_unfinished_run_there_is_what_there_is(results, tmp_path):
    lines = (results / "x" / "journal.jsonl").read_text().splitlines(keepends=True)
    for number in range(1, len(lines), 3):
        (tmp_path / "journal.jsonl").write_text("".join(lines[:number]) + '{"event": "to')
        main([str(tmp_path)])
        told = (tmp_path / "report.html").read_text()
        if number < len(lines) // 2:
            assert "This run is not finished" in told


class Outline(HTMLParser):
    """What a page has: titles, figures, cells; and whether all that is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.titles: list[str] = []
        self.figures: list[str] = []
        self.marks: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        for name in ("src", "href"):
            assert name not in told
        if tag == "svg":
            self.figures.append(told["aria-label"] or "")
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)
        if self.open[-2:] and self.open[-1] == "title" and "svg" in self.open:
            self.marks.append(data)


def outline(file: Path) -> Outline:
    told = Outline()
    told.feed(file.read_text())
    assert not told.open
    return told


def test_all_sections_are_there(results):
    told = outline(results / "x" / "report.html")
    assert told.titles == [
        "Step by step", "Every model", "What each ingredient is worth",
        "How far the selection may have flattered", "The pool's map", "Where the time went",
        "The recipe", "The environment",
    ]  # fmt: skip
    assert "Task by task" in outline(results / "two" / "report.html").titles
    loss = outline(results / "loss" / "report.html")
    assert "The pool's map" not in loss.titles
    assert not (results / "loss" / "map.json").exists()
    assert "There was no test data" in (results / "loss" / "report.html").read_text()
    assert all((results / name / "report.html").stat().st_size < 5e6 for name in ("x", "two", "loss"))


def test_every_step_is_drawn_and_names_are_escaped(results):
    told = outline(results / "x" / "report.html")
    steps = read_csv(results / "x" / "trajectory.csv")
    steps = steps[steps["stage"].isin(["rank", "merge"]) & (steps["decision"] != "error")]
    for row in steps.to_dict("records"):
        score = row["score"] if row["score"] == row["score"] else row["score_at_most"]
        assert any(m.startswith(f"{row['candidate']}: ") and f"{score:.4f}" in m for m in told.marks)
    assert "d<b>&'x'" in set(steps["candidate"])
    assert "d<b>" not in (results / "x" / "report.html").read_text()
    svg = (results / "x" / "trajectory.svg").read_text()
    assert "var(" not in svg
    with Image.open(results / "x" / "trajectory.png") as picture:
        assert picture.size == (1520, 640)


def test_what_an_ingredient_is_worth_is_what_the_soup_loses_without_it(results):
    told = [event for event in events(results / "x") if event["event"] == "contribution"]
    table = read_csv(results / "x" / "leaderboard.csv")
    soup = table[table["kind"] == "soup"].iloc[0]
    ingredients = soup["ingredients"].split(";")
    assert [event["ingredient"] for event in told] == ingredients
    scored = {event["what"]: event["score"] for event in events(results / "x") if event["event"] == "score"}
    for event in told:
        # what the search has scored before is not scored again
        assert event["score"] == scored.get(f"the soup without {event['ingredient']}", event["score"])
    steps = read_csv(results / "x" / "trajectory.csv")
    kept = steps[steps["decision"].isin(["start", "keep"])]["score"].tolist()
    assert told[-1]["score"] == kept[-2]  # the soup before its last ingredient


def test_the_map_has_the_cosines_of_task_vectors(results, text_runs):
    import json

    told = json.loads((results / "x" / "map.json").read_text())
    base = load_file(text_runs / "d" / "model.safetensors")
    vectors = []
    for name in told["names"]:
        folder = results / "x" / "soup" if name == "soup" else results.parent / "runs" / name
        run = load_file(folder / "model.safetensors")
        vectors.append(np.concatenate([(run[key] - base[key]).double().reshape(-1).numpy() for key in base]))
    expected = np.array([[a @ b for b in vectors] for a in vectors])
    np.testing.assert_allclose(told["gram"], expected, rtol=1e-4, atol=1e-4)
    assert told["names"][-1] == "soup"


def test_chance_is_that_of_fair_coins():
    """One candidate: E max(G, 0) of G = (2 Binomial(n, 1/2) - n) / N, or of a normal gain."""
    row: dict[str, Any] = {"stage": "merge", "decision": "discard", "gain": 0.0, "fixed": 30, "broken": 34,
                           "examples_total": 400, "gain_low": -0.02, "gain_high": 0.06}  # fmt: skip
    chance = by_chance(pd.DataFrame([row]), 0.03, binary=True)
    assert chance is not None
    n = 64
    gains = (2 * np.arange(n + 1) - n) / 400
    weights = np.array([float(np.prod([(n - i) / (i + 1) for i in range(k)])) for k in range(n + 1)]) / 2.0**n
    assert chance.mean == pytest.approx((weights * np.maximum(gains, 0)).sum(), rel=0.1)
    assert chance.share == pytest.approx(weights[gains >= 0.03 - 1e-12].sum(), abs=0.03)
    normal = by_chance(pd.DataFrame([row, row | {"gain_low": None, "gain_high": None}]), 0.03, binary=False)
    assert normal is not None
    spread = 0.08 / (2 * 1.96)
    assert normal.candidates == 2
    assert normal.mean == pytest.approx(2 * spread * norm.pdf(0), rel=0.1)
    assert by_chance(pd.DataFrame([row | {"gain_low": None}]), 0.03, binary=True) is None


def test_of_alternatives_the_best_counts_once_and_no_more_than_is_left():
    """E max(0, G_1, …, G_k) of normal gains, by its integral ∫ 1 - Φ(x)^k dx."""
    spread = 0.08 / (2 * 1.96)
    row: dict[str, Any] = {"stage": "merge", "decision": "discard", "gain": 0.0, "fixed": 30, "broken": 34,
                           "examples_total": 400, "gain_low": -0.04, "gain_high": 0.04}  # fmt: skip
    rows = [row | {"choice": "one"} for _ in range(40)] + [row | {"choice": "two"}]
    rows[3]["gain_low"] = None
    x = np.linspace(0, 8, 4001)
    once = [float((1 - norm.cdf(x) ** k).sum() * (x[1] - x[0])) for k in (40, 1)]
    chance = by_chance(pd.DataFrame(rows), 0.03, binary=False)
    assert chance is not None
    assert chance.mean == pytest.approx(spread * sum(once), rel=0.03)
    capped = by_chance(pd.DataFrame(rows), 0.03, binary=False, left=0.02)
    assert capped is not None
    assert capped.high == 0.02
    assert capped.mean <= 0.02
    assert capped.share == 0.0


def test_a_sweep_has_a_report_too(results, capsys):
    told = outline(results / "report.html")
    assert len(told.titles) == 3  # accuracy, cross-entropy, and both at once
    table = read_csv(results / "leaderboard.csv")
    shown = " ".join(told.marks)
    several = table[table["metric"] == "accuracy"]
    assert all(f"{run}: " in shown for run in several["run"])
    main([str(results)])
    assert str(results / "report.html") in capsys.readouterr().out
    (results / "report.html").write_text("mine")
    with pytest.raises(JournalError, match="is not the folder"):
        make(results)
    assert (results / "report.html").read_text() == "mine"
    (results / "report.html").unlink()
    main([str(results)])


def test_a_run_that_overflows_has_no_place_on_the_map(text_runs, tmp_path, monkeypatch):
    import json

    monkeypatch.setattr("soupkitchen.experiment.finishing.task_vector_gram", lambda runs, base: (
        np.array([[1, np.nan, 0.5], [np.nan, np.inf, np.nan], [0.5, np.nan, 2]]), np.inf))  # fmt: skip
    pool = find_pool(str(text_runs), exclude=["d", "wild"])
    write_map(pool, tmp_path / "soup", tmp_path / "map.json", 1.0)
    told = json.loads((tmp_path / "map.json").read_text(), parse_constant=pytest.fail)
    assert told["names"] == ["a", "c"]
    assert told["gram"] == [[1, 0.5], [0.5, 2]]
    assert told["origin"] is None


def test_a_report_that_fails_is_not_the_end_of_a_run(results, monkeypatch, caplog):
    def fail(folder: Path) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr("soupkitchen.records.report.write_report", fail)
    report(results / "x")
    assert "report.html could not be written (no ink); the run itself is complete" in caplog.text


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert f"error: {tmp_path} is not the folder of a run" in capsys.readouterr().err


def test_control_characters_do_not_reach_the_page(results):
    run = Run(results / "x")
    run.steps.loc[0, "candidate"] = "evil\x1b[31m\u202e</svg><script>alert(1)</script>"
    told = page(run)
    assert "\x1b" not in told
    assert "<script>alert" not in told


POINT = ".mark[aria-roledescription^=symbol]"


@pytest.fixture(scope="module")
def page_in_a_browser() -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("name", ["x", "two", "loss", "."])
def test_a_browser_shows_it(name, results, page_in_a_browser, tmp_path):
    seen = page_in_a_browser
    file = (results / name / "report.html").resolve()
    for width in (1280, 390):
        for dark in (False, True):
            seen.open(file, width, dark)
            assert seen.run("document.documentElement.scrollWidth <= window.innerWidth"), "it is too wide"
            shot = tmp_path / f"{width}-{dark}.png"
            seen.picture(shot)
            with Image.open(shot) as picture:
                colours = picture.convert("RGB").getcolors(1 << 24)
                brightness = np.asarray(picture.convert("L")).mean()
            assert colours is not None
            assert len(colours) > 40
            assert (brightness < 90) if dark else (brightness > 200)
    boxes = seen.run("[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)")
    assert boxes
    assert min(boxes) > 20
    seen.hover(POINT)
    said = seen.run("document.getElementById('told').textContent")
    assert said == seen.run(f"document.querySelector('{POINT} title').textContent") != ""
    seen.run(f"document.querySelector('{POINT}').focus()")
    rows = "document.querySelectorAll('tbody tr:not([hidden])').length"
    before = seen.run(rows)
    seen.run(
        "const f = document.getElementById('filter'); f.value = 'zzz'; f.dispatchEvent(new Event('input'))"
    )
    assert seen.run(rows) == 0 < before
    assert seen.run("document.querySelectorAll('.mark.dim').length") > 0
    seen.open(file, 1280, scripts=False)
    assert seen.said == []
    assert {re.sub(r"^(\w+):.*", r"\1", address) for address in seen.asked} == {"file"}
