"""Cooks a tiny pool of any architecture, and compares what is saved with formulas in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import naive
import numpy as np
import torch
import transformers
from families import IMAGE, KINDS, POSITIONS, VOCABULARY, inputs, small_config
from safetensors.torch import load_file
from tiny import make_pictures
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import soupkitchen
from soupkitchen import methods, tasks
from soupkitchen.checkpoints import Pool, find_pool
from soupkitchen.evaluation import EvaluationOptions, LiveModel, Runtime
from soupkitchen.experiment.finishing import Report
from soupkitchen.models import Loading
from soupkitchen.soup import Soup

LABELS = ["apples", "boats", "clouds"]
TEXTS = [f"w{4 * i + 10} w{3 * i + 11} w{2 * i + 12} w{i + 13}" for i in range(8)]
RUNS = ("a", "b", "c")


class NotMadeError(Exception):
    """There is no tiny model of that type here."""


class WrongError(Exception):
    """What was saved is not what the formula gives."""


def make_pool(model_type: str, task: str, dtype: torch.dtype, folder: Path) -> Any:
    """Three runs and a base in `folder`, and the configuration.

    Raises:
        NotMadeError: where transformers cannot make one that takes the task's inputs.
    """
    try:
        torch.manual_seed(0)
        labels = {"id2label": dict(enumerate(LABELS)), "label2id": {x: i for i, x in enumerate(LABELS)}}
        classifies = task.endswith("classification")
        config = small_config(model_type, task, **(labels if classifies else {}))
        kind = getattr(transformers, KINDS[task])
        with torch.device("meta"):
            size = sum(x.numel() for x in kind.from_config(config).parameters())
        if size > 1 << 20:
            raise NotMadeError(f"no small configuration is known ({size:,} numbers)")
        model = kind.from_config(config).to(dtype).eval()
        answers(model, task)
        for number, name in enumerate(("base", *RUNS)):
            torch.manual_seed(number)
            with torch.no_grad():
                for key, tensor in model.state_dict().items():
                    if tensor.is_floating_point() and not key.endswith(
                        "balancing_biases"
                    ):  # ZAYA's load as -1
                        tensor.add_((0.02 * torch.rand_like(tensor.float())).to(tensor.dtype))
                for module in model.modules():
                    if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                        module.weight[module.padding_idx] = 0  # it is never trained, and Funnel's loads as 0
            model.save_pretrained(folder / name)
            save_processor(task, config, folder / name)
        answers(kind.from_pretrained(folder / "a", dtype="auto").eval(), task)
    except NotMadeError:
        raise
    except Exception as error:
        raise NotMadeError(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"[:200]) from error
    return config


def save_processor(task: str, config: Any, folder: Path) -> None:
    if task == "image_classification":
        given: dict[str, Any] = {"image_processor_type": "ViTImageProcessor", "do_resize": True}
        given |= {"size": {"height": IMAGE, "width": IMAGE}, "do_normalize": True, "do_rescale": True}
        given |= {"rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (folder / "preprocessor_config.json").write_text(json.dumps(given))
        return
    text = config.get_text_config()
    special = {"pad": getattr(text, "pad_token_id", None), "eos": getattr(text, "eos_token_id", None)}
    special = {name: number for name, number in special.items() if isinstance(number, int)}
    numbers = {f"w{number}": number for number in range(VOCABULARY)}
    numbers |= {"[PAD]": 0} if "pad" not in special else {}
    at = {number: f"[{name.upper()}]" for name, number in special.items() if 0 <= number < VOCABULARY}
    rest = {number: name for name, number in numbers.items()} | {1: "[UNK]"} | at
    rest |= {0: rest[0] if rest[0].startswith("[") else "[PAD]"}
    backend = Tokenizer(models.WordLevel({word: i for i, word in rest.items()}, unk_token=rest[1]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    eos = next((word for word in rest.values() if word == "[EOS]"), rest[1])
    number = {word: i for i, word in rest.items()}[eos]
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} {eos} $B {eos}", special_tokens=[(eos, number)]
    )
    pad = "[PAD]" if "[PAD]" in rest.values() else eos
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, eos_token=eos, bos_token=eos, unk_token=rest[1],
        cls_token=eos, sep_token=eos, mask_token=rest[1], model_max_length=POSITIONS // 2,
    ).save_pretrained(folder)  # fmt: skip


def make_task(task: str, folder: Path) -> Any:
    """The task, on eight examples."""
    data = folder / "data"
    data.mkdir()
    if task == "image_classification":
        make_pictures(data, 2)
        for split in ("train", "validation", "test"):
            (data / split / "dark").rename(data / split / "apples")
            (data / split / "light").rename(data / split / "boats")
        return tasks.image_classification(data, test=None)
    words = [text.split() for text in TEXTS]
    labels = [LABELS[i % 3] for i in range(8)]
    rows: dict[str, Any] = {
        "text_classification": {"text": TEXTS, "label": labels},
        "token_classification": {"tokens": words, "tags": [[labels[i]] * 4 for i in range(8)]},
        "language_modeling": {"text": TEXTS},
        "text_generation": {"prompt": TEXTS, "answer": TEXTS[::-1]},
        "question_answering": {
            "question": TEXTS, "context": TEXTS[::-1], "answers": [text[:3] for text in TEXTS[::-1]],
        },
        "embedding_similarity": {
            "text": TEXTS, "text_pair": TEXTS[::-1], "label": [number / 8 for number in range(8)],
        },
    }[task]  # fmt: skip
    datasets.DatasetDict({"validation": datasets.Dataset.from_dict(rows)}).save_to_disk(data)
    own: dict[str, Any] = {
        "text_generation": {"architecture": "seq2seq", "max_new_tokens": 3, "metric": "rouge1"},
        "token_classification": {"metric": "token_accuracy"},
    }
    return getattr(tasks, task)(data, **own.get(task, {}))


def check(model_type: str, task: str, way: str, folder: Path) -> str:
    """Makes a pool and its soups: how models are filled ("in place", say), where all is equal.

    Args:
        way: "float32" for the uniform soup and TIES, "bfloat16" for the uniform one: these are merged,
            saved and loaded; "cooked" for all that `cook` does, with greedy search, in float32.

    Raises:
        NotMadeError, WrongError, SoupkitchenError: where there is no pool, it is not equal, or it is refused.
    """
    make_pool(model_type, task, torch.bfloat16 if way == "bfloat16" else torch.float32, folder)
    files = {run: load(folder / run) for run in ("base", *RUNS)}
    if way == "cooked":
        cooked = soupkitchen.cook(
            [folder / run for run in RUNS], make_task(task, folder), results_dir=folder / "results",
            runtime=Runtime(device="cpu", batch_size=4, threads=1), evaluation=EvaluationOptions(),
            report=Report(write=False),
        )  # fmt: skip
        soup = load(cooked.folder / "soup")
        compare(soup, {name: mean(files, name, cooked.ingredients) for name in soup}, files["a"])
        return "greedy"
    pool = find_pool([str(folder / run) for run in RUNS], base=str(folder / "base"))
    kind, cpu = getattr(transformers, KINDS[task]), torch.device("cpu")
    live = LiveModel(pool.reference, kind, cpu, Loading(pool.dtype))
    soup = merged(pool, methods.linear(), live, folder / "uniform")
    compare(soup, {name: mean(files, name, RUNS) for name in soup}, files["a"])
    compare_answers(live, folder / "uniform", task)
    if way == "float32":
        soup = merged(pool, methods.ties(), live, folder / "ties")
        compare(soup, {name: trimmed(files, name) for name in soup}, files["a"], few=0.002)
    return "in place" if live.in_place else "through transformers"


def merged(pool: Pool, method: Any, live: LiveModel, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the soup of all runs, written into the model and saved."""
    soup = Soup(method, base=pool.base, dtype=pool.dtype)
    live.fill(soup.blend(list(pool)))
    live.save(folder, pool.reference)
    return load(folder)


def load(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def mean(files: Mapping[str, Mapping[str, torch.Tensor]], name: str, runs: Any) -> torch.Tensor:
    tensors = [files[run][name] for run in runs]
    return (
        torch.stack([x.double() for x in tensors]).mean(0) if tensors[0].is_floating_point() else tensors[0]
    )


def trimmed(files: Mapping[str, Mapping[str, torch.Tensor]], name: str) -> torch.Tensor:
    base = files["base"][name]
    if not base.is_floating_point():
        return files["a"][name]
    changes = [(files[run][name].double() - base.double()).numpy() for run in RUNS]
    merged = naive.consensus([naive.trim(x, 0.2) for x in changes], [1.0] * 3)
    return torch.from_numpy(np.asarray(base.double().numpy() + merged))


def compare(
    soup: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    like: Mapping[str, torch.Tensor],
    few: float = 0,
) -> None:
    """Holds every tensor to its formula, to one unit in the last place of the runs' dtype.

    Args:
        like: a run's tensors.
        few: the share of entries that may differ: two changes of nearly one size may change places.

    Raises:
        WrongError: naming the tensor.
    """
    if soup.keys() != like.keys():
        raise WrongError(f"the soup has other tensors than the runs: {sorted(soup.keys() ^ like.keys())[:3]}")
    for name, wanted in expected.items():
        tensor = soup[name]
        if not tensor.is_floating_point():
            if not torch.equal(tensor, wanted):
                raise WrongError(f"{name} is not the first run's")
            continue
        allowed = torch.finfo(like[name].dtype).eps * wanted.abs() + 1e-7
        off = (tensor.double() - wanted).abs() > allowed
        if int(off.sum()) > math.ceil(few * off.numel()) * bool(few):
            raise WrongError(f"{name} differs in {int(off.sum())} of {off.numel()} entries")


def compare_answers(live: LiveModel, soup: Path, task: str) -> None:
    """Holds what a model that was filled puts out to what the soup does, as transformers loads it."""
    loaded = getattr(transformers, KINDS[task]).from_pretrained(soup, dtype="auto").eval()
    filled, saved = live.model.state_dict(), loaded.state_dict()
    if odd := [
        name for name in saved if not torch.equal(saved[name].nan_to_num(), filled[name].nan_to_num())
    ]:
        raise WrongError(f"{odd[0]} of the model is not that of the saved soup, loaded")
    ours, theirs = answers(live.model, task), answers(loaded, task)
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            try:
                torch.testing.assert_close(ours[name], value, equal_nan=True)
            except AssertionError as error:
                raise WrongError(f"the model has other {name} than the saved soup, loaded") from error


def answers(model: Any, task: str) -> Any:
    told = inputs(task, model.config)
    with torch.no_grad():
        return model(**{name: x.to(model.dtype) if x.is_floating_point() else x for name, x in told.items()})
