"""Images and recordings: columns of files, or of their bytes, that are prepared once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import AutoProcessor, PreTrainedModel

from soupkitchen.errors import CheckpointError, DataError
from soupkitchen.tasks.base import Processor, Task, check_vocabulary, load_with
from soupkitchen.tasks.cells import check_filled, first_line, row_of
from soupkitchen.tasks.data import folders_of
from soupkitchen.tasks.files import stamp

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""One of these lies beside each image processor and feature extractor."""


class ImageTask(Task):
    """A task with a column of images: `datasets.Image`, or the paths of files."""

    processor_files = PROCESSOR_FILES
    image: str

    def compared(self, split: Dataset) -> Dataset:
        return undecoded(self, split, "image", datasets.Image, "images")

    def prepared_images(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        """The image processor's tensors of the images in `compared`, as far as the model takes them.

        Raises:
            DataError: naming the row of an image that is missing or cannot be read.
        """
        check_filled(split, "task.image", self.image)
        options = {"processor": processor, "taken": tuple(signature(model.forward).parameters)}
        return prepared_once(split, self.image, _pixels, options, folder="images", batch_size=64)


def load_both(folder: str, trust_remote_code: bool, part: str) -> Processor:
    """A processor of a tokenizer and of `part`, "image_processor" or "feature_extractor".

    Raises:
        CheckpointError: if the checkpoint `folder` has none.
    """
    what, remedy = part.replace("_", " "), "install what they lack, or copy the base model's files there"
    processor = load_with(AutoProcessor, folder, trust_remote_code, f"{what} and tokenizer", remedy)
    if not hasattr(processor, part) or getattr(processor, "tokenizer", None) is None:
        raise CheckpointError(
            f"{folder} has files of a {type(processor).__name__}, where {what} and tokenizer are needed; "
            "copy those of the base model there"
        )
    check_vocabulary(processor.tokenizer, folder)
    return processor


def undecoded(task: Task, split: Dataset, option: str, kind: type, what: str) -> Dataset:
    """The split with a column of files that are not decoded; relative paths become those of files.

    Args:
        option: names the column.
        kind: `datasets.Image` or `datasets.Audio`.
        what: the kind in words.

    Raises:
        DataError: if the column holds something else.
    """
    column = getattr(task, option)
    paths = split.data.column(column)
    if pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type):
        split = _with_whole_paths(split, column, folders_of(task.data))
    try:
        return split.cast_column(column, kind(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"task.{option}={column}: the column holds no {what} ({first_line(error)}); it should hold "
            f"{what}, or the paths of their files"
        ) from error


def _with_whole_paths(split: Dataset, column: str, folders: list[Path]) -> Dataset:
    """The split with each path of a column as it is found in `folders`; rows keep their numbers."""

    def whole(path: str | None) -> str | None:
        return path and next((str(f / path) for f in folders if (f / path).is_file()), path)

    paths = [whole(path) for path in split.data.column(column).to_pylist()]
    place = split.data.column_names.index(column)
    made = Dataset(
        split.data.table.set_column(place, column, pa.array(paths, pa.string())),
        info=datasets.DatasetInfo(
            features=datasets.Features({**split.features, column: datasets.Value("string")})
        ),
        fingerprint=Hasher.hash((split._fingerprint, column, paths)),
    )
    return made if split._indices is None else made.select(split._indices.column(0).to_pylist())


def prepared_once(
    split: Dataset,
    column: str,
    prepare: Callable[..., dict[str, Any]],
    options: Mapping[str, Any],
    *,
    folder: str,
    batch_size: int,
) -> Dataset:
    """The columns that `prepare` makes of one column, `batch_size` examples at once.

    They are kept in the cache of `datasets`, unless the files change.

    Args:
        prepare: takes lists of values by column, and the numbers of these examples; then, by name, `column`,
            `rows` (their numbers in the source) and `options`.
        folder: in that cache.
    """
    arguments = {"column": column, "rows": [row_of(split, number) for number in range(len(split))], **options}
    digest = Hasher.hash((split._fingerprint, arguments, stamp(_files(split, column))))
    kept = Path(datasets.config.HF_DATASETS_CACHE) / "soupkitchen" / folder  # and not beside the data
    kept.mkdir(parents=True, exist_ok=True)
    return split.map(
        prepare,
        batched=True,
        with_indices=True,
        batch_size=batch_size,
        writer_batch_size=batch_size,
        remove_columns=split.column_names,
        fn_kwargs=arguments,
        cache_file_name=str(kept / f"{digest}.arrow"),
        new_fingerprint=digest,
    )


def _files(split: Dataset, column: str) -> list[str]:
    """The files that a column names, and the tables that hold it, without `datasets`' own copies."""
    cache = datasets.config.HF_DATASETS_CACHE
    tables = [file["filename"] for file in split.cache_files]
    files = [file for file in tables if not Path(file).is_relative_to(cache)]
    if isinstance(split.features[column], (datasets.Image, datasets.Audio)):
        for part in split.select_columns([column]).with_format("arrow").iter(batch_size=1000):
            files += [value["path"] for value in part[column].to_pylist() if value and value["path"]]
    return files


def _pixels(
    examples: dict[str, list[Any]],
    numbers: list[int],
    column: str,
    rows: list[int],
    processor: Processor,
    taken: tuple[str, ...],
) -> dict[str, Any]:
    """The processor's tensors of images, as far as the model takes them (`taken`)."""
    pictures = []
    for number, image in zip(numbers, examples[column], strict=True):
        try:
            pictures.append(datasets.Image().decode_example(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise DataError(
                f"task.image={column}: the image of row {rows[number]} ({image['path'] or 'not in a file'}) "
                f"cannot be read ({first_line(error)}); put it right, or leave the row out"
            ) from error
    try:
        tensors = processor(pictures, return_tensors="pt")  # timm's gives nothing else
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"task.image={column}: {type(processor).__name__} cannot prepare rows {rows[numbers[0]]} to "
            f"{rows[numbers[-1]]} as one batch ({first_line(error)}); images of one size may help"
        ) from error
    if inputs := {name: np.asarray(value) for name, value in tensors.items() if name in taken}:
        return inputs
    raise DataError(
        f"{type(processor).__name__} gives {', '.join(tensors)}, of which the model takes none (it takes "
        f"{', '.join(taken)}): the image processor is not the model's"
    )
