"""`report.html` of a run, finished or not, made of its journal; and that of a sweep, made of its table.

A page is sections of sentences, figures, tables and texts, filled into one HTML file. Knows no torch, and
reads no weights.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import jinja2
import numpy as np
import pandas as pd
from annotated_types import MaxLen

from soupkitchen.console import printable
from soupkitchen.errors import ConfigError
from soupkitchen.records import figures
from soupkitchen.records.chance import by_chance
from soupkitchen.records.figures import Figure
from soupkitchen.records.run import Run
from soupkitchen.records.tables import has_value, read_csv, short, tasks_of
from soupkitchen.store.files import open_regular, own, read_json, write, write_text
from soupkitchen.store.folder import CONFIG, JOURNAL, LEADERBOARD, MAP, MERGEKIT, PICTURES, RECIPE, REPORT
from soupkitchen.store.journal import CONTRIBUTION, STEP

log = logging.getLogger(__name__)
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_SHOWN = (
    "step stage candidate decision score score_at_most best_before gain p_value fixed broken soup_size "
    "examples_scored examples_total cached reason"
).split()
_MOST_ON_MAP = 100
"""The most runs on a map, which has a mark for each pair."""
_MARK = b'<meta name="generator" content="soupkitchen">'
_KIND = ["task", "data", "metric"]
_NO_OPTIONS = {"rank", "run", *_KIND}


@dataclass(frozen=True)
class Table:
    """A table, closed until a click if `folded`."""

    caption: str
    frame: pd.DataFrame
    folded: bool = True

    @cached_property
    def columns(self) -> list[tuple[str, bool]]:
        numeric = pd.api.types.is_numeric_dtype
        return [(printable(str(name)), numeric(self.frame[name])) for name in self.frame.columns]

    @property
    def rows(self) -> list[tuple[list[str], bool]]:
        return [
            ([_cell(value) for value in row.values()], row.get("kind") == "soup")
            for row in self.frame.to_dict("records")
        ]


@dataclass(frozen=True)
class Text:
    name: str
    content: str


@dataclass(frozen=True)
class Section:
    title: str
    sentences: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    texts: Sequence[Text] = ()


def html(
    title: str,
    sentences: Sequence[str],
    sections: Sequence[Section],
    footer: str,
    cards: Sequence[tuple[str, str]] = (),
) -> str:
    """The page in one file, which loads nothing else.

    Args:
        cards: key figures, and their labels.
    """
    return _TEMPLATES.get_template("report.html.jinja").render(
        title=printable(title),
        sentences=[printable(sentence) for sentence in sentences],
        cards=cards,
        sections=sections,
        footer=footer,
    )


def _cell(value: Any) -> str:
    if not has_value(value):
        return "–"
    return short(value) if isinstance(value, float) else printable(str(value))


def write_report(folder: Path) -> list[Path]:
    """Writes the report of the run in `folder`, and its trajectory's picture.

    Raises:
        JournalError: if the journal is missing or damaged.
        OSError: if writing fails.
    """
    run = Run(folder)
    write_text(folder / REPORT, page(run))
    png, svg = (folder / name for name in PICTURES)
    write(png, lambda beside: beside.write_bytes(run.figure.png()))
    write_text(svg, run.figure.picture())
    return [folder / REPORT, png, svg]


def page(run: Run) -> str:
    sections = [section for part in _PARTS if (section := part(run))]
    version = run.events[0].get("versions", {}).get("soupkitchen", "")
    source = f"Made of {run.folder.name}/{JOURNAL}; python -m soupkitchen.report makes it again."
    title, footer = f"Soup of {run.folder.name}", f"soupkitchen {version}. {source}"
    return html(title, _sentences(run), sections, footer, _cards(run))


def _sentences(run: Run) -> list[str]:
    outcome = run.outcome
    if outcome is None:
        ranked = int((run.steps["stage"] == "rank").sum())
        return [f"This run is not finished: {len(run.steps)} steps so far, {ranked} of them rankings."]
    size, name = len(outcome.ingredients), outcome.best["model"]
    soup, best = (short(row[f"heldout_{run.metric}"]) for row in (outcome.soup, outcome.best))
    if outcome.gain <= 0 and size == 1:
        sentence = f"No run improved on the best single one, {name}: the soup is that run. That is normal."
    else:
        sentence = (
            f"The soup of {size} runs scores {soup} ({run.metric}, held-out); the best single run, "
            f"{name}, scores {best}."
        )
    if test := outcome.test_scores:
        soup, best = map(short, test)
        return [sentence, f"On test data, which decided nothing: {soup} against {best}."]
    return [sentence, "There was no test data: held-out decided, so its scores flatter the soup somewhat."]


def _cards(run: Run) -> list[tuple[str, str]]:
    if run.outcome is None:
        return []
    soup = run.outcome.soup
    heldout, test = soup[f"heldout_{run.metric}"], soup[f"test_{run.metric}"]
    cards = [(short(heldout), f"{run.metric}, held-out")]
    if has_value(soup["ci_low"]):
        cards.append((f"{short(soup['ci_low'])} to {short(soup['ci_high'])}", "95 % interval"))
    if has_value(test):
        cards.append((short(test), f"{run.metric}, test"))
    cards.append((f"{run.outcome.gain:+.4f}", "better than the best single run"))
    size = f"{len(run.outcome.ingredients)} of {len(run.events[0]['runs'])}"
    return [*cards, (size, "runs are in the soup")]


def _trajectory(run: Run) -> Section | None:
    if run.steps.empty:
        return None
    sentence = (
        "Rings are runs by themselves, filled dots what was kept, crosses what was discarded; grey bars are "
        "the 95 % intervals of a candidate's gain. A candidate that could not be kept any more was not "
        "scored to the end: it is drawn where it could be at most."
    )
    table = run.steps[run.steps["split"] == "heldout"][_SHOWN].dropna(axis=1, how="all")
    sentences, merged = [sentence], run.steps[run.steps["stage"] == "merge"]
    if below := int(((merged["decision"] == "discard") & (merged["reason"] != "")).sum()):
        sentences.append(
            f"A floor discarded {below} of the candidates, whatever they gained: column reason says which."
        )
    return Section("Step by step", sentences, [run.figure], [Table("Every step", table)])


def _models(run: Run) -> Section | None:
    if run.models is None:
        return None
    figure = figures.models_figure(run.models, run.metric)
    table = Table("Every model, best first", run.models.dropna(axis=1, how="all"))
    sentences = ["Filled: held-out, with its 95 % interval. Hollow: test."]
    partial = run.steps[(run.steps["stage"] == "rank") & (run.steps["stopped_by"] == "confidence")]
    if len(partial):
        sentences.append(
            "Partial: a run that fell out of the ranking, with a score that follows from its difference to "
            f"the best run on the examples that both have. In this race {partial['reason'].iloc[0]}."
        )
    return Section("Every model", sentences, [figure], [table])


def _tasks(run: Run) -> Section | None:
    columns = tasks_of(run.events)
    if not columns or run.outcome is None:
        return None
    models = (("soup", run.outcome.soup), ("best single run", run.outcome.best))
    shown = []
    for task in columns:
        bars = {
            f"{name} ({split})": float(row[f"{split}_{task}"])
            for split in ("heldout", "test")
            for name, row in models
            if has_value(row.get(f"{split}_{task}"))
        }
        shown.append(figures.bars_figure(task, bars))
    return Section("Task by task", [f"From above: {', '.join(columns)}."], shown)


def _contributions(run: Run) -> Section | None:
    contributions = run.of(CONTRIBUTION)
    if not contributions or run.outcome is None:
        return None
    whole = run.sign * float(run.outcome.soup[f"heldout_{run.metric}"])
    bars = {str(event["ingredient"]): whole - float(event["score"]) for event in contributions}
    sentence = (
        "What the soup loses on held-out without each of its ingredients, merged by the same method. Below 0 "
        "it would be better without."
    )
    figure = figures.bars_figure("loss without it", bars)
    return Section("What each ingredient is worth", [sentence], [figure])


def _chance(run: Run) -> Section | None:
    if run.outcome is None:
        return None
    steps, gain = run.steps, run.outcome.gain
    counted = steps[(steps["stage"] == "merge") & steps["gain"].notna() & steps["fixed"].notna()]
    gains = (counted["fixed"] - counted["broken"]).astype(float) / counted["examples_total"].astype(float)
    binary = len(counted) > 0 and np.allclose(counted["gain"].astype(float), gains, atol=1e-9)
    choices = [event.get("choice") or f"step {number}" for number, event in enumerate(run.of(STEP))]
    most, single = run.events[0].get("best"), float(run.outcome.best[f"heldout_{run.metric}"])
    left = math.inf if most is None else float(most) - run.sign * single
    chance = by_chance(steps.assign(choice=choices), gain, binary, left)
    if chance is None:
        return None
    sentences = [
        f"On held-out, which decided, the soup gained {gain:+.4f}. If none of the {chance.candidates} "
        "candidates were any better than the soup before it, choosing what seems better would still seem to "
        f"gain {chance.mean:.4f} on average, and more than {chance.high:.4f} one time in twenty; at least "
        f"what was gained, {100 * chance.share:.1f} % of the time."
    ]
    bars = {"gained on held-out": gain, "by chance, mean": chance.mean, "by chance, 95 %": chance.high}
    if test := run.outcome.test_scores:
        bars["gained on test"] = run.sign * (test[0] - test[1])
        sentences.append("Test data says what is left of it where nothing was chosen.")
    else:
        heldout = f"heldout_{run.metric}"
        sentences.append(
            f"Only a test split (task.data.test) can say how much of it is left: {heldout} cannot."
        )
    figure = figures.bars_figure("gains", bars, "single")
    return Section("How far the selection may have flattered", sentences, [figure])


@dataclass(frozen=True)
class _Map:
    names: list[Annotated[str, MaxLen(255)]]
    gram: list[list[float]]
    soup: str | None
    base: bool


def map_section(run: Run) -> Section | None:
    file, title = run.folder / MAP, "The pool's map"
    if not os.path.lexists(file):
        return None
    try:
        record = read_json(own(file), _Map)
    except ConfigError as error:
        return Section(title, [str(error)])
    names = record.names
    if len(names) > _MOST_ON_MAP:
        return Section(title, [f"{len(names)} runs are more than the {_MOST_ON_MAP} that a map can show."])
    if [len(row) for row in record.gram] != [len(names)] * len(names):
        return Section(title, [f"{file} has other rows than names."])
    gram = np.asarray(record.gram, dtype=float)
    if len(names) < 2 or not np.isfinite(gram).all() or (gram.diagonal() < 0).any():
        return None
    lengths = np.sqrt(np.diag(gram))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.nan_to_num(gram / np.outer(lengths, lengths))
    center = np.eye(len(names)) - 1.0 / len(names)
    values, vectors = np.linalg.eigh(center @ gram @ center)
    values = np.maximum(values[::-1], 0.0)
    points = vectors[:, ::-1][:, :2] * np.sqrt(values[:2])
    share = 100 * float(values[:2].sum() / max(values.sum(), 1e-30))
    inside = run.outcome.ingredients if run.outcome else ()
    since = "the base" if record.base else "the mean of the runs, as no base is known"
    sentence = (
        f"How alike the runs' task vectors are: cosines of what fine-tuning changed since {since}. Below, "
        f"the plane in which they differ most, by PCA of task vectors: {share:.0f} % of their variance."
    )
    plane = figures.plane_figure(names, points, inside, record.soup)
    return Section(title, [sentence], [figures.cosines_figure(names, cosines), plane])


def _costs(run: Run) -> Section | None:
    if not run.of("score"):
        return None
    costs = run.costs
    merged = run.steps[(run.steps["stage"] == "merge") & (run.steps["examples_total"] > 0)]
    spared = int((merged["examples_total"] - merged["examples_scored"])[~merged["cached"].astype(bool)].sum())
    sentences = [
        f"{costs.examples_scored} examples went through a model. Early stopping spared {max(spared, 0)} more "
        f"in the merge stage, and {costs.examples_cached} were known from the cache."
    ]
    if costs.peak_device_gib is not None:
        sentences.append(f"At most {costs.peak_device_gib:.2f} GiB were taken on the device.")
    seconds = {
        "merging and filling": costs.merge_seconds or 0.0,
        "forward passes and metric": costs.eval_seconds or 0.0,
    }
    figure = figures.bars_figure("seconds", seconds, "single", " s")
    return Section("Where the time went", sentences, [figure])


def _recipe(run: Run) -> Section | None:
    texts = [Text(name, text) for name in (RECIPE, MERGEKIT) if (text := run.text(name))]
    sentence = "The first makes the soup again without scoring anything."
    return Section("The recipe", [sentence], texts=texts) if texts else None


def _environment(run: Run) -> Section:
    versions = pd.DataFrame(run.events[0]["versions"].items(), columns=["package", "version"])
    texts = [Text(CONFIG, text)] if (text := run.text(CONFIG)) else []
    return Section("The environment", tables=[Table("Packages", versions)], texts=texts)


_PARTS = (_trajectory, _models, _tasks, _contributions, _chance, map_section, _costs, _recipe, _environment)


def write_sweep_report(folder: Path) -> Path | None:
    """Writes the report of the runs below `folder`; None if it has no table, or another's report.

    Raises:
        ConfigError: if the table is damaged.
        OSError: if writing fails.
    """
    table, file = folder / LEADERBOARD, folder / REPORT
    if not table.is_file():
        return None
    if os.path.lexists(file) and not _is_ours(file):
        log.warning("%s is not ours, and stays as it is", file)
        return None
    runs = read_csv(table)
    kinds = runs.groupby(_KIND, sort=True)  # scores of other tasks, data and metrics are no better or worse
    sections = [_kind_of_runs(group, *map(str, kind)) for kind, group in kinds]
    sentence = f"{len(runs)} finished runs. What stands side by side was scored on the same data and metric."
    footer = f"soupkitchen. Made of {folder.name}/{LEADERBOARD}."
    write_text(file, html(f"All runs in {folder.name}", [sentence], sections, footer))
    return file


def _is_ours(file: Path) -> bool:
    try:
        with open_regular(own(file)) as handle:
            return _MARK in handle.read(2000)
    except ConfigError:
        return False


def _kind_of_runs(group: pd.DataFrame, task: str, data: str, metric: str) -> Section:
    group = group.dropna(axis=1, how="all").sort_values("rank")
    title, table = f"{metric}: {task}, {data}", Table("Best first", group, folded=False)
    columns, score = list(group.columns), f"heldout_{metric}"
    if len(group) < 2 or score not in columns:
        return Section(title, tables=[table])
    rows: Sequence[Mapping[Any, Any]] = group.to_dict("records")
    before = columns[: columns.index("model") if "model" in columns else None]
    options = [name for name in before if name not in _NO_OPTIONS and group[name].nunique() > 1]
    shown = [figures.parallel_figure(rows, options[:8], score)]
    if "examples_scored" in columns:
        titles = ("examples scored", f"{metric}, held-out")
        shown.append(figures.scatter_figure(rows, "examples_scored", score, titles))
    sentence = "Each line is a run, from what it was told to what came of it; the thick one is the best."
    return Section(title, [sentence], shown, [table])
