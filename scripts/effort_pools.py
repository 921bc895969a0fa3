#!/usr/bin/env python
"""Pools for `effort_table.py`: runs tuned with care, whose mixtures can be scored quickly and often.

    python scripts/effort_pools.py FOLDER --seeds 0 --runs 30     (some 15 s a run on a core)
    python scripts/effort_pools.py FOLDER --llamas                (an hour)

Classifiers: MiniLM on 20 Newsgroups, the embeddings and four of six layers frozen. What comes out of the
frozen layers is computed once, so training and scoring take the last two layers only. Options are drawn at
random as in Wortsman et al. 2022: learning rate, epochs, label smoothing, weight decay, seed; learning rates
warm up and decay to 0. The head that all begin with is a linear probe. 1,200 texts train, 5,000 are held out,
4,000 test.

Llamas: four layers of width 256, trained on the texts of some newsgroups and fine-tuned on others, 2,000 held
out and 2,000 for testing; perplexity. Matrices are multiplied in bfloat16. Runs that are there are kept.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_pool
import numpy as np
import pandas as pd
import torch
from careful_table import materials_of_demo
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

from soupkitchen import demo

SIZES = {"train": 1200, "validation": 5000, "test": 4000}
LENGTH, FROZEN, BATCH = 24, 4, 16
LLAMAS = 16
PRETRAIN, LLAMA_LENGTH, LLAMA_SIZES = 3, 96, {"train": 1200, "validation": 2000, "test": 2000}
State = dict[str, Tensor]


class Pool:
    """Runs and data in a folder, and the outputs of uniform mixtures of runs.

    Attributes:
        folder: gets `runs/*.pt` and `outputs/*.npy`.
        model: gives one row for each example.
    """

    metrics: Sequence[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data: dict[str, Any] = {}
        self.references: dict[str, np.ndarray] = {}
        self.model: Any = None
        for part in ("runs", "outputs"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def outputs(self, runs: Sequence[int], split: str) -> np.ndarray:
        """Predictions of the runs' mean: float32 (examples, …), kept in a file."""
        name = hashlib.sha1(repr(sorted(runs)).encode()).hexdigest()[:16]
        file = self.folder / "outputs" / f"{split}-{name}.npy"
        if not file.exists():
            states = [self.state(run) for run in runs]
            mean = {key: torch.stack([one[key] for one in states]).mean(0) for key in states[0]}
            self.model.load_state_dict(mean, strict=False)
            self.model.eval()
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                rows = [
                    self.rows(split, part) for part in _parts(np.arange(len(self.references[split])), 256)
                ]
            np.save(file, torch.cat(rows).float().numpy())
        outputs: np.ndarray = np.load(file)
        return outputs

    def rows(self, split: str, part: np.ndarray) -> Tensor:
        raise NotImplementedError

    def state(self, run: int) -> State:
        state: State = torch.load(self.folder / "runs" / f"{run:02}.pt")
        return state

    def loss(self, split: str, part: np.ndarray, smoothing: float) -> Tensor:
        raise NotImplementedError

    def train(self, number: int, draw: np.random.Generator, rates: tuple[float, float]) -> None:
        """Trains a run with options that `draw` gives, unless it is there."""
        rate, epochs = np.exp(draw.uniform(*np.log(rates))), draw.integers(2, 6)
        smoothing, decay = draw.choice([0.0, 0.1]), draw.choice([0.0, 0.01, 0.1])
        file = self.folder / "runs" / f"{number:02}.pt"
        if file.exists():
            return
        torch.manual_seed(number)
        model = self.model
        model.load_state_dict(self.start)
        self.fit(rate, int(epochs), smoothing, decay)
        trained = {name: x.detach() for name, x in model.named_parameters() if x.requires_grad}
        torch.save(trained, file.with_suffix(".partial"))
        file.with_suffix(".partial").rename(file)

    def fit(self, rate: float, epochs: int, smoothing: float, decay: float, split: str = "train") -> None:
        model = self.model.train()
        wanted = [x for x in model.parameters() if x.requires_grad]
        optimizer = torch.optim.AdamW(wanted, rate, weight_decay=decay)
        examples = len(self.references[split])
        steps = epochs * -(-examples // BATCH)
        schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
        for _ in range(epochs):
            for part in _parts(torch.randperm(examples).numpy(), BATCH):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = self.loss(split, part, smoothing)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(wanted, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()

    @property
    def start(self) -> State:
        raise NotImplementedError


class Classifiers(Pool):
    """Fine-tunes of MiniLM."""

    metrics = ("cross_entropy", "accuracy")

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder)
        materials = materials_of_demo()
        if not (folder / "data" / "test.csv").exists():
            demo.write_splits(materials / demo.TEXTS, folder / "data", seed, SIZES)
        tables = {split: pd.read_csv(folder / "data" / f"{split}.csv") for split in SIZES}
        labels = sorted(set(tables["train"]["label"]))
        for split, table in tables.items():
            self.references[split] = (
                table["label"].map({name: at for at, name in enumerate(labels)}).to_numpy()
            )
        kept = folder / "frozen.pt"
        path = str(materials / demo.MODEL)
        torch.manual_seed(seed)
        whole: Any = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(labels))
        self.model = Tail(whole)
        if not kept.exists():
            tokenizer = AutoTokenizer.from_pretrained(path)
            data = {
                split: _frozen(whole, tokenizer, table["text"].tolist()) for split, table in tables.items()
            }
            torch.save(data, kept)
        self.data = torch.load(kept)
        self._start = folder / "start.pt"
        if not self._start.exists():
            self._probe()
            torch.save(self.model.state_dict(), self._start)

    @property
    def start(self) -> State:
        state: State = torch.load(self._start)
        return state

    def _probe(self) -> None:
        """Fits the head on the features of the model as it is."""
        head, self.model.classifier = self.model.classifier, torch.nn.Identity()
        self.model.eval()
        right = self.references["train"]
        with torch.inference_mode():
            features = torch.cat([self.rows("train", part) for part in _parts(np.arange(len(right)), 256)])
        probe = LogisticRegression(max_iter=1000).fit(features.numpy(), right)
        self.model.classifier = head
        with torch.no_grad():
            head.weight.copy_(torch.as_tensor(probe.coef_))
            head.bias.copy_(torch.as_tensor(probe.intercept_))

    def rows(self, split: str, part: np.ndarray) -> Tensor:
        hidden, mask = self.data[split]
        rows: Tensor = self.model(hidden[part].float(), mask[part])
        return rows

    def loss(self, split: str, part: np.ndarray, smoothing: float) -> Tensor:
        right = torch.as_tensor(self.references[split][part])
        return torch.nn.functional.cross_entropy(self.rows(split, part), right, label_smoothing=smoothing)


class Tail(torch.nn.Module):
    """The layers that are trained, and the head."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        bert = whole.bert
        self.layers, self.pooler = copy.deepcopy(bert.encoder.layer[FROZEN:]), copy.deepcopy(bert.pooler)
        self.dropout, self.classifier = copy.deepcopy(whole.dropout), copy.deepcopy(whole.classifier)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = _hidden(layer(hidden, mask[:, None, None, :].bool()))
        logits: Tensor = self.classifier(self.dropout(self.pooler(hidden)))
        return logits


@torch.inference_mode()
def _frozen(whole: Any, tokenizer: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Hidden states after the frozen layers, float16 (examples, LENGTH, width), and the attention mask."""
    whole.eval()
    rows = []
    batch = tokenizer(texts, return_tensors="pt", padding="max_length", truncation=True, max_length=LENGTH)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for part in _parts(np.arange(len(texts)), 256):
        hidden = whole.bert.embeddings(input_ids=ids[part])
        for layer in whole.bert.encoder.layer[:FROZEN]:
            hidden = _hidden(layer(hidden, mask[part][:, None, None, :].bool()))
        rows.append(hidden.half())
    return torch.cat(rows), mask


def _hidden(told: Any) -> Tensor:
    hidden: Tensor = told[0] if isinstance(told, tuple) else told
    return hidden


class Llamas(Pool):
    """Fine-tunes, on texts of some newsgroups, of a Llama that was trained on those of the others."""

    metrics = ("perplexity",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        early, late = (_read(part) for part in ("train", "test"))
        drawn = early[early["ours"]].sample(frac=1.0, random_state=0)["text"].tolist()
        texts = {
            "train": drawn[: LLAMA_SIZES["train"]],
            "validation": drawn[LLAMA_SIZES["train"] :][: LLAMA_SIZES["validation"]],
            "test": late[late["ours"]].sample(LLAMA_SIZES["test"], random_state=0)["text"].tolist(),
            "base": early[~early["ours"]].sample(frac=1.0, random_state=0)["text"].tolist(),
        }
        tokenizer = llama_pool.tokenizer_of(texts["base"])
        torch.manual_seed(0)
        self.model = llama_pool.llama(tokenizer, layers=4, width=256)
        for split, some in texts.items():
            numbers = [
                [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]][:LLAMA_LENGTH] for text in some
            ]
            rows = [torch.tensor(row) for row in numbers]
            self.data[split] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
            self.references[split] = np.array(
                [(len(row) - 1, len(text)) for row, text in zip(rows, some, strict=True)]
            )
        self._base = folder / "base.pt"
        if not self._base.exists():
            self.fit(1e-3, PRETRAIN, 0.0, 0.01, "base")
            torch.save(self.model.state_dict(), self._base)

    @property
    def start(self) -> State:
        state: State = torch.load(self._base)
        return state

    def rows(self, split: str, part: np.ndarray) -> Tensor:
        """Nats of each text."""
        return self._nats(split, part, 0.0).sum(1)

    def loss(self, split: str, part: np.ndarray, smoothing: float) -> Tensor:
        return self._nats(split, part, smoothing).sum() / float(self.references[split][part, 0].sum())

    def _nats(self, split: str, part: np.ndarray, smoothing: float) -> Tensor:
        ids = self.data[split][part]
        logits = self.model(input_ids=ids.clamp(min=0), attention_mask=(ids >= 0).long()).logits[:, :-1]
        return torch.nn.functional.cross_entropy(
            logits.transpose(1, 2).float(), ids[:, 1:], reduction="none", label_smoothing=smoothing
        )


def _read(part: str) -> pd.DataFrame:
    """The texts of a part of 20 Newsgroups, their first words only, and whether runs are tuned on them."""
    table = demo.read_texts(materials_of_demo() / demo.TEXTS / f"20newsgroups-{part}.tab").drop_duplicates(
        "text"
    )
    words: Any = table["text"].str.split()
    table = table.assign(text=words.str[: llama_pool.WORDS].str.join(" "))[
        words.str.len() >= llama_pool.WORDS // 2
    ]
    return table.assign(ours=table["label"].str.startswith(demo.TECHNICAL))


def pools(folder: Path) -> dict[str, Pool]:
    """The pools in a folder, by name."""
    found: dict[str, Pool] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("classifiers-"):
            found[path.name] = Classifiers(path, int(path.name.partition("-")[2]))
        elif path.name == "llamas":
            found[path.name] = Llamas(path)
    return found


def _parts(numbers: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--llamas", action="store_true")
    given = parser.parse_args()
    for seed in given.seeds:
        pool, draw = Classifiers(given.folder / f"classifiers-{seed}", seed), np.random.default_rng(seed)
        for number in range(given.runs):
            pool.train(number, draw, (1e-4, 8e-4))
            right = pool.outputs([number], "validation").argmax(1) == pool.references["validation"]
            print(f"seed {seed}, run {number}: accuracy {right.mean():.3f}", flush=True)
    if given.llamas:
        llamas, draw = Llamas(given.folder / "llamas"), np.random.default_rng(0)
        for number in range(LLAMAS):
            llamas.train(number, draw, (1e-4, 8e-4))
            nats, tokens = (
                llamas.outputs([number], "validation").sum(),
                llamas.references["validation"][:, 0].sum(),
            )
            print(f"llama {number}: perplexity {np.exp(nats / tokens):.2f}", flush=True)


if __name__ == "__main__":
    main()
