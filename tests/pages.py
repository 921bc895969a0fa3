"""The README and the pages of docs/, as the tests read them: commands, tables, links, headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = ("python -m", "python scripts/", "torchrun ", "scripts/", "pip install ", "mkdocs ")
"""What inline code begins with that is a command."""
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """A command line that a page shows; what stands for anything ("…") is left out."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    return [body for _, kind, body in _FENCE.findall(page.read_text()) if kind == language]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def commands(page: Path) -> Iterator[Command]:
    """The command lines of a page: all of its shell blocks, and inline code that begins as one."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose(page))]
    inline = len(lines) - len(re.findall(r"`([^`]+)`", prose(page)))
    for number, line in enumerate(lines):
        if number >= inline and not line.startswith(COMMANDS):
            continue
        words = shlex.split(line, comments=True)
        if words:
            yield Command(page.name, tuple(word for word in words if "…" not in word))


def sections(page: Path) -> Iterator[tuple[str, str]]:
    """The parts of a page by heading."""
    title, lines = page.name, []
    for line in _FENCE.sub("", page.read_text()).splitlines():
        if line.startswith("#"):
            yield title, "\n".join(lines)
            title, lines = line.lstrip("# "), []
        lines.append(line)
    yield title, "\n".join(lines)


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables of a text, row by row, the head first."""
    for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]
        yield [rows[0], *rows[2:]]


def has_figures(table: list[list[str]]) -> bool:
    """Tells whether most cells beside the first column are numbers."""
    cells = [cell for row in table[1:] for cell in row[1:] if cell]
    numbers = [cell for cell in cells if re.match(r"[+−-]?\d", cell)]
    return len(numbers) > len(cells) / 2


def anchors(page: Path) -> set[str]:
    """What a link to a part of the page may be called."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[tuple[str, str]]:
    """The links of a page that lead into the repository: a path, empty for the page itself, and an anchor."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [tuple(link.partition("#")[::2]) for link in found if "://" not in link]
