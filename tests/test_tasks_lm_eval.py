"""Options of lm_eval give the figures of lm_eval on the saved soup, to the last digit."""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.tasks
import numpy as np
import pytest
import torch
from causal import SIZE, phrase, tokenizer
from lm_eval.models.huggingface import HFLM
from scoring import score
from tiny import VOCABULARY
from transformers import LlamaConfig, LlamaForCausalLM

from soupkitchen import cook
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation import Runtime, identity, statistics
from soupkitchen.models import auto
from soupkitchen.options.kinds import check, hints_of
from soupkitchen.tasks.harness import HarnessTasks, harness_tasks

TEMPLATE = (
    "{% for m in messages %}{{ {'system': 'w50 ', 'user': 'w51 ', 'assistant': 'w52 '}[m.role] }}"
    "{{ m.content }} </s> {% endfor %}{% if add_generation_prompt %}w52 {% endif %}"
)
SHARED = """dataset_path: json
validation_split: validation
fewshot_split: train
"""
CHOICE = """doc_to_text: "{{question}}"
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: brier_score}, {metric: acc}]
"""
READ = """doc_to_text: ""
output_type: loglikelihood_rolling
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
"""
WRITE = """doc_to_text: "{{question}}"
output_type: generate_until
doc_to_target: "{{question}}"
description: "w40 w41"
generation_kwargs: {until: ["w1"], max_gen_toks: 9, temperature: 0.7, do_sample: false}
metric_list: [{metric: chrf}]
"""
WHOLE = "{name: whole, filter: [{function: take_first}]}"
START = '{name: start, filter: [{function: regex, regex_pattern: "(w[0-9]+)"}, {function: take_first}]}'
TASKS = {
    "choose": (CHOICE, "all"),
    "read": (READ, "all"),
    "few": (CHOICE, "few"),
    "aloud": (READ, "few"),
    "many": (CHOICE, "many"),
    "write": (f"{WRITE}filter_list: [{WHOLE}, {START}]\n", "few"),
    "answer": (f"{WRITE}filter_list: [{START}, {WHOLE}]\n", "many"),
}
"""YAMLs, and where their documents are."""
GROUPS = {
    "exam": "task: [few, aloud, many]\naggregate_metric_list: [{metric: brier_score, weight_by_size: true}]",
    "writers": "task: [write, answer]\naggregate_metric_list: [{metric: chrf, weight_by_size: false}]",
}
ASKED = ["choose", "read", *GROUPS]
CHAT = {
    "apply_chat_template": True,
    "fewshot_as_multiturn": False,
    "system_instruction": "w30 w31",
    "num_fewshot": 2,
    "gen_kwargs": {"max_gen_toks": 7, "until": ["w2"]},
}


@pytest.fixture(scope="module", autouse=True)
def _soon() -> Iterator[None]:
    """The harness does not look through the thousands of its tasks, and few resamples make an interval."""
    with pytest.MonkeyPatch.context() as patch:
        manager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
        patch.setattr(lm_eval.tasks, "TaskManager", manager)
        patch.setattr(statistics, "RESAMPLES", 9)
        yield


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks of three kinds, two groups and their data."""
    folder, random = tmp_path_factory.mktemp("mine"), np.random.default_rng(10)
    for name, number in {"train": 6, "few": 3, "many": 7, "all": 8}.items():
        documents = [
            {"question": phrase(random), "choices": [phrase(random, 1, 4) for _ in range(3)],
             "answer": i % 3, "text": phrase(random, 40, 200)}
            for i in range(number)
        ]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, documents)))
    for name, (text, documents) in TASKS.items():
        files = f"{{validation: {folder}/{documents}.jsonl, train: {folder}/train.jsonl}}"
        lines = f"task: {name}\n{SHARED}dataset_kwargs: {{data_files: {files}}}\n{text}"
        (folder / f"{name}.yaml").write_text(lines)
    for name, text in GROUPS.items():
        (folder / f"{name}.yaml").write_text(f"group: {name}\n{text}\n")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs with two chat templates, and a penalty in their generation_config.json."""
    folder, talker = tmp_path_factory.mktemp("chat"), tokenizer()
    talker.chat_template = {"default": TEMPLATE, "short": "{{ messages[-1].content }}"}
    tokens = {"vocab_size": len(VOCABULARY) + 1, "eos_token_id": len(VOCABULARY), "bos_token_id": None}
    config = LlamaConfig(max_position_embeddings=96, initializer_range=0.3, **SIZE, **tokens)
    for seed in range(3):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.generation_config.repetition_penalty = 1.3
        model.save_pretrained(folder / f"run{seed}")
        talker.save_pretrained(folder / f"run{seed}")
    return folder


@pytest.fixture(scope="module")
def result(runs: Path, mine: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A soup, cooked with all options."""
    task = harness_tasks(ASKED, include_path=str(mine), **CHAT)  # type: ignore[arg-type]
    runtime = Runtime(device="cpu", batch_size=1, threads=1)
    return cook(runs, task, runtime=runtime, results_dir=tmp_path_factory.mktemp("results"))


def by_lm_eval(run: Path, mine: Path, tasks: Sequence[str] = ASKED, **options: Any) -> dict[str, Any]:
    model, manager = HFLM(pretrained=str(run), batch_size=1, device="cpu"), lm_eval.tasks.TaskManager
    told = {"task_manager": manager(include_path=str(mine)), "bootstrap_iters": 0, **options}
    results: dict[str, Any] = lm_eval.simple_evaluate(model, tasks=list(tasks), **told)["results"]
    return results


def figures(theirs: dict[str, Any], tasks: HarnessTasks) -> dict[str, float]:
    """lm_eval's figures by task."""
    return {name: theirs[name][f"{t.metric.name},{t.filter}"] for name, t in tasks.tasks.items()}  # type: ignore[attr-defined]


def asked(mine: Path, *names: str, **options: Any) -> HarnessTasks:
    tasks = harness_tasks(names or ASKED, include_path=str(mine), **options)
    assert isinstance(tasks, HarnessTasks)
    return tasks


def test_the_saved_soup_has_its_figures_in_lm_eval(result, mine):
    soup = result.leaderboard.set_index("model").loc["soup"]
    theirs, tasks = by_lm_eval(result.folder / "soup", mine, **CHAT), asked(mine, **CHAT)
    assert list(tasks.tasks) == ["choose", "read", "few", "many", "write", "answer"]
    for name, figure in figures(theirs, tasks).items():
        assert soup[f"heldout_{name}"] == figure
    whole = [-theirs["choose"]["brier_score,none"], -theirs["read"]["bits_per_byte,none"],
             -theirs["exam"]["brier_score,none"], theirs["writers"]["chrf,whole"]]  # fmt: skip
    assert soup["heldout_mean"] == pytest.approx(np.mean(whole), rel=1e-12)


@functools.cache
def _scored(soup: Path, mine: Path, options: str) -> tuple[dict[str, float], HarnessTasks]:
    tasks = asked(mine, **json.loads(options))
    return {name: score(task, soup, batch_size=1).score for name, task in tasks.tasks.items()}, tasks


@pytest.mark.parametrize(
    ("options", "changed"),
    [({}, set()),
     ({"apply_chat_template": True, "num_fewshot": 2}, {"choose", "few", "many", "write", "answer"}),
     ({"system_instruction": "w30 w31"}, {"choose", "few", "many", "write", "answer"}),
     ({"gen_kwargs": "max_gen_toks=3,num_beams=2"}, {"write", "answer"})],
)  # fmt: skip
def test_each_option_gives_the_figures_of_lm_eval(result, mine, options, changed):
    soup = result.folder / "soup"
    (plain, _), (ours, tasks) = (_scored(soup, mine, json.dumps(given)) for given in ({}, options))
    assert {name for name, figure in ours.items() if figure != plain[name]} == changed
    theirs = by_lm_eval(soup, mine, **options)
    shown = {name: task.metric.shown(ours[name]) for name, task in tasks.tasks.items()}
    assert shown == figures(theirs, tasks)
    exam, writers = (asked(mine, name) for name in GROUPS)
    assert -exam.score({name: ours[name] for name in exam.tasks}) == theirs["exam"]["brier_score,none"]
    assert writers.score({name: ours[name] for name in writers.tasks}) == theirs["writers"]["chrf,whole"]


def test_lm_eval_uses_the_default_template_whatever_name_it_is_given(result, mine, caplog):
    soup, names = result.folder / "soup", (True, "short")
    few = asked(mine, "few", "many", apply_chat_template="short").tasks["few"]
    assert "task.apply_chat_template=short: the harness uses the tokenizer's default template" in caplog.text
    default, short = (by_lm_eval(soup, mine, ["few"], apply_chat_template=name)["few"] for name in names)
    assert -score(few, soup, batch_size=1).score == short["brier_score,none"] == default["brier_score,none"]


def test_tasks_without_the_metric_have_no_part_in_a_group_and_are_named(mine, caplog):
    caplog.set_level(logging.WARNING, "soupkitchen")
    assert list(asked(mine, "exam").tasks) == ["few", "many"]
    assert "aloud has no part in the score of exam: no brier_score,none" in caplog.text


@pytest.mark.parametrize("names", [("exam", "choose"), ("exam", "choose", "writers")])
def test_a_group_beside_other_tasks_counts_as_one(mine, names):
    shares = asked(mine, *names).shares
    assert shares["few"] == pytest.approx(0.3 / len(names))
    assert shares["many"] == pytest.approx(0.7 / len(names))
    assert shares["choose"] == pytest.approx(1 / len(names))


def test_tasks_of_the_harness_may_have_floors(mine):
    made = asked(mine, "exam", "choose", floors={"choose": -0.01})
    assert made.floors == {"choose": -0.01}
    with pytest.raises(ConfigError, match=r"task\.floors\.chose: .* did you mean choose"):
        asked(mine, "exam", "choose", floors={"chose": 0.0})
    with pytest.raises(ConfigError, match=r"task\.floors are for several tasks"):
        asked(mine, "choose", floors={"choose": 0.0})


def test_a_task_is_known_by_each_option_and_by_the_content_of_its_file(mine, tmp_path):
    def known(folder: Path = mine, **options: Any) -> tuple[str, ...]:
        return tuple(identity.task(harness_tasks(["write"], include_path=str(folder), **options)))  # type: ignore[arg-type]

    chat = {"apply_chat_template": True}
    each = [{}, chat, {**chat, "fewshot_as_multiturn": False}, {"system_instruction": "w30"},
            {"gen_kwargs": {"max_gen_toks": 3}}, {"num_fewshot": 1}]  # fmt: skip
    assert len({known(**options) for options in each}) == len(each)
    assert known(gen_kwargs="max_gen_toks=3") == known(gen_kwargs={"max_gen_toks": 3})
    text = (mine / "write.yaml").read_text()
    (tmp_path / "write.yaml").write_text(text)
    first = known(tmp_path)
    assert known(tmp_path) == first
    (tmp_path / "write.yaml").write_text(text.replace("w40", "w42"))
    assert known(tmp_path) != first


def test_prompts_follow_the_tokenizers_template(runs, mine):
    task = harness_tasks(["few"], include_path=str(mine), apply_chat_template=True)
    model = LlamaForCausalLM.from_pretrained(runs / "run0")
    split = task.data.load_splits()["heldout"]  # type: ignore[union-attr]

    def prompt(template: str) -> str:
        talker = tokenizer()
        talker.chat_template = template
        return task.prepare(split, talker, model)["requests"][0]  # type: ignore[union-attr]

    assert prompt("A{{ messages[0].content }}").startswith('[["Aw')
    assert prompt("B{{ messages[0].content }}").startswith('[["Bw')
    with pytest.raises(ConfigError, match="the template refuses prompts of few: no system"):
        prompt("{{ raise_exception('no system') }}")


def test_a_run_without_the_template_is_refused_before_a_model_is_loaded(runs, mine, tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "load_model", lambda *_: pytest.fail("loads a model"))
    shutil.copytree(runs, tmp_path / "runs")
    task = asked(mine, "few", "read", apply_chat_template="long")
    with pytest.raises(ConfigError, match="run0 has no chat template long, only default, short"):
        cook(tmp_path / "runs", task, results_dir=tmp_path)
    for run in (tmp_path / "runs").iterdir():
        tokenizer().save_pretrained(run)
        (run / "chat_template.jinja").unlink()
        shutil.rmtree(run / "additional_chat_templates")
    with pytest.raises(ConfigError, match=r"run0 has no chat template$"):
        cook(tmp_path / "runs", asked(mine, "few", "read", apply_chat_template=True), results_dir=tmp_path)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"fewshot_as_multiturn": True}, "task.fewshot_as_multiturn=true needs task.apply_chat_template"),
     ({"include_path": "nowhere"}, "task.include_path: there is no folder nowhere"),
     ({"gen_kwargs": {"max_gen_tok": 3}}, "gen_kwargs: there is no max_gen_tok; did you mean max_gen_toks"),
     ({"gen_kwargs": "do_sample=True,temperature=0.5"}, "task.gen_kwargs: write draws answers at random"),
     ({"tasks": ["write", "writers"]}, "task.tasks: write is part of writers, and named before"),
     ({"tasks": ["nothing"]}, "cannot load 'nothing'")],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(mine, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        harness_tasks(**{"tasks": ["write"], "include_path": str(mine), **options})


def test_more_tokens_than_the_model_takes_are_refused(runs, mine):
    task = harness_tasks(["write"], include_path=str(mine), gen_kwargs={"max_gen_toks": 96})
    with pytest.raises(ConfigError, match="max_gen_toks=96, and the model takes 96 tokens"):
        score(task, runs / "run0")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [("apply_chat_template", 3, "true or false or text"), ("gen_kwargs", [1], "text, a mapping, as {a: 1}")],
)
def test_options_have_types(option, value, complaint):
    with pytest.raises(ConfigError, match=f"task.{option}=.* should be {complaint}"):
        check(f"task.{option}", value, hints_of(harness_tasks)[option])
