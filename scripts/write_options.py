#!/usr/bin/env python
"""Writes docs/options.md: every option, from the YAMLs of conf/, what each may be, and docstrings.

    python scripts/write_options.py            writes it
    python scripts/write_options.py --check    fails where it is not what the sources say

A default and what it means are the YAML's; what it may be is a line of `soupkitchen/options/kinds.py`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from docstrings import ROOT, find, paragraph, write

from soupkitchen.options.kinds import KINDS

CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "options.md"
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
SHARED = "Data and metric"
HEAD = """\
# Every option

`scripts/write_options.py` writes this page from `conf/`, `soupkitchen/options/kinds.py` and docstrings.

`GROUP=CHOICE` takes a file of `conf/`: `method=ties`. `GROUP.OPTION=VALUE` changes one option of it:
`method.sparsifier.density=0.3`. `python -m soupkitchen --help` prints the options with the values that they
have after what you gave. A wrong name or value is refused before anything is loaded.

In the tables, an option without a default has to be given. `null` is YAML's word for None, and `${…}` refers
to another option.
"""


@dataclass(frozen=True)
class Line:
    """An option as a YAML has it.

    Attributes:
        default: as it is written there.
        comment: what stands behind it, or above it.
    """

    default: str
    comment: str


def lines_of(file: Path) -> dict[str, Line]:
    """The options of a file, by dotted key, those of the files that it takes in first."""
    found: dict[str, Line] = {}
    own: dict[str, Line] = {}
    above: list[tuple[int, str]] = []
    remarks: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"( *)- (/?\w[\w/@.]*)", line):
            found |= included(match[2], file)
        elif match := re.fullmatch(r"( *)([\w.]+):(?: (.*?))??(?: # (.*))?", line):
            above = [*(key for key in above if key[0] < len(match[1])), (len(match[1]), match[2])]
            key = ".".join(name for _, name in above)
            own[key] = Line(match[3] or "", match[4] or " ".join(remarks))
            remarks = []
        elif line.startswith("#"):
            remarks.append(line.removeprefix("#").strip())
        else:
            remarks = []
    return {**found, **{key: _over(found.get(key), line) for key, line in own.items()}}


def _over(before: Line | None, after: Line) -> Line:
    return Line(after.default, after.comment or (before.comment if before else ""))


def included(entry: str, file: Path) -> dict[str, Line]:
    """What an entry of a defaults list takes in: a file of the folder, or one of conf/shared."""
    name = entry.split("@")[0]
    if name == "_self_" or "experiment" in file.parts or file.parent == CONF:
        return {}
    taken = CONF / f"{name}.yaml" if name.startswith("/") else file.with_name(f"{name}.yaml")
    return lines_of(CONF / f"{name.strip('/')}.yaml" if name.startswith("/") else taken)


def rows(lines: Mapping[str, Line], group: str, but: Mapping[str, Line]) -> Iterator[str]:
    """The options of a file as rows of a table, `but` those that are told elsewhere."""
    for key, line in lines.items():
        if line == but.get(key):
            continue
        above, _, name = key.rpartition(".")
        if name == "_target_" or key.split(".")[0] in ("defaults", "hydra"):
            continue
        if f"{key}._target_" in lines or any(other.startswith(f"{key}.") for other in lines):
            continue
        target = lines.get(f"{above}._target_" if above else "_target_", Line("" if group == "" else "-", ""))
        kind = KINDS.get(target.default, {}).get(name)
        dotted = f"{group}.{key}" if group else key
        default = "" if line.default == "???" else f"`{line.default}`" if line.default else ""
        cells = (f"`{dotted}`", default, kind.says if kind else "", line.comment)
        yield f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |"


def table(lines: Mapping[str, Line], group: str, but: Mapping[str, Line] | None = None) -> list[str]:
    told = list(rows(lines, group, but or {}))
    return ["| option | default | may be | what |", "|---|---|---|---|", *told, ""] if told else []


def targets(lines: Mapping[str, Line]) -> list[str]:
    """The classes and functions that a file's options are given to."""
    return [line.default for key, line in lines.items() if key.split(".")[-1] == "_target_"]


def head_of(file: Path) -> str:
    """The comment that a file begins with."""
    text = file.read_text(encoding="utf-8").splitlines()
    head = [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), text)]
    return "\n".join(line for line in head if not line.startswith("@package")).replace("<", "&lt;")


@cache
def anchor(target: str) -> str:
    return f"[`{target}`](#{re.sub('[^a-z_]', '', target.lower())})"


@cache
def shared() -> dict[str, Line]:
    """What most tasks have alike, told once."""
    return lines_of(CONF / "shared" / "scored.yaml")


def choice(group: str, file: Path) -> list[str]:
    lines = lines_of(file)
    told = [f"### {group}={file.stem}", "", paragraph(head_of(file)), ""]
    told += table(lines, group.replace("/", "."), shared() if group == "task" else None)
    if group == "task" and "data.seed" in lines:
        which = "data and metric" if "metric.key" in lines else "data"
        told += [f"And [those of {which}](#{SHARED.lower().replace(' ', '-')}).", ""]
    if made := targets(lines):
        told += [f"Given to {', '.join(dict.fromkeys(map(anchor, made)))}.", ""]
    return told


def page() -> str:
    """The whole page."""
    told = [HEAD, "## Top level", "", *table(lines_of(CONF / "config.yaml"), "")]
    used: dict[str, None] = {}
    for group, what in GROUPS.items():
        told += [f"## {group}", "", what, ""]
        if group == "task":
            told += [f"### {SHARED}", "", "What most tasks share.", "", *table(shared(), group)]
        for file in sorted((CONF / group).glob("*.yaml")):
            told += choice(group, file)
            used |= dict.fromkeys(targets(lines_of(file)))
    told += ["## Classes", "", "What options are given to, as their docstrings have it.", ""]
    for target in sorted(used):
        told += [f"### {target}", "", paragraph(find(target).text), ""]
    return "\n".join(told).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.parse_args()
    write(PAGE, page())


if __name__ == "__main__":
    main()
