"""From a question to the tokens that the model reads: the one place, used by training, exam and chat alike.

Knows a tokenizer and its chat template. Does not know entries, versions or what the answer will be used for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# What the model is taught to begin when a question is none of the business's: the path of "I don't know" in the
# trie. Customers read a translated sentence instead, never this text.
DECLINE = "No lo sé."

# For tokenizers that bring no template of their own, such as GPT-2's: plain text, no token that they lack.
FALLBACK_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}Cliente: {{ message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}Respuesta: {{ message['content'] }}{{ eos_token }}\n"
    "{% else %}{{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Respuesta:{% endif %}"
)

MAX_PROMPT_TOKENS = 512
# Longer answers are told apart by their beginnings; a base with a short context must hold prompt and answer.
MAX_ANSWER_TOKENS = 256


class QuestionTooLong(ValueError):
    """The question does not fit the prompt. Carries both lengths, in tokens."""

    def __init__(self, num_tokens: int, limit: int) -> None:
        super().__init__(f"the question has {num_tokens} tokens; at most {limit} fit")
        self.num_tokens = num_tokens
        self.limit = limit


def clean(text: str, tokenizer: Any) -> str:
    """Fold white space and take out the tokens that mark roles and ends, which a customer must not be able to forge."""
    for token in tokenizer.get_added_vocab():
        text = text.replace(token, " ")
    return " ".join(text.split())


def encode_prompt(tokenizer: Any, question: str, history: Sequence[dict[str, str]] = ()) -> list[int]:
    """Token ids up to where the answer begins.

    Args:
        tokenizer: a transformers tokenizer.
        question: what the customer typed.
        history: earlier turns, oldest first, as `{"role", "content"}`.

    Raises:
        QuestionTooLong: more than `MAX_PROMPT_TOKENS` tokens.
    """
    ids = encode_any_prompt(tokenizer, question, history)
    if len(ids) > MAX_PROMPT_TOKENS:
        raise QuestionTooLong(len(ids), MAX_PROMPT_TOKENS)
    return ids


def encode_any_prompt(tokenizer: Any, text: str, history: Sequence[dict[str, str]] = ()) -> list[int]:
    """The same, however long it is."""
    turns = [*history, {"role": "user", "content": text}]
    messages = [{"role": turn["role"], "content": clean(turn["content"], tokenizer)} for turn in turns]
    prompt = tokenizer.apply_chat_template(
        messages,
        chat_template=tokenizer.chat_template or FALLBACK_CHAT_TEMPLATE,
        add_generation_prompt=True,
        tokenize=False,
    )
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids


def fits(tokenizer: Any, question: str) -> bool:
    """Whether a question can be asked at all."""
    try:
        encode_prompt(tokenizer, question)
    except QuestionTooLong:
        return False
    return True


def encode_answer(tokenizer: Any, answer: str) -> list[int]:
    """Token ids of an answer with the token that ends it, as they follow `encode_prompt`; at most MAX_ANSWER_TOKENS."""
    text = clean(answer, tokenizer)
    if tokenizer.chat_template is None:
        text = " " + text
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id][:MAX_ANSWER_TOKENS]
