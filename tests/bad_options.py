"""Bad inputs: options, command lines, results folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad import Bad
from command import with_defaults
from omegaconf import OmegaConf

from soupkitchen.store.journal import FORMAT, line_of

BOOLEAN = "should be true or false"
SIGNIFICANT = "search.accept={significant: 0.0005}"


def file(name: str, content: str = "mine\n") -> Callable[[Path], None]:
    """Puts a file of the user's there."""

    def put(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return put


def directory(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).mkdir(parents=True)


def all_of(*spoilers: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for one in spoilers:
            one(folder)

    return spoil


def foreign_soup(folder: Path) -> None:
    file("results/x/soup/model.safetensors")(folder)
    file("results/x/config.yaml", "model: mine\n")(folder)


def begun(event: dict[str, Any], config: str | None = None) -> Callable[[Path], None]:
    """A run of ours that began, by its journal's first event and its configuration."""

    def spoil(folder: Path) -> None:
        run = folder / "results" / "x"
        run.mkdir(parents=True)
        (run / "journal.jsonl").write_bytes(line_of(event))
        (run / "trajectory.csv").write_text("step,stage\n")
        if config is not None:
            (run / "config.yaml").write_text(config)

    return spoil


BEGIN = {"event": "begin", "format": FORMAT, "versions": {}, "runs": {}, "base": {}, "model": {}, "data": {}}


def composed(folder: Path) -> None:
    """The configuration that the good command makes, as a run that began leaves it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from soupkitchen.cli import config as conf

    conf.register_resolvers()
    GlobalHydra.instance().clear()
    words = ["pool.path=runs/*", "task=text_classification", "task.data.path=texts", "evaluation.cache=null"]
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        config = compose("config", with_defaults([*words, "name=x"]))
    OmegaConf.set_struct(config, False)
    config.choices = {  # as the command notes them
        "pool": "demo", "task": "text_classification", "method": "linear", "search": "greedy",
    }  # fmt: skip
    OmegaConf.save(config, folder / "results" / "x" / "config.yaml", resolve=True)


ROWS = [
    # Words
    Bad(
        "no such option",
        ("method.densty=0.3",),
        ("method.densty", "Did you mean method.sparsifier.density?", "--cfg job"),
    ),
    Bad("an option of a class that has it not", ("+method.density=0.3",), ("no option 'method.density'",)),
    Bad("an option of another group", ("method.base=b",), ("no option 'method.base'", "mean pool.base?")),
    Bad("no such launcher", ("hydra/launcher=jobli",), ("mean hydra/launcher=joblib?", "submitit_slurm")),
    Bad("a word that is no option", ("nonsense",), ("'nonsense' is no option", "NAME=VALUE")),
    Bad("a word before -m", ("!", "nonsense", "-m"), ("'nonsense' is no option",)),
    Bad("a group without a name", ("method=null",), ("method=null is no name", "linear")),
    Bad("a list for a group", ("search=[greedy]",), ("search=['greedy'] is no name", "uniform")),
    Bad("a group that is taken away", ("~method",), ("method=null is no name", "linear")),
    Bad("a number for a group", ("runtime=5",), ("runtime=5 is no name", "default")),
    Bad("a reference to no option", ("task.text=${nosuch}",), ("${nosuch}", "no option nosuch")),
    Bad("a metric's name for its options", ("task.metric=accuracy",), ("did you mean task.metric.name=acc",)),
    Bad("a path for the data's options", ("task.data=texts",), ("did you mean task.data.path=texts",)),
    # Booleans
    Bad("trust_remote_code=never", ("trust_remote_code=never",), ("trust_remote_code=never", BOOLEAN)),
    Bad("overwrite=no", ("overwrite=no",), ("overwrite=no", BOOLEAN)),
    Bad("greater_is_better=yes", ("task.metric.greater_is_better=yes",), ("is_better=yes", BOOLEAN)),
    Bad("runtime's own trust_remote_code", ("runtime.trust_remote_code=off",), ("code=off", BOOLEAN)),
    # Numbers
    Bad("batch_size=true", ("runtime.batch_size=true",), ("runtime.batch_size=true", "at least 1")),
    Bad("batch_size=1.5", ("runtime.batch_size=1.5",), ("runtime.batch_size=1.5", "a whole number")),
    Bad("workers=-1", ("runtime.workers=-1",), ("runtime.workers=-1", "from 0 to 1024")),
    Bad("dtype=float8", ("runtime.dtype=float8",), ("runtime.dtype=float8", "bfloat16")),
    Bad("threads=0", ("runtime.threads=0",), ("runtime.threads=0", "from 1 to")),
    Bad("seed=-1", ("runtime.seed=-1",), ("runtime.seed=-1", "from 0 to")),
    Bad("max_length=-5", ("task.max_length=-5",), ("task.max_length=-5", "at least 1")),
    Bad("top_k=abc", ("top_k=abc",), ("top_k=abc", "a whole number")),
    Bad("top_k=-1", ("top_k=-1",), ("top_k=-1", "at least 1")),
    Bad("top_k=0", ("top_k=0",), ("top_k=0", "at least 1")),
    Bad("recalibrate=true", ("method.recalibrate_batchnorm=true",), ("batchnorm=true", "a whole number")),
    Bad("t=nan", ("method=slerp", "method.t=nan"), ("method.t=nan", "between 0 and 1")),
    Bad("density=abc", ("method=ties", "method.sparsifier.density=abc"), ("density=abc", "1 at most")),
    Bad("scale twice", ("method=ties", "method.scale=[1,1]"), ("method.scale=[1, 1]", "different numbers")),
    Bad("a share as text", ("task.data.heldout_share=half",), ("heldout_share=half", "below 1")),
    # Texts and choices
    Bad("pool.path=null", ("pool=folder", "pool.path=null"), ("pool.path=null", "should be text")),
    Bad("a column as a number", ("task.text=5",), ("task.text=5", "quotes twice")),
    Bad("no such rule", ("search.accept=best",), ("search.accept=best", "not_worse")),
    Bad("no such dtype", ("output.dtype=int8",), ("output.dtype=int8", "bfloat16")),
    Bad("memory as text", ("runtime.max_memory=8GiB",), ("runtime.max_memory=8GiB", "{cpu: 8GiB}")),
    # What only the pool, the task or the metric can tell
    Bad("all runs but one left out", ("pool.exclude=b",), ("pool.exclude=['b']", "at least two")),
    Bad("weights of no run", ("method.weights={aa: 5}",), ("method.weights.aa", "Did you mean a?")),
    Bad("a key that the metric has not", ("task.metric.key=f1",), ("task.metric.key=f1", "gives accuracy")),
    Bad(
        "significance below what a bootstrap can show",
        ("task.metric.name=f1_macro", SIGNIFICANT),
        (SIGNIFICANT, "the least p-value", "0.001"),
    ),
    Bad("a pool that names no folder", ("pool.path=nowhere/*",), ("names no folder",)),
    Bad("a margin below 0", ("search.accept={margin: -1}",), ("search.accept",)),
    Bad("a weight below 0", ("method.weights={a: -1}",), ("method.weights.a",)),
    Bad("a metric of the hub", ("task.metric.name=rouge",), ("hub could not be reached",)),
    Bad("a task for other models", ("task=image_classification",), ("cannot load it",)),
    Bad("a method without its base", ("method=ties",), ("pool.base",)),
    # Folders of the user's
    Bad("a soup of the user's", spoil=foreign_soup, says=("results/x holds config.yaml, soup", "name=")),
    Bad("the same, overwritten", ("overwrite=true",), ("another name=",), spoil=foreign_soup),
    Bad("the working directory as the run's", ("results_dir=.", "name=."), ("holds runs, texts", "name=")),
    Bad("a file as the run's folder", says=("results/x is no folder",), spoil=file("results/x")),
    Bad("a file as results", says=("results", "A file is where a folder should be"), spoil=file("results")),
    Bad("results where nobody may write", ("results_dir=/sys/mine",), ("/sys/", "name another results_dir=")),
    Bad("a name that is too long", (f"name={'x' * 300}",), ("too long", "a shorter name=")),
    Bad("a run that fails in an empty folder", ("task.text=no",), ("task.text=no",), directory("results/x")),
    # Results that somebody edited
    Bad(
        "a configuration that is no YAML",
        says=("results/x/config.yaml was edited", "overwrite=true"),
        spoil=begun(BEGIN, config="pool: [\n"),
    ),
    Bad(
        "a configuration that is a list",
        says=("results/x/config.yaml was edited", "it is a list"),
        spoil=begun(BEGIN, config="[1, 2]\n"),
    ),
    Bad(
        "results without their configuration",
        says=("without their config.yaml", "overwrite=true"),
        spoil=begun(BEGIN),
    ),
    Bad(
        "an event without an entry",
        says=("journal.jsonl is damaged at line 1 (it has no 'runs')", "overwrite=true"),
        spoil=all_of(begun({name: value for name, value in BEGIN.items() if name != "runs"}), composed),
    ),
    Bad(
        "the journal of another version",
        says=("journal.jsonl was written by another version of soupkitchen", "overwrite=true"),
        spoil=all_of(begun(BEGIN | {"format": 1}), composed),
    ),
    Bad(
        "an event of another type",
        says=("journal.jsonl is damaged at line 1 (what it says: runs: ", "overwrite=true"),
        spoil=all_of(begun(BEGIN | {"runs": 5}), composed),
    ),
    Bad(
        "a folder as the journal",
        says=("journal.jsonl is in the way", "a file"),
        spoil=directory("results/x/journal.jsonl"),
    ),
    Bad(
        "a folder as the leaderboard",
        says=("leaderboard.csv is in the way", "a file"),
        spoil=all_of(begun(BEGIN), directory("results/x/leaderboard.csv")),
    ),
]
