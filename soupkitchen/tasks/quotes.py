"""Tells quotes that quote cells from quotes that are text, in .csv and .tsv files."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

BREAKS = re.compile(rb"[\r\n]+")
_BLOCK = 1 << 20


@dataclass
class Quotes:
    """What a look at all quotes of a file tells.

    Attributes:
        number: how many cells are in quotes, or have a quote in them that is not doubled.
        records, lines: how many there are, but for empty lines: a quoted cell may hold line breaks.
        first_record: where the header ends, in bytes.
        unclosed: where the first quote is that begins a cell and does not end it.
        stray: where the first quote is that no program would have written that quotes cells.
        spanning: where the first cell in quotes is that has a line break.
        of_a_writer: whether a cell in quotes has doubled quotes, and neither delimiter nor line break; or the
            header begins with a cell in quotes; or all cells with a comma are in quotes, and no others, as
            Excel has it.
    """

    number: int = 0
    records: int = 0
    lines: int = 0
    first_record: int = 0
    unclosed: int | None = None
    stray: int | None = None
    spanning: int | None = None
    of_a_writer: bool = False

    def wrong(self, delimiter: str, columns: int) -> int | None:
        """Where a quote is that makes it doubtful what is a cell; with tabs, quotes may be text."""
        if delimiter != "\t":
            return self.unclosed
        if self.of_a_writer:
            return self.stray
        return self.spanning if columns == 1 and self.stray is None else None

    def ways(self, delimiter: str) -> tuple[bool, ...]:
        """Whether quotes quote cells, or are text; both where the first is right that gives regular rows.

        MRPC, QNLI and others are published with tabs and without quoting.
        """
        if delimiter != "\t" or not self.number or self.of_a_writer:
            return (True,)
        return (False,) if self.stray is not None else (False, True)


def look(content: pa.Buffer, delimiter: str) -> Quotes:
    """Finds the quotes and the lines of a file in UTF-8; slow only if quotes may be text."""
    ends = rb"\r\n" + re.escape(delimiter.encode())
    quoted = rb'"(?<![^%b]")([^"]*+(?:""[^"]*+)*+)"(?![^%b])' % (ends, ends)
    view = memoryview(content)
    has_quotes = re.search(b'"', view) is not None
    regular = re.match(rb'(?:[^"]++|%b)*+' % quoted, view)
    if (has_quotes and delimiter == "\t") or regular is None or regular.end() < len(content):
        return _one_by_one(view, re.compile(rb'%b|([\r\n]+)|"' % quoted), delimiter)
    header = (match for match in re.finditer(rb"%b|([\r\n]+)" % quoted, view) if match[2] is not None)
    end = next((match.end() for match in header), len(content))
    records = _lines_outside_quotes(content)
    return Quotes(int(has_quotes), records, records, end)


def _lines_outside_quotes(content: pa.Buffer) -> int:
    """How many lines a file has, without empty ones and with quoted cells as part of their line."""
    data, lines, inside, after_break = np.frombuffer(content, np.uint8), 0, 0, True
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        quotes = np.bitwise_xor.accumulate((block == ord('"')).view(np.uint8)) ^ inside
        is_break = ((block == ord("\n")) | (block == ord("\r"))) & (quotes == 0)
        begins = ~is_break
        begins[1:] &= is_break[:-1]
        begins[0] &= after_break
        lines += int(begins.sum())
        inside, after_break = quotes[-1], is_break[-1]
    return lines


def _one_by_one(view: memoryview, pattern: re.Pattern[bytes], delimiter: str) -> Quotes:
    found, end, commas, without = Quotes(), 0, 0, False
    for match in pattern.finditer(view):
        if match[2] is not None:
            found.records += match.start() > 0
            found.lines += match.start() > 0
            found.first_record = found.first_record or match.end()
            end = match.end()
            continue
        found.number += 1
        start = match.start()
        if (inside := match[1]) is None:
            found.stray = start if found.stray is None else found.stray
            if found.unclosed is None and (start == 0 or view[start - 1] in delimiter.encode() + b"\r\n"):
                found.unclosed = start
            continue
        breaks = len(BREAKS.findall(inside))
        found.lines += breaks
        if breaks and found.spanning is None:
            found.spanning = start
        is_doubled = not breaks and delimiter.encode() not in inside and b'""' in inside
        found.of_a_writer |= start == 0 or is_doubled
        commas, without = commas + inside.count(b","), without or b"," not in inside
    if end < len(view):
        found.records, found.lines = found.records + 1, found.lines + 1
    found.first_record = found.first_record or len(view)
    if commas and not without and found.stray is None:
        found.of_a_writer |= commas == len(re.findall(b",", view))
    return found
