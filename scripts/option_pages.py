"""A hook of `mkdocs build`: adds all options to their page, and to the API's the classes that take them.

A default and its comment are the YAML's; what an option may be is the annotation of what takes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from soupkitchen.options.building import named
from soupkitchen.options.files import CONF, options_by_target, written
from soupkitchen.options.kinds import TopLevel, hints_of, says

GROUPS = {
    "pool": "The runs.",
    "model": "What the runs are models of.",
    "task": 'What "good" means: data, columns, splits, metric.',
    "method": "How runs are merged.",
    "search": "Which soups are tried, and which stay.",
    "evaluation": "How models are scored.",
    "output": "How the soup is saved.",
    "runtime": "Device, memory, batches, workers, seed.",
    "executor": "Who scores candidates.",
    "report": "What people look at.",
    "experiment": "Ready-made combinations and sweeps. They set options of the groups above.",
    "hydra/launcher": "Where jobs of a sweep run, beside Hydra's own, `joblib` and `submitit_slurm`.",
    "hydra/sweeper": "Who makes the jobs of a sweep, beside Hydra's own and `optuna`.",
}


class Line(NamedTuple):
    """An option as a YAML has it: its default as it is written there, and the comment behind or above it."""

    default: str
    comment: str


def lines_of(file: Path) -> dict[str, Line]:
    """The options of a file by dotted key, after those of the files that it takes in."""
    lines: dict[str, Line] = {}
    for entry in written(file).get("defaults", []) if file.parent.parent == CONF else []:
        if isinstance(entry, str) and entry != "_self_":
            name = f"{entry.split('@')[0]}.yaml"
            lines |= lines_of(CONF / name[1:] if name.startswith("/") else file.parent / name)
    above: list[tuple[int, str]] = []
    remarks: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"( *)([\w.]+):(?: (.*?))??(?: # (.*))?", line):
            above = [*(key for key in above if key[0] < len(match[1])), (len(match[1]), match[2])]
            key = ".".join(name for _, name in above)
            inherited = lines[key].comment if key in lines else ""
            lines[key] = Line(match[3] or "", match[4] or " ".join(remarks) or inherited)
        remarks = [*remarks, line.removeprefix("#").strip()] if line.startswith("#") else []
    return lines


def table(lines: Mapping[str, Line], group: str, elsewhere: Mapping[str, Line]) -> Iterator[str]:
    """The table of a file's options, without those that stand `elsewhere`."""
    rows = []
    for key, line in lines.items():
        above, _, name = key.rpartition(".")
        is_group = any(other.startswith(f"{key}.") for other in lines)
        if (
            line == elsewhere.get(key)
            or is_group
            or name == "_target_"
            or key.startswith(("defaults", "hydra"))
        ):
            continue
        target = lines.get(f"{above}._target_".lstrip("."))
        takes: Any = named(target.default) if target else TopLevel
        hint = hints_of(takes).get(name) if target or not group else None
        default = f"`{line.default}`" if line.default not in ("", "???") else ""
        cells = (f"`{f'{group}.{key}'.lstrip('.')}`", default, says(hint) if hint else "", line.comment)
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |")
    if rows:
        yield from ("| option | default | may be | what |", "|---|---|---|---|", *rows, "")


def options() -> Iterator[str]:
    """The sections of the page of options."""
    shared = lines_of(CONF / "shared" / "scored.yaml")
    yield from ("", "## Top level", "", *table(lines_of(CONF / "config.yaml"), "", {}))
    for group, what in GROUPS.items():
        yield from (f"## {group}", "", what, "")
        if group == "task":
            yield from ("### Data and metric", "", "What most tasks share.", "", *table(shared, group, {}))
        for file in sorted((CONF / group).glob("*.yaml")):
            text = file.read_text(encoding="utf-8").splitlines()
            head = [line[1:].strip() for line in takewhile(lambda line: line.startswith("#"), text)]
            yield from (
                f"### {group}={file.stem}",
                "",
                *(h for h in head if not h.startswith("@package")),
                "",
            )
            lines = lines_of(file)
            yield from table(lines, group.replace("/", "."), shared if group == "task" else {})
            if group == "task" and "data.seed" in lines:
                yield from ("And those of [data and metric](#data-and-metric).", "")
            takes = [line.default for key, line in lines.items() if key.endswith("_target_")]
            if takes := [target for target in takes if target.startswith("soupkitchen.")]:
                yield from (f"Given to {', '.join(f'[`{t}`][{t}]' for t in dict.fromkeys(takes))}.", "")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adds what follows from the sources to a page, before mkdocs makes HTML of it."""
    if page.file.src_uri == "options.md":
        return "\n".join([markdown, *options()])
    if page.file.src_uri == "api.md":
        targets = sorted(target for target in options_by_target() if target.startswith("soupkitchen."))
        missing = [
            f"::: {target}\n    options:\n      members: []\n"
            for target in targets
            if f"::: {target}\n" not in markdown
        ]
        return "\n".join([markdown, *missing])
    return markdown
