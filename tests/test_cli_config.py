"""The command line's words: names of runs, typos, and answers that do not wait for torch."""

from __future__ import annotations

import functools
import gc
import inspect
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from soupkitchen.cli import config as conf
from soupkitchen.cli.startup import importing
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation import EvaluationOptions, Runtime
from soupkitchen.merging import Karcher, Linear, Magnitude, Random, Slerp, TaskVectors
from soupkitchen.options import check_tree, files
from soupkitchen.options.building import describe, named
from soupkitchen.output import Output
from soupkitchen.store import settings

CHOICES = {"pool": "demo", "method": "linear", "search": "greedy", "task": "demo"}
LIGHT = """
import sys
sys.argv = ["soupkitchen", *{arguments!r}]
from soupkitchen.__main__ import main
try:
    main()
finally:
    heavy = [m for m in ("torch", "transformers", "datasets", "evaluate", "pandas") if m in sys.modules]
    assert not heavy, heavy
    print("LIGHT")
"""


def light(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs the command line and checks that nothing heavy was imported."""
    command = [sys.executable, "-c", LIGHT.format(arguments=list(arguments))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert "LIGHT" in result.stdout, result.stderr
    return result


def test_help_explains_itself_without_torch(tmp_path):
    out = light("--help", cwd=tmp_path).stdout
    for words in (
        "python -m soupkitchen",
        "search: evolve, exhaustive, greedy, pruned, uniform, window",
        "accept",
        "pool.path=",
        "-m",
    ):
        assert words in out
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_prints_the_composition_without_torch(tmp_path):
    out = light("--cfg", "job", "search=uniform", cwd=tmp_path).stdout
    assert "soupkitchen.search.Uniform" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("method.normalise=false", "no option 'method.normalise'. Did you mean method.normalize?"),
        ("serach.accept=1", "Did you mean search.accept?"),
        ("task.data.pth=x", "Did you mean task.data.path?"),
        ("method=liner", "no method=liner. Did you mean method=linear?"),
        ("task=text_clasification", "Did you mean task=text_classification?"),
        ("+overwite=true", "Did you mean overwrite?"),
        ("task=text_classification", "task.data.path has to be given"),
        ("pool=folder", "pool.path has to be given"),
        ("method.normalize=[", "no viable alternative"),
        ("task.data.heldout=train[:80%]", "needs quotes of its own"),
        ("nonsense", "'nonsense' is no option"),
        ("trust_remote_code=no", "trust_remote_code=no should be true or false"),
        ("+method.density=0.3", "no option 'method.density'. Did you mean method.sparsifier.density?"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_answered_without_torch_or_traceback(word, answer, tmp_path):
    result = light(word, cwd=tmp_path)
    assert answer in result.stderr
    assert "Traceback" not in result.stderr.replace("assert not heavy", "")


def test_a_wrong_word_exits_with_1_and_full_errors_can_be_had(tmp_path):
    command = [sys.executable, "-m", "soupkitchen", "method.normalise=1"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    environment = {"HYDRA_FULL_ERROR": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, check=False, env=environment
    )
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "demo-linear-greedy"),
        (["search=uniform"], "demo-linear-uniform"),
        (["runtime.device=cpu", "overwrite=true", "name=x"], "demo-linear-greedy"),
        (["runtime.dtype=bfloat16"], "demo-linear-greedy+runtime.dtype=bfloat16"),
        (["top_k=3", "demo_seed=1"], "demo-linear-greedy+demo_seed=1+top_k=3"),
        (["demo_seed=1", "top_k=3"], "demo-linear-greedy+demo_seed=1+top_k=3"),
        (["pool.path='runs/*'"], "runs-linear-greedy"),
        (["pool.path=../../etc"], "etc-linear-greedy"),
        (["pool.path='/data/sweeps/glue/runs/*'"], "glue_runs-linear-greedy"),
        (["~method.normalize"], "demo-linear-greedy+_method.normalize"),
        (["method.weights={a: 2}"], "demo-linear-greedy+method.weights=_a_2"),
    ],
)
def test_a_run_is_named_by_what_is_run(overrides, name):
    search = "uniform" if "search=uniform" in overrides else "greedy"
    assert conf.run_name({**CHOICES, "search": search}, overrides) == name


def test_only_options_of_swept_groups_become_sweeps():
    words = [
        "-m",
        "method=ties,dare_ties",
        "method.sparsifier.density=0.3",
        "top_k=3",
        "search.accept=better,significant",
    ]
    expected = [*words[:2], "method.sparsifier.density=choice(0.3)", *words[3:]]
    assert conf.sweepable(words) == expected
    assert conf.sweepable(words[1:]) == words[1:]
    nested = [
        "-m",
        "method=ties,linear",
        "method.weights={a: 1, b: [2]}",
        "+method.x='a,b'",
        "~method.y",
        "method.t=1,2",
    ]
    assert conf.sweepable(nested)[2:] == [
        "method.weights=choice({a: 1, b: [2]})", "+method.x=choice('a,b')", "~method.y", "method.t=1,2"
    ]  # fmt: skip
    assert conf.sweepable(["-m", "method=ties,linear", "top_k=["]) == ["-m", "method=ties,linear", "top_k=["]


def test_long_names_are_cut_and_stay_different():
    names = {conf.run_name(CHOICES, [f"task.text={'x' * 200}{i}"]) for i in range(3)}
    assert len(names) == 3
    assert max(map(len, names)) <= 120


@functools.cache
def composed(*overrides: str) -> DictConfig:
    """What the words compose to, for tests that leave it as it is."""
    conf.register_resolvers()
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def nodes(tree: object):
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield tree
        for value in tree.values():
            yield from nodes(value)


@pytest.mark.parametrize(
    "choice",
    [
        f"{group.name}={file.stem}"
        for group in sorted(conf.CONF.iterdir())
        if group.is_dir() and group.name in CHOICES | {"runtime": ""}
        for file in sorted(group.glob("*.yaml"))
    ],
)
def test_each_yaml_has_exactly_the_options_of_what_it_names(choice):
    group = choice.split("=")[0]
    tree = OmegaConf.to_container(composed(choice)[group], resolve=False)
    assert list(nodes(tree))
    for node in nodes(tree):
        parameters = inspect.signature(named(node["_target_"])).parameters
        assert node.keys() - {"_target_"} == parameters.keys()


@pytest.mark.parametrize(
    "choice", ["search", "executor=local", "executor=ray", "model=auto", "output", "runtime", "report"]
)
def test_defaults_of_python_are_those_of_the_yamls(choice):
    """`cook` takes the defaults of the classes, a command line those of the YAMLs."""
    group, _, only = choice.partition("=")
    for name in [only] if only else files.names(group):
        tree = files.compose(group, name)
        assert describe(named(tree["_target_"])()) == tree


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (True, "full", "better")),
        (["evaluation.effort=exact"], (True, "full", "better")),
        (["evaluation.effort=confident"], ({"confidence": 0.999}, {"confidence": 0.999}, "better")),
        (["evaluation.effort=frugal"], ({"confidence": 0.999}, {"confidence": 0.999}, {"margin": "auto"})),
        (
            ["search.ranking=full", "evaluation.early_stopping=false", "evaluation.effort=frugal"],
            (False, "full", {"margin": "auto"}),
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("search", ["greedy", "window"])
def test_an_effort_is_what_the_options_of_evaluation_and_search_are_by_default(search, words, expected):
    config = OmegaConf.to_container(composed(f"search={search}", *words), resolve=False)
    del config["hydra"], config["name"]
    told = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    assert (
        told["evaluation"]["early_stopping"],
        told["search"]["ranking"],
        told["search"]["accept"],
    ) == expected


def test_every_yaml_begins_with_what_it_is_for():
    for file in conf.CONF.rglob("*.yaml"):
        assert file.read_text().startswith("# "), file


def test_differences_between_configurations_are_lines_of_options():
    before = settings.what_is_run(
        OmegaConf.create({"search": {"accept": "better"}, "name": "x", "overwrite": False})
    )
    now = settings.what_is_run(
        OmegaConf.create({"search": {"accept": "not_worse"}, "name": "y", "overwrite": True})
    )
    assert settings.difference(before, before) == []
    assert settings.difference(before, now) == ["search.accept: better before, not_worse now"]


YAMLS = [
    f"{group}={file.stem}"
    for group in ("pool", "task", "method", "search", "runtime", "evaluation", "output")
    for file in sorted((conf.CONF / group).glob("*.yaml"))
]


@pytest.mark.parametrize("choice", YAMLS)
def test_what_the_yamls_say_passes(choice):
    options = OmegaConf.create(OmegaConf.to_container(composed(choice), resolve=False))
    del options["hydra"]
    options.name = "x"
    for key in OmegaConf.missing_keys(options):
        OmegaConf.update(options, key, ["x"] if key == "task.tasks" else "x")
    conf.check_keys(options)
    check_tree(OmegaConf.to_container(options, resolve=True))


def test_every_option_that_is_true_or_false_refuses_every_other_word():
    found = 0
    for choice in YAMLS:
        group = choice.split("=")[0]
        tree = OmegaConf.to_container(composed(choice)[group], resolve=False)
        tree = {key: value for key, value in tree.items() if "${effort:" not in str(value)}
        for key, value in settings.flat(tree).items():
            if not isinstance(value, bool) or key == "apply_chat_template":  # that may be a name, too
                continue
            found += 1
            for word in ("no", "off", "never", "yes", "maybe", "0", 1, 0, "", None):
                options = OmegaConf.create({group: tree})
                OmegaConf.update(options, f"{group}.{key}", word)
                plain = OmegaConf.to_container(options, resolve=False)
                with pytest.raises(ConfigError, match=f"{group}.{key}=.* should be true or false"):
                    check_tree(plain)
    assert found >= 13


def test_options_of_ones_own_classes_are_ones_own():
    own = {"_target_": "mine.Method", "normalize": "maybe", "trust_remote_code": 5, "density": "x"}
    check_tree({"method": own})
    data = {"_target_": "soupkitchen.tasks.Data", "seed": -1}
    with pytest.raises(ConfigError, match=r"task\.data\.seed"):
        check_tree({"task": {"_target_": "mine.Task", "data": data}})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Runtime(batch_size=True), "runtime.batch_size=true"),
        (lambda: Runtime(trust_remote_code="no"), "trust_remote_code=no should be true or false"),
        (lambda: Runtime(seed=-1), "runtime.seed"),
        (lambda: EvaluationOptions(effort="hasty"), "effort=hasty: choose exact, confident or frugal"),
        (lambda: EvaluationOptions(early_stopping="off"), "evaluation.early_stopping=off"),
        (lambda: Output(rank=1.5, format="adapter"), "output.rank"),
        (lambda: Linear(normalize="maybe"), "method.normalize=maybe"),
        (lambda: Linear(weights=[1, 2]), "method.weights"),
        (lambda: Slerp(t="half"), "method.t=half"),
        (lambda: Karcher(iterations="x"), "method.iterations=x"),
        (lambda: TaskVectors(scale="x"), "method.scale=x"),
        (lambda: TaskVectors(Magnitude(density="x")), "method.sparsifier.density=x"),
        (lambda: Random(density=0.5, seed=1.5), "method.sparsifier.seed=1.5"),
    ],
)  # fmt: skip
def test_classes_hold_themselves_to_their_annotations(make, told):
    with pytest.raises(ConfigError, match=told):
        make()


def test_memory_and_executor_are_no_part_of_what_is_run():
    before, now = (
        OmegaConf.create({"runtime": {"max_memory": memory, "seed": 0}, "name": "x", "executor": executor})
        for memory, executor in ((None, None), ({"cpu": "6GiB"}, {"_target_": "mine.Executor", "workers": 4}))
    )
    assert settings.what_is_run(before) == settings.what_is_run(now) == {"runtime.seed": 0}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "soupkitchen", *words]


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("module", ["soupkitchen", "soupkitchen.inspect"])
def test_help_may_be_read_in_part(module, buffered, tmp_path):
    python = [sys.executable] if buffered else [sys.executable, "-u"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [*python, "-m", module, "--help"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    # 141 as a command that SIGPIPE ends, in a shell; argparse does not notice by itself
    assert process.returncode == 141 or (module, buffered) == ("soupkitchen.inspect", False)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_imports_ends_in_one_line(number, code, tmp_path):
    (tmp_path / "runs").mkdir()
    words = command("pool.path=runs/*", "task=text_classification", "task.data.path=x", "name=x")
    for seconds in (0.3, 0.8, 1.6, 2.4):
        process = subprocess.Popen(
            words, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        until = time.monotonic() + 20
        while not _catches(process.pid, number) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        if "names no folder" in said:  # it was faster
            continue
        assert process.returncode == code, said
        assert said.splitlines()[0].startswith(("interrupted", "terminated"))
        assert "Traceback" not in said
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def _catches(process: int, number: int) -> bool:
    """Tells whether a process has a handler of its own for a signal."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return True
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_garbage_is_collected_again_after_imports_even_failed_ones():
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()
