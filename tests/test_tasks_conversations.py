"""Conversations: what templates of ten families write, which tokens are answers, and how they are scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from causal import SIZE
from command import soupkitchen
from conversations import CHATML, tokenizer
from scoring import rows, score
from tiny import shake

from soupkitchen import metrics
from soupkitchen.errors import CheckpointError, ConfigError, DataError
from soupkitchen.tasks import LanguageModeling, Preference, TextGeneration
from soupkitchen.tasks.conversations import Chat

QWEN3 = (  # thoughts of the last answer stay, those before it go
    "{% for m in messages %}{% set c = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ c + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m.role + '<|end|>\n\n' + m.content | trim"
    " + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{{ '<|start|>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim"
    " + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (  # one more token where a conversation ends
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SMOLLM = (  # says which part is generated
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% else %}{{ '<|Assistant|>' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ASSISTANT:' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
R1 = DEEPSEEK.replace("{{ '<|Assistant|>' }}{% endif %}", "{{ '<|Assistant|><think>\n' }}{% endif %}")

Pieces = list[tuple[str, int]]
"""Texts, and whether they are an answer."""


def chatml(said: str, role: str, last: bool) -> Pieces:
    return [(f"<|im_start|>{role}\n", 0), (f"{said}<|im_end|>\n", int(role == "assistant"))]


def qwen3(said: str, role: str, last: bool) -> Pieces:
    thought = "<think>\n\n</think>\n\n" if role == "assistant" and last else ""
    return [(f"<|im_start|>{role}\n", 0), (f"{thought}{said}<|im_end|>\n", int(role == "assistant"))]


def smollm(said: str, role: str, last: bool) -> Pieces:
    return [(f"<|im_start|>{role}\n", 0), (f"{said}<|im_end|>", int(role == "assistant")), ("\n", 0)]


def phi3(said: str, role: str, last: bool) -> Pieces:
    pieces = [(f"<|{role}|>\n", 0), (f"{said}<|end|>\n", int(role == "assistant"))]
    return [*pieces, ("</s>", 1)] if last else pieces


def inline(before: str, between: str) -> Any:
    return lambda said, role, last: (
        [(f"{before}{said}{between}", 0)] if role == "user" else [(f" {said}</s>", 1)]
    )


FAMILIES: dict[str, tuple[str, Any, str]] = {
    "qwen2": (CHATML, chatml, ""),
    "qwen3": (QWEN3, qwen3, ""),
    "llama3": (
        LLAMA3,
        lambda said, role, last: [
            (f"<|start|>{role}<|end|>\n\n", 0),
            (f"{said}<|eot|>", int(role == "assistant")),
        ],
        "<s>",
    ),
    "gemma3": (
        GEMMA3,
        lambda said, role, last: [
            (f"<|start|>{'model' if role == 'assistant' else role}\n", 0),
            (f"{said}<|end|>\n", int(role == "assistant")),
        ],
        "<s>",
    ),
    "mistral": (MISTRAL, inline("[INST] ", " [/INST]"), "<s>"),
    "phi3": (PHI3, phi3, ""),
    "smollm": (SMOLLM, smollm, ""),
    "deepseek": (
        DEEPSEEK,
        lambda said, role, last: (
            [(f"<|User|>{said}", 0)] if role == "user" else [("<|Assistant|>", 0), (f"{said}</s>", 1)]
        ),
        "<s>",
    ),
    "zephyr": (
        ZEPHYR,
        lambda said, role, last: [(f"<|{role}|>\n", 0), (f"{said}</s>\n", int(role == "assistant"))],
        "",
    ),
    "vicuna": (VICUNA, inline("USER: ", " ASSISTANT:"), ""),
}

TURNS = [
    {"role": "user", "content": "What is 3 + 4?"},
    {"role": "assistant", "content": "It is seven. ü"},
    {"role": "user", "content": "And 3 * 4? It is…"},
    {"role": "assistant", "content": "It is"},
]


@pytest.fixture
def run(tmp_path):
    """Makes a run with a tokenizer that has the given template."""

    def make(template: Any = CHATML, positions: int = 512) -> Path:
        encode = tokenizer(template)
        config = transformers.LlamaConfig(
            num_key_value_heads=1, max_position_embeddings=positions, vocab_size=len(encode),
            bos_token_id=0, eos_token_id=1, **SIZE,
        )  # fmt: skip
        torch.manual_seed(0)
        shake(transformers.LlamaForCausalLM(config), 0.3).save_pretrained(tmp_path / "run")
        encode.save_pretrained(tmp_path / "run")
        return tmp_path / "run"

    return make


def pieces(family: str, messages: list[dict[str, str]]) -> Pieces:
    _, written, begins = FAMILIES[family]
    turns = [written(one["content"], one["role"], one is messages[-1]) for one in messages]
    return [(begins, 0), *(piece for turn in turns for piece in turn)]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_the_tokens_that_the_family_has_for_them(family):
    """Each piece stands for itself, as the tokenizer joins no letters over its ends."""
    encode = tokenizer(FAMILIES[family][0])
    chat = Chat(encode, FAMILIES[family][0])
    for messages in (TURNS, TURNS[:2]):
        made = chat.tokens(messages, None, "row 1", "assistant", 0)
        assert made.numbers == encode.apply_chat_template(messages, return_dict=False)
        told = [
            (number, answer)
            for text, answer in pieces(family, messages)
            for number in encode(text, add_special_tokens=False)["input_ids"]
        ]
        assert list(zip(made.numbers, made.scored, strict=True)) == told
        assert made.bytes == sum(len(text.encode()) for text, answer in pieces(family, messages) if answer)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_completion_is_what_comes_after_the_prompt_of_a_generation(family):
    encode = tokenizer(FAMILIES[family][0])
    made = Chat(encode, FAMILIES[family][0]).tokens(TURNS, None, "row 1", "completion", 3)
    prompt = encode.apply_chat_template(TURNS[:3], add_generation_prompt=True, return_dict=False)
    assert made.numbers[: len(prompt)] == prompt
    assert made.scored == [0] * len(prompt) + [1] * (len(made.numbers) - len(prompt))


def test_a_template_that_writes_the_prompt_otherwise_is_refused():
    """R1's prompt ends with a thought that the whole conversation does not have."""
    chat = Chat(tokenizer(R1), R1)
    for scored in ("assistant", "completion"):
        with pytest.raises(DataError, match=r"row 7: .*task.scored=all, or a task.chat_template with"):
            chat.tokens(TURNS, None, "row 7", scored, 3)
    assert all(chat.tokens(TURNS, None, "row 7", "all", 3).scored)


def test_a_template_of_a_file_gets_tools_options_and_a_system_message(tmp_path):
    template = CHATML.replace("{% for", "{{ tools[0].name if tools }}{{ flavour }}{% for", 1)
    examples = [
        {"messages": TURNS[:2], "tools": json.dumps([{"name": "calculator"}])},
        {"messages": [{"role": "system", "content": "Be kind."}, *TURNS[:2]], "tools": "[]"},
    ]
    task = LanguageModeling(
        rows(tmp_path, examples), metrics.load("perplexity"), text="messages", system="Be brief.",
        template_options={"flavour": "sour"}, chat_template=str(tmp_path / "chat.jinja"),
    )  # fmt: skip
    (tmp_path / "chat.jinja").write_text(template)
    split, encode = task.data.load_splits()["heldout"], tokenizer(None)
    texts = [encode.decode(one.numbers) for one in task._tokens(split, encode)]
    system = "<|im_start|>system\nBe {}.<|im_end|>\n"
    rest = "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\nIt is seven. ü<|im_end|>\n"
    assert texts == [
        "calculatorsour" + system.format("brief") + rest,
        "sour" + system.format("kind") + rest,
    ]


# What models are scored by


def plain_loss(run: Path, numbers: list[int], scored: list[int]) -> float:
    """The sum of nats by transformers' own loss, with labels of -100 where nothing is scored."""
    model = transformers.AutoModelForCausalLM.from_pretrained(run).eval()
    labels = [n if one else -100 for n, one in zip(numbers, scored, strict=True)]
    with torch.inference_mode():
        loss = model(input_ids=torch.tensor([numbers]), labels=torch.tensor([labels])).loss
    return float(loss) * sum(scored[1:])


ANSWERS = {
    "messages": ({"messages": TURNS}, {"text": "messages"}),
    "ShareGPT": (
        {"conversations": [
            {"from": {"user": "human", "assistant": "gpt"}[one["role"]], "value": one["content"]}
            for one in TURNS
        ]},
        {"text": "conversations"},
    ),
    "prompt and completion": (
        {"prompt": TURNS[:3], "completion": TURNS[3:]}, {"text": "completion", "prompt": "prompt"},
    ),
    "texts": ({"prompt": "3 + 4 is", "completion": " seven."}, {"text": "completion", "prompt": "prompt"}),
}  # fmt: skip


@pytest.mark.parametrize("scored", [None, "all", "completion", "assistant"])
@pytest.mark.parametrize("kind", ANSWERS)
def test_perplexity_is_that_of_the_plain_loss_on_what_is_answered(kind, scored, run, tmp_path):
    if kind == "texts" and scored == "assistant":
        return  # refused: see below
    example, columns = ANSWERS[kind]
    folder, encode = run(), tokenizer(CHATML)
    if kind == "texts":
        prompt, whole = (encode(text)["input_ids"] for text in ("3 + 4 is", "3 + 4 is seven."))
        numbers, marks = [0, *whole], [0] * (1 + len(prompt)) + [1] * (len(whole) - len(prompt))
    else:
        answers = {None: None, "all": None, "completion": 3, "assistant": None}
        first = 3 if kind.startswith("prompt") and scored is None else answers[scored]
        told = [
            (number, answer if first is None else int(answer and at >= first))
            for at, one in enumerate(TURNS)
            for text, answer in chatml(one["content"], one["role"], False)
            for number in encode(text)["input_ids"]
        ]
        numbers, marks = ([pair[at] for pair in told] for at in (0, 1))
    if scored == "all":
        marks = [1] * len(numbers)
    expected = plain_loss(folder, numbers, marks)
    data = rows(tmp_path, [example, example])
    part = score(LanguageModeling(data, metrics.load("perplexity"), scored=scored, **columns), folder)
    np.testing.assert_allclose(part.predictions, [expected, expected], rtol=1e-6)
    assert -part.score == pytest.approx(np.exp(expected / sum(marks[1:])), rel=1e-6)


def test_answers_after_long_prompts_follow_the_end_of_these(run, tmp_path, caplog):
    folder, encode = run(), tokenizer(CHATML)
    data = rows(tmp_path, [{"prompt": "abc" * 20, "text": "xyz"}, {"prompt": "ab", "text": "xyz" * 9}])
    task = LanguageModeling(data, metrics.load("perplexity"), prompt="prompt", max_length=12)
    part = score(task, folder)
    tokens = encode("abc" * 20 + "xyz")["input_ids"][-12:]
    assert part.predictions[0] == pytest.approx(plain_loss(folder, tokens, [0] * 9 + [1] * 3), rel=1e-6)
    tokens = [0, *encode("ab" + "xyz" * 9)["input_ids"]]  # 30: windows end at 30, 19 and 8
    windows = [
        (tokens[18:30], [0] + [1] * 11),
        (tokens[7:19], [0] + [1] * 11),
        (tokens[:8], [0] * 3 + [1] * 5),
    ]
    assert part.predictions[1] == pytest.approx(sum(plain_loss(folder, *one) for one in windows), rel=1e-6)
    assert "2 of 2 texts are longer than the 12 tokens that the model takes" in caplog.text


PAIRS = {
    "texts": {"prompt": "3 + 4 is", "chosen": " seven, I think", "rejected": " eight"},
    "messages": {
        "prompt": TURNS[:3], "chosen": TURNS[3:], "rejected": [{"role": "assistant", "content": "It"}],
    },
    "whole conversations": {
        "prompt": "And 3 * 4? It is…", "chosen": TURNS,
        "rejected": [*TURNS[:3], {"role": "assistant", "content": "It"}],
    },
}  # fmt: skip


@pytest.mark.parametrize("normalize", [None, "tokens"])
@pytest.mark.parametrize("kind", PAIRS)
def test_preferences_are_differences_of_plain_losses(kind, normalize, run, tmp_path):
    folder, encode, row = run(), tokenizer(CHATML), PAIRS[kind]
    likely = []
    for answer in (row["chosen"], row["rejected"]):
        if kind == "texts":
            prompt, whole = (
                [0, *encode(text)["input_ids"]] for text in (row["prompt"], row["prompt"] + answer)
            )
        else:
            turns = [*TURNS[:3], answer[-1]]
            whole = encode.apply_chat_template(turns, return_dict=False)
            prompt = encode.apply_chat_template(turns[:3], add_generation_prompt=True, return_dict=False)
        marks = [0] * len(prompt) + [1] * (len(whole) - len(prompt))
        likely.append(-plain_loss(folder, whole, marks) / (sum(marks) if normalize else 1))
    swapped = {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
    data = rows(tmp_path, [row, swapped, row])
    margin = score(Preference(data, metrics.load("margin"), normalize=normalize), folder)
    expected = likely[0] - likely[1]
    np.testing.assert_allclose(margin.predictions, [expected, -expected, expected], rtol=1e-5, atol=1e-6)
    right = score(Preference(data, metrics.load("accuracy"), normalize=normalize), folder)
    assert right.predictions.tolist() == [int(expected > 0), int(expected < 0), int(expected > 0)]
    assert right.score == pytest.approx(2 / 3 if expected > 0 else 1 / 3)


def test_a_reference_is_taken_off_as_dpo_does(run, tmp_path):
    """rewards/accuracies of TRL: β(log π(y_w) − log π_ref(y_w)) > β(log π(y_l) − log π_ref(y_l))."""
    folder, row = run(), PAIRS["texts"]
    plain = score(Preference(rows(tmp_path, [row]), metrics.load("margin")), folder).predictions
    ahead = [float(plain[0]) - 1, float(plain[0]) + 1]
    data = rows(
        tmp_path, [{**row, "ref_chosen_logps": one - 40.5, "ref_rejected_logps": -40.5} for one in ahead]
    )
    margins = score(Preference(data, metrics.load("margin"), reference="columns"), folder)
    np.testing.assert_allclose(margins.predictions, [1.0, -1.0], atol=1e-4)
    right = score(Preference(data, metrics.load("accuracy"), reference="columns"), folder)
    assert right.predictions.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"task\.reference=ref_chosen_logps: the data has no such column"):
        score(Preference(rows(tmp_path, [row]), metrics.load("margin"), reference="columns"), folder)
    with pytest.raises(ConfigError, match=r"leave task\.normalize null"):
        Preference(data, metrics.load("margin"), reference="columns", normalize="tokens")


# Bad input: one error, which names the row

MODELING = {"text": "messages"}
BAD: dict[str, tuple[Any, dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "no template": (None, {"messages": TURNS}, MODELING, CheckpointError, "copy the chat_template.jinja"),
    "no such template": (
        {"default": CHATML, "rag": R1}, {"messages": TURNS}, {**MODELING, "chat_template": "tool_use"},
        ConfigError, "task.chat_template=tool_use: there is no such file; .* or one of default, rag",
    ),
    "no answer": (
        CHATML, {"messages": TURNS[:1]}, MODELING, DataError, "row 2 has no answer to score",
    ),
    "no last answer": (
        CHATML, {"messages": TURNS[:3]}, {**MODELING, "scored": "completion"}, DataError,
        "row 2 ends with a message of the user",
    ),
    "no messages": (CHATML, {"messages": []}, MODELING, DataError, r"row 2 holds \[\], which should be"),
    "no role": (CHATML, {"messages": [{"content": "x"}]}, MODELING, DataError, "row 2 has .* without a role"),
    "no content": (
        CHATML, {"messages": [{"role": "user", "content": None}]}, MODELING,
        DataError, "row 2 has a message of the user without content",
    ),
    "a role that the template refuses": (
        GEMMA3, {"messages": [{"role": "system", "content": "x"}, *TURNS]}, MODELING,
        DataError, r"row 2: the chat template refuses the conversation \(no system\)",
    ),
    "tools that are no JSON": (
        CHATML, {"messages": TURNS, "tools": "a calculator"}, MODELING,
        DataError, "row 2: the column tools holds 'a calculator', which is no JSON",
    ),
    "an empty completion": (
        CHATML, {"prompt": "x", "completion": ""}, {"text": "completion", "prompt": "prompt"},
        DataError, "row 2 has no answer to score",
    ),
    "answers in texts": (
        CHATML, {"text": "x"}, {"scored": "completion"}, ConfigError, "task.scored=completion needs answers",
    ),
    "turns in texts": (
        CHATML, {"prompt": "x", "text": "y"}, {"prompt": "prompt", "scored": "assistant"},
        ConfigError, "task.scored=assistant needs conversations",
    ),
    "a system message for texts": (
        CHATML, {"text": "x"}, {"system": "Be brief."}, ConfigError, "task.system: the data has no",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_conversation_is_named(kind, run, tmp_path):
    template, example, options, error, says = BAD[kind]
    good: dict[str, Any] = {
        column: "[]" if column == "tools" else "x y" if isinstance(cell, str) else TURNS
        for column, cell in example.items()
    }
    task = LanguageModeling(rows(tmp_path, [good, example]), metrics.load("perplexity"), **options)
    with pytest.raises(error, match=says):
        score(task, run(template))


BAD_PAIRS = {
    "the same answers": ({"prompt": "x", "chosen": "y", "rejected": "y"}, {}, "row 2 is the same answer"),
    "an empty answer": ({"prompt": "x", "chosen": "y", "rejected": ""}, {}, "row 2 has an empty"),
    "no room": (
        {"prompt": "x", "chosen": "y" * 9, "rejected": "y"}, {"max_length": 9},
        "task.chosen=chosen: row 2 has an answer of 9 tokens, and there is room for 8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_PAIRS)
def test_pairs_that_say_nothing_are_named(kind, run, tmp_path):
    example, options, says = BAD_PAIRS[kind]
    data = rows(tmp_path, [{"prompt": "x", "chosen": "y", "rejected": "z"}, example])
    with pytest.raises(DataError, match=says):
        score(Preference(data, metrics.load("accuracy"), **options), run())


def test_conversations_that_begin_otherwise_are_no_pair(run, tmp_path):
    pair = {"chosen": TURNS, "rejected": [{"role": "user", "content": "What else?"}, *TURNS[1:]]}
    with pytest.raises(DataError, match="row 1 and the rejected answer are conversations that do not begin"):
        score(Preference(rows(tmp_path, [pair]), metrics.load("accuracy")), run())


def test_messages_after_a_prompt_that_is_a_text_are_refused(run, tmp_path):
    data = rows(tmp_path, [{"prompt": "What is 3 + 4?", "text": TURNS[1:2]}])
    with pytest.raises(DataError, match="row 1 holds messages after a prompt that is a text"):
        score(LanguageModeling(data, metrics.load("perplexity"), prompt="prompt"), run())


def test_columns_are_found_and_a_soup_is_made_of_conversations_and_of_pairs(run, tmp_path):
    folder = run()
    for seed in range(3):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        torch.manual_seed(seed)
        shake(model, 0.05).save_pretrained(tmp_path / "runs" / f"run{seed}")
        tokenizer(CHATML).save_pretrained(tmp_path / "runs" / f"run{seed}")
    random = np.random.default_rng(0)
    talks = [
        [{**one, "content": f"{one['content']} {random.integers(99)}"} for one in TURNS] for _ in range(9)
    ]
    pairs = [
        {"chosen": talk, "rejected": [*talk[:3], {"role": "assistant", "content": "no"}]} for talk in talks
    ]
    common = ["pool.path=runs/*", "evaluation.cache=null", "task.data.test=null"]
    for task, examples in {
        "language_modeling": [{"messages": talk} for talk in talks],
        "preference": pairs,
    }.items():
        (tmp_path / task).mkdir()
        rows(tmp_path / task, examples)
        soupkitchen(f"task={task}", f"task.data.path={task}", f"name={task}", *common, cwd=tmp_path)
        table = pd.read_csv(tmp_path / f"results/{task}/leaderboard.csv").set_index("model")
        metric = "heldout_perplexity" if task == "language_modeling" else "heldout_accuracy"
        singles = table.loc[[f"run{seed}" for seed in range(3)], metric]
        soup = table.loc["soup", metric]
        assert soup <= singles.min() if task == "language_modeling" else soup >= singles.max()


@pytest.mark.parametrize("kind", ["the last message", "a text", "messages"])
def test_answers_are_generated_after_the_prompt_of_the_template(kind, run, tmp_path):
    folder, encode = run(), tokenizer(CHATML)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    asked = encode.apply_chat_template(TURNS[:3], add_generation_prompt=True, return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**asked, max_new_tokens=6, do_sample=False, pad_token_id=2)
    written = encode.decode(made[0, asked["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    last = {"role": "assistant", "content": written}
    example, answer = {
        "the last message": ({"messages": [*TURNS[:3], last]}, None),
        "a text": ({"messages": TURNS[:3], "answer": written}, "answer"),
        "messages": ({"messages": TURNS[:3], "completion": [last]}, "completion"),
    }[kind]
    data = rows(tmp_path, [example])
    task = TextGeneration(
        data, metrics.load("exact_match"), prompt="{messages}", answer=answer, max_new_tokens=6
    )
    part = score(task, folder)
    assert part.predictions == [written]
    assert part.score == 1.0
