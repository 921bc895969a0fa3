"""Tasks of EleutherAI's harness score what the harness itself says."""

from __future__ import annotations

import functools
import json
import logging
import sys
from pathlib import Path
from typing import Any

import jinja2
import lm_eval.tasks
import numpy as np
import pandas as pd
import pytest
from causal import cook, phrase, tiny_llama
from scoring import score

from soupkitchen import tasks
from soupkitchen.errors import ConfigError, DataError, MetricError
from soupkitchen.options.building import build, describe
from soupkitchen.options.files import compose
from soupkitchen.tasks import Several
from soupkitchen.tasks.harness import harness_tasks
from soupkitchen.tasks.templates import Bounded

TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {file}
    train: {file}
output_type: {kind}
validation_split: validation
fewshot_split: train
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{{target}}}}}"
{more}
metric_list:
"""


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with task YAMLs of three kinds, and their data."""
    folder, random = tmp_path_factory.mktemp("harness"), np.random.default_rng(10)
    frame = pd.DataFrame(
        [
            {"question": phrase(random), "choices": [phrase(random, 1, 4) for _ in range(3)], "answer": i % 3,
             "text": phrase(random)}
            for i in range(14)
        ]
    )  # fmt: skip
    frame.to_json(folder / "data.jsonl", orient="records", lines=True)
    for name, kind, target, more, names in [
        ("choose", "multiple_choice", "answer", 'doc_to_choice: "{{choices}}"', ["acc", "acc_norm"]),
        (
            "write",
            "generate_until",
            "text",
            "generation_kwargs: {until: ['w1'], max_gen_toks: 4}",
            ["exact_match"],
        ),
        ("read", "loglikelihood_rolling", "text", "", ["word_perplexity", "bits_per_byte"]),
    ]:
        text = TASK.format(
            name=f"soup_{name}", file=folder / "data.jsonl", kind=kind, target=target, more=more
        )
        text += "".join(f"  - metric: {metric}\n" for metric in names)
        (folder / f"{name}.yaml").write_text(
            text.replace('doc_to_text: "{{question}}"', 'doc_to_text: ""', name == "read")
        )
    return folder


@pytest.fixture(autouse=True)
def _no_other_harness_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness finds what it is shown, and does not look through the thousands that come with it."""
    manager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)  # ten seconds sooner
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)


def by_the_harness(run: Path, task: str, folder: Path, **options: Any) -> dict[str, Any]:
    """What the harness itself says of a run on a task whose YAML is in `folder`."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    model, manager = HFLM(pretrained=str(run), batch_size=1, device="cpu"), lm_eval.tasks.TaskManager
    options = {"task_manager": manager(include_path=str(folder)), "bootstrap_iters": 0, **options}
    results: dict[str, Any] = simple_evaluate(model, tasks=[task], **options)["results"]
    return results


@pytest.mark.parametrize(
    ("name", "metric", "fewshot"),
    [("choose", "acc", 0), ("choose", "acc_norm", 2), ("write", "exact_match", 0),
     ("read", "bits_per_byte", 0), ("read", "word_perplexity", 0)],
)  # fmt: skip
def test_a_harness_task_scores_what_the_harness_itself_says(causal, harness, name, metric, fewshot):
    task = harness_tasks([str(harness / f"{name}.yaml")], num_fewshot=fewshot, limit=12, metric=metric)
    part, alone = score(task, causal, batch_size=5), Several.of(task).tasks[""]
    theirs = by_the_harness(causal, f"soup_{name}", harness, num_fewshot=fewshot, limit=12)
    expected = theirs[f"soup_{name}"][f"{metric},none"]
    assert alone.metric.shown(part.score) == pytest.approx(expected, rel=1e-4)
    assert part.examples_scored == 12
    assert alone.metric.binary == (metric in ("acc", "acc_norm", "exact_match"))


def test_several_harness_tasks_are_aggregated_and_have_a_test(harness):
    paths = [str(harness / f"{name}.yaml") for name in ("choose", "write")]
    tasks = harness_tasks(paths, limit=10, test_limit=3)
    assert isinstance(tasks, Several)
    assert list(tasks.tasks) == ["soup_choose", "soup_write"]
    splits = tasks.tasks["soup_choose"].data.load_splits()
    assert splits["heldout"]["document"][:] == list(range(10))
    assert splits["test"]["document"][:] == [10, 11, 12]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"tasks": []}, "should be a list"), ({"tasks": ["no_such_task"]}, "no_such_task"),
     ({"tasks": ["nowhere.yaml"]}, "no file"),
     ({"tasks": ["choose.yaml"], "metric": "f1"}, "has acc, acc_norm"),
     ({"tasks": ["choose.yaml"], "test_limit": 2}, "task.limit")],
)  # fmt: skip
def test_harness_options_that_cannot_be_are_refused(harness, options, complaint):
    tasks = [str(harness / t) if (harness / t).exists() else t for t in options.pop("tasks")]
    with pytest.raises(ConfigError, match=complaint):
        harness_tasks(tasks, **options)


@pytest.mark.parametrize("names", [["choose"], ["choose", "write"]])
def test_harness_tasks_are_described_by_the_options_that_they_were_made_of(harness, names):
    files = [str(harness / f"{name}.yaml") for name in names]
    task = tasks.lm_eval(files, limit=3, test_limit=2)
    tree = {**compose("task", "lm_eval"), "tasks": files, "limit": 3, "test_limit": 2}
    assert describe(task) == tree
    assert build(tree) == task
    if isinstance(task, Several):
        assert [describe(one)["tasks"] for one in task.tasks.values()] == [[file] for file in files]
        assert describe(task.ranked({"a": dict.fromkeys(task.tasks, 1.0)})) == tree


FILTERS = """filter_list:
  - {name: strict-match, filter: [{function: regex, regex_pattern: "#### (w)"}, {function: take_first}]}
  - {name: flexible-extract, filter: [{function: regex, regex_pattern: "(w)"}, {function: take_first}]}
"""


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of 4 and 9 documents, with two filters; groups of them; and a task with one filter."""
    folder = tmp_path_factory.mktemp("grouped")
    random = np.random.default_rng(11)
    for name, number in {"one": 4, "two": 9}.items():
        answers = [{"q": phrase(random), "a": "wx"[n % 3 == 0]} for n in range(number)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, answers)))
        (folder / f"{name}.yaml").write_text(
            f"include: shared.yml\ntask: soup_{name}\ntag: soup_tag\n"
            f"dataset_kwargs: {{data_files: {{test: {folder}/{name}.jsonl}}}}\n"
        )
    (folder / "shared.yml").write_text(
        "dataset_path: json\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_text: "{{q}}"\ndoc_to_target: "{{a}}"\n'
        'generation_kwargs: {until: ["#"], max_gen_toks: 4}\n'
        f"metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]\n{FILTERS}"
    )
    aggregate = "aggregate_metric_list:\n  - {metric: exact_match, filter_list: flexible-extract"
    for name, more in {
        "plain": "",
        "by_size": f"{aggregate}}}\n",
        "alike": f"{aggregate}, weight_by_size: false}}\n",
    }.items():
        text = f"group: soup_{name}\ntask: [soup_one, soup_two]\n{more}"
        (folder / f"group_{name}.yaml").write_text(text)
    (folder / "group_tag.yaml").write_text("group: soup_tagged\ntask:\n  - soup_tag\n")
    (folder / "group_bad.yaml").write_text("group: soup_bad\ntask: [soup_nowhere]\n")
    (folder / "group_twice.yaml").write_text("group: soup_plain\ntask: [soup_one]\n")
    return folder


@pytest.mark.parametrize("name", ["by_size", "alike", "tagged"])
@pytest.mark.parametrize("causal", ["gpt2"], indirect=True)
def test_a_group_of_ones_own_scores_what_the_harness_says_of_it(causal, grouped, name):
    file = grouped / ("group_tag.yaml" if name == "tagged" else f"group_{name}.yaml")
    filtered = {} if name in ("by_size", "alike") else {"filter": "flexible-extract"}
    tasks = harness_tasks([str(file)], **filtered)  # type: ignore[arg-type]
    assert isinstance(tasks, Several)
    scores = {name: score(task, causal).score for name, task in tasks.tasks.items()}
    theirs = by_the_harness(causal, f"soup_{name}", grouped)
    for task, ours in scores.items():
        assert ours == pytest.approx(theirs[task]["exact_match,flexible-extract"])
        assert theirs[task]["exact_match,strict-match"] != theirs[task]["exact_match,flexible-extract"]
    means = [np.mean(list(scores.values())), np.average(list(scores.values()), weights=[4, 9])]
    assert abs(means[0] - means[1]) > 1e-3
    assert tasks.score(scores) == pytest.approx(means[name == "by_size"])
    if filtered == {}:
        assert tasks.score(scores) == pytest.approx(theirs[f"soup_{name}"]["exact_match,flexible-extract"])


def test_the_first_filter_decides_and_is_said(grouped, caplog):
    caplog.set_level(logging.INFO)
    file = str(grouped / "one.yaml")
    first, other, written = (
        harness_tasks([file], **options)  # type: ignore[arg-type]
        for options in ({}, {"filter": "flexible-extract"}, {"metric": "exact_match,flexible-extract"})
    )
    assert [task.filter for task in (first, other, written)] == [  # type: ignore[union-attr]
        "strict-match", "flexible-extract", "flexible-extract",
    ]  # fmt: skip
    assert caplog.text.count("soup_one: the filter strict-match decides; task.filter names another") == 1
    assert first.identity() != other.identity() == written.identity()  # type: ignore[union-attr]


def test_a_task_with_one_filter_stands_beside_one_that_has_several(grouped, harness):
    files = [str(grouped / "one.yaml"), str(harness / "choose.yaml")]
    tasks = harness_tasks(files, filter="flexible-extract")
    assert [task.filter for task in tasks.tasks.values()] == ["flexible-extract", "none"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("file", "options", "complaint"),
    [
        (
            "one.yaml",
            {"filter": "flexible"},
            "task.filter=flexible: soup_one has strict-match, flexible-extract",
        ),
        ("group_by_size.yaml", {"filter": "none"}, "has strict-match, flexible-extract"),
        ("one.yaml", {"metric": "exact_match,a", "filter": "b"}, "name two filters"),
        ("group_bad.yaml", {}, "cannot load .*group_bad.yaml"),
        ("group_twice.yaml", {}, "are both called soup_plain; rename one"),
        ("shared.yml", {}, "no line 'task: NAME' or 'group: NAME'"),
    ],
)
def test_groups_and_filters_that_cannot_be_are_refused(grouped, file, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        harness_tasks([str(grouped / file)], **options)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10**9) %}w1{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}w{% endfor %}{% endfor %}",
        "{{ range(10**10) | list | length }}",
        "{{ 'w' * 10**10 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ [1] * 9999999 }}",
    ],
)
def test_templates_that_never_end_end(harness, tmp_path, template):
    text = (harness / "write.yaml").read_text().replace('"{{question}}"', json.dumps(template))
    (tmp_path / "endless.yaml").write_text(text)
    with pytest.raises(DataError, match="does not end in time"):
        harness_tasks([str(tmp_path / "endless.yaml")])


@pytest.mark.parametrize(
    "template",
    [
        "{% for w in words %}{{ loop.index }}/{{ loop.length }}: {{ w }}{{ loop.last }}{% endfor %}",
        "{% set n = 3 * 2 ** 4 + 1 %}{{ '=' * n }}{{ 'a' + 'b' }}{{ [1] + [2] }}{{ 0 * 5 }}\n",
        "{% for i in range(3) %}{% for w in words if w != 'b' %}{{ w }}{% else %}no{% endfor %}{% endfor %}",
        "{{ words | join(' ') | regex_replace('a', 'b') }}{{ text.strip().split()[0] }}",
    ],
)
def test_templates_that_end_are_rendered_as_ever(template):
    from lm_eval import utils

    plain = utils.env.overlay() if type(utils.env) is jinja2.Environment else jinja2.Environment()
    plain.filters["regex_replace"] = utils.regex_replace
    plain.keep_trailing_newline = True
    told = {"words": ["a", "b", "c"], "text": " one two "}
    assert Bounded.like(plain).from_string(template).render(told) == plain.from_string(template).render(told)


def test_without_the_harness_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(MetricError, match=r"soupkitchen\[lm-eval\]"):
        harness_tasks(["arc_easy"])


@pytest.mark.slow
def test_harness_tasks_run_the_whole_job_and_the_saved_soup_scores_the_same_there(harness, tmp_path):
    words = [
        f"task.tasks=[{harness}/choose.yaml]",
        "task.limit=9",
        "task.test_limit=5",
        "task.metric=acc_norm",
    ]
    table = cook("lm_eval", words, {}, tiny_llama, tmp_path).set_index("model")
    theirs = by_the_harness(tmp_path / "results/x/soup", "soup_choose", harness, limit=9)
    assert table.loc["soup", "heldout_acc_norm"] == theirs["soup_choose"]["acc_norm,none"]
    assert not np.isnan(table.loc["soup", "test_acc_norm"])


def test_a_harness_task_is_known_by_its_answers_metric_and_helpers(harness, tmp_path):
    yaml, data = (harness / "choose.yaml").read_text(), (harness / "data.jsonl").read_text()
    (tmp_path / "helpers.py").write_text("def shown(doc):\n    return doc['question']\n")
    yaml = yaml.replace(str(harness), str(tmp_path))
    yaml = yaml.replace('doc_to_text: "{{question}}"', "doc_to_text: !function helpers.shown")

    def known(**options: Any) -> tuple[str, ...]:
        (tmp_path / "choose.yaml").write_text(yaml)
        task = harness_tasks([str(tmp_path / "choose.yaml")], **options)
        assert not isinstance(task, Several)
        return tuple(task.identity())

    (tmp_path / "data.jsonl").write_text(data)
    first = known()
    assert known() == first
    assert known(metric="acc_norm") != first
    assert known(num_fewshot=1) != first
    (tmp_path / "helpers.py").write_text("X = 1\ndef shown(doc):\n    return doc['question']\n")
    assert known() != first
    (tmp_path / "helpers.py").write_text("def shown(doc):\n    return doc['question']\n")
    assert known() == first
    (tmp_path / "data.jsonl").write_text(data.replace('"answer":1', '"answer":2', 1))
    assert known() != first
