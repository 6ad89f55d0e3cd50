"""Free text, greedily, with the approved answers as a draft: what comes out is what plain greedy decoding gives.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192) for the greedy case: the tokens of a likely answer are
read in one forward, and as many are accepted as the model itself would have written. A learned answer of any length
takes one to three forwards; text that follows no answer takes one forward a token, as it always does. As ever, what is
computed together decides the last bits of a number: in bfloat16 two tokens that are all but equally likely may change
places.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers.decoders import DecodeStream
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from training.lm.config import GenerationParams
from training.lm.decisions import FinishReason
from training.lm.decoding import FloatArray
from training.lm.packing import Expected, TokenTree
from training.lm.trie import AnswerTrie

# How many answers are read to where they part, and how likely one must be to be read to its end.
MAX_DRAFTED_ANSWERS = 8
LIKELY = 0.5


@dataclass(frozen=True, slots=True)
class GeneratedTokens:
    """What was written, without the token that ended it."""

    tokens: tuple[int, ...]
    finish_reason: FinishReason
    num_forwards: int


class Draft:
    """What may come next if the answer under way is one of the approved ones."""

    def __init__(self, trie: AnswerTrie, bonus: FloatArray) -> None:
        self._trie = trie
        self._bonus = bonus

    def after(self, written: Sequence[int]) -> list[tuple[int, ...]]:
        """Paths to read: up to where they part those of the likeliest answers, and one to its end if it is likely.

        To read an answer that is not the one costs more than another forward.
        """
        start, stop = self._trie.leaves_after(written)
        if start == stop:
            return []
        bonus = self._bonus[start:stop]
        leaves = start + np.argsort(-bonus)[:MAX_DRAFTED_ANSWERS]
        # Up to the last place where anything is decided: what the model chooses there is known then.
        paths = [self._trie.paths[leaf][len(written) : self._trie.decided_length(int(leaf)) - 1] for leaf in leaves]
        if np.exp(bonus.max() - np.logaddexp.reduce(bonus)) >= LIKELY:
            # But for the last token, after which nothing is wanted.
            paths[0] = self._trie.paths[leaves[0]][len(written) : -1]
        return paths


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
    last: list[int] = []
    end = tree.prompt_end
    num_forwards = 0
    while True:
        room = params.max_new_tokens - len(written)
        # What the model wrote last has not been read yet.
        first = end = tree.extend(end, last)
        for path in draft.after(written) if draft else ():
            # Of the last token that may be written nothing follows that had to be read.
            tree.extend(end, path[: room - 1])
        expected = yield list(range(first, len(tree)))
        num_forwards += 1
        fresh: list[int] = []
        choose = _Choice(expected.logits, processors, [*prompt, *written])
        child: int | None = end
        while child is not None and len(fresh) < room:
            end = child
            fresh.append(choose(end - first, fresh))
            child = tree.child(end, fresh[-1]) if fresh[-1] != eos_token_id else None
        last = fresh[-1:]
        is_over = last[0] == eos_token_id
        written += fresh[:-1] if is_over else fresh
        on_tokens(fresh[:-1] if is_over else fresh)
        if is_over or len(written) == params.max_new_tokens:
            reason = FinishReason.STOP if is_over else FinishReason.LENGTH
            return GeneratedTokens(tuple(written), reason, num_forwards)


class _Choice:
    """The token that greedy decoding writes after a row of logits."""

    def __init__(self, logits: torch.Tensor, processors: LogitsProcessorList, before: list[int]) -> None:
        self._logits = logits
        self._processors = processors
        self._before = before
        self._choices: list[int] = [] if processors else logits.argmax(-1).tolist()

    def __call__(self, row: int, fresh: list[int]) -> int:
        """
        Args:
            fresh: what has been written since `before`.
        """
        if not self._processors:
            return self._choices[row]
        text = torch.tensor([[*self._before, *fresh]], device=self._logits.device)
        return int(self._processors(text, self._logits[row][None])[0].argmax())


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
        # A model can write any byte; PostgreSQL holds all characters but this one.
        text = "".join(self._stream.step(self._tokenizer, token) or "" for token in tokens).replace("\0", "")
        if not self._has_begun:
            text = text.lstrip()
            self._has_begun = bool(text)
        return text
