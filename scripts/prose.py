"""Refuses sentences that are hard to read, in docstrings and in the docs; `scripts/check` runs it.

    python scripts/prose.py            says file, line and what is refused; ends with 1 if anything is

The rule: the first sentence says with a verb and a noun what the thing does or is, a condition begins with
"if", and a relative clause never stands for a noun.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

OPENERS = re.compile(
    r"(What|Whether|Whoever|Whatever|Whose|Where|How|Which|That of|That which|Those (of|that|who)"
    r"|Of (a|the|such|what)|Not that|Nobody|Such|As (a|the|it|what))\b"
)
"""No docstring begins with these."""
PHRASES = re.compile(
    r"\b(of such|of those that|whoever|that of the (last|first|others?)|nobody wants"
    r"|what is (told|kept|held|drawn|asked|found|known|said)|what it is known by)\b",
    re.IGNORECASE,
)
"""No docstring and no page holds these."""


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the line and text of each docstring of a file, attributes' included."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value


def faults() -> Iterator[str]:
    """Yields what is refused, with file and line."""
    for folder in ("soupkitchen", "hydra_plugins", "scripts"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            place = file.relative_to(ROOT)
            for line, text in docstrings(file):
                if match := OPENERS.match(text):
                    yield f"{place}:{line}: begin with a verb or a noun, not with {match[0]!r}"
                for match in PHRASES.finditer(text):
                    number = line + text[: match.start()].count("\n")
                    yield f"{place}:{number}: say the noun instead of {match[0]!r}"
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for number, words in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            for match in PHRASES.finditer(words):
                yield f"{file.relative_to(ROOT)}:{number}: say the noun instead of {match[0]!r}"


def main() -> None:
    found = list(faults())
    print("\n".join(found))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
