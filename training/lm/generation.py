"""Free text, greedily, with the approved answers as a draft: what comes out is what plain greedy decoding gives.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192) for the greedy case: the tokens of a likely answer are
read in one forward, and as many are accepted as the model itself would have written. A learned answer of any length
takes one or two forwards; text that follows no answer takes one forward a token, as it always does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from training.lm.config import GenerationParams
from training.lm.decisions import FinishReason
from training.lm.decoding import FloatArray
from training.lm.packing import Expected, TokenTree
from training.lm.trie import AnswerTrie


@dataclass(frozen=True, slots=True)
class GeneratedTokens:
    """What was written, without the token that ended it."""

    tokens: tuple[int, ...]
    finish_reason: FinishReason
    num_forwards: int


class Draft:
    """What comes next if the answer under way is one of the approved ones, by the best bonus among those it may be."""

    def __init__(self, trie: AnswerTrie, bonus: FloatArray) -> None:
        self._trie = trie
        self._bonus = bonus

    def after(self, written: Sequence[int]) -> tuple[int, ...]:
        start, stop = self._trie.leaves_after(written)
        if start == stop:
            return ()
        leaf = start + int(self._bonus[start:stop].argmax())
        return self._trie.paths[leaf][len(written) :]


def generate_greedily(
    tree: TokenTree,
    params: GenerationParams,
    *,
    eos_token_id: int,
    draft: Draft | None = None,
    on_tokens: Callable[[Sequence[int]], None] = lambda tokens: None,
) -> Generator[list[int], Expected, GeneratedTokens]:
    """Write until the model ends its text or the limit is reached.

    A generator as in decoding.py: it yields the tokens after which it wants to know what the model expects.

    Args:
        tree: the prompt, nothing of it read yet.
        draft: what is likely to be written; changes the number of forwards, never the text.
        on_tokens: told, after every forward, the tokens that it added.
    """
    prompt = list(tree.tokens)
    processors = _processors(params)
    written: list[int] = []
    num_forwards = 0
    while True:
        room = params.max_new_tokens - len(written)
        # Of the last token that may be written nothing follows that had to be read.
        drafted = draft.after(written)[: room - 1] if draft else ()
        end = len(tree) - 1
        tree.extend(end, drafted)
        expected = yield list(range(end, len(tree)))
        num_forwards += 1
        fresh = _accepted(expected.logits, [*prompt, *written], drafted, processors, eos_token_id)
        # The last one is the model's own and has not been read; before it stand the accepted ones, which have.
        tree.truncate(end + len(fresh))
        tree.extend(len(tree) - 1, fresh[-1:])
        is_over = fresh[-1] == eos_token_id
        fresh = fresh[:-1] if is_over else fresh
        written += fresh
        on_tokens(fresh)
        if is_over or len(written) == params.max_new_tokens:
            reason = FinishReason.STOP if is_over else FinishReason.LENGTH
            return GeneratedTokens(tuple(written), reason, num_forwards)


def _accepted(
    logits: torch.Tensor, before: list[int], drafted: Sequence[int], processors: LogitsProcessorList, end: int
) -> list[int]:
    """The drafted tokens that the model would have written itself, and the one that it writes after them."""
    if not processors:
        choices = logits.argmax(-1).tolist()
    accepted: list[int] = []
    for place, token in enumerate([*drafted, None]):
        if processors:
            text = torch.tensor([[*before, *accepted]], device=logits.device)
            choice = int(processors(text, logits[place][None])[0].argmax())
        else:
            choice = choices[place]
        accepted.append(choice)
        if choice != token or choice == end:
            break
    return accepted


def _processors(params: GenerationParams) -> LogitsProcessorList:
    """transformers' own, so that the text is what its `generate` writes with the same parameters."""
    chosen: list[Any] = []
    if params.repetition_penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.no_repeat_ngram_size:
        chosen.append(NoRepeatNGramLogitsProcessor(params.no_repeat_ngram_size))
    return LogitsProcessorList(chosen)


class WholeCharacters:
    """Tokens in, text out: a character whose bytes are spread over tokens is given out when it is whole."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._has_begun = False

    def push(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete; the first one without white space before it."""
        text = "".join(self._stream.step(self._tokenizer, token) or "" for token in tokens)
        if not self._has_begun:
            text = text.lstrip()
            self._has_begun = bool(text)
        return text
