#!/usr/bin/env python
"""Fine-tunes one model several times, each run with its own hyperparameters: a sweep.

    python scripts/finetune_pool.py model=<checkpoint> data.path=<folder> output=runs \
        'runs={a: {learning_rate: 2e-5}, b: {learning_rate: 5e-5, num_train_epochs: 3}}'

Each run is a folder of `output`, as the transformers Trainer leaves it. All runs
start from one shared init, so that they stay close enough to be averaged: `model`,
with a new head that is fitted first on the frozen model's features (a linear probe).
Everything is Hydra config: see finetune_conf/finetune_pool.yaml, and finetune_conf/sweep/
for sweeps that are written down. Runs that are there already are not repeated.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import datasets
import hydra
import torch
import transformers
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

console = Console(stderr=True, highlight=False)


@hydra.main(version_base="1.3", config_path="finetune_conf", config_name="finetune_pool")
def main(config: DictConfig) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    base = Path(config.base or output.parent / "base")
    train, labels = load_examples(config, tokenizer, base)
    if not (base / "config.json").exists():
        save_shared_init(config, tokenizer, train, labels, base)

    settings = {name: {**(config.arguments or {}), **own} for name, own in config.runs.items()}
    todo = [name for name in settings if not (output / name / "config.json").exists()]
    steps = {name: count_steps(settings[name], len(train)) for name in todo}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task("", total=sum(steps.values()))
        for number, name in enumerate(todo, start=1):
            progress.update(bar, description=name)
            if not console.is_terminal:
                console.print(f"fine-tuning {name} ({number} of {len(todo)})", markup=False)
            advance = OnStep(lambda: progress.advance(bar))
            finetune(config, settings[name], base, tokenizer, train, output / name, advance)


def load_examples(config: DictConfig, tokenizer: Any, base: Path) -> tuple[datasets.Dataset, list[Any]]:
    """The tokenised training split, and the labels: those of `base`, if that has a head already."""
    data = config.data
    split = datasets.load_dataset(data.path, split=data.train)
    labels = sorted(set(split[data.label]), key=str)
    if (base / "config.json").exists():
        names = AutoConfig.from_pretrained(base).label2id
        if unknown := [label for label in labels if str(label) not in names]:
            raise SystemExit(
                f"the head of {base} has no label {unknown[0]!r}; base=… names another shared init"
            )
        by_name = {str(label): label for label in labels}
        labels = [by_name.get(name, name) for name in sorted(names, key=names.get)]
    number = {label: index for index, label in enumerate(labels)}

    def encode(examples: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(examples[data.text], truncation=True, max_length=data.max_length)
        return {**encoded, "labels": [number[label] for label in examples[data.label]]}

    encoded = split.map(encode, batched=True, remove_columns=split.column_names, keep_in_memory=True)
    return encoded, labels


def save_shared_init(
    config: DictConfig, tokenizer: Any, train: datasets.Dataset, labels: list[Any], base: Path
) -> None:
    """Gives the model a head that is fitted on its frozen features, and saves it to `base`."""
    transformers.set_seed(config.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        config.model,
        num_labels=len(labels),
        id2label={index: str(label) for index, label in enumerate(labels)},
        label2id={str(label): index for index, label in enumerate(labels)},
    )
    if config.probe:
        head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
        if head.out_features != len(labels):
            raise SystemExit(f"no linear head was found in {type(model).__name__}; set probe=false")
        fit_probe(model, head, tokenizer, train)
    save(base, lambda folder: (model.save_pretrained(folder), tokenizer.save_pretrained(folder)))


@torch.no_grad()
def fit_probe(model: PreTrainedModel, head: torch.nn.Linear, tokenizer: Any, train: datasets.Dataset) -> None:
    """Fits `head` by logistic regression on what it is given by the model as it is."""
    features: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    model.eval()
    for batch in DataLoader(train, batch_size=64, collate_fn=DataCollatorWithPadding(tokenizer)):
        model(**{name: value for name, value in batch.items() if name != "labels"})
    hook.remove()
    probe = LogisticRegression(max_iter=1000).fit(torch.cat(features).numpy(), train["labels"][:])
    head.weight.copy_(torch.as_tensor(probe.coef_))
    head.bias.copy_(torch.as_tensor(probe.intercept_))


def finetune(
    config: DictConfig,
    arguments: dict[str, Any],
    base: Path,
    tokenizer: Any,
    train: datasets.Dataset,
    folder: Path,
    callback: TrainerCallback,
) -> None:
    """Fine-tunes the shared init with `arguments` and leaves the run in `folder`."""
    model = AutoModelForSequenceClassification.from_pretrained(base)
    freeze(model, config.frozen_layers)

    def train_in(scratch: Path) -> None:
        own = {"save_strategy": "no", "logging_strategy": "no", **arguments}
        own["seed"] = config.seed * 1000 + own.get("seed", 0)
        trainer = Trainer(
            model,
            TrainingArguments(
                str(scratch),
                report_to=[],
                disable_tqdm=True,
                **own,
            ),
            train_dataset=train,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[callback],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        trainer.save_model()
        trainer.save_state()

    save(folder, train_in)


def freeze(model: PreTrainedModel, layers: int) -> None:
    """Freezes the embeddings and the lowest `layers` of the encoder; nothing for 0."""
    if not layers:
        return
    encoder = model.base_model
    frozen = [encoder.get_input_embeddings(), getattr(encoder, "embeddings", None)]
    for block in next(m for m in encoder.modules() if isinstance(m, torch.nn.ModuleList))[:layers]:
        frozen.append(block)
    for module in filter(None, frozen):
        module.requires_grad_(False)


def save(folder: Path, write: Any) -> None:
    """Calls ``write(scratch)`` and renames `scratch` to `folder`, which so is whole or not there."""
    scratch = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    write(scratch)
    scratch.rename(folder)


def count_steps(arguments: dict[str, Any], examples: int) -> int:
    per_epoch = -(-examples // arguments.get("per_device_train_batch_size", 8))
    return round(per_epoch * arguments.get("num_train_epochs", 3))


class OnStep(TrainerCallback):
    """Calls a function after each training step."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.function()


if __name__ == "__main__":
    main()
