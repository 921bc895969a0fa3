"""Bad inputs: data, labels, tokenizers and metrics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad import Bad

COMMON = ("!", "pool.path=runs/*", "task.data.path=texts", "evaluation.cache=null", "name=x")
JSON = "task.data.path=texts/data.jsonl"
WHOLE = ("task.data.heldout=train", "task.data.test=null")

Spoil = Callable[[Path], None]


def written(name: str, content: str | bytes) -> Spoil:
    """Writes a file of data over what is there."""

    def spoil(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / "texts" / name).write_bytes(data)

    return spoil


def rows(*examples: dict[str, Any]) -> Spoil:
    """Lays examples into texts/data.jsonl."""
    return written("data.jsonl", "\n".join(map(json.dumps, examples)))


def only(name: str, content: str | bytes) -> Spoil:
    """Data in that one file."""

    def spoil(folder: Path) -> None:
        for file in (folder / "texts").iterdir():
            file.unlink()
        written(name, content)(folder)

    return spoil


def without_tokenizers(folder: Path, *, keep: tuple[str, ...] = ()) -> None:
    for run in (folder / "runs").iterdir():
        for file in run.glob("*token*"):
            if file.name not in keep:
                file.unlink()


def broken_tokenizer(folder: Path) -> None:
    for run in (folder / "runs").iterdir():
        (run / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nonsense"}}')


def tokenizer_elsewhere(folder: Path) -> None:
    (folder / "secret.json").write_bytes((folder / "runs/a/tokenizer.json").read_bytes())
    (folder / "runs/a/tokenizer.json").unlink()
    (folder / "runs/a/tokenizer.json").symlink_to(folder / "secret.json")


def other_tokenizers(folder: Path) -> None:
    """Of three runs the first has no tokenizer, and those of the others differ."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "runs/b", folder / "runs/c")
    weights = load_file(folder / "runs/c/model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, folder / "runs/c/model.safetensors", {"format": "pt"})
    without = folder / "runs/a"
    for file in without.glob("*token*"):
        file.unlink()
    file = folder / "runs/c/tokenizer.json"
    file.write_text(file.read_text().replace('"w1"', '"w99"'))


def models(kind: str, *examples: dict[str, Any]) -> Spoil:
    """Two runs of another kind of model in place of the good ones, and these examples."""

    def spoil(folder: Path) -> None:
        import torch
        import transformers
        from tiny import VOCABULARY, shake, tokenizer

        shutil.rmtree(folder / "runs")
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        tokens = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 32}
        encode = tokenizer()
        encode.add_special_tokens({"eos_token": "w59"})
        for seed, name in enumerate(("a", "b")):
            torch.manual_seed(seed)
            if kind == "causal":
                config: Any = transformers.LlamaConfig(num_key_value_heads=1, **size, **tokens)
                model: Any = transformers.LlamaForCausalLM(config)
            elif kind == "seq2seq":
                config = transformers.T5Config(
                    vocab_size=len(VOCABULARY), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
                )
                config.decoder_start_token_id = None
                model = transformers.T5ForConditionalGeneration(config)
            elif kind == "tokens":
                model = transformers.BertForTokenClassification(transformers.BertConfig(**size, **tokens))
            elif kind == "number":
                config = transformers.BertConfig(num_labels=1, **size, **tokens)
                model = transformers.BertForSequenceClassification(config)
            else:
                config = transformers.ViTConfig(image_size=8, patch_size=4, **size)
                model = transformers.ViTForImageClassification(config)
                processor = transformers.ViTImageProcessor(size={"height": 8, "width": 8})
                processor.save_pretrained(folder / "runs" / name)
            shake(model, 0.3)
            model.save_pretrained(folder / "runs" / name)
            if kind != "images":
                encode.save_pretrained(folder / "runs" / name)
        if examples:
            rows(*examples)(folder)

    return spoil


def grading(returned: str, *examples: dict[str, Any]) -> Spoil:
    """Causal models, these examples, and a grader in grading.py that returns the expression."""

    def spoil(folder: Path) -> None:
        models("causal", *examples)(folder)
        (folder / "grading.py").write_text(f"def grade(prompt, answer, row):\n    return {returned}\n")

    return spoil


def images(spoil_one: Callable[[Path], None]) -> Spoil:
    """Runs of a model of images, a list of images, and one of these spoilt: texts/1.png."""

    def spoil(folder: Path) -> None:
        import numpy as np
        from PIL import Image

        models("images")(folder)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3)).astype("uint8")
            Image.fromarray(pixels).save(folder / f"texts/{number}.png")
        rows(*({"image": str(folder / f"texts/{number}.png"), "label": 0} for number in range(3)))(folder)
        spoil_one(folder / "texts/1.png")

    return spoil


def without_image_processors(folder: Path) -> None:
    images(lambda file: None)(folder)
    for file in folder.glob("runs/*/preprocessor_config.json"):
        file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:400])


def on(task: str, *words: str) -> tuple[str, ...]:
    """The words for a task on texts/data.jsonl, all of which decides."""
    return (*COMMON, f"task={task}", JSON, *WHOLE, *words)


def function(source: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "mine.py").write_text(source)

    return spoil


OF_ONES_OWN = (*COMMON, "task=function", "task.model=AutoModelForSequenceClassification")

ROWS = [
    Bad("no such column", ("task.text=body",), ("task.text=body", "it has text, label")),
    # Files
    Bad(
        "csv of no bytes",
        says=("validation.csv is empty", "0 bytes", "fill it"),
        spoil=written("validation.csv", ""),
    ),
    Bad(
        "csv of a header only",
        (JSON.replace("jsonl", "csv"),),
        ("data.csv", "is empty", "fill it"),
        written("data.csv", "text,label\n"),
    ),
    Bad(
        "files of one split with other columns",
        says=("differ in columns", "text, labels", "text, label", "validation-2.csv"),
        spoil=written("validation-2.csv", "text,labels\nw1,apples\n"),
    ),
    Bad(
        "files of one split of other kinds",
        says=("should be of one kind", "validation-2.jsonl"),
        spoil=written("validation-2.jsonl", '{"text": "w1", "label": "apples"}\n'),
    ),
    Bad("a split misspelt", ("task.data.heldout=vald",), ("no split 'vald'", "'train', 'validation'")),
    Bad("a column misspelt", ("task.label=lable",), ("it has text, label", "did you mean label?")),
    Bad(
        "json lines that are no json",
        (JSON,),
        ("data.jsonl", "JSON parse error"),
        written("data.jsonl", "hello\n"),
    ),
    Bad(
        "json lines that break off",
        (JSON,),
        ("data.jsonl", "in row 1"),
        written("data.jsonl", '{"text": "w1", "label": 1}\n{"text":\n'),
    ),
    Bad(
        "a parquet file that is none",
        ("task.data.path=texts/data.parquet",),
        ("data.parquet", "Parquet"),
        written("data.parquet", b"PAR1 and no more"),
    ),
    Bad(
        "csv of which a line is not in UTF-8",
        ("task.data.path=texts/data.csv",),
        ("data.csv", "line 3 is not UTF-8", "save it in UTF-8"),
        written("data.csv", "text,label\ncafé,apples\n".encode() + b"caf\xe9,apples\n"),
    ),
    Bad(
        "a folder without data",
        ("task.data.path=nothing",),
        ("task.data.path=nothing", "should be a folder"),
        lambda folder: (folder / "nothing").mkdir(),
    ),
    Bad("data that is not there", ("task.data.path=texs",), ("task.data.path=texs", "cannot be loaded")),
    Bad(
        "data of an unknown kind",
        ("task.data.path=texts/data.xlsx",),
        ("data.xlsx", ".csv, .tsv"),
        written("data.xlsx", b"PK"),
    ),
    Bad(
        "a file in a mapping that is not there",
        ("task.data.path={validation: texts/nowhere.csv}", "task.data.test=null"),
        ("nowhere.csv is missing",),
    ),
    # Splits
    Bad(
        "no such split",
        ("task.data.heldout=development",),
        ("no split 'development'", "set task.data.heldout", "'train', 'validation'"),
    ),
    Bad("a slice that is none", ("task.data.heldout='train[:x%]'",), ("train[:x%]", "task.data.heldout")),
    Bad(
        "a slice of nothing",
        ("task.data.heldout='train[:0%]'",),
        ("'train[:0%]'", "is empty", "name another"),
    ),
    Bad(
        "only a test split",
        (),
        ("no validation and no training split", "task.data.heldout"),
        only("test.csv", "text,label\nw1,apples\n"),
    ),
    # Cells
    Bad(
        "a text cell that is empty",
        (),
        ("task.text=text", "row 2 is empty", "fill it"),
        written("validation.csv", "text,label\nw1,apples\n,boats\n"),
    ),
    Bad(
        "texts that are numbers",
        ("task.data.path=texts/data.csv", *WHOLE),
        ("task.text=text", "row 1 holds 17", "no text"),
        written("data.csv", "text,label\n17,apples\n18,boats\n"),
    ),
    Bad(
        "one text that is a number",
        (JSON, *WHOLE),
        ("task.text=text", "row 2 holds 5", "no text"),
        rows({"text": "w1", "label": 0}, {"text": 5, "label": 1}),
    ),
    Bad(
        "mappings where texts should be",
        (JSON, *WHOLE),
        ("task.text=text", "{'en': 'w1'}", "no text"),
        rows({"text": {"en": "w1"}, "label": 0}),
    ),
    Bad(
        "a second text that is missing",
        (JSON, *WHOLE, "task.text_pair=other"),
        ("task.text_pair=other", "row 2 is empty"),
        rows({"text": "w1", "other": "w2", "label": 0}, {"text": "w1", "other": None, "label": 0}),
    ),
    # Labels
    Bad(
        "a label cell that is empty",
        (),
        ("task.label=label", "row 2 is empty", "leave the row out"),
        written("validation.csv", "text,label\nw1,apples\nw2,\n"),
    ),
    Bad(
        "a number of a label that is missing",
        ("task.data.path=texts/data.csv", *WHOLE),
        ("task.label=label", "row 2 is empty"),
        written("data.csv", "text,label\nw1,0\nw2,\nw3,1\n"),
    ),
    Bad(
        "lists of labels for one label",
        (JSON, *WHOLE),
        ("[0] is no label", "row 1"),
        rows({"text": "w1", "label": [0]}),
    ),
    Bad(
        "one label for lists of labels",
        on("multilabel_classification", "task.label=label"),
        ("task.label=label", "row 1 holds 0", "should be a list"),
        rows({"text": "w1", "label": 0}),
    ),
    Bad(
        "a number to compare with that is missing",
        on("text_regression"),
        ("task.label=label", "row 2 is empty"),
        models("number", {"text": "w1", "label": 0.5}, {"text": "w2", "label": None}),
    ),
    Bad(
        "a number to compare with that is text",
        on("text_regression"),
        ("'good' (row 1) is no number",),
        models("number", {"text": "w1", "label": "good"}),
    ),
    Bad(
        "a head of three for one number",
        on("text_regression"),
        ("3 outputs", "num_labels=1"),
        rows({"text": "w1", "label": 0.5}),
    ),
    Bad(
        "words and tags that differ in number",
        on("token_classification"),
        ("row 2 has 2 words and 1 tags", "give each word a tag"),
        models("tokens", {"tokens": ["w1"], "tags": [0]}, {"tokens": ["w1", "w2"], "tags": [0]}),
    ),
    Bad(
        "a word that is missing",
        on("token_classification"),
        ("task.words=tokens", "row 1 holds None"),
        models("tokens", {"tokens": ["w1", None], "tags": [0, 1]}),
    ),
    Bad(
        "a text where words should be",
        on("token_classification"),
        ("task.words=tokens", "list of words"),
        models("tokens", {"tokens": "w1 w2", "tags": [0, 1]}),
    ),
    # Prompts and choices
    Bad(
        "a prompt with an empty cell",
        on("text_generation", "task.max_new_tokens=4"),
        ("prompt", "row 2 is empty"),
        models("causal", {"prompt": "w1", "answer": "w2"}, {"prompt": None, "answer": "w2"}),
    ),
    Bad(
        "an answer that is missing",
        on("text_generation", "task.max_new_tokens=4"),
        ("task.answer=answer", "row 1 is empty"),
        models("causal", {"prompt": "w1", "answer": None}, {"prompt": "w1", "answer": "w2"}),
    ),
    Bad(
        "a right answer without the number that is compared",
        on("text_generation", "task.max_new_tokens=4", "task.metric.name=numeric_match"),
        ("numeric_match", "'none' has no number"),
        models("causal", {"prompt": "w1", "answer": "7"}, {"prompt": "w1", "answer": "none"}),
        scored=True,
    ),
    Bad(
        "a grader that raises",
        on("text_generation", "task.max_new_tokens=4", "task.metric.name=grading.grade"),
        ("task.metric.name=grading.grade", "row 2 of the data", "KeyError: 0", "grading.py, line 2"),
        grading("{1: True}[row['level']]", {"prompt": "w1", "level": 1}, {"prompt": "w1", "level": 0}),
        scored=True,
    ),
    Bad(
        "a grade that is no number",
        on("text_generation", "task.max_new_tokens=4", "task.metric.name=grading.grade"),
        ("task.metric.name=grading.grade", "row 1 of the data", "graded nan", "0 to 1"),
        grading("float('nan')", {"prompt": "w1"}),
        scored=True,
    ),
    Bad(
        "a question without choices",
        on("multiple_choice"),
        ("task.choices=choices", "row 2 has no choices"),
        models(
            "causal",
            {"question": "w1", "choices": ["w2"], "answer": 0},
            {"question": "w", "choices": [], "answer": 0},
        ),
    ),
    Bad(
        "choices that are one text",
        on("multiple_choice"),
        ("task.choices=choices", "should be a list"),
        models("causal", {"question": "w1", "choices": "w2", "answer": 0}),
    ),
    Bad(
        "an answer that is none of the choices",
        on("multiple_choice"),
        ("task.answer=answer", "'C' is none"),
        models("causal", {"question": "w1", "choices": ["w2", "w3"], "answer": "C"}),
    ),
    Bad(
        "a text of no words",
        on("language_modeling"),
        ("task.text=text", "row 2 is empty"),
        models("causal", {"text": "w1"}, {"text": "  "}),
    ),
    # Models
    Bad(
        "answers that begin with nothing",
        on("text_generation", "task.architecture=seq2seq", "task.max_new_tokens=4"),
        ("decoder_start_token_id", "add it"),
        models("seq2seq", {"prompt": "w1", "answer": "w2"}),
    ),
    # Tokenizers and image processors
    Bad(
        "no tokenizer anywhere",
        (),
        ("runs/a has no tokenizer", "copy the base model's files"),
        without_tokenizers,
    ),
    Bad(
        "a tokenizer without its vocabulary",
        (),
        ("runs/a has no tokenizer with a vocabulary", "pool.base"),
        lambda folder: without_tokenizers(folder, keep=("tokenizer_config.json",)),
    ),
    Bad(
        "tokenizers that are broken",
        (),
        ("runs/a has no tokenizer that transformers can load", "copy that of"),
        broken_tokenizer,
    ),
    Bad(
        "a tokenizer that is a link out of its folder",
        (),
        ("tokenizer.json", "out of the run's folder", "in its place"),
        tokenizer_elsewhere,
    ),
    Bad(
        "a run without tokenizer between two that differ",
        (),
        ("differ", "copy the right one"),
        other_tokenizers,
    ),
    Bad(
        "no image processor anywhere",
        on("image_classification"),
        ("no image processor", "preprocessor_config.json"),
        without_image_processors,
    ),
    # Images
    Bad(
        "an image that is not there",
        on("image_classification"),
        ("row 2", "texts/1.png", "leave the row out"),
        images(lambda file: file.unlink()),
    ),
    Bad(
        "an image that breaks off",
        on("image_classification"),
        ("row 2", "texts/1.png", "truncated"),
        images(cut),
    ),
    Bad(
        "an image that is none",
        on("image_classification"),
        ("row 2", "texts/1.png", "cannot identify"),
        images(lambda file: file.write_text("no picture")),
    ),
    Bad(
        "an image that is missing",
        on("image_classification"),
        ("task.image=image", "row 2 is empty"),
        images(
            lambda file: rows({"image": str(file), "label": 0}, {"image": None, "label": 0})(file.parents[1])
        ),
    ),
    Bad(
        "images that are numbers",
        on("image_classification"),
        ("task.image=image", "holds no images"),
        images(lambda file: rows({"image": 5, "label": 0})(file.parents[1])),
    ),
    # Functions and metrics
    Bad(
        "a function with a fault of syntax",
        (*OF_ONES_OWN, "task.function=mine.score"),
        ("task.function=mine.score", "cannot be imported"),
        function("def score(:\n"),
    ),
    Bad(
        "a function that is none",
        (*OF_ONES_OWN, "task.function=mine.SCORE"),
        ("task.function=mine.SCORE", "cannot be called"),
        function("SCORE = 5\n"),
    ),
    Bad(
        "a function that gives too few numbers",
        (*OF_ONES_OWN, "task.function=mine.score"),
        ("mine.score gave 1 numbers",),
        function("def score(model, tokenizer, examples):\n    return [1.0]\n"),
        scored=True,
    ),
    Bad(
        "a function that ends the process",
        (*OF_ONES_OWN, "task.function=mine.score"),
        ("task.function=mine.score", "score (", "mine.py, line 3", "sys.exit(0)", "no soup"),
        function("import sys\ndef score(model, tokenizer, examples):\n    sys.exit(0)\n"),
    ),
    Bad(
        "a module that ends the process",
        (*OF_ONES_OWN, "task.function=mine.score"),
        ("task.function=mine.score", "cannot be imported", "sys.exit(None)"),
        function("def score(model, tokenizer, examples): ...\nquit()\n"),
    ),
    Bad(
        "a metric that ends the process",
        ("task.metric.name=mine.Metric",),
        ("task.metric=Metric", "per_example", "mine.py, line 3", "sys.exit(None)"),
        function(
            "class Metric:\n    def per_example(self, predictions, references):\n        raise SystemExit\n"
        ),
        scored=True,
    ),
    Bad(
        "a method of one's own that ends the process",
        ("method._target_=mine.Method",),
        ("__init__", "mine.py, line 3", "sys.exit(0)"),
        function("class Method:\n    def __init__(self, **options):\n        exit(0)\n"),
    ),
    Bad(
        "a metric that there is not",
        ("task.metric.name=accurracy",),
        ("task.metric.name=accurracy", "accuracy, answer_exact", "did you mean accuracy?"),
    ),
]
