"""`report.html` of a run, also of one that is not finished: made of its journal and what lies beside it.

Knows no torch, and reads no weights.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from soupkitchen.records import charts
from soupkitchen.records.chance import by_chance
from soupkitchen.records.charts import known as has_value
from soupkitchen.records.charts import short
from soupkitchen.records.map import map_section
from soupkitchen.records.page import Page, Section, Table, Text
from soupkitchen.records.run import CONTRIBUTION, Run
from soupkitchen.records.tables import separated
from soupkitchen.records.trajectory import STEP, tasks_of
from soupkitchen.store.files import write, write_text
from soupkitchen.store.layout import CONFIG, JOURNAL, MERGEKIT, PICTURES, RECIPE, REPORT

_SHOWN = (
    "step stage candidate decision score score_at_most best_before gain p_value fixed broken soup_size "
    "examples_scored examples_total cached reason"
)
"""Columns of the trajectory that the report has, too."""


def write_report(folder: Path) -> list[Path]:
    """Writes the report of the run in `folder`, and the picture of its trajectory.

    Raises:
        JournalError: where there is no journal, or a damaged one.
        OSError: where they cannot be written.
    """
    run = Run(folder)
    write_text(folder / REPORT, page(run).html())
    figure = charts.trajectory_figure(run.steps, run.metric, run.sign)
    png, svg = (folder / name for name in PICTURES)
    write(png, lambda beside: beside.write_bytes(figure.png()))
    write_text(svg, figure.svg(alone=True))
    return [folder / REPORT, png, svg]


def page(run: Run) -> Page:
    """The report."""
    parts = [_trajectory(run), _models(run), _tasks(run), _contributions(run), _chance(run), map_section(run)]
    sections = [section for section in (*parts, _costs(run), _recipe(run), _environment(run)) if section]
    return Page(f"Soup of {run.folder.name}", _sentences(run), _cards(run), sections, _footer(run))


def _footer(run: Run) -> str:
    version = dict(run.events[0].get("versions", {})).get("soupkitchen", "")
    source = f"{run.folder.name}/{JOURNAL}"
    return f"soupkitchen {version}. Made of {source}; python -m soupkitchen.report makes it again."


def _sentences(run: Run) -> list[str]:
    if run.soup is None or run.best is None:
        ranked = int((run.steps["stage"] == "rank").sum())
        return [f"This run is not finished: {len(run.steps)} steps so far, {ranked} of them rankings."]
    size, gain = len(separated(run.soup["ingredients"])), float(run.soup["delta_vs_best_single"])
    heldout, test = f"heldout_{run.metric}", f"test_{run.metric}"
    scores, best = (short(row[heldout]) for row in (run.soup, run.best))
    name = run.best["model"]
    if gain <= 0 and size == 1:
        told = [f"No run improved on the best single one, {name}: the soup is that run. That is normal."]
    else:
        told = [
            f"The soup of {size} runs scores {scores} ({run.metric}, held-out); the best single run, "
            f"{name}, scores {best}."
        ]
    if has_value(run.soup[test]) and has_value(run.best[test]):
        scores, best = (short(row[test]) for row in (run.soup, run.best))
        told.append(f"On test data, which decided nothing: {scores} against {best}.")
    else:
        told.append("There was no test data: held-out decided, so its scores flatter the soup somewhat.")
    return told


def _cards(run: Run) -> list[tuple[str, str]]:
    if run.soup is None or run.best is None:
        return []
    heldout, test = f"heldout_{run.metric}", f"test_{run.metric}"
    cards = [(short(run.soup[heldout]), f"{run.metric}, held-out")]
    if has_value(run.soup["ci_low"]):
        cards.append((f"{short(run.soup['ci_low'])} to {short(run.soup['ci_high'])}", "95 % interval"))
    if has_value(run.soup[test]):
        cards.append((short(run.soup[test]), f"{run.metric}, test"))
    cards.append((f"{run.soup['delta_vs_best_single']:+.4f}", "better than the best single run"))
    names = separated(run.soup["ingredients"])
    cards.append((f"{len(names)} of {len(run.events[0]['runs'])}", "runs are in the soup"))
    return cards


def _trajectory(run: Run) -> Section | None:
    if run.steps.empty:
        return None
    figure = charts.trajectory_figure(run.steps, run.metric, run.sign)
    said = [
        "Rings are runs by themselves, filled dots what was kept, crosses what was discarded; grey bars are "
        "the 95 % intervals of a candidate's gain. A candidate that could not be kept any more was not "
        "scored to the end: it is drawn where it could be at most."
    ]
    table = run.steps[run.steps["split"] == "heldout"][_SHOWN.split()].dropna(axis=1, how="all")
    return Section("Step by step", said, [figure], [Table("Every step", table, "candidate", folded=True)])


def _models(run: Run) -> Section | None:
    if run.models is None or run.models.empty:
        return None
    said = ["Filled: held-out, with its 95 % interval. Hollow: test."]
    figure = charts.models_figure(run.models, run.metric)
    table = run.models.dropna(axis=1, how="all")
    return Section(
        "Every model", said, [figure], [Table("Every model, best first", table, "model", folded=True)]
    )


def _tasks(run: Run) -> Section | None:
    columns = tasks_of(run.events)
    if run.models is None or not columns or run.soup is None or run.best is None:
        return None
    figures = []
    for task in columns:
        bars = {
            f"{what} ({split})": float(row[f"{split}_{task}"])
            for split in ("heldout", "test")
            for what, row in (("soup", run.soup), ("best single run", run.best))
            if has_value(row.get(f"{split}_{task}"))
        }
        figures.append(charts.bars_figure(task, bars))
    return Section("Task by task", [f"From above: {', '.join(columns)}."], figures)


def _contributions(run: Run) -> Section | None:
    told = run.of(CONTRIBUTION)
    if not told or run.soup is None:
        return None
    whole = run.sign * float(run.soup[f"heldout_{run.metric}"])
    bars = {str(event["ingredient"]): whole - float(event["score"]) for event in told}
    said = [
        "What the soup loses on held-out without each of its ingredients, merged by the same method. Below 0 "
        "it would be better without."
    ]
    return Section("What each ingredient is worth", said, [charts.bars_figure("loss without it", bars)])


def _chance(run: Run) -> Section | None:
    if run.soup is None or run.best is None:
        return None
    gained = float(run.soup["delta_vs_best_single"])
    known = run.steps[
        (run.steps["stage"] == "merge") & run.steps["gain"].notna() & run.steps["fixed"].notna()
    ]
    counted = (known["fixed"] - known["broken"]).astype(float) / known["examples_total"].astype(float)
    binary = bool(len(known)) and bool(np.allclose(known["gain"].astype(float), counted, atol=1e-9))
    choices = [event.get("choice") or f"step {number}" for number, event in enumerate(run.of(STEP))]
    best, single = run.events[0].get("best"), float(run.best[f"heldout_{run.metric}"])
    left = math.inf if best is None else float(best) - run.sign * single
    chance = by_chance(run.steps.assign(choice=choices), gained, binary, left)
    if chance is None:
        return None
    heldout, test = f"heldout_{run.metric}", f"test_{run.metric}"
    said = [
        f"On held-out, which decided, the soup gained {gained:+.4f}. If none of the {chance.candidates} "
        "candidates were any better than the soup before it, choosing what seems better would still seem to "
        f"gain {chance.mean:.4f} on average, and more than {chance.high:.4f} one time in twenty; at least "
        f"what was gained, {100 * chance.share:.1f} % of the time."
    ]
    bars = {"gained on held-out": gained, "by chance, mean": chance.mean, "by chance, 95 %": chance.high}
    if has_value(run.soup[test]) and has_value(run.best[test]):
        bars["gained on test"] = run.sign * (float(run.soup[test]) - float(run.best[test]))
        said.append("Test data says what is left of it where nothing was chosen.")
    else:
        said.append(f"Only a test split (task.data.test) can say how much of it is left: {heldout} cannot.")
    figure = charts.bars_figure("gains", bars, "single")
    return Section("How far the selection may have flattered", said, [figure])


def _costs(run: Run) -> Section | None:
    scored = run.of("score")
    if not scored:
        return None
    examples = sum(number for event in scored if not event["cached"] for _, number in event["parts"].values())
    cached = sum(number for event in scored if event["cached"] for _, number in event["parts"].values())
    merged = run.steps[(run.steps["stage"] == "merge") & (run.steps["examples_total"] > 0)]
    spared = int((merged["examples_total"] - merged["examples_scored"])[~merged["cached"].astype(bool)].sum())
    seconds = {
        "merging and filling": sum(float(event["merge_seconds"]) for event in scored),
        "forward passes and metric": sum(
            float(event["eval_seconds"]) for event in scored if not event["cached"]
        ),
    }
    said = [
        f"{examples} examples went through a model. Early stopping spared {max(spared, 0)} more in the merge "
        f"stage, and {cached} were known from the cache."
    ]
    if (gib := run.events[-1].get("peak_device_gib")) is not None:
        said.append(f"At most {gib:.2f} GiB were taken on the device.")
    return Section("Where the time went", said, [charts.bars_figure("seconds", seconds, "single", " s")])


def _recipe(run: Run) -> Section | None:
    texts = [Text(name, text) for name in (RECIPE, MERGEKIT) if (text := run.text(name))]
    if not texts:
        return None
    return Section("The recipe", ["The first makes the soup again without scoring anything."], texts=texts)


def _environment(run: Run) -> Section:
    versions = pd.DataFrame(
        {"package": list(run.events[0]["versions"]), "version": list(run.events[0]["versions"].values())}
    )
    texts = [Text(CONFIG, text)] if (text := run.text(CONFIG)) else []
    return Section("The environment", (), (), [Table("Packages", versions, "package", folded=True)], texts)
