"""Conversations in columns as TRL and ShareGPT have them, written out by the tokenizer's chat template.

A column may hold texts, or lists of messages: `role` and `content`, as in `messages`, `prompt`, `completion`,
`chosen` and `rejected` of TRL (https://huggingface.co/docs/trl/dataset_formats), or `from` and `value`, as in
`conversations` of ShareGPT. What a template writes has its special tokens already; no others are added.
"""

from __future__ import annotations

import json
import re
from ast import literal_eval
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError

from soupkitchen.errors import CheckpointError, ConfigError, DataError, first_line, shown
from soupkitchen.tasks import texts
from soupkitchen.tasks.base import DataTask, Processor
from soupkitchen.tasks.columns import texts_of

Message = Mapping[str, Any]
Span = tuple[int, int]
"""Letters of a text, the second not included."""

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
"""Names of ShareGPT; others stay."""
_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")


@dataclass(frozen=True)
class Tokens:
    """A text's tokens.

    Attributes:
        numbers: the first one is not predicted, as nothing is before it.
        scored: 1 for each token of an answer, else 0.
        bytes: of the answers' text.
    """

    numbers: list[int]
    scored: list[int]
    bytes: int


@dataclass(frozen=True)
class ConversationTask(DataTask):
    """A task whose columns may hold conversations.

    Attributes:
        chat_template: a file, or the name of one of the tokenizer's templates; None for its own.
        system: the system message of conversations that have none.
        template_options: further variables of the template, as ``{"enable_thinking": False}``.
    """

    chat_template: str | None = None
    system: str | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)

    def writer(self, tokenizer: Processor, split: Dataset, cells: Iterable[Any]) -> Writer:
        """The maker of the tokens of `cells`.

        Raises:
            CheckpointError: if they hold conversations, and there is no template.
            ConfigError: if `chat_template` is neither a file nor one of the tokenizer's; or if options are
                set that only conversations have, and there are none.
        """
        chat = None
        if any(isinstance(cell, list) for cell in cells):
            template = _template(tokenizer, self.chat_template)
            chat = Chat(tokenizer, template, self.system, self.template_options)
        elif unused := [name for name in _OF_CHATS if getattr(self, name)]:
            raise ConfigError(
                f"task.{unused[0]}: the data has no conversations, lists of messages, to use it for"
            )
        return Writer(tokenizer, chat, split["tools"][:] if "tools" in split.column_names else None)


_OF_CHATS = ("chat_template", "system", "template_options")


def _template(tokenizer: Processor, chosen: str | None) -> str:
    own = getattr(tokenizer, "chat_template", None)
    if chosen is not None and Path(chosen).is_file():
        return Path(chosen).read_text(encoding="utf-8")
    if chosen is not None:
        if isinstance(own, dict) and chosen in own:
            return str(own[chosen])
        names = f", or one of {', '.join(own)}" if isinstance(own, dict) else ""
        raise ConfigError(f"task.chat_template={chosen}: there is no such file; name a file{names}")
    if isinstance(own, dict):
        own = own.get("default")
    if not own:
        raise CheckpointError(
            "the data holds conversations, and the tokenizer has no chat template for them: copy the "
            "chat_template.jinja of the tuned model into the runs' folders, or set task.chat_template to "
            "such a file"
        )
    return str(own)


@dataclass(frozen=True)
class Writer:
    """Makes tokens of texts and conversations.

    Attributes:
        chat: None if there are no conversations.
        tools: by row, what conversations may use; None for none.
    """

    tokenizer: Processor
    chat: Chat | None
    tools: Sequence[Any] | None

    def text(self, prompt: str, answer: str, scored: str) -> Tokens:
        """The tokens of a text after the one that begins texts."""
        begin = texts.beginning(self.tokenizer)
        if not prompt:
            numbers = texts.encode(self.tokenizer, answer)
            return Tokens([begin, *numbers], [0, *[1] * len(numbers)], len(answer.encode()))
        whole = prompt + answer
        made = encoded(self.tokenizer, whole, [(0 if scored == "all" else len(prompt), len(whole))])
        return Tokens([begin, *made.numbers], [0, *made.scored], made.bytes)

    def conversation(self, cell: Any, scored: str, where: str, row: int) -> Tokens:
        """The tokens of a conversation in one cell."""
        messages = self._opened(messages_of(cell, where))
        answer = len(messages) - 1
        if scored == "completion":
            self._last_answer(messages, where)
        return self._chat.tokens(messages, self._tools(row, where), where, scored, answer)

    def answer(self, prompt: Any, cell: Any, scored: str, where: str, row: int) -> Tokens:
        """The tokens of a prompt and its answer, both texts or both messages."""
        if isinstance(cell, str) and isinstance(prompt, str):
            if scored == "assistant":
                raise ConfigError(
                    "task.scored=assistant needs conversations, the data has texts: choose completion or all"
                )
            return self.text(prompt, cell, scored)
        if isinstance(prompt, str):
            raise DataError(
                f"{where} holds messages after a prompt that is a text: store both as texts, or as messages"
            )
        before = self._opened(messages_of(prompt, f"{where}, its prompt,"))
        messages = [*before, *messages_of(cell, where)]
        return self._chat.tokens(messages, self._tools(row, where), where, scored, len(before))

    def asked(self, cell: Any, answer: Any, compares: bool, where: str, row: int) -> tuple[str, str]:
        """A conversation up to where an answer begins, and the right answer.

        Args:
            answer: a text or messages; None for the last message of the conversation.
            compares: whether there has to be one.
        """
        messages = self._opened(messages_of(cell, where))
        if answer is None and (compares or messages[-1]["role"] == "assistant"):
            answer = [self._last_answer(messages, where)]
            messages = messages[:-1]
        if answer is not None and not isinstance(answer, str):
            answer = self._last_answer(messages_of(answer, f"{where}, its answer,"), where).get("content")
        return self._chat.text(messages, self._tools(row, where), where, generate=True), str(answer)

    def _last_answer(self, messages: Sequence[Message], where: str) -> Message:
        if (role := messages[-1]["role"]) != "assistant":
            raise DataError(f"{where} ends with a message of the {role}, and has no answer to score")
        return messages[-1]

    @property
    def _chat(self) -> Chat:
        assert self.chat is not None, "a list is among the cells"
        return self.chat

    def _opened(self, messages: list[Message]) -> list[Message]:
        """The messages, with the system message if they have none."""
        system = self._chat.system
        if system is None or messages[0]["role"] == "system":
            return messages
        return [{"role": "system", "content": system}, *messages]

    def _tools(self, row: int, where: str) -> Any:
        tools = self.tools[row] if self.tools else None
        try:
            return json.loads(tools) if isinstance(tools, str) else tools
        except ValueError as error:
            raise DataError(f"{where}: the column tools holds {shown(tools)}, which is no JSON") from error


@dataclass(frozen=True)
class Chat:
    """Writes conversations by a template."""

    tokenizer: Processor
    template: str
    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def text(
        self, messages: Sequence[Message], tools: Any = None, where: str = "", generate: bool = False
    ) -> str:
        """The text of a conversation.

        Args:
            where: names the row in errors.
            generate: ends with what begins an answer.

        Raises:
            DataError: if the template refuses the conversation.
        """
        text: str = self._apply(messages, tools, where, tokenize=False, add_generation_prompt=generate)
        return text

    def tokens(self, messages: Sequence[Message], tools: Any, where: str, scored: str, answer: int) -> Tokens:
        """The tokens of a conversation.

        Args:
            scored: "all"; "completion", the messages from number `answer` on; or "assistant", all answers.

        Raises:
            DataError: if it cannot be told which tokens are scored.
        """
        text = self.text(messages, tools, where)
        if scored == "all":
            return encoded(self.tokenizer, text, [(0, len(text))])
        if scored == "completion":
            start = self._begins(text, messages[:answer], tools, where)
            return encoded(self.tokenizer, text, [(start, len(text))])
        if _GENERATION.search(self.template):
            options = {"return_dict": True, "return_assistant_tokens_mask": True}
            marked = self._apply(messages, tools, where, **options)
            return encoded(self.tokenizer, text, [], marked["assistant_masks"])
        turns = [number for number, one in enumerate(messages) if one["role"] == "assistant"]
        return encoded(
            self.tokenizer, text, [self._turn(text, messages, number, tools, where) for number in turns]
        )

    def _turn(self, text: str, messages: Sequence[Message], number: int, tools: Any, where: str) -> Span:
        """The letters of an answer and of what closes it, by what the template writes without the rest."""
        start = self._begins(text, messages[:number], tools, where)
        if number + 1 == len(messages):
            return start, len(text)
        until = messages[: number + 1]
        alone = [self.text(until, tools, where, generate) for generate in (False, True)]
        closed = _beginning(*alone)  # some templates end a conversation with one more token
        if text.startswith(closed):
            return start, len(closed)
        content = str(messages[number].get("content") or "").strip()
        at, end = text.find(content, start), closed.rfind(content) + len(content)
        if (
            not content
            or content not in closed
            or at < 0
            or not text.startswith(closed[end:], at + len(content))
        ):
            raise self._ambiguous(where)
        return start, at + len(content) + len(closed[end:])

    def _begins(self, text: str, before: Sequence[Message], tools: Any, where: str) -> int:
        """The letter at which the answer after the messages `before` begins."""
        prompt = self.text(before, tools, where, generate=True) if before else ""
        if not text.startswith(prompt):
            raise self._ambiguous(where)
        return len(prompt)

    def _ambiguous(self, where: str) -> DataError:
        return DataError(
            f"{where}: the chat template writes a conversation in another way once it goes on, so nothing "
            "tells which tokens are the answer; choose task.scored=all, or a task.chat_template with "
            "{% generation %} around answers"
        )

    def _apply(self, messages: Sequence[Message], tools: Any, where: str, **how: Any) -> Any:
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tools=tools or None, chat_template=self.template, **how, **self.options
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise DataError(
                f"{where}: the chat template refuses the conversation ({first_line(error)}); mend the row, "
                "or choose another task.chat_template"
            ) from error


def _beginning(first: str, second: str) -> str:
    """The longest beginning of both texts."""
    pairs = enumerate(zip(first, second, strict=False))
    return first[: next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))]


def encoded(
    tokenizer: Processor, text: str, spans: Iterable[Span], scored: Sequence[int] | None = None
) -> Tokens:
    """The tokens of `text`; scored are those that end in one of the spans, and begin before its end.

    Args:
        scored: 1 for each scored token, else 0, in place of spans.

    Raises:
        CheckpointError: if the tokenizer does not say which letters a token stands for.
    """
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{type(tokenizer).__name__} does not say which letters a token stands for, as answers need: "
            "save the run with a fast tokenizer (tokenizer.json)"
        )
    told = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places: list[Span] = told["offset_mapping"]
    if scored is None:
        inside = [False] * len(places)
        for start, end in spans:
            inside = [was or start < last <= end for was, (_, last) in zip(inside, places, strict=True)]
        scored = [int(one) for one in inside]
    letters: set[int] = set()
    for (start, end), one in zip(places, scored, strict=True):
        if one:
            letters.update(range(start, end))
    return Tokens(told["input_ids"], list(scored), sum(len(text[at].encode()) for at in letters))


# Columns


def cells_of(split: Dataset, option: str, column: str) -> list[Any]:
    """The texts or lists in the column that `option` names; lists that are written as texts are read.

    Raises:
        DataError: if one is missing, or neither text nor list.
    """
    return read_lists(texts_of(split, option, column, list))


def read_lists(cells: list[Any]) -> list[Any]:
    """The cells; if all are conversations written as texts, these are read."""
    if not all(isinstance(cell, str) and cell.lstrip().startswith("[{") for cell in cells):
        return cells
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):  # .csv has no lists
        return [literal_eval(cell.strip()) for cell in cells]
    with suppress(ValueError, RecursionError):
        return [json.loads(cell) for cell in cells]
    return cells


def messages_of(cell: Any, where: str) -> list[Message]:
    """The messages in a cell, with `role` and `content`; ShareGPT's are renamed.

    Raises:
        DataError: if it is no conversation.
    """
    if not isinstance(cell, list) or not cell:
        raise DataError(f"{where} holds {shown(cell)}, which should be a list of messages")
    messages: list[Message] = []
    for one in cell:
        if not isinstance(one, Mapping):
            raise DataError(f"{where} holds {shown(one)} among its messages: one needs role and content")
        one = {key: value for key, value in one.items() if value is not None}
        if "role" not in one and "from" in one:
            one = {"role": _ROLES.get(str(one["from"]), one["from"]), "content": one.get("value")}
        if not isinstance(one.get("role"), str):
            raise DataError(f"{where} has the message {shown(one)} without a role")
        if one.get("content") is None and not one.get("tool_calls"):
            raise DataError(f"{where} has a message of the {one['role']} without content")
        messages.append(one)
    return messages
