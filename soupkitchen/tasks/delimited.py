"""Reads .csv and .tsv files whole or not at all: a row is never swallowed, moved or made up.

The encoding, the delimiter and whether quotes are text are found by a look at the file, and the log says what
was found. All cells are read as texts first; a column becomes numbers only if all of its cells are such.
"""

from __future__ import annotations

import codecs
import csv
import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from soupkitchen.errors import DataError
from soupkitchen.store.documents import open_regular
from soupkitchen.store.files import write
from soupkitchen.tasks.local_files import cache_folder
from soupkitchen.tasks.quotes import BREAKS, look

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv")

_FORMAT = 1
"""If you change what is made of a file, increase this: what was made of it before is kept."""
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}
"""By suffix, the usual one first."""
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by the bytes that a file in them begins with; UTF-32's before UTF-16's, which begin alike."""
_BLOCK = 1 << 20
_SURROGATE, _NOT_ASCII = re.compile("[\ud800-\udfff]"), re.compile("[^\0-\x7f\ud800-\udfff]")
_EXACT = 2.0**53
"""Larger whole numbers than this a float does not tell apart."""


def load(files: Sequence[Path]) -> datasets.Dataset:
    """The rows of `files`, one after the other, from the copy that is kept if the files are as they were.

    Raises:
        DataError: if a file cannot be read without a doubt; the message names it and the line.
    """
    folder = Path(cache_folder(files) or "")
    kept = folder / f"table-{_FORMAT}.arrow"
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        read = [_read(file) for file in files]
        table = _typed(_joined([one for one, _ in read], files))
        said = "\n".join(words for _, words in read if words)
        table = table.replace_schema_metadata({"said": said})

        def fill(beside: Path) -> None:
            with pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)

        write(kept, fill)
    with pa.memory_map(str(kept)) as source:
        for words in pa.ipc.open_stream(source).schema.metadata[b"said"].decode().splitlines():
            _say(words)
    return datasets.Dataset.from_file(str(kept))


@cache
def _say(words: str) -> None:
    log.log(logging.WARNING if "cp1252" in words else logging.INFO, words)


def _joined(tables: Sequence[pa.Table], files: Sequence[Path]) -> pa.Table:
    first = tables[0].column_names
    for table, file in zip(tables, files, strict=True):
        if set(table.column_names) != set(first):
            raise DataError(
                f"its files differ in columns: {files[0]} has {', '.join(first)}, {file} "
                f"{', '.join(table.column_names)}"
            )
    return pa.concat_tables([table.select(first) for table in tables])


def _read(file: Path) -> tuple[pa.Table, str]:
    """The cells of a file as texts, empty ones null, and what the log is to say of how it was read."""
    content, encoding = _as_utf8(file)
    content = content.slice(len(match[0]) if (match := BREAKS.match(content)) else 0)
    if not len(content):
        raise DataError(f"{file} is empty: it has no line; fill it, or leave it out")
    break_ = BREAKS.search(content)
    first_line = break_.end() if break_ else len(content)
    header = bytes(content.slice(0, first_line)).decode()
    delimiters = _DELIMITERS[file.suffix.lower()]
    usual, cells = delimiters[0], {one: len(next(csv.reader([header], delimiter=one))) for one in delimiters}
    delimiter = usual if cells[usual] > 1 else max(cells, key=lambda one: cells[one])
    found = look(content, delimiter)
    if (wrong := found.wrong(delimiter, cells[delimiter])) is not None:
        raise DataError(
            f"{file}: the quotes of line {_line_of(content, wrong)} do not balance, so where its cells end "
            'is in doubt; double the quotes inside of a quoted cell ("say ""hi"""), or save the data as '
            ".jsonl or .parquet"
        )
    ways = found.ways(delimiter)
    for is_quoted in ways:
        end = found.first_record if is_quoted else first_line
        names = _names(file, bytes(content.slice(0, end)).decode().rstrip("\r\n"), delimiter, is_quoted)
        try:
            table = _parsed(content.slice(end), names, delimiter, is_quoted)
        except pa.ArrowInvalid as error:
            if is_quoted is ways[-1]:
                why = _ragged(content, delimiter, is_quoted, len(names)) or str(error)
                raise DataError(f"{file}: {why}") from error
            continue
        break
    if table.num_rows != (rows := (found.records if is_quoted else found.lines) - 1):
        raise DataError(f"{file}: {table.num_rows} of {rows} rows were read; save it as .jsonl or .parquet")
    told = [f"read as {encoding}"] * (encoding != "utf-8")
    told += [f"its cells are separated by {delimiter!r}"] * (delimiter != usual)
    told += ["quotes in it are text, and quote no cells"] * (not is_quoted)
    return table, f"{file}: {', '.join(told)}" if told else ""


def _parsed(content: pa.Buffer, names: list[str], delimiter: str, is_quoted: bool) -> pa.Table:
    return arrow_csv.read_csv(
        pa.BufferReader(content if len(content) else b"\n"),
        arrow_csv.ReadOptions(column_names=names),
        arrow_csv.ParseOptions(
            delimiter=delimiter, quote_char='"' if is_quoted else False, newlines_in_values=is_quoted
        ),
        arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    )


def _as_utf8(file: Path) -> tuple[pa.Buffer, str]:
    """The content of a file in UTF-8, without a mark, and the encoding that it is in."""
    with open_regular(file, DataError) as handle:
        head = handle.read(4)
    if not head:
        raise DataError(f"{file} is empty: it has 0 bytes; fill it, or leave it out")
    mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
    encoding = _MARKS.get(mark, "utf-8")
    if not mark and head[1:2] == b"\0":
        encoding = "utf-16-le"
    elif not mark and head[:1] == b"\0":
        encoding = "utf-16-be"
    content = pa.memory_map(str(file)).read_buffer().slice(len(mark) if encoding == "utf-8" else 0)
    if encoding == "utf-8":
        if _is_utf8(content):
            return content, encoding
        escaped = bytes(content).decode(errors="surrogateescape")
        if (found := _NOT_ASCII.search(escaped)) is not None:
            wrong = _SURROGATE.search(escaped)
            line = 1 + escaped.count("\n", 0, wrong.start() if wrong else 0)
            raise DataError(
                f"{file}: line {line} is not UTF-8, though there is {found[0]!r} in UTF-8 elsewhere; save it "
                "in UTF-8"
            )
        encoding = "cp1252"
    try:
        decoded = bytes(content).decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text in UTF-8 or {encoding} ({error}); save it in UTF-8") from error
    return pa.py_buffer(decoded.encode()), encoding


def _is_utf8(content: pa.Buffer) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), _BLOCK):
            decoder.decode(bytes(content.slice(start, min(_BLOCK, len(content) - start))))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _names(file: Path, header: str, delimiter: str, is_quoted: bool) -> list[str]:
    cells = next(csv.reader([header], delimiter=delimiter), []) if is_quoted else header.split(delimiter)
    names = [name.strip() or f"Unnamed: {number}" for number, name in enumerate(cells)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{file} has two columns called {twice[0]!r}; give them different names")
    return names


def _ragged(content: pa.Buffer, delimiter: str, is_quoted: bool, columns: int) -> str | None:
    """What is said of the first row that has another number of cells than the header."""
    lines = bytes(content).decode(errors="replace").splitlines(keepends=True)
    rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE)
    begun = 1
    for row in rows:
        if row and len(row) != columns:
            return (
                f"line {begun} has {len(row)} cell{'s' * (len(row) != 1)}, and the header {columns} "
                f"(separated by {delimiter!r}); put it right"
            )
        begun = rows.line_num + 1
    return None


def _line_of(content: pa.Buffer, place: int) -> int:
    return 1 + len(re.findall(rb"\r\n|\r|\n", content.slice(0, place)))


def _typed(table: pa.Table) -> pa.Table:
    columns = [_as_numbers(column) for column in table.columns]
    return pa.table(columns, names=table.column_names)


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts as whole numbers, floats or booleans if all cells are such; else as it is.

    Texts that a number would not give back stay texts: 007, nan, whole numbers of 17 digits and more.
    """
    if column.null_count == len(column):
        return column
    trimmed = pc.utf8_trim_whitespace(column)
    try:
        whole = trimmed.cast(pa.int64())
        return whole if pc.all(pc.equal(whole.cast(pa.string()), trimmed)).as_py() else column
    except pa.ArrowInvalid:
        pass
    try:
        floats = trimmed.cast(pa.float64())
        return floats if pc.all(pc.less(pc.abs(floats), _EXACT)).as_py() else column
    except pa.ArrowInvalid:
        pass
    lower = pc.utf8_lower(trimmed)
    is_boolean = pc.is_in(lower, pa.array(["true", "false", None]))
    return pc.equal(lower, "true") if pc.all(is_boolean).as_py() else column
