"""Images and sounds: columns of files, or of their bytes, that are prepared once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.fingerprint import Hasher

from soupkitchen.errors import DataError
from soupkitchen.tasks.data import first_line
from soupkitchen.tasks.local_files import stamp
from soupkitchen.tasks.values import row_of


def undecoded(
    split: datasets.Dataset, option: str, column: str, kind: type, what: str, folders: Sequence[Path]
) -> datasets.Dataset:
    """The split with a column of files as such, and not yet decoded: what makes two examples the same.

    Args:
        option: what names the column.
        kind: `datasets.Image` or `datasets.Audio`.
        what: what the column should hold, in words.
        folders: where relative paths are looked for; what is in none of them stays as it is.

    Raises:
        DataError: where it holds something else.
    """
    if isinstance(split.features[column], datasets.Value):
        split = _with_whole_paths(split, column, folders)
    try:
        return split.cast_column(column, kind(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{option}={column}: the column holds no {what} ({first_line(error)}); it should hold {what}, or "
            "the paths of their files"
        ) from error


def _with_whole_paths(split: datasets.Dataset, column: str, folders: Sequence[Path]) -> datasets.Dataset:
    """The split with the paths of a column of texts, of any type that Arrow has, as they are found."""
    paths = split.data.column(column)
    if not (pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)):
        return split
    whole = [path and _found(path, folders) for path in paths.to_pylist()]
    place = split.data.column_names.index(column)
    table = split.data.table.set_column(place, column, pa.array(whole, pa.string()))
    features = datasets.Features({**split.features, column: datasets.Value("string")})
    made = datasets.Dataset(
        table,
        info=datasets.DatasetInfo(features=features),
        fingerprint=Hasher.hash((split._fingerprint, column, whole)),
    )
    rows = getattr(split, "_indices", None)
    return made if rows is None else made.select(rows.column(0).to_pylist())


def _found(path: str, folders: Sequence[Path]) -> str:
    return next((str(folder / path) for folder in folders if (folder / path).is_file()), path)


def prepared_once(
    split: datasets.Dataset,
    column: str,
    prepare: Callable[..., dict[str, Any]],
    options: Mapping[str, Any],
    *,
    folder: str,
    batch_size: int,
) -> datasets.Dataset:
    """What `prepare` makes of a column, `batch_size` examples at once, and nothing else.

    It is kept in the cache of `datasets`, where the same is not prepared again.

    Args:
        prepare: takes lists of values by column, and the numbers of these examples; then, by name, `column`,
            `rows` (their numbers in the source), `files` (another text if a file has changed), and `options`.
        folder: where in that cache.
    """
    told = {
        "column": column,
        "rows": [row_of(split, number) for number in range(len(split))],
        "files": stamp(_files(split, column)),
        **options,
    }
    kept = Path(datasets.config.HF_DATASETS_CACHE) / "soupkitchen" / folder  # and not beside the data
    kept.mkdir(parents=True, exist_ok=True)
    digest = Hasher.hash((split._fingerprint, told))
    return split.map(
        prepare,
        batched=True,
        with_indices=True,
        batch_size=batch_size,
        writer_batch_size=batch_size,
        remove_columns=split.column_names,
        fn_kwargs=told,
        cache_file_name=str(kept / f"{digest}.arrow"),
    )


def _files(split: datasets.Dataset, column: str) -> list[str]:
    """The files that a column names, or the table that holds them, but for `datasets`' own copies."""
    tables = [Path(file["filename"]) for file in split.cache_files]
    inside = [str(file) for file in tables if not file.is_relative_to(datasets.config.HF_DATASETS_CACHE)]
    if not isinstance(split.features[column], (datasets.Image, datasets.Audio)):
        return inside
    table = split.select_columns([column]).with_format("arrow")
    values = (value for part in table.iter(batch_size=1000) for value in part[column].to_pylist())
    return [*inside, *(value["path"] for value in values if value is not None and value["path"] is not None)]
