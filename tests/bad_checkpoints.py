"""Bad inputs: checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from bad import Bad
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
QUERY = "bert.encoder.layer.0.attention.self.query"
Spoil = Callable[[Path], None]


def change_config(run: Path, file: str = CONFIG, **changes: object) -> None:
    """Sets keys of a run's `config.json`."""
    path = run / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def config(**changes: object) -> Spoil:
    return lambda folder: change_config(folder / "runs/b", **changes)


def configs(**changes: object) -> Spoil:
    """Changes both runs alike, so that they fit together."""

    def spoil(folder: Path) -> None:
        for run in "ab":
            change_config(folder / "runs" / run, **changes)

    return spoil


def content(name: str, text: str | bytes) -> Spoil:
    """Puts something else into a file of run b."""
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: put(folder / "runs/b" / name, data) and None


def put(file: Path, data: bytes) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.write_bytes(data)


def pipe(name: str) -> Spoil:
    """Makes a file of run b a named pipe that nobody writes to."""

    def spoil(folder: Path) -> None:
        (folder / "runs/b" / name).unlink(missing_ok=True)
        os.mkfifo(folder / "runs/b" / name)

    return spoil


def link(name: str, target: str, without: tuple[str, ...] = ()) -> Spoil:
    """Makes a file of run b a link."""

    def spoil(folder: Path) -> None:
        for other in (name, *without):
            (folder / "runs/b" / other).unlink(missing_ok=True)
        (folder / "runs/b" / name).symlink_to(target)

    return spoil


def tensors(change: Callable[[dict[str, torch.Tensor]], object], runs: str = "b") -> Spoil:
    """Changes the tensors of run b."""

    def spoil(folder: Path) -> None:
        for run in runs:
            file = folder / "runs" / run / WEIGHTS
            held = load_file(file)
            change(held)
            save_file(held, file, {"format": "pt"})

    return spoil


def pickled(name: str, make: Callable[[torch.Tensor], object]) -> Spoil:
    """Saves run b as PyTorch does, with something odd in place of one tensor."""

    def spoil(folder: Path) -> None:
        run = folder / "runs/b"
        held: dict[str, Any] = load_file(run / WEIGHTS)
        (run / WEIGHTS).unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of kinds of tensors that are new or old
            torch.save({**held, name: make(held[name])}, run / PICKLE)

    return spoil


def many_views(folder: Path) -> None:
    """A thousand tensors that are all the same bytes."""
    whole = torch.zeros(4000)
    views = {f"view{number}": whole[: 4000 - number] for number in range(1000)}
    (folder / "runs/b" / WEIGHTS).unlink()
    torch.save(views, folder / "runs/b" / PICKLE)


def compressed(folder: Path) -> None:
    """A PyTorch file whose zeros take next to nothing."""
    run = folder / "runs/b"
    (run / WEIGHTS).unlink()
    torch.save({"x": torch.zeros(100_000)}, folder / "plain")
    small = zipfile.ZipFile(run / PICKLE, "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(folder / "plain") as plain, small:
        for entry in plain.namelist():
            small.writestr(entry, plain.read(entry))
    (folder / "plain").unlink()


def odd_tokenizer(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / "runs/b/tokenizer.json"
        told = json.loads(file.read_text())
        model = changes.pop("model", {})
        file.write_text(json.dumps({**told, "model": {**told["model"], **model}, **changes}))

    return spoil


def code(name: str, target: str) -> Spoil:
    """Code of run b that is a link to somewhere else."""

    def spoil(folder: Path) -> None:
        change_config(folder / "runs/b", auto_map={"AutoModelForSequenceClassification": "mine.Mine"})
        put(folder / "outside.py", b"SECRET = 1\n")
        (folder / "runs/b" / name).symlink_to(target)

    return spoil


def as_adapter(options: Mapping[str, object] | None = None, base: str = "runs/a") -> Spoil:
    """Makes run b a LoRA adapter of run a."""

    def spoil(folder: Path) -> None:
        write_adapter(folder / "runs/b", base, options)

    return spoil


def write_adapter(run: Path, base: str, options: Mapping[str, object] | None = None) -> None:
    shutil.rmtree(run)
    run.mkdir()
    told = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": base, **(options or {})}
    (run / "adapter_config.json").write_text(json.dumps(told))
    factors = {"lora_A": torch.full((2, 16), 0.01), "lora_B": torch.full((16, 2), 0.01)}
    prefix = f"base_model.model.{QUERY}"
    save_file(
        {f"{prefix}.{part}.weight": x for part, x in factors.items()}, run / "adapter_model.safetensors"
    )


def cut_head(held: dict[str, torch.Tensor]) -> None:
    held.update({name: x[:2].clone() for name, x in held.items() if name.startswith("classifier")})


def wider(folder: Path) -> None:
    """Every tensor of run b in another size."""
    tensors(lambda held: held.update({name: torch.cat([x, x]) for name, x in held.items()}))(folder)


def sharded_by_pipe(folder: Path) -> None:
    (folder / "runs/b" / WEIGHTS).unlink()
    os.mkfifo(folder / "runs/b" / f"{WEIGHTS}.index.json")


def trainer_folder(folder: Path) -> None:
    """Run b as checkpoints, with a state that cannot be read."""
    run = folder / "runs/b"
    shutil.copytree(run, folder / "checkpoint-5")
    shutil.rmtree(run)
    run.mkdir()
    (folder / "checkpoint-5").rename(run / "checkpoint-5")
    os.mkfifo(run / "checkpoint-5" / "trainer_state.json")


def base_of_pipes(folder: Path) -> None:
    shutil.copytree(folder / "runs/a", folder / "base")
    (folder / "base" / WEIGHTS).unlink()
    os.mkfifo(folder / "base" / WEIGHTS)


NO_FILE = "no regular file"
DEEP = "[" * 100_000 + "]" * 100_000
LONG_HEADER = struct.pack("<Q", 2**62) + b"{}"

ROWS = [
    # Files that are none
    Bad("config.json is a named pipe", (), ("b/config.json", "a named pipe", NO_FILE), pipe(CONFIG)),
    Bad("config.json is endless", (), ("b/config.json", "a device", NO_FILE), link(CONFIG, "/dev/zero")),
    Bad("config.json is a link to nothing", (), ("b/config.json is missing", "a link to gone"),
        link(CONFIG, "gone")),
    Bad("config.json is a list", (), ("b/config.json", "a JSON object"), content(CONFIG, "[]")),
    Bad("config.json is nested without end", (), ("b/config.json cannot be read",), content(CONFIG, DEEP)),
    Bad("config.json is too large", (), ("b/config.json", "at most 256"),
        lambda folder: os.truncate(folder / "runs/b" / CONFIG, 300 << 20)),
    Bad("weights are a named pipe", (), ("b/model.safetensors", "a named pipe", NO_FILE), pipe(WEIGHTS)),
    Bad("weights are endless", (), ("b/model.safetensors", "a device"), link(WEIGHTS, "/dev/zero")),
    Bad("weights are a link to nothing", (),
        ("b/model.safetensors is missing", "a link to ../blobs/1", "copy it again"),
        link(WEIGHTS, "../blobs/1")),
    Bad("header without end", (), ("b/model.safetensors cannot be read", "copy the run again"),
        content(WEIGHTS, LONG_HEADER)),
    Bad("index of shards is a named pipe", (), ("b/model.safetensors.index.json", NO_FILE), sharded_by_pipe),
    Bad("tokenizer.json is a named pipe", (), ("b/tokenizer.json", NO_FILE), pipe("tokenizer.json")),
    Bad("vocab.txt is endless", (), ("b/vocab.txt", NO_FILE),
        link("vocab.txt", "/dev/zero", ("tokenizer.json", "tokenizer_config.json"))),
    Bad("generation_config.json is a named pipe", (), ("b/generation_config.json", NO_FILE),
        pipe("generation_config.json")),
    Bad("trainer_state.json is a named pipe", ("pool.checkpoints=best",), ("trainer_state.json", NO_FILE),
        trainer_folder),
    # Pickles that are no plain tensors
    Bad("sparse tensor", (), ("b", "classifier.weight is a sparse tensor", "save_pretrained"),
        pickled("classifier.weight", lambda x: x.to_sparse())),
    Bad("CSR tensor", (), ("b", "classifier.weight is a sparse tensor (sparse_csr)"),
        pickled("classifier.weight", lambda x: x.to_sparse_csr())),
    Bad("tensor without data", (), ("b", "classifier.weight is on the device meta"),
        pickled("classifier.weight", lambda x: x.to("meta"))),
    Bad("nested tensor", (), ("b", PICKLE),
        pickled("classifier.weight", lambda x: torch.nested.nested_tensor([x, x[:1]]))),
    Bad("quantised tensor", (), ("b", "classifier.weight is a quantised tensor"),
        pickled("classifier.weight", lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8))),
    Bad("complex tensor", (), ("b", "classifier.weight is of complex numbers"),
        pickled("classifier.weight", lambda x: x.to(torch.complex64))),
    Bad("expanded tensor", (), ("b", "classifier.bias claims 4,000,000,000 bytes", "4 are stored"),
        pickled("classifier.bias", lambda x: torch.zeros(1).expand(1_000_000_000))),
    Bad("many tensors of the same bytes", (), ("b", "its tensors claim", "16,000 are stored"), many_views),
    Bad("compressed pickle", (), ("b", "is compressed", "torch.save"), compressed),
    # Configurations
    Bad("dtype is a list", (), ("b/config.json", "dtype=['float32']", "no dtype"),
        config(dtype=["float32"])),
    Bad("dtype that there is not", (), ("b/config.json", "torch_dtype=float33", "no dtype"),
        config(torch_dtype="float33")),
    Bad("attention from the hub", (), ("b/config.json", "attn_implementation=kernels-x/evil", "eager, sdpa"),
        config(attn_implementation="kernels-x/evil")),
    Bad("attention from the hub in a part", (),
        ("b/config.json", "_attn_implementation=org/x:y", "take it out"),
        config(text_config={"vision": [{"_attn_implementation": "org/x:y"}]})),
    Bad("attention from the hub by part", (), ("b/config.json", "org/x", "take it out"),
        config(attn_implementation={"": "sdpa", "text_config": "org/x"})),
    Bad("weight file named by config.json", (), ("b/config.json", "transformers_weights", "remove that"),
        config(transformers_weights="other.safetensors")),
    Bad("a billion layers", (), ("b/config.json", "num_hidden_layers=1000000000", "only 25 tensors"),
        config(num_hidden_layers=10**9)),
    Bad("a billion labels", (), ("b/config.json", "num_labels=1000000000"), config(num_labels=10**9)),
    Bad("a trillion positions", (), ("config.json makes a model of", "its files hold", "put its sizes right"),
        configs(max_position_embeddings=10**12)),
    Bad("head resized without its config.json", (),
        ("classifier.bias has shape [2]", "shape [3]", "and 1 more tensors differ"),
        tensors(cut_head, "ab")),
    Bad("model_type is a number", (), ("b/config.json", "model_type is no text"), config(model_type=5)),
    # Tokenizers
    Bad("vocabulary is a number", (), ("b/tokenizer.json is no tokenizer's", "copy the run again"),
        odd_tokenizer(model={"vocab": 5})),
    Bad("added tokens by name", (), ("b/tokenizer.json is no tokenizer's",),
        odd_tokenizer(added_tokens={"<x>": 1})),
    Bad("token numbers are lists", (), ("b/tokenizer.json", "which is none"),
        odd_tokenizer(model={"vocab": {"w1": [1]}})),
    Bad("tokenizer_config.json is a list", (), ("b/tokenizer_config.json should hold a JSON object",),
        content("tokenizer_config.json", "[]")),
    Bad("generation_config.json is cut off", (), ("b/generation_config.json cannot be read",),
        content("generation_config.json", '{"max_length": ')),
    # Parts
    Bad("dense layer that was not copied", (), ("b", "lacks 2_Dense (Dense)", "copy the run again"),
        content("modules.json", json.dumps([
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]))),
    # Tensors
    Bad("whole numbers among floating-point ones", (),
        ("b", "classifier.bias holds whole numbers (I32)", "F32"),
        tensors(lambda held: held.update({"classifier.bias": held["classifier.bias"].int()}))),
    Bad("run of another size", (), ("b", "25 tensors have other shapes", "another size"), wider),
    # Code
    Bad("code is a link out of the run", (), ("b/mine.py is a link to", "outside.py", "in its place"),
        code("mine.py", "../../outside.py")),
    Bad("code is a link to nothing", (), ("b/mine.py is missing",), code("mine.py", "gone.py")),
    # Adapters
    Bad("adapter whose base is on the hub", (),
        ("b", "org/model", "the hub is asked only for what you name", "pool.base=org/model"),
        as_adapter(base="org/model")),
    Bad("adapter of an adapter", (), ("b ", "runs/c is an adapter itself", "a whole model"),
        lambda folder: (write_adapter(folder / "runs/b", "runs/c"),
                        (folder / "runs/c").mkdir(),
                        write_adapter(folder / "runs/c", "runs/a"))[0]),
    Bad("adapter with ten thousand expressions", (), ("b", "alpha_pattern", "more than 64"),
        as_adapter({"alpha_pattern": {f"(x+)+{number}": 3 for number in range(10_000)}})),
    Bad("adapter of a rank without end", (), ("b", "has rank 2", "says 1000"), as_adapter({"r": 10**300})),
    Bad("base is an adapter", ("pool.base=runs/b",), ("pool.base=runs/b", "is an adapter itself"),
        as_adapter()),
    Bad("base of named pipes", ("pool.base=base",), ("pool.base=base", "base/model.safetensors", NO_FILE),
        base_of_pipes),
]  # fmt: skip
