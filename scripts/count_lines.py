"""Counts lines of code: without docstrings, comments and blank lines.

python scripts/count_lines.py                 soupkitchen/ by package, then tests/ and scripts/
python scripts/count_lines.py FOLDER ...
"""

from __future__ import annotations

import ast
import sys
import tokenize
from collections import defaultdict
from pathlib import Path

_ASIDE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(file: Path) -> int:
    """Counts the lines of a file that hold code."""
    with file.open("rb") as source:
        tokens = [token for token in tokenize.tokenize(source.readline) if token.type not in _ASIDE]
    lines = {number for token in tokens for number in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(file.read_bytes())):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def main() -> None:
    for folder in map(Path, sys.argv[1:] or ("soupkitchen", "tests", "scripts")):
        counts = {file: code_lines(file) for file in sorted(folder.rglob("*.py"))}
        parts: defaultdict[str, list[int]] = defaultdict(list)
        for file, number in counts.items():
            parts[file.relative_to(folder).parts[0]].append(number)
        if len(parts) < len(counts):
            for part, numbers in sorted(parts.items(), key=lambda item: -sum(item[1])):
                print(f"  {sum(numbers):6,d}  {len(numbers):3d} files  {part}")
        longest = max(counts, key=lambda file: counts[file])
        total = sum(counts.values())
        print(f"{folder}: {total:,d} lines of code in {len(counts)} files")
        print(f"  longest {longest} ({counts[longest]})")


if __name__ == "__main__":
    main()
