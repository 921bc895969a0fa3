"""Signatures and docstrings of our code as Markdown, read from the sources: nothing is imported.

`write_options.py` and `write_api.py` use it.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Definition = ast.ClassDef | ast.FunctionDef
_SECTIONS = ("Args", "Attributes", "Raises", "Returns")
_WIDTH = 88


@dataclass(frozen=True)
class Documented:
    """A class or a function with its words.

    Attributes:
        name: where users import it from, dotted.
        node: its definition.
    """

    name: str
    node: Definition

    @property
    def short(self) -> str:
        """The last part of the name."""
        return self.node.name

    @property
    def text(self) -> str:
        """Its docstring as Markdown."""
        return markdown(ast.get_docstring(self.node) or "")

    @property
    def signature(self) -> str:
        """How it is called; of a class its fields, or what its `__init__` takes."""
        if isinstance(self.node, ast.FunctionDef):
            gives = ast.unparse(self.node.returns) if self.node.returns else ""
            if self.is_property:
                return f"{self.short}: {gives}"
            given = [one for one in _parameters(self.node.args) if one not in ("self", "cls")]
            return _call(self.short, given, f" -> {gives}" if gives else "")
        for node in self.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return _call(self.short, _parameters(node.args)[1:])
        return _call(self.short, list(self._fields())) if self.is_dataclass else f"class {self.short}"

    @property
    def is_dataclass(self) -> bool:
        """Whether its fields are what it is made of."""
        assert isinstance(self.node, ast.ClassDef)
        made = [ast.unparse(decorator) for decorator in self.node.decorator_list]
        bases = [ast.unparse(base) for base in self.node.bases]
        return any(name.startswith("dataclass") for name in made) or "NamedTuple" in bases

    def members(self) -> Iterator[Documented]:
        """Its public methods and properties that have a docstring of their own."""
        assert isinstance(self.node, ast.ClassDef)
        for node in self.node.body:
            if (
                isinstance(node, ast.FunctionDef)
                and not node.name.startswith("_")
                and ast.get_docstring(node)
            ):
                yield Documented(f"{self.name}.{node.name}", node)

    @property
    def is_property(self) -> bool:
        """Whether it is read and not called."""
        return any("property" in ast.unparse(decorator) for decorator in self.node.decorator_list)

    def _fields(self) -> Iterator[str]:
        for node in self.node.body:
            if isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).startswith("ClassVar"):
                yield ast.unparse(node)


@cache
def definitions(file: Path) -> dict[str, Definition]:
    """What a file defines on its top level, by name."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


def find(name: str) -> Documented:
    """What is called so, wherever below the module that the name begins with it is defined.

    Raises:
        LookupError: where nothing is, or several things are.
    """
    module, _, short = name.rpartition(".")
    place = ROOT / module.replace(".", "/")
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    found = {file: definitions(file)[short] for file in files if short in definitions(file)}
    if len(found) != 1:
        raise LookupError(f"{len(found)} files of {place} define {short}")
    return Documented(name, *found.values())


def markdown(docstring: str) -> str:
    """A docstring in Google's style as Markdown: sections become lists."""
    lines: list[str] = []
    section = None
    for line in docstring.splitlines():
        if line.rstrip(":") in _SECTIONS and line.endswith(":"):
            section = line.rstrip(":")
            lines += [f"**{section}**", ""]
        elif section and line.startswith("    ") and not line.startswith("     "):
            name, colon, rest = line.strip().partition(":")
            lines.append(f"- `{name}`:{rest}" if colon and section != "Returns" else f"- {line.strip()}")
        elif section and line.startswith("     "):
            lines[-1] += f" {line.strip()}"
        else:
            section = section if not line.strip() else None
            lines.append(line)
    return re.sub(r"``(.+?)``", r"`\1`", "\n".join(lines)).strip()


def paragraph(text: str) -> str:
    """Text in lines of a readable width; lists and code stay as they are."""
    as_it_is = ("-", "    ", "|", "`" * 3)
    return "\n\n".join(
        block if block.startswith(as_it_is) else _fill.fill(block) for block in text.split("\n\n")
    )


_fill = textwrap.TextWrapper(110, break_long_words=False, break_on_hyphens=False)


def _parameters(args: ast.arguments) -> list[str]:
    """Each parameter as it is written, with the marks between them."""
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    told = [_parameter(one, default) for one, default in zip(plain, defaults, strict=True)]
    if args.vararg:
        told.append(f"*{_parameter(args.vararg, None)}")
    elif args.kwonlyargs:
        told.append("*")
    told += [_parameter(one, value) for one, value in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return told + ([f"**{_parameter(args.kwarg, None)}"] if args.kwarg else [])


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(one.annotation)}" if one.annotation else ""
    return f"{one.arg}{kind}" + (f" = {ast.unparse(default)}" if default else "")


def _call(name: str, parameters: list[str], gives: str = "") -> str:
    line = f"{name}({', '.join(parameters)}){gives}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){gives}"])


def write(page: Path, text: str) -> None:
    """Writes a page, or with `--check` on the command line ends with what is to be done."""
    if page.exists() and page.read_text(encoding="utf-8") == text:
        return
    if "--check" in sys.argv[1:]:
        sys.exit(f"{page.relative_to(ROOT)} is not what the sources say; run {sys.argv[0]}")
    page.write_text(text, encoding="utf-8")
