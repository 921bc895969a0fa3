#!/usr/bin/env python
"""Writes docs/api.md: what Python code may use, from signatures and docstrings.

    python scripts/write_api.py            writes it
    python scripts/write_api.py --check    fails where it is not what the sources say

Sources are read, not imported, so it needs neither torch nor transformers.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator

from docstrings import ROOT, Documented, definitions, find, paragraph, write

PAGE = ROOT / "docs" / "api.md"
PACKAGE = ROOT / "soupkitchen"
HEAD = """\
# Python API

`scripts/write_api.py` writes this page from signatures and docstrings; change those.

```python
from soupkitchen import cook, methods, tasks

result = cook("runs/*", tasks.text_classification("reviews"), methods.ties(density=0.3), base="model")
result.leaderboard  # and result.trajectory: pandas
result.recipe  # what the soup is made of, as data; result.folder has the files
model = result.model()
```

What is imported from `soupkitchen` itself costs nothing until it is used. The classes of options (`Runtime`,
`Output`, …) are described on the [page of options](options.md#classes).
"""
SECTIONS = {
    "Cooking": (
        "soupkitchen.experiment.cook",
        "soupkitchen.experiment.Result",
        "soupkitchen.experiment.Experiment",
        "soupkitchen.soup.Recipe",
    ),
    "Pools": ("soupkitchen.checkpoints.find_pool", "soupkitchen.checkpoints.Pool"),
    "How it runs": (
        "soupkitchen.evaluation.Runtime",
        "soupkitchen.evaluation.EvaluationOptions",
        "soupkitchen.output.Output",
    ),
    "Merge methods of your own": (
        "soupkitchen.merging.Method",
        "soupkitchen.merging.MergeMethod",
        "soupkitchen.merging.StackMethod",
        "soupkitchen.merging.Origin",
        "soupkitchen.merging.Vector",
    ),
    "Tasks of your own": ("soupkitchen.tasks.Task", "soupkitchen.metrics.TaskMetric"),
    "Searches of your own": (
        "soupkitchen.search.Search",
        "soupkitchen.search.Guarded",
        "soupkitchen.search.Ranked",
        "soupkitchen.search.Mixture",
        "soupkitchen.search.Proposal",
        "soupkitchen.search.Choice",
        "soupkitchen.search.Trial",
        "soupkitchen.search.Facts",
    ),
    "Executors of your own": (
        "soupkitchen.executors.Executor",
        "soupkitchen.executors.Request",
        "soupkitchen.executors.Scoring",
    ),
}
PRESETS = {
    "Methods by name": (
        "soupkitchen.methods",
        PACKAGE / "methods.pyi",
        "A function for each file of `conf/method/`.",
    ),
    "Tasks by name": (
        "soupkitchen.tasks",
        PACKAGE / "tasks" / "__init__.pyi",
        "A function for each file of `conf/task/`.",
    ),
}


def told(documented: Documented) -> Iterator[str]:
    """A class or function under a heading of its own."""
    yield from (
        f"### {documented.name.replace('.experiment.', '.')}",
        "",
        "```python",
        documented.signature,
        "```",
        "",
    )
    if text := documented.text:
        yield from (paragraph(text), "")
    if isinstance(documented.node, ast.ClassDef):
        for member in documented.members():
            yield from (
                f"#### {documented.short}.{member.short}",
                "",
                "```python",
                member.signature,
                "```",
                "",
            )
            yield from (paragraph(member.text), "")


def errors() -> Iterator[str]:
    """What is raised on purpose."""
    yield from (
        "## Errors",
        "",
        "All of them are in `soupkitchen.errors`, and `SoupkitchenError` is the root.",
        "",
    )
    yield from ("| error | what |", "|---|---|")
    for name, node in definitions(PACKAGE / "errors.py").items():
        summary = Documented(name, node).text.split("\n\n")[0].replace("\n", " ")
        yield f"| `{name}` | {summary} |"
    yield ""


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for title, names in SECTIONS.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += told(find(name))
        if title == "Cooking":
            for group, (module, file, what) in PRESETS.items():
                lines += [f"## {group}", "", what, ""]
                for node in definitions(file).values():
                    lines += told(Documented(f"{module}.{node.name}", node))
    return "\n".join([*lines, *errors()]).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.parse_args()
    write(PAGE, page())


if __name__ == "__main__":
    main()
