"""Files of strangers are data: nothing that they name is imported, read elsewhere, waited for or believed."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command import forked, soupkitchen
from tiny import LABELS, make_texts, save_tokenizer, text_classifier

from soupkitchen import console, rebuild, report, tables
from soupkitchen.checkpoints import find_pool
from soupkitchen.cli import command
from soupkitchen.errors import ConfigError, JournalError, SoupkitchenError
from soupkitchen.experiment.session import Result
from soupkitchen.records import leaderboard, trajectory
from soupkitchen.records.report import map_section, page
from soupkitchen.records.run import Run
from soupkitchen.records.trackers import _read as read_trackers
from soupkitchen.store import journal
from soupkitchen.store.evaluations import EvaluationCache
from soupkitchen.store.folder import RunFolder, check_is_ours
from soupkitchen.store.journal import line_of

LONGEST = 10
"""Seconds that no small file may take, on a machine that is busy; most take none."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool, and a finished run in `results/x`."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "texts").mkdir()
    make_texts(40, seed=0).to_csv(folder / "texts" / "validation.csv", index=False)
    model = text_classifier(LABELS)
    for number, name in enumerate("ab"):
        for parameter in model.parameters():
            parameter.data.mul_(1 + 0.02 * number)
        model.save_pretrained(folder / "runs" / name)
        save_tokenizer(folder / "runs" / name)
    words = [f"pool.path={folder}/runs/*", "task=text_classification", f"task.data.path={folder}/texts"]
    soupkitchen(*words, "evaluation.cache=null", "search=uniform", "method=ties", "name=x",
                "report.write=true",
                f"pool.base={folder}/runs/a", cwd=folder)  # fmt: skip
    return folder


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Path:
    """The finished run, to be spoilt."""
    folder = tmp_path / "results" / "x"
    folder.parent.mkdir()
    return Path(shutil.copytree(home / "results" / "x", folder))


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    def give_up(*_: Any) -> None:
        raise TimeoutError(f"after {LONGEST} s")

    before = signal.signal(signal.SIGALRM, give_up)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def rebuilt(run: Path, *words: str) -> None:
    """Follows the recipe; its error as one."""
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(console, "say", said.append)
        try:
            rebuild.main([str(run / "recipe.yaml"), str(run.parent / "again"), "runtime.device=cpu", *words])
        except SystemExit as end:
            raise ConfigError("; ".join(said)) from end
        finally:
            shutil.rmtree(run.parent / "again", ignore_errors=True)


def result_of(run: Path) -> None:
    result = Result(run)
    assert min(len(result.leaderboard), result.recipe.size, len(result.ingredients)) > 0
    assert "score" in result.trajectory


READERS: dict[str, Callable[[Path], Any]] = {
    "report": report.make,
    "map": lambda run: map_section(Run(run)),
    "tables": tables.make,
    "events": lambda run: (trajectory(events := journal.read(run / "journal.jsonl")), leaderboard(events)),
    "page": lambda run: page(Run(run)),
    "all runs": lambda run: report.make(run.parent),
    "rebuild": rebuilt,
    "result": result_of,
    "model": lambda run: Result(run).model(),
    "the same again": lambda run: RunFolder(run).is_to_be_run({"pool": {}}, overwrite=False),
    "its mark": check_is_ours,
    "finished": command._report,
    "trackers": lambda run: read_trackers(run / "trackers.json"),
}
FILES = {
    "config.yaml": ("report", "all runs", "model", "the same again", "its mark"),
    "journal.jsonl": ("report", "tables", "all runs", "result", "its mark"),
    "leaderboard.csv": ("result", "all runs", "finished", "its mark"),
    "trajectory.csv": ("result", "its mark"),
    "recipe.yaml": ("report", "rebuild"),
    "mergekit.yaml": ("report",),
    "map.json": ("report",),
    "trackers.json": ("trackers",),
    "soupkitchen.log": ("its mark",),
}
"""Who reads which file of a results folder."""


def read(reader: str, run: Path) -> str:
    """Has it read; what it refuses, in words. It ends soon, and no other exception ends it."""
    signal.alarm(LONGEST)
    try:
        READERS[reader](run)
    except (SoupkitchenError, OSError) as error:
        return str(error)
    finally:
        signal.alarm(0)
    return ""


DEEP = 100_000
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "bytes": bytes(range(256)),
    "deep": b"[" * DEEP + b"]" * DEEP,
    "deep lines": b"\n".join(b" " * n + b"a:" for n in range(300)),
    "itself": b"&a\nformat: 1\nmodel: *a\n",
    "many": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in range(97, 108)),
    "digits": b"1" * 5000 + b"\n",
    "a call": b"!!python/object/apply:os.system ['touch ran']\n",
    "much": b"a" * (65 << 20),
}


def _linked(to: str) -> Callable[[Path], None]:
    return lambda file: file.symlink_to(to)


PLACED: dict[str, Callable[[Path], None]] = {
    **{name: lambda file, content=content: file.write_bytes(content) for name, content in CONTENTS.items()},
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link out": _linked("/etc/passwd"),
    "link to a device": _linked("/dev/zero"),
    "link to itself": lambda file: file.symlink_to(file),
}


@pytest.mark.parametrize("kind", PLACED)
def test_whatever_lies_where_a_file_should_be_is_named_or_left_out(kind, run):
    for file, readers in FILES.items():
        place, aside = run / file, run.parent / "aside"
        there = place.exists()
        if there:
            place.rename(aside)
        PLACED[kind](place)
        for reader in readers:
            told = read(reader, run)
            assert not told or str(run.parent) in told, (file, reader, told)
        page = run / "report.html"
        assert "root:x:0" not in page.read_text()
        shutil.rmtree(place) if kind == "folder" and place.is_dir() else place.unlink(missing_ok=True)
        if there:
            aside.rename(place)
    assert not Path("ran").exists()


ODD: list[Any] = [None, True, -1, 10**400, float("nan"), "x", "\ud800", ["x"], {"a": [1]}]
"""What no field is, or hardly any."""


def places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a tree something stands; of lists the first alone."""
    yield above
    inside = (
        tree.items()
        if isinstance(tree, dict)
        else list(enumerate(tree))[:1]
        if isinstance(tree, list)
        else ()
    )
    for key, part in inside:
        yield from places(part, (*above, key))


def with_other(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    tree = copy.deepcopy(tree)
    part = tree
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return tree


@pytest.mark.parametrize(
    ("file", "reader"),
    [
        ("recipe.yaml", "rebuild"),
        ("config.yaml", "the same again"),
        ("map.json", "map"),
        ("trackers.json", "trackers"),
    ],
)
def test_a_field_of_another_type_is_an_error_with_the_files_name(file, reader, run):
    load, dump = (json.loads, json.dumps) if file.endswith(".json") else (yaml.safe_load, yaml.safe_dump)
    if file == "trackers.json":
        (run / file).write_text('{"mlflow": {"run": "ab", "steps": 3, "done": true}}')
    whole = load((run / file).read_text())
    if file == "config.yaml":
        whole = {name: whole[name] for name in ("pool", "model", "name")}
    for number, place in enumerate(places(whole)):
        for value in ODD[number % 2 :: 2]:
            (run / file).write_text(dump(with_other(whole, place, value)))
            told = read(reader, run)
            assert not told or any(name in told for name in (str(run), "recipe", "pool.base")), told


def test_an_event_of_another_type_is_an_error_with_its_line(run):
    file = run / "journal.jsonl"
    events = [without_sum(line) for line in file.read_text().splitlines()]
    kinds = {event["event"]: number for number, event in enumerate(events)}
    assert set(kinds) == {"begin", "score", "step", "entry", "saved", "finish"}
    for number in kinds.values():
        for place in places(events[number]):
            for value in ODD[::2] if len(place) < 2 else ODD[-1:]:
                spoilt = with_other(events, (number, *place), value)
                write_journal(file, spoilt)
                told = read("events", run)
                assert not told or str(file) in told, (place, value, told)
    for more in ({"event": "foo"}, {"event": "step"}, {"event": "entry"}, {"event": "contribution"}):
        for spoilt in ([more], [more, *events], [*events, more]):
            write_journal(file, spoilt)
            for reader in ("events", "page", "result"):
                told = read(reader, run)
                assert not told or str(file) in told, (more, reader, told)


def write_journal(file: Path, events: list[Any]) -> None:
    """Writes events, each with its digest, which strangers can make, too; what is no event as it is."""
    lines = [line_of(event) if isinstance(event, dict) else json.dumps(event).encode() for event in events]
    file.write_bytes(b"".join(line.rstrip(b"\n") + b"\n" for line in lines))


def without_sum(line: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if name != "sum"}


@pytest.mark.parametrize("event", ["step", "entry", "score"])
def test_an_edited_score_does_not_get_into_tables(event, run):
    file = run / "journal.jsonl"
    lines = file.read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if line.startswith(f'{{"event": "{event}"'))
    told = json.loads(lines[number])
    for edited in (
        json.dumps(told | {"score": 0.99}),
        json.dumps(without_sum(lines[number]) | {"score": 0.99}),
    ):
        file.write_text("".join(f"{line}\n" for line in [*lines[:number], edited, *lines[number + 1 :]]))
        with pytest.raises(
            JournalError, match=rf"journal.jsonl is damaged at line {number + 1} \(it is not what"
        ):
            tables.make(run)


FOREIGN = {
    "other columns": "model,elo\nx,1500\n",
    "no soup": "rank,model,kind,ingredients,heldout_accuracy,delta_vs_best_single\n1,a,single,a,0.5,0\n",
    "words": "rank,model,kind,ingredients,heldout_accuracy,delta_vs_best_single\n1,s,soup,a,good,0\n",
    "twice": "rank,rank\n1,1\n",
    "wide": ",".join(map(str, range(200_000))),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_leaderboard_of_somebody_elses_is_named_with_the_remedy(kind, run):
    (run / "leaderboard.csv").write_text(FOREIGN[kind])
    for reader in ("result", "finished"):
        assert str(run / "leaderboard.csv") in read(reader, run)


@pytest.mark.parametrize(
    ("runs", "says"), [(1200, "has over 1,000,000 parts"), (110, "110 runs are more than the")]
)
def test_a_map_of_very_many_runs_is_no_work(runs, says, run):
    told = {
        "names": [f"r{n}" for n in range(runs)],
        "gram": np.eye(runs).tolist(),
        "soup": None,
        "base": True,
    }
    (run / "map.json").write_text(json.dumps(told))
    assert read("report", run) == ""
    assert says in (run / "report.html").read_text()


def test_an_evaluation_is_a_file_of_its_folder(run):
    entry = next(file for file in (run / "evaluations").rglob("*") if file.is_file())
    cache = EvaluationCache(run / "evaluations")
    assert cache.get(entry.stem) is not None
    entry.unlink()
    os.mkfifo(entry)
    signal.alarm(LONGEST)
    assert cache.get(entry.stem) is None
    write_journal(run / "journal.jsonl", [{"event": "score", "predictions": "../../x"}])
    assert "predictions" in read("events", run)


def test_nothing_is_written_through_a_link(home, run, tmp_path):
    mine = tmp_path / "mine"
    for name in ("journal.jsonl", "trajectory.csv", "soupkitchen.log", "evaluations"):
        mine.write_text("mine")
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(mine)
        with pytest.raises(ConfigError, match=f"{name} is a link to {mine}, out of its folder"):
            check_is_ours(run)
        assert mine.read_text() == "mine"
        (run / name).unlink()
    (run.parent / ".x.holder").symlink_to(mine)
    shutil.copy(home / "results" / "x" / "journal.jsonl", run)
    tables.make(run)
    assert mine.read_text() == "mine"


# Recipes


EVIL: dict[str, Callable[[dict[str, Any]], Any]] = {
    "os.system": lambda told: told.update(method={"_target_": "os.system", "command": "touch ran"}),
    "nested": lambda told: told["method"].update(
        sparsifier={"_target_": "os.system", "command": "touch ran"}
    ),
    "in a list": lambda told: told["method"].update(scale=[{"a": {"_target_": "mine.run"}}]),
    "of ours by another way": lambda told: told.update(
        method={"_target_": "soupkitchen.options.building.import_module", "name": "mine"}
    ),
    "what builds": lambda told: told.update(
        method={"_target_": "soupkitchen.options.building.build", "tree": {"_target_": "mine.run"}}
    ),
    "no text": lambda told: told["method"].update(_target_=["os.system"]),
    "model": lambda told: told.update(model={"_target_": "mine.run"}),
    "model.build": lambda told: told.update(
        model={"_target_": "soupkitchen.models.Function", "build": "mine.run"}
    ),
    "model.processor": lambda told: told.update(
        model={"_target_": "soupkitchen.models.Function", "build": "mine.run", "processor": "mine.other"}
    ),
    "model.options": lambda told: told.update(
        model={"_target_": "soupkitchen.models.Function", "build": "x", "options": {"_target_": "mine.run"}}
    ),
    "model_class": lambda told: told.update(model_class="os"),
    "a function of transformers": lambda told: told.update(model_class="pipeline"),
    "dtype": lambda told: told.update(dtype="hub"),
}
MINE = "from pathlib import Path\nPath('ran').touch()\n"


@pytest.fixture
def mine(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's, in the working directory, that notes that it was imported."""
    (run.parent / "mine.py").write_text(MINE)
    monkeypatch.chdir(run.parent)
    monkeypatch.syspath_prepend(str(run.parent))
    return run.parent / "ran"


@pytest.mark.parametrize("kind", EVIL)
def test_a_recipe_imports_nothing_of_its_own(kind, run, mine):
    told = yaml.safe_load((run / "recipe.yaml").read_text())
    EVIL[kind](told)
    (run / "recipe.yaml").write_text(yaml.safe_dump(told))
    error = read("rebuild", run)
    assert str(run / "recipe.yaml") in error
    assert not mine.exists()
    if "mine.other" in str(told):
        assert "--trust mine.run --trust mine.other" in error


def test_a_method_of_ones_own_is_imported_for_those_who_trust_it(run, mine):
    mine.with_name("own_method.py").write_text(
        "from dataclasses import dataclass\nfrom soupkitchen.merging import Linear\n\n"
        "@dataclass(frozen=True)\nclass Own(Linear):\n    pass\n"
    )
    told = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(told | {"method": {"_target_": "own_method.Own"}}))
    assert f"{run}/recipe.yaml: it names own_method.Own" in (error := read("rebuild", run))
    assert "say --trust own_method.Own to python -m soupkitchen.rebuild" in error
    rebuilt(run, "--trust", "own_method.Own")


def test_a_recipe_says_nothing_of_trust_remote_code(run, monkeypatch):
    told = yaml.safe_load((run / "recipe.yaml").read_text())
    assert "trust_remote_code" not in told
    (run / "recipe.yaml").write_text(yaml.safe_dump(told | {"trust_remote_code": True}))
    seen = []
    evaluation = pytest.importorskip("soupkitchen.evaluation")
    loading = evaluation.Runtime.loading
    monkeypatch.setattr(
        evaluation.Runtime,
        "loading",
        lambda self, *dtype: seen.append(self.trust_remote_code) or loading(self, *dtype),
    )
    rebuilt(run)
    assert seen == [False]


def test_a_results_folder_imports_nothing_of_its_own(run, mine):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"] = {"_target_": "soupkitchen.models.Function", "build": "mine.run"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"config\.yaml: it names mine\.run.*trust=\['mine\.run'\]"):
        Result(run).model()
    events = [without_sum(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "saved":
            event["recipe"]["method"] = {"_target_": "mine.run"}
    write_journal(run / "journal.jsonl", events)
    with pytest.raises(ConfigError, match=r"journal\.jsonl: it names mine\.run"):
        _ = Result(run).recipe
    for reader in ("report", "tables", "all runs", "finished"):
        read(reader, run)
    assert not mine.exists()


HOOK = """
import sys, os, importlib
sys.path.insert(0, os.getcwd())
from pathlib import Path
from soupkitchen import rebuild, report
from soupkitchen.cli import command
from soupkitchen.experiment.session import Result
from soupkitchen.checkpoints import find_pool
from soupkitchen.errors import SoupkitchenError
home, run = Path(sys.argv[1]), Path(sys.argv[2])
seen = []
def hook(event, given):
    if event == "import" and given[0].split(".")[0] in ("mine", "antigravity", "this"):
        seen.append((event, given[0]))
    elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect",
                   "socket.getaddrinfo", "pty.spawn", "webbrowser.open"):
        seen.append((event, str(given)[:200]))
    elif event == "open" and isinstance(given[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(given[0]))
        written = isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        inside = path.startswith((str(home), str(run.parents[1]), "/dev/null"))
        if path == "/etc/passwd" or (written and not inside):
            seen.append((event, path))
def call(made, *given):
    try:
        made(*given)
    except (SoupkitchenError, SystemExit, OSError):
        pass
Result(run).model()  # imports what transformers does
sys.addaudithook(hook)
for name in sorted(Path("files").iterdir()):
    place = run / name.name.split("@")[1]
    before = place.read_bytes() if place.is_file() else None
    place.write_bytes(name.read_bytes())
    call(report.make, run)
    if place.name == "recipe.yaml":
        call(rebuild.main, [str(place), str(run.parent / "again"), "runtime.device=cpu"])
    else:
        call(command._report, run)
        call(lambda: Result(run).model())
        call(lambda: Result(run).recipe)
    place.unlink() if before is None else place.write_bytes(before)
for pool in sorted(Path("pools").iterdir()):
    call(find_pool, str(pool))
    call(rebuild.main, [str(pool), str(run.parent / "merged")])
print(seen)
"""


@pytest.mark.slow
def test_by_an_audit_hook_nothing_that_a_file_names_is_imported_run_or_asked_for(home, run, mine):
    here = run.parent
    (here / "files").mkdir()
    (here / "pools").mkdir()
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    config = yaml.safe_load((run / "config.yaml").read_text())
    for number, spoil in enumerate(EVIL.values()):
        told = copy.deepcopy(recipe)
        spoil(told)
        (here / "files" / f"{number}@recipe.yaml").write_text(yaml.safe_dump(told))
    call = {"_target_": "mine.run", "_args_": ["antigravity"]}
    for group in ("pool", "task", "method", "search", "model", "output", "executor", "report", "tracker"):
        (here / "files" / f"{group}@config.yaml").write_text(yaml.safe_dump(config | {group: call}))
    text = (run / "config.yaml").read_text()
    (here / "files" / "env@config.yaml").write_text(text.replace("name: x", "name: ${hydra:x}${oc.env:HOME}"))
    for tag in ("object/apply:os.system [touch ran]", "module:antigravity ''", "name:mine.run ''"):
        for file in ("recipe.yaml", "config.yaml"):
            (here / "files" / f"{tag[:6]}-{len(tag)}@{file}").write_text(f"a: !!python/{tag}\n")
    events = [without_sum(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    for name, entry in {
        "model_class": "antigravity",
        "base": {"base": "org/name"},
        "runs": {"mine.run": "x"},
    }.items():
        lines = [events[0] | {name: entry}, *events[1:]]
        write_journal(here / "files" / f"{name}@journal.jsonl", lines)
    (here / "files" / "t@trackers.json").write_text('{"mine.run": {"run": "x", "steps": 1}}')
    soup = json.loads((run / "soup" / "config.json").read_text())
    code = {
        "auto_map": {"AutoModelForSequenceClassification": "mine.run", "AutoConfig": "org/name--mine.run"}
    }
    for name, more in {"code": code, "attention": {"_attn_implementation": "org/name"}}.items():
        pool = here / "pools" / name
        for one in ("a", "b"):
            shutil.copytree(home / "runs" / one, pool / one)
            (pool / one / "config.json").write_text(json.dumps(soup | more))
            (pool / one / "mine.py").write_text(MINE)
    for name, method in {"linear": "linear", "target": "mine.run"}.items():
        models = [{"model": {"_target_": "mine.run"}}, {"model": "no/such"}]
        (here / "pools" / f"{name}.yaml").write_text(
            yaml.safe_dump({"merge_method": method, "models": models})
        )
    ended = forked(
        HOOK,
        str(home),
        str(run),
        cwd=here,
        env={"HF_HUB_OFFLINE": "0", "SOUPKITCHEN_CACHE": str(here / "cache")},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"
    assert not mine.exists()


# Places


def test_a_working_directory_that_was_removed_is_named(home, tmp_path):
    gone = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')"
    words = [f"pool.path={home}/runs/*", "task=text_classification", f"task.data.path={home}/texts"]
    assert "was removed: change to one" in soupkitchen(*words, cwd=tmp_path, fails=True, before=gone).stderr


def test_a_pool_of_links_to_devices_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").symlink_to("/dev/zero")
    signal.alarm(LONGEST)
    with pytest.raises(SoupkitchenError):
        find_pool(str(tmp_path / "runs" / "*"))
