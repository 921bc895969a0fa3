"""The model card of a soup, as the hub reads it, with its picture; and the way to the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils._validators import validate_repo_id

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.folders import read_bytes
from soupkitchen.checkpoints.sources import hub_name
from soupkitchen.console import printable
from soupkitchen.errors import CheckpointError, ConfigError, MachineError, first_line
from soupkitchen.models import Maker
from soupkitchen.records.run import Outcome, Run
from soupkitchen.records.tables import has_value, short
from soupkitchen.soup import Recipe
from soupkitchen.store.files import write, write_text

CARD = "README.md"
PICTURE = "trajectory.png"
_FLATTERED = "Held-out data chose the ingredients, so its score flatters the soup somewhat."

_TASKS = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForSpeechSeq2Seq": "automatic-speech-recognition",
    "AutoModelForCTC": "automatic-speech-recognition",
    "AutoModel": "feature-extraction",
}


def write_card(folder: Path, run: Run, recipe: Recipe, pool: Pool, maker: Maker, data: str) -> None:
    """Writes the card into the folder of the soup.

    Raises:
        OSError: if writing fails.
    """
    write(folder / PICTURE, lambda beside: beside.write_bytes(run.figure.png()))
    write_text(folder / CARD, card(folder, run, recipe, pool, maker, data))


def card(folder: Path, run: Run, recipe: Recipe, pool: Pool, maker: Maker, data: str) -> str:
    assert run.models is not None
    assert run.outcome is not None
    soup, best = run.outcome.soup, run.outcome.best
    heldout, test = f"heldout_{run.metric}", f"test_{run.metric}"
    scores = dict(zip(run.models["model"], run.models[heldout], strict=True))
    worth_showing = run.models["kind"].isin(["soup", "uniform"])
    chosen = run.models[worth_showing | (run.models["model"] == best["model"])]
    has_test = has_value(soup[test])
    size = recipe.size
    base = pool.base or next((run.adapted for run in pool if run.adapted is not None), None)
    text = ModelCard.from_template(
        _data(run.metric, soup, maker, data, base, pool),
        template_str=Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"),
        title=f"A soup of {size} fine-tuned runs" if size > 1 else "The best of some fine-tuned runs",
        summary=_summary(run.outcome),
        version=run.events[0]["versions"].get("soupkitchen", ""),
        metric=_plain(run.metric),
        ingredients=[
            {"name": _plain(name), "coefficient": _coefficient(weight), "score": short(scores.get(name))}
            for name, weight in zip(recipe.ingredients, recipe.coefficients, strict=True)
        ],
        method=_method(recipe),
        base=None if base is None else _plain(hub_name(base.path) or base.path.name),
        results=[_result(row, heldout, test) for row in chosen.to_dict("records")],
        caveat=_FLATTERED + (" Test data chose nothing." if has_test else " There was no test data."),
        code=_code(maker, (folder / "adapter_config.json").is_file()),
    )
    return str(text.content)


def _result(row: Mapping[Any, Any], heldout: str, test: str) -> dict[str, str]:
    bounds = [short(row[bound]) for bound in ("ci_low", "ci_high")]
    return {
        "model": _plain(row["model"]),
        "heldout": short(row[heldout]),
        "interval": " to ".join(bounds) if has_value(row["ci_low"]) else "–",
        "test": short(row[test]) if has_value(row[test]) else "–",
    }


def _data(
    metric: str, soup: Mapping[Any, Any], maker: Maker, data: str, base: Checkpoint | None, pool: Pool
) -> ModelCardData:
    results = [
        EvalResult(
            task_type=_TASKS.get(maker.name, "other"),
            dataset_type=data,
            dataset_name=data,
            dataset_split=split,
            metric_type=metric,
            metric_value=float(soup[f"{split}_{metric}"]),
        )
        for split in ("heldout", "test")
        if has_value(soup[f"{split}_{metric}"])
    ]
    models = [base] if base else list(pool)
    named = [name for model in models if (name := hub_name(model.path))]
    return ModelCardData(
        model_name="soup",
        library_name=maker.library,
        pipeline_tag=_TASKS.get(maker.name),
        base_model=named or None,
        base_model_relation="merge" if named else None,
        license=None if base is None else _licence(base.path),
        tags=["merge", "model-soup", "soupkitchen"],
        eval_results=results,
    )


def _summary(outcome: Outcome) -> str:
    size = len(outcome.ingredients)
    if size == 1:
        return f"No merge improved on the best single run, {_plain(outcome.best['model'])}: this is that run."
    gained = f"{outcome.gain:+.4f} {_plain(outcome.metric)}"
    return f"{size} fine-tuned runs merged into one model: {gained} on held-out over the best single run."


def _method(recipe: Recipe) -> str:
    if recipe.method is None:
        return "none, it is one run"
    left_out = ("_target_", "recalibrate_batchnorm")
    options = [f"{n} {_option(v)}" for n, v in recipe.method.items() if n not in left_out and v is not None]
    shown = ", ".join(options)
    return f"{str(recipe.method['_target_']).rpartition('.')[2]} ({shown})"


def _option(value: Any) -> str:
    if isinstance(value, dict):
        kind = str(value.get("_target_", "")).rpartition(".")[2]
        rest = ", ".join(f"{name} {part}" for name, part in value.items() if name != "_target_")
        return f"{kind}({rest})"
    return str(value)


def _licence(base: Path) -> str | None:
    try:
        text = read_bytes(base / CARD)[: 1 << 16].decode(errors="replace")
        metadata = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
        licence = metadata.get("license")
    except (CheckpointError, ValueError, RecursionError, yaml.YAMLError, AttributeError, IndexError):
        return None
    return licence if isinstance(licence, str) else None


def _code(maker: Maker, adapter: bool) -> str:
    if adapter:
        kind = f"AutoPeftModel{maker.name.removeprefix('AutoModel')}"
        return f'from peft import {kind}\n\nmodel = {kind}.from_pretrained("FOLDER")'
    return maker.snippet("FOLDER")


def _coefficient(weight: Any) -> str:
    return " / ".join(f"{part:g}" for part in weight) if isinstance(weight, tuple) else f"{weight:g}"


def _plain(text: Any) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", printable(str(text)))


def check_hub(name: str) -> None:
    """Checks, before any work, that the user is logged in and may push.

    Raises:
        ConfigError: if the name is invalid, nobody is logged in, or the hub cannot be reached.
    """
    try:
        validate_repo_id(name)
        HfApi().whoami()
    except HFValidationError as error:
        raise ConfigError(f"output.push_to_hub={name} should be org/name ({first_line(error)})") from error
    except LocalTokenNotFoundError as error:
        raise ConfigError(
            f"output.push_to_hub={name} needs a token of the hub: 'hf auth login', or set HF_TOKEN"
        ) from error
    except Exception as error:  # the libraries below may raise anything
        raise ConfigError(
            f"output.push_to_hub={name}: the hub does not let us in ({first_line(error)}); leave the option "
            "out, and push the folder later"
        ) from error


def push(folder: Path, name: str, private: bool) -> str:
    """Pushes the soup in `folder` to the repository `name`, created if missing; returns its address.

    Files already there are not sent again.

    Raises:
        MachineError: if it fails; the same command tries again.
    """
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="A soup")
    except Exception as error:  # the libraries below may raise anything
        raise MachineError(
            f"{folder} could not be pushed to {name} ({first_line(error)}). The soup is complete; the same "
            "command tries again, and without output.push_to_hub it ends without"
        ) from error
    return f"{api.endpoint}/{name}"
