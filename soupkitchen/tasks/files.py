"""Local files of data: which there are, whether they changed, what two splits have in common; and tables.

`datasets` keeps what it has read of a file, and takes it for the same file as long as its time of
modification is. Copying and unpacking set that time at will; they cannot set the time of the file's own
last change (ctime).

.csv and .tsv files are read whole or not at all: a row is never swallowed, moved or made up. The encoding,
the delimiter and whether quotes are text are found by a look at the file, and the log says what was found.
All cells are read as texts first; a column becomes numbers only if all of its cells are such.
"""

from __future__ import annotations

import codecs
import csv
import glob
import io
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset

from soupkitchen.errors import DataError
from soupkitchen.store.files import open_regular, write

_TICK_SECONDS = 2.0
"""A second change this soon may not show in a file's times."""
log = logging.getLogger(__name__)
DELIMITED = (".csv", ".tsv")
_FORMAT = 2
"""If you change the parsing, increase this: tables are cached."""
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}
"""By suffix, the usual one first."""
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by byte order mark; UTF-32's before UTF-16's, which begin alike."""
_EXACT = 2.0**53
"""Floats cannot tell larger whole numbers apart."""


def local_files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """The files at `paths`, in folders there and by globs, in order."""
    for path in paths:
        named = Path(path).expanduser()
        for match in [named] if named.exists() else map(Path, sorted(glob.glob(str(named)))):
            if not match.is_dir():
                yield match
                continue
            seen: set[str] = set()
            for folder, folders, names in os.walk(match, followlinks=True):
                real = os.path.realpath(folder)
                folders[:] = [] if real in seen else sorted(folders)  # links may lead in circles
                seen.add(real)
                yield from (Path(folder, name) for name in sorted(names))


def stamp(files: Iterable[str | Path]) -> str:
    """A digest of paths, sizes and times; it changes if a file does."""
    state, now = xxhash.xxh3_128(), time.time()
    for file in files:
        try:
            stat = Path(file).stat()
        except OSError:
            state.update(f"{file} is not there\n".encode())
            continue
        changed = stat.st_mtime_ns, stat.st_ctime_ns
        state.update(f"{Path(file).absolute()} {stat.st_size} {stat.st_ino} {changed}\n".encode())
        if now - max(changed) / 1e9 < _TICK_SECONDS and Path(file).is_file():
            state.update(Path(file).read_bytes())
    return state.hexdigest()


def cache_folder(paths: Iterable[str | Path]) -> str | None:
    """The folder for `datasets`' copy of these files as they are; None if none is local."""
    files = list(local_files(paths))
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "soupkitchen" / stamp(files)) if files else None


def count_overlap(first: Dataset, second: Dataset, columns: Sequence[str]) -> int:
    """The number of examples of `second` that are in `first`, too, by `columns`.

    Rows are compared by digests; images and sounds by their files' bytes, read only if sizes are equal.
    """
    media = (datasets.Image, datasets.Audio)
    stored = [c for c in columns if all(isinstance(split.features[c], media) for split in (first, second))]
    sizes = {column: {_size(row[0]) for row in _rows(second, [column])} for column in stored}

    def compared(column: str, value: Any) -> Any:
        if column not in stored or value is None:
            return value
        size = _size(value)
        return (size, content_of(value)) if size in sizes[column] else ("of another size", size)

    wanted = Counter(_digests(second, columns, compared))
    common = {digest for digest in _digests(first, columns, compared) if digest in wanted}
    return sum(wanted[digest] for digest in common)


def _digests(split: Dataset, columns: Sequence[str], compared: Callable[[str, Any], Any]) -> Iterator[bytes]:
    for row in _rows(split, columns):
        content = tuple(compared(column, value) for column, value in zip(columns, row, strict=True))
        yield xxhash.xxh3_128_digest(repr(content).encode(errors="surrogatepass"))


def _rows(split: Dataset, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for table in split.select_columns(list(columns)).with_format("arrow").iter(batch_size=1000):
        yield from zip(*(table[column].to_pylist() for column in columns), strict=True)


def _size(file: dict[str, Any] | None) -> int | None:
    """The number of bytes of an image or a sound, or None."""
    if file is None:
        return None
    try:
        return len(file["bytes"]) if file["bytes"] is not None else Path(file["path"]).stat().st_size
    except OSError:
        return None


def content_of(file: dict[str, Any]) -> bytes | str:
    """A digest of an image's or a sound's bytes, or else its path."""
    try:
        content = file["bytes"] if file["bytes"] is not None else Path(file["path"]).read_bytes()
    except OSError:
        return str(file["path"])
    return xxhash.xxh3_128_digest(content)


csv.field_size_limit(1 << 30)  # Python's own limit is 131,072 letters, and a text may be longer


# Tables of text


class _QuotesError(ValueError):
    """The quotes in the line with this number do not balance."""


def load_delimited(files: Sequence[Path]) -> Dataset:
    """The rows of `files`, one after the other, from the copy that is kept if the files are as they were.

    Raises:
        DataError: if a file cannot be read without a doubt; the message names it and the line.
    """
    folder = Path(cache_folder(files) or "")
    kept = folder / f"table-{_FORMAT}.arrow"
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        tables, notes = zip(*map(_read, files), strict=True)
        table = _joined(tables, files)
        table = pa.table([_as_numbers(column) for column in table.columns], names=table.column_names)
        table = table.replace_schema_metadata({"notes": "\n".join(filter(None, notes))})

        def fill(beside: Path) -> None:
            with pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)

        write(kept, fill)
    with pa.memory_map(str(kept)) as source:
        for note in pa.ipc.open_stream(source).schema.metadata[b"notes"].decode().splitlines():
            _say_once(note)
    return Dataset.from_file(str(kept))


@cache
def _say_once(note: str) -> None:
    log.log(logging.WARNING if "cp1252" in note else logging.INFO, note)


def _joined(tables: Sequence[pa.Table], files: Sequence[Path]) -> pa.Table:
    columns = tables[0].column_names
    for table, file in zip(tables, files, strict=True):
        if set(table.column_names) != set(columns):
            raise DataError(
                f"its files differ in columns: {files[0]} has {', '.join(columns)}, {file} "
                f"{', '.join(table.column_names)}"
            )
    return pa.concat_tables([table.select(columns) for table in tables])


def _read(file: Path) -> tuple[pa.Table, str]:
    """The cells of a file as text or null, and a note for the log."""
    text, encoding = _decoded(file)
    if not (header := _first_line(text)):
        raise DataError(f"{file} is empty: it has no line; fill it, or leave it out")
    delimiters = _DELIMITERS[file.suffix.lower()]
    cells = {delimiter: len(next(csv.reader([header], delimiter=delimiter))) for delimiter in delimiters}
    usual = delimiters[0]
    delimiter = usual if cells[usual] > 1 else max(delimiters, key=lambda delimiter: cells[delimiter])
    try:
        ways = _ways(text) if delimiter == "\t" else (True,)
        for is_quoted in ways:
            try:
                table = _parsed(file, text, delimiter, is_quoted)
                break
            except DataError:
                if is_quoted is ways[-1]:
                    raise
    except _QuotesError as error:
        raise DataError(
            f"{file}: the quotes of line {error} do not balance, so where its cells end is in doubt; double "
            'the quotes inside of a quoted cell ("say ""hi"""), or save the data as .jsonl or .parquet'
        ) from error
    notes = [f"read as {encoding}"] * (encoding != "utf-8")
    notes += [f"its cells are separated by {delimiter!r}"] * (delimiter != usual)
    notes += ["quotes in it are text, and quote no cells"] * (not is_quoted)
    return table, f"{file}: {', '.join(notes)}" if notes else ""


def _ways(text: str) -> tuple[bool, ...]:
    """True if quotes in a file with tabs enclose cells, False if they are text; both if in doubt.

    MRPC, QNLI and others have tabs and no quoting. Quotes enclose cells if a quoted cell has doubled quotes,
    but no tab or line break; if the header begins with a quoted cell; or if exactly the cells with commas are
    quoted, as in Excel. If in doubt, the rows' lengths decide.

    Raises:
        _QuotesError: if a quote has no such origin, or a line may be half a cell.
    """
    pattern = r'(?<![^\r\n\t])"([^"]*(?:""[^"]*)*)"(?![^\r\n\t])|"'
    matches = list(re.finditer(pattern, text.lstrip("\r\n")))
    cells = [match for match in matches if match[1] is not None]
    stray = next((match for match in matches if match[1] is None), None)
    is_quoted = any(
        match.start() == 0 or ('""' in match[1] and not re.search("[\r\n\t]", match[1])) for match in cells
    )
    if cells and not stray:
        commas = [match[1].count(",") for match in cells]
        is_quoted |= 0 not in commas and sum(commas) == text.count(",")
    spanning = next((match for match in cells if re.search("[\r\n]", match[1])), None)
    wrong = stray if is_quoted else spanning if not stray and "\t" not in _first_line(text) else None
    if wrong is not None:
        before = text[: wrong.start() + len(text) - len(text.lstrip("\r\n"))]
        raise _QuotesError(1 + len(re.findall("\r\n|\r|\n", before)))
    if is_quoted or not matches:
        return (True,)
    return (False,) if stray else (False, True)


def _first_line(text: str) -> str:
    return re.split("[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]


def _parsed(file: Path, text: str, delimiter: str, is_quoted: bool) -> pa.Table:
    """The cells of a text.

    Raises:
        DataError: if a row differs from the header in length, or two columns share a name.
    """
    rows = _rows_of_text(text, delimiter, is_quoted)
    _, header = next(rows)
    names = [name.strip() or f"Unnamed: {number}" for number, name in enumerate(header)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{file} has two columns called {twice[0]!r}; give them different names")
    schema, batches = pa.schema([(name, pa.string()) for name in names]), []
    while batch := list(islice(rows, 10_000)):
        for line, row in batch:
            if len(row) != len(names):
                raise DataError(
                    f"{file}: line {line} has {len(row)} cell{'s' * (len(row) != 1)}, and the header "
                    f"{len(names)} (separated by {delimiter!r}); put it right"
                )
        columns = zip(*(row for _, row in batch), strict=True)
        batches.append(pa.record_batch([[cell or None for cell in column] for column in columns], schema))
    return pa.Table.from_batches(batches, schema)


def _rows_of_text(text: str, delimiter: str, is_quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the line in which it begins.

    Raises:
        _QuotesError: if a quoted cell does not end, or goes on after its last quote.
    """
    lines = io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8", newline="")  # StringIO has 4 bytes a letter
    quoting: Any = csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE
    rows, line = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True), 1
    try:
        for row in rows:
            if row:
                yield line, row
            line = rows.line_num + 1
    except csv.Error as error:
        raise _QuotesError(line) from error


def _decoded(file: Path) -> tuple[str, str]:
    with open_regular(file, DataError) as handle:
        content = handle.read()
    if not content:
        raise DataError(f"{file} is empty: it has 0 bytes; fill it, or leave it out")
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    encoding = _MARKS.get(mark, "utf-8")
    if not mark and b"\0" in content[:2]:
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    if encoding == "utf-8":
        try:
            return content[len(mark) :].decode(), encoding
        except UnicodeDecodeError as error:
            wrong = error.start
        if (letter := re.search("[^\0-\x7f]", content.decode(errors="ignore"))) is not None:
            line = 1 + content.count(b"\n", 0, wrong + len(mark))
            raise DataError(
                f"{file}: line {line} is not UTF-8, though there is {letter[0]!r} in UTF-8 elsewhere; save "
                "it in UTF-8"
            )
        encoding = "cp1252"
    try:
        return content.decode(encoding), encoding
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text in UTF-8 or {encoding} ({error}); save it in UTF-8") from error


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as whole numbers, floats or booleans if all cells are.

    Text that a number would not give back stays text: 007, nan, too many digits.
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
