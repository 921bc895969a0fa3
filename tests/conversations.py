"""A template for conversations, and a tokenizer of bytes that can have one."""

from __future__ import annotations

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = [
    "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>", "<|user|>",
    "<|assistant|>", "<|User|>", "<|Assistant|>",
]  # fmt: skip


def tokenizer(template: str | dict[str, str] | None) -> transformers.PreTrainedTokenizerFast:
    """Bytes, some pairs of them, and special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("i", "s"), ("Ġ", "is"), ("s", "e"), ("t", "Ċ")]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet, *map("".join, pairs)])}
    backend = Tokenizer(models.BPE(vocabulary, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=SPECIAL[3:], model_max_length=512,
    )  # fmt: skip
    made.chat_template = template
    return made
