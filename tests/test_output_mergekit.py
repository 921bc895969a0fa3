"""YAMLs of mergekit in the shapes that people publish: merged as mergekit 0.1.5 does, or refused by key."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny import VOCABULARY, llama, tokenizer

from soupkitchen import methods
from soupkitchen.checkpoints import find_pool
from soupkitchen.errors import CheckpointError
from soupkitchen.merging import Karcher, Linear, ModelStock, Slerp, TaskVectors
from soupkitchen.output.mergekit import write
from soupkitchen.output.recipe_file import Place, RecipeFile
from soupkitchen.rebuild import main
from soupkitchen.soup import Recipe

mergekit = pytest.importorskip("mergekit.merge")
from mergekit.config import MergeConfiguration  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's and mergekit's

TWO = "models: [{model: a, parameters: {weight: 0.6}}, {model: b, parameters: {weight: 0.3}}]\n"
PLAIN = "models: [{model: a}, {model: b}]\n"
PADDED = TWO.replace("a,", "padded,").replace("b,", "padded-too,")
HALF = TWO.replace("a,", "half,").replace("b,", "half-too,")
SUBTRACTED = TWO.replace("0.3", "-0.6")
BASED = "base_model: base\n"

EQUAL = {
    "linear, as in mergekit's README": """
models:
  - model: a
    parameters:
      weight: 1.0
  - model: b
    parameters:
      weight: 0.3
  - model: c
    parameters:
      weight: 0.5
merge_method: linear
dtype: float32
""",
    "linear, not normalised": TWO + "merge_method: linear\nparameters: {normalize: false}\n",
    "linear, of one model": "models: [{model: a, parameters: {weight: 0.5}}]\n"
    "merge_method: linear\nparameters: {normalize: false}\n",
    "linear, numbers as text and as whole numbers": """
models:
  - {model: a, parameters: {weight: 1e-1}}
  - {model: b, parameters: {weight: "0.5"}}
  - {model: c, parameters: {weight: 1}}
merge_method: linear
parameters: {normalize: "false"}
""",
    "linear, with its base among the models": """
models:
  - {model: base, parameters: {weight: 0.7}}
  - {model: a, parameters: {weight: 0.2}}
  - {model: b, parameters: {weight: 0.1}}
merge_method: linear
base_model: base
""",
    "linear, whose base is not listed and counts what all do": """
models:
  - {model: a, parameters: {weight: 0.2}}
  - {model: b}
merge_method: linear
base_model: base
parameters: {weight: 0.4}
""",
    "linear, of a model by itself and with its folder's name for a revision": """
models:
  - {model: a@main, parameters: {weight: 0.5}}
  - model: {model: {path: b, revision: main}}
    parameters: {weight: 0.5}
merge_method: linear
""",
    "linear, with what other methods read": """
models:
  - {model: a, parameters: {weight: 0.5, density: 0.3}}
  - {model: b, parameters: {weight: 0.2}}
merge_method: linear
parameters: {int8_mask: true, lambda: 0.5}
""",
    "linear, of one model by two names": """
models:
  - {model: a, parameters: {weight: 0.5}}
  - {model: ./a, parameters: {weight: 0.2}}
  - {model: b, parameters: {weight: 0.3}}
merge_method: linear
""",
    "slerp, with the base first": PLAIN + "merge_method: slerp\nbase_model: a\nparameters: {t: 0.3}\n",
    "slerp, with the base second": PLAIN + "merge_method: slerp\nbase_model: b\nparameters: {t: 0.3}\n",
    "slerp, none of the way": PLAIN + "merge_method: slerp\nbase_model: a\nparameters: {t: 0}\n",
    "slerp, all of the way": PLAIN + "merge_method: slerp\nbase_model: a\nparameters: {t: 1}\n",
    "slerp, with the base elsewhere": """
base_model: a
models:
  - model: b
merge_method: slerp
parameters:
  t: 0.4
dtype: float32
""",
    "slerp, of gradients that are none": PLAIN
    + """
merge_method: slerp
base_model: a
parameters:
  t:
    - filter: self_attn
      value: [0.25, 0.25, 0.25]
    - value: 0.25
""",
    "task arithmetic, as in mergekit's README": """
base_model: base
models:
  - model: a
  - model: b
merge_method: task_arithmetic
parameters:
  weight: 0.35
  lambda: 0.8
dtype: float32
""",
    "task arithmetic, one's own weight before that of all": """
base_model: base
models:
  - {model: a, parameters: {weight: -0.2}}
  - {model: b}
merge_method: task_arithmetic
parameters: {weight: 0.9}
""",
    "task arithmetic, half a finetune": "models: [{model: a, parameters: {weight: 0.5}}]\n"
    "merge_method: task_arithmetic\n" + BASED,
    "ties, as published": """
models:
  - model: base
    # no parameters necessary for base model
  - model: a
    parameters:
      density: 0.5
      weight: 0.5
  - model: b
    parameters:
      density: 0.5
      weight: 0.3
merge_method: ties
base_model: base
parameters:
  normalize: true
  int8_mask: true
dtype: float32
""",
    "ties, with numbers for words": TWO + BASED + "merge_method: ties\n"
    "parameters: {density: 0.4, normalize: 0, int8_mask: 1.0, rescale: off}\n",
    "ties, mostly trimmed": TWO + BASED + "merge_method: ties\nparameters: {density: 0.1}\n",
    "ties, untrimmed": TWO + BASED + "merge_method: ties\nparameters: {density: 1, rescale: true}\n",
    "ties, of one model": "models: [{model: a, parameters: {weight: 0.7, density: 0.3}}]\n"
    "merge_method: ties\nparameters: {normalize: false, lambda: 1.5}\n" + BASED,
    "ties, of a model that counts nothing": """
models:
  - {model: a, parameters: {weight: 0.0, density: 0.5}}
  - {model: b, parameters: {weight: 0.4, density: 0.5}}
merge_method: ties
base_model: base
parameters: {normalize: false}
""",
    "breadcrumbs": TWO + BASED + "merge_method: breadcrumbs\nparameters: {density: 0.8, gamma: 0.05}\n",
    "breadcrumbs without a word": TWO + BASED + "merge_method: breadcrumbs\n",
    "breadcrumbs with ties": TWO
    + BASED
    + "merge_method: breadcrumbs_ties\nparameters: {density: 0.9, normalize: true}\n",
    "dare with ties, where nothing is dropped": TWO + BASED + "merge_method: dare_ties\n",
    "della, where nothing is dropped": TWO + BASED + "merge_method: della\nparameters: {lambda: 1.1}\n",
    "model stock, with weights that it does not read": """
models:
  - {model: a, parameters: {weight: 1.0}}
  - model: b
  - model: c
merge_method: model_stock
base_model: base
dtype: float32
""",
    "model stock, with adapters that leave most tensors": """
models:
  - {model: a}
  - {model: base+lora-a}
  - {model: base+lora-b}
merge_method: model_stock
base_model: base
""",
    "karcher": PLAIN + "merge_method: karcher\nparameters: {max_iter: 50, tol: 1e-9}\n",
    "karcher, whose base is one of them": PLAIN + "merge_method: karcher\n" + BASED,
    "adapters on finetunes": """
models:
  - {model: a+lora-a, parameters: {weight: 0.5}}
  - {model: {model: {path: b}, lora: {path: lora-b}}, parameters: {weight: 0.4}}
merge_method: task_arithmetic
base_model: base
""",
    "adapters on the base, and one on a finetune": """
models:
  - {model: base+lora-a, parameters: {weight: 0.5}}
  - {model: base+lora-b, parameters: {weight: 0.4}}
  - {model: c+lora-b, parameters: {weight: 0.3}}
merge_method: ties
base_model: base
parameters: {density: 0.7}
""",
    "one adapter on two finetunes": """
models:
  - {model: a+lora-a, parameters: {weight: 0.5}}
  - {model: b+lora-a, parameters: {weight: 0.5}}
merge_method: linear
""",
    "the base's tokenizer, which is that of all": TWO
    + BASED
    + "merge_method: ties\nparameters: {density: 0.5}\ntokenizer_source: base\nchat_template: auto\n",
    "a union of tokenizers that are one": TWO + "merge_method: linear\ntokenizer: {source: union}\n",
    "a tokenizer by the name of its model": TWO + "merge_method: linear\ntokenizer: {source: b}\n",
    "a base in a wider dtype": HALF + BASED + "merge_method: task_arithmetic\n",
    "null for what is not said": TWO
    + "merge_method: linear\nbase_model: null\nslices: []\ntokenizer_source:\nchat_template: ''\n",
    "float32 by its longer name": TWO + "merge_method: linear\ndtype: torch.float32\n",
}
ROUNDED = {
    "bfloat16, as most are": TWO + BASED + "merge_method: task_arithmetic\ndtype: bfloat16\n",
    "float16, saved as float32": TWO + "merge_method: linear\ndtype: float16\nout_dtype: float32\n",
}
RANDOM = {
    "dare": TWO + BASED + "merge_method: dare_linear\nparameters: {density: 0.5}\n",
    "dare with ties": TWO + BASED + "merge_method: dare_ties\nparameters: {density: 0.53, int8_mask: true}\n",
    "della": TWO
    + BASED
    + "merge_method: della_linear\nparameters: {density: 0.6, epsilon: 0.2, rescale: no}\n",
}
SLICES = """
slices:
  - sources:
      - {model: a, layer_range: [0, 2]}
      - {model: b, layer_range: [0, 2]}
merge_method: slerp
base_model: a
parameters: {t: 0.5}
"""
REFUSED = {
    "slices": (SLICES, "slices"),
    "a frankenmerge": (
        "slices: [{sources: [{model: a, layer_range: [0, 1]}]}, {sources: [{model: b, layer_range: [0, 2]}]}]"
        "\n"
        "merge_method: passthrough\n",
        "slices",
    ),
    "modules": ("modules: {text_decoder: {models: [{model: a}]}}\nmerge_method: linear\n", "modules"),
    "slerp by layer": (
        PLAIN + "merge_method: slerp\nbase_model: a\nparameters:\n  t:"
        "\n    - {filter: self_attn, value: [0, 0.5, 1]}"
        "\n    - {filter: mlp, value: [1, 0.5, 0]}\n    - value: 0.5\n",
        "t is not one number",
    ),
    "a filter, and the default for the others": (
        PLAIN + "merge_method: slerp\nbase_model: a\nparameters: {t: [{filter: mlp, value: 0.5}]}\n",
        "t is not one number",
    ),
    "density by layer": (
        TWO + BASED + "merge_method: ties\nparameters: {density: [1, 0.7, 0.1]}\n",
        "density is not one number",
    ),
    "weight by layer": (
        "models: [{model: a, parameters: {weight: [0, 0.3, 0.7, 1]}}, {model: b, parameters: {weight: 1}}]\n"
        "merge_method: linear\n",
        "weight is not one number",
    ),
    "densities that differ": (
        "models: [{model: a, parameters: {density: 0.5}}, {model: b, parameters: {density: 0.3}}]\n"
        "parameters: {weight: 1}\n"
        "merge_method: ties\n" + BASED,
        "density has to be the same",
    ),
    "ties with rescale": (
        TWO + BASED + "merge_method: ties\nparameters: {density: 0.5, rescale: true}\n",
        "rescale",
    ),
    "della without room": (
        TWO + BASED + "merge_method: della\nparameters: {density: 0.9, epsilon: 0.2}\n",
        "epsilon",
    ),
    "breadcrumbs without room": (
        TWO + BASED + "merge_method: breadcrumbs\nparameters: {density: 0.99, gamma: 0.2}\n",
        "gamma",
    ),
    "ties that keeps nothing": (TWO + BASED + "merge_method: ties\nparameters: {density: 0}\n", "density"),
    "ties that subtracts and divides": (
        SUBTRACTED + "merge_method: ties\n" + BASED,
        "normalize=true cannot be taken with weights below 0",
    ),
    "weights that sum to nothing": (
        SUBTRACTED + "merge_method: task_arithmetic\nparameters: {normalize: true}\n" + BASED,
        "normalize=true",
    ),
    "linear that subtracts": (SUBTRACTED + "merge_method: linear\n", "weight=-0.6"),
    "model stock by filter": (
        "models: [{model: a}, {model: b}]\nmerge_method: model_stock\nparameters: {filter_wise: true}\n"
        + BASED,
        "filter_wise",
    ),
    "another tokenizer": (
        TWO.replace("b,", "other,") + "merge_method: linear\ntokenizer_source: union\n",
        "tokenizer_source",
    ),
    "a tokenizer with fewer tokens than rows": (
        PADDED + "merge_method: linear\ntokenizer_source: base\n",
        "tokenizer_source",
    ),
    "a tokenizer with new tokens": (
        TWO + "merge_method: linear\ntokenizer: {source: base, tokens: {<x>: {source: a}}}\n",
        "tokens",
    ),
    "a padded embedding": (
        TWO + "merge_method: linear\ntokenizer: {source: union, pad_to_multiple_of: 80}\n",
        "pad_to_multiple_of",
    ),
    "a chat template": (TWO + "merge_method: linear\nchat_template: chatml\n", "chat_template"),
    "a key of nobody's": (TWO + "merge_method: linear\nswapping: true\n", "swapping"),
    "an option of the command's": (TWO + "merge_method: linear\nrandom_seed: 0\n", "random_seed"),
    "a parameter of nobody's": (TWO + "merge_method: linear\nparameters: {normalise: false}\n", "normalise"),
    "an architecture": (
        "models: [{model: {model: a, override_architecture: X}}]\nmerge_method: linear\n",
        "override_architecture",
    ),
    "nuslerp": (
        TWO + "merge_method: nuslerp\nparameters: {nuslerp_flatten: false, nuslerp_row_wise: true}\n",
        "nuslerp",
    ),
    "sce": (PLAIN + BASED + "merge_method: sce\nparameters: {select_topk: 0.7}\n", "sce"),
    "passthrough": (
        "models: [{model: a, parameters: {scale: 0.5}}]\nmerge_method: passthrough\n",
        "passthrough",
    ),
    "ties on an adapter": (
        "models: [{model: a, parameters: {weight: 1}}]\nbase_model: base+lora-a\nmerge_method: ties\n",
        "base_model",
    ),
    "a coarse karcher": (PLAIN + "merge_method: karcher\nparameters: {tol: 0.01}\n", "tol"),
    "karcher that takes no step": (
        PLAIN + "merge_method: karcher\nparameters: {max_iter: 0}\n",
        "max_iter=0",
    ),
    "more than all the way": (
        PLAIN + "merge_method: slerp\nbase_model: a\nparameters: {t: 1.5}\n",
        "method.t=1.5",
    ),
}
REFUSED_BY_BOTH = {
    "bf16": (TWO + "merge_method: linear\ndtype: bf16\n", "dtype=bf16"),
    "auto": (TWO + "merge_method: linear\nout_dtype: auto\n", "out_dtype=auto"),
    "slerp without t": (PLAIN + "merge_method: slerp\nbase_model: a\n", "needs t"),
    "slerp whose t is a model's": (
        "models: [{model: a}, {model: b, parameters: {t: 0.5}}]\nmerge_method: slerp\nbase_model: a\n",
        "needs t",
    ),
    "slerp of three": (
        "models: [{model: a}, {model: b}, {model: c}]\nmerge_method: slerp\nbase_model: a\n"
        "parameters: {t: 0.5}\n",
        "takes two models",
    ),
    "slerp without a base": (PLAIN + "merge_method: slerp\nparameters: {t: 0.5}\n", "needs base_model"),
    "ties without a base": (TWO + "merge_method: ties\n", "needs base_model"),
    "no weight": (PLAIN + "merge_method: linear\n", "a has no weight"),
    "an unlisted base without a weight": (TWO + "merge_method: linear\n" + BASED, "base has no weight"),
    "the same model twice": (TWO.replace("b,", "a,") + "merge_method: linear\n", "a is there twice"),
    "model stock of two": (PLAIN + "merge_method: model_stock\nbase_model: a\n", "model_stock needs two"),
    "text for a number": (TWO.replace("0.3", "much") + "merge_method: linear\n", "weight"),
    "null for a number": (TWO.replace("0.3", "null") + "merge_method: linear\n", "weight"),
    "half a step": (PLAIN + "merge_method: karcher\nparameters: {max_iter: 2.5}\n", "max_iter"),
    "text for a truth": (TWO + "merge_method: linear\nparameters: {normalize: maybe}\n", "normalize"),
    "a method of nobody's": (TWO + "merge_method: soup\n", "merge_method soup"),
    "text for models": ("models: a\nmerge_method: linear\n", "models"),
    "a list for a method": (TWO + "merge_method: [linear]\n", "merge_method"),
    "a number for a base": (TWO + "merge_method: ties\nbase_model: 3\n", "base_model"),
    "a model without a name": (
        "models: [{parameters: {weight: 1}}]\nmerge_method: linear\n",
        "models.0.model",
    ),
    "two tokenizers": (
        TWO + "merge_method: linear\ntokenizer: {source: base}\ntokenizer_source: base\n",
        "tokenizer_source",
    ),
    "several documents": (
        TWO + "merge_method: linear\n---\n" + TWO + "merge_method: linear\n",
        "several documents",
    ),
    "itself": ("models: &x [{model: a, parameters: *x}]\nmerge_method: linear\n", "nested deeper"),
    "too deep": (TWO + "merge_method: linear\nparameters: " + "[" * 70 + "]" * 70 + "\n", "nested deeper"),
    "two adapters": ("models: [{model: a+lora-a+lora-b}]\nmerge_method: linear\n", "more than one '+'"),
    "two revisions": ("models: [{model: a@b@c}]\nmerge_method: linear\n", "more than one '@'"),
    "an adapter that is none": (
        TWO.replace("b,", "a+b,") + "merge_method: linear\n",
        "no adapter_config.json",
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, finetunes of it in float32, adapters, and finetunes that differ in vocabulary."""
    folder = tmp_path_factory.mktemp("models")

    def finetune(name: str, seed: int, rows: int = len(VOCABULARY)) -> Any:
        torch.manual_seed(0)
        model = llama(rows)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.02 * (seed > 0))
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
        return model

    for seed, name in enumerate(("base", "a", "b", "c", "other")):
        finetune(name, seed)
    for seed, name in enumerate(("half", "half-too")):
        finetune(name, seed + 7).bfloat16().save_pretrained(folder / name)
    finetune("padded", 5, 70)
    finetune("padded-too", 6, 70)
    file = folder / "other" / "tokenizer.json"
    file.write_text(file.read_text().replace("w58", "x58"))
    for seed, name in enumerate(("a", "b")):
        config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"])
        adapted = get_peft_model(finetune(name, seed + 1), config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(0.3 * torch.randn_like(parameter))
        adapted.save_pretrained(folder / f"lora-{name}")
        file = folder / f"lora-{name}" / "adapter_config.json"  # as published: a name on the hub
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "some/llama"}))
    return folder


Merged = dict[str, torch.Tensor]
Merge = Callable[[str], Merged]


@pytest.fixture
def ours(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Merge:
    """Merges by a YAML as the command does; the error that it says, if it fails, is a ValueError."""
    monkeypatch.chdir(models)

    def merge(text: str) -> Merged:
        (tmp_path / "merge.yaml").write_text(text)
        main([str(tmp_path / "merge.yaml"), str(tmp_path / "ours"), "runtime.device=cpu"])
        return load_file(tmp_path / "ours" / "model.safetensors")

    return merge


@pytest.fixture
def theirs(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Merge:
    """Merges by a YAML as mergekit-yaml does."""
    monkeypatch.chdir(models)

    def merge(text: str) -> Merged:
        options = MergeOptions(
            quiet=True, write_model_card=False, lora_merge_cache=str(tmp_path / "loras"), random_seed=0
        )
        config = MergeConfiguration.model_validate(yaml.safe_load(text))
        mergekit.run_merge(config, str(tmp_path / "theirs"), options)
        return load_file(tmp_path / "theirs" / "model.safetensors")

    return merge


def farthest(one: Merged, other: Merged) -> float:
    """The largest difference, as a share of the largest value of its tensor."""
    assert one.keys() == other.keys()
    return max(
        float((one[n].float() - x.float()).abs().max() / x.float().abs().max()) for n, x in other.items()
    )


@pytest.mark.parametrize("name", EQUAL)
def test_what_is_taken_is_merged_as_mergekit_merges_it(name, ours, theirs):
    wanted, made = theirs(EQUAL[name]), ours(EQUAL[name])
    assert farthest(made, wanted) < 1e-6
    assert {x.dtype for x in made.values()} == {x.dtype for x in wanted.values()}


@pytest.mark.parametrize("name", ROUNDED)
def test_arithmetic_in_half_precision_is_ours_in_float32_and_said(name, ours, theirs, caplog):
    wanted, made = theirs(ROUNDED[name]), ours(ROUNDED[name])
    assert farthest(made, wanted) < 2**-7
    assert {x.dtype for x in made.values()} == {x.dtype for x in wanted.values()}
    assert "they are merged in float32" in caplog.text


@pytest.mark.parametrize("name", RANDOM)
def test_random_masks_are_others_and_that_is_said(name, ours, theirs, models, caplog):
    base = load_file(models / "base" / "model.safetensors")
    changes = [
        torch.cat([(x - base[name]).abs().flatten() for name, x in sorted(merged.items())])
        for merged in (theirs(RANDOM[name]), ours(RANDOM[name]))
    ]
    wanted, made = (change.mean().item() for change in changes)
    assert made == pytest.approx(wanted, rel=0.03)
    assert "random masks are others" in caplog.text


@pytest.mark.parametrize("name", REFUSED)
def test_what_mergekit_takes_and_we_do_not_is_named(name, ours, capsys):
    text, key = REFUSED[name]
    with pytest.raises(SystemExit):
        ours(text)
    assert re.match(f"error: .*merge.yaml: .*{re.escape(key)}", capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize("name", REFUSED_BY_BOTH)
def test_what_mergekit_does_not_take_either_is_named(name, ours, theirs, capsys):
    text, key = REFUSED_BY_BOTH[name]
    with pytest.raises((Exception, RecursionError)):
        theirs(text)
    with pytest.raises(SystemExit):
        ours(text)
    assert re.match(f"error: .*merge.yaml.*{re.escape(key)}", capsys.readouterr().err.splitlines()[-1])


POOL = """
models:
  - {model: a+lora-a, parameters: {weight: 0.5, density: [1, 0.5]}}
  - {model: b, parameters: {weight: 0.25}}
  - {model: base}
merge_method: ties
base_model: base
parameters: {normalize: true}
chat_template: chatml
swapping: true
"""


def test_a_pool_takes_the_models_and_the_log_says_what_it_leaves(models, tmp_path, theirs, caplog):
    (tmp_path / "pool.yaml").write_text(POOL)
    pool = find_pool(str(tmp_path / "pool.yaml"))
    assert [run.name for run in pool] == ["a-lora-a", "b"]
    assert pool.weights == {"a-lora-a": 0.5, "b": 0.25}
    assert pool.base is not None
    assert pool.base.path == Path("base")
    told = "are taken, not merge_method, chat_template, swapping, density, normalize"
    assert told in caplog.text
    wanted = theirs("models: [{model: a+lora-a, parameters: {weight: 1}}]\nmerge_method: linear\n")
    assert farthest(dict(pool["a-lora-a"].tensors()), wanted) < 1e-6
    (tmp_path / "pool.yaml").write_text(POOL.replace("weight: 0.25", "weight: [0, 1]"))
    assert find_pool(str(tmp_path / "pool.yaml")).weights == {}
    assert (
        "weight is not one number; settings by layer or by tensor cannot be taken: no weight" in caplog.text
    )
    (tmp_path / "pool.yaml").write_text(POOL.replace("a+lora-a", "a+b"))
    with pytest.raises(CheckpointError, match=r"b, the adapter of a\+b, has no adapter_config\.json"):
        find_pool(str(tmp_path / "pool.yaml"))
    (tmp_path / "pool.yaml").write_text(POOL.replace("base_model: base", "base_model: base+lora-b"))
    with pytest.raises(CheckpointError, match=r"base_model=base\+lora-b is a model with an adapter"):
        find_pool(str(tmp_path / "pool.yaml"))


def test_an_adapter_on_a_finetune_is_remembered_by_recipes_and_said_to_mergekit(
    models, tmp_path, ours, theirs
):
    (tmp_path / "pool.yaml").write_text(POOL)
    pool = find_pool(str(tmp_path / "pool.yaml"))
    recipe = Recipe.of(["a-lora-a", "b"], TaskVectors(weights=pool.weights))
    told = RecipeFile.of(recipe, pool, "LlamaForCausalLM", None)
    told.write(tmp_path / "recipe.yaml")
    assert write(told, tmp_path / "said.yaml") is None
    main([str(tmp_path / "recipe.yaml"), str(tmp_path / "again"), "runtime.device=cpu"])
    wanted = theirs((tmp_path / "said.yaml").read_text())
    assert farthest(load_file(tmp_path / "again" / "model.safetensors"), wanted) < 1e-6
    assert farthest(ours((tmp_path / "said.yaml").read_text()), wanted) < 1e-6


def test_folders_whose_names_mergekit_would_take_apart_are_said_so_that_it_does_not(
    models, tmp_path, ours, theirs
):
    folder = shutil.copytree(models / "a", tmp_path / "lr=1e+2@5")
    runs = {"a": Place(str(folder), ""), "b": Place(str(models / "b"), "")}
    recipe = Recipe.of(["a", "b"], Linear(), [1, 2])
    assert write(RecipeFile(recipe, runs, "a", None, "LlamaForCausalLM"), tmp_path / "said.yaml") is None
    text = (tmp_path / "said.yaml").read_text()
    assert farthest(ours(text), theirs(text)) < 1e-6


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        (methods.ties(), [1, -1]),
        (methods.breadcrumbs(), [1, -1]),
        (ModelStock(), [1, 0]),
        (Slerp(0.5), [1, 0]),
        (Karcher(tolerance=0.1), [1, 1]),
    ],
)
def test_what_mergekit_would_merge_otherwise_is_not_said_to_it(method, weights, models, tmp_path):
    runs = {name: Place(str(models / name), "") for name in ("a", "b")}
    recipe = Recipe.of(["a", "b"], method, weights)
    told = RecipeFile(recipe, runs, "a", Place(str(models / "base"), ""), "LlamaForCausalLM")
    assert write(told, tmp_path / "said.yaml") is not None
    assert not (tmp_path / "said.yaml").exists()
