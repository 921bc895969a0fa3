"""Writes the stubs that tell type checkers and editors of the presets, from their YAMLs and classes.

    python scripts/write_stubs.py            writes them
    python scripts/write_stubs.py --check    fails where they are not what the YAMLs say

A parameter's name, default and meaning are the YAML's; its type is that which the class or function that
`_target_` names gives it.
"""

from __future__ import annotations

import argparse
import collections.abc
import json
import sys
import textwrap
import types
import typing
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import soupkitchen
from soupkitchen import tasks
from soupkitchen.options import presets
from soupkitchen.options.building import TARGET, named

PACKAGE = Path(soupkitchen.__file__).parent
STUBS = {"method": PACKAGE / "methods.pyi", "task": PACKAGE / "tasks" / "__init__.pyi"}
WIDTH = 110


class Names:
    """What a stub imports, by module."""

    def __init__(self) -> None:
        self.modules: dict[str, set[str]] = defaultdict(set)

    def of(self, thing: Any) -> str:
        """The name of a class, to be imported."""
        if thing.__module__ != "builtins":
            module = "pathlib" if thing is Path else thing.__module__
            self.modules[module].add(thing.__name__)
        return thing.__name__

    def typed(self, hint: Any) -> str:
        """A type as it is written."""
        if hint in (None, type(None)):
            return "None"
        if hint is ...:
            return "..."
        if hint is Any:
            self.modules["typing"].add("Any")
            return "Any"
        origin, parts = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Literal:
            self.modules["typing"].add("Literal")
            return f"Literal[{', '.join(map(json.dumps, parts))}]"
        if origin in (typing.Union, types.UnionType):
            return " | ".join(map(self.typed, sorted(parts, key=lambda part: part is type(None))))
        if origin is not None:
            return f"{self.of(origin)}[{', '.join(map(self.typed, parts))}]"
        return self.of(hint)

    def lines(self) -> list[str]:
        """The imports: the standard library's, then ours."""
        ours = sorted(module for module in self.modules if module.startswith("soupkitchen"))
        others = sorted(self.modules.keys() - set(ours))
        told = {
            module: f"from {module} import {', '.join(sorted(self.modules[module]))}"
            for module in self.modules
        }
        return [*(told[module] for module in others), "", *(told[module] for module in ours)]


def stub(group: str) -> str:
    """The stub of all presets of a group."""
    used, exported = Names(), list(presets.names(group))
    functions = [line for name in exported for line in function(group, name, used)]
    if group == "task":
        classes: Mapping[str, str] = vars(tasks)["CLASSES"]
        for name, module in classes.items():
            used.modules[f"soupkitchen.tasks.{module}"].add(name)
        exported = [*classes, *exported]
    listed = [f"    {json.dumps(name)}," for name in sorted(exported)]
    head = f"# Written by scripts/write_stubs.py from conf/{group}/; change it there."
    return "\n".join([head, "", *used.lines(), "", "__all__ = [", *listed, "]", "", *functions])


def function(group: str, name: str, used: Names) -> list[str]:
    """One preset: its signature, and the YAML's words as its docstring."""
    tree = presets.compose(group, name)
    options = presets.options_of(group, name)
    needed = presets.must_be_given(options)
    parameters = []
    for option in options:
        default = "" if option.required and needed else f" = {written(presets.shown_default(option))}"
        if not option.required and "*" not in parameters:
            parameters.append("*")
        parameters.append(f"{option.name}: {used.typed(hint(tree, option))}{default}")
    made = named(tree[TARGET])
    gives = used.typed(made if isinstance(made, type) else typing.get_type_hints(made)["return"])
    return [
        f"def {name}(",
        *(f"    {parameter}," for parameter in parameters),
        f") -> {gives}:",
        *docstring(presets.documentation(group, name)),
        "",
    ]


def hint(tree: Mapping[str, Any], option: presets.Option) -> Any:
    """What an option may be; a part may be its options by name, and some parts text."""
    for key in option.place[:-1]:
        tree = tree[key]
    kind = typing.get_type_hints(named(tree[TARGET]))[option.name]
    if option.short is not None:
        kind = kind | str
    if isinstance(option.default, Mapping) and TARGET in option.default:
        kind = kind | collections.abc.Mapping[str, Any]
    return kind | Path if "path" in (option.name, option.short) else kind


def written(default: Any) -> str:
    if default is ...:
        return "..."
    return json.dumps(default) if isinstance(default, str) else repr(default)


def docstring(text: str) -> list[str]:
    """A docstring's lines, within the width of a line."""
    prefix = 'r"""' if "\\" in text else '"""'
    lines = []
    for line in (prefix + text).splitlines():
        indent = "        " if line.startswith("    ") else "    "
        below = f"{indent}    " if line.startswith("    ") else indent
        lines += textwrap.wrap(
            line.strip(),
            WIDTH,
            initial_indent=indent,
            subsequent_indent=below,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return [*lines, '    """']


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    changed = []
    for group, file in STUBS.items():
        text = stub(group)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            changed.append(str(file.relative_to(PACKAGE.parent)))
            if not check:
                file.write_text(text, encoding="utf-8")
    if changed and check:
        sys.exit(f"{', '.join(changed)}: not what the YAMLs say; run scripts/write_stubs.py")


if __name__ == "__main__":
    main()
