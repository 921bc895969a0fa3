"""A function of the user's as a task: its numbers, and what it is known by."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from causal import phrase
from scoring import rows, score

from soupkitchen.tasks import Data, Function


def test_a_function_of_ones_own_scores_examples(causal, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def short(model, tokenizer, examples):\n"
        "    assert not model.training\n"
        "    return [1 / len(tokenizer(e['text'])['input_ids']) for e in examples]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    texts = [phrase(np.random.default_rng(9)) for _ in range(7)]
    (tmp_path / "data").mkdir()
    data = rows(tmp_path / "data", [{"text": t} for t in texts])
    task = Function(data, "mine.short", best=1.0)
    part = score(task, causal)
    assert part.score == pytest.approx(np.mean([1 / len(text.split()) for text in texts]))
    assert task.metric.best == 1.0
    del sys.modules["mine"]


# What a task is known by


def test_a_function_is_known_by_its_source_and_by_that_of_what_it_imports(tmp_path, monkeypatch):
    (tmp_path / "parts").mkdir()
    files = {
        "judge.py": "import numpy\nfrom parts import near\nfrom parts.far import away\n"
        "def score(model, tokenizer, examples):\n    import late\n    return [1.0] * len(examples)\n",
        "late.py": "LATE = 1\n",
        "parts/__init__.py": "",
        "parts/near.py": "from . import deep\n",
        "parts/deep.py": "import math\n",
        "parts/far.py": "def away(): ...\n",
        "other.py": "",
    }
    for name, source in files.items():
        (tmp_path / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    task = Function(Data("-"), "judge.score")
    known = {tuple(task.identity())}
    assert tuple(task.identity()) in known
    for name in files:
        (tmp_path / name).write_text(f"{files[name]}# changed\n")
        again = tuple(task.identity())
        assert (again in known) == (name == "other.py"), name
        known.add(again)
    del sys.modules["judge"]


DYNAMIC = {
    "import_module": "import importlib\nhelper = importlib.import_module('helper')\n",
    "of a name": "from importlib import import_module\nhelper = import_module('helper')\n",
    "__import__": "helper = __import__('helper')\n",
    "inside": "def late():\n    from importlib import import_module as find\n    import importlib\n"
    "    return importlib.import_module('helper')\n",
    "computed": "import importlib\nhelper = importlib.import_module('hel' + 'per')\n",
    "in a loop": "import importlib\nfor name in ('helper',):\n    importlib.import_module(name)\n",
    "run": "from pathlib import Path\nexec(Path(__file__).with_name('helper.py').read_text())\n",
    "by file": "from importlib import util\n"
    "util.spec_from_file_location('h', __file__.replace('judge', 'helper'))\n",
}


@pytest.mark.parametrize("how", DYNAMIC)
def test_what_a_function_imports_by_a_call_is_part_of_it(how, tmp_path, monkeypatch):
    (tmp_path / "judge.py").write_text(f"{DYNAMIC[how]}def score(model, tokenizer, examples): ...\n")
    (tmp_path / "helper.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "judge", raising=False)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    task = Function(Data("-"), "judge.score")
    before = task.identity()
    assert task.identity() == before
    (tmp_path / "helper.py").write_text("X = 2\n")
    assert task.identity() != before
    monkeypatch.delitem(sys.modules, "judge")


def test_relative_imports_by_a_call_and_makers_of_functions_are_part_of_it(tmp_path, monkeypatch):
    files = {
        "kit/__init__.py": "",
        "kit/judge.py": "from functools import partial\nfrom importlib import import_module\n"
        "from maker import make, plain\nimport_module('.near', __package__)\nimport_module('.far', 'kit')\n"
        "score, half = make(0.5), partial(plain, 0.5)\n",
        "kit/near.py": "",
        "kit/far.py": "",
        "maker.py": "def make(x):\n    def score(*told): return x\n    return score\n"
        "def plain(x, *told): ...\n",
        "other.py": "",
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for function in ("kit.judge.score", "kit.judge.half"):
        task = Function(Data("-"), function)
        known = {tuple(task.identity())}
        for name in files:
            (tmp_path / name).write_text(f"{files[name]}# changed for {function}\n")
            again = tuple(task.identity())
            assert (again in known) == (name == "other.py"), name
            known.add(again)
    for name in ("kit", "kit.judge", "kit.near", "kit.far", "maker"):
        monkeypatch.delitem(sys.modules, name)


def test_a_function_without_source_is_known_by_its_name():
    assert Function(Data("-"), "math.fsum").identity() == ["math.fsum"]
