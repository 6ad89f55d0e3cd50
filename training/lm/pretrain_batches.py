"""What the bundled base's model learns from, step by step (pretrain.py): the recipe and its batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from training.lm import corpus
from training.lm.augment import fold
from training.lm.ngrams import count_ngrams
from training.lm.pretrain_text import Windows
from training.lm.pretrain_vectors import Pairs
from training.lm.prompts import DECLINE, encode_answer, encode_prompt
from training.lm.semantics import SentenceVectors

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of the training, with optimizers of its own.

    Attributes:
        learning_rate: at the start and at the end, linear in between after `warmup` steps.
        text_rows: windows of running text a step.
        novels: their share of it at the start and at the end.
    """

    steps: int
    learning_rate: tuple[float, float]
    warmup: int
    text_rows: int
    novels: tuple[float, float]

    def rate(self, step: int) -> float:
        return min(1.0, (step + 1) / self.warmup) * self._between(self.learning_rate, step)

    def share_of_novels(self, step: int) -> float:
        return self._between(self.novels, step)

    def _between(self, ends: tuple[float, float], step: int) -> float:
        start, end = ends
        return start + (end - start) * step / self.steps


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """How the model is trained: it reads, and then learns what customers mean while it goes on reading.

    Attributes:
        reading, meaning: the two stages.
        text_length: of a window, in tokens.
        text_weight, support_weight: of the losses of text and conversations in the second stage.
        conversations, conversation_length: wordings followed by what they mean, a step.
        num_intents, num_groups: pairs of texts that mean one thing, a step.
        own_meanings: sentences of running text that are to hold their own vector, a step.
        meaning_length: of such a text, in tokens.
        num_workers: processes that prepare batches; 0 for none beside this one.
    """

    reading: Stage = Stage(steps=3_150, learning_rate=(2.5e-3, 2.5e-3), warmup=150, text_rows=128, novels=(0.75, 0.53))
    meaning: Stage = Stage(steps=1_930, learning_rate=(2.5e-3, 5e-5), warmup=50, text_rows=48, novels=(0.2, 0.2))
    text_length: int = 256
    text_weight: float = 0.5
    support_weight: float = 0.5
    conversations: int = 64
    conversation_length: int = 64
    num_intents: int = 300
    num_groups: int = 120
    own_meanings: int = 96
    meaning_length: int = 32
    num_workers: int = 7

    @property
    def steps(self) -> int:
        return self.reading.steps + self.meaning.steps

    def at(self, step: int) -> tuple[Stage, int]:
        """The stage of a step of the whole, and the step within it."""
        if step < self.reading.steps:
            return self.reading, step
        return self.meaning, step - self.reading.steps


# What a finished model learns of a corpus that has grown.
REFRESH = ModelRecipe(
    reading=Stage(steps=0, learning_rate=(0.0, 0.0), warmup=1, text_rows=0, novels=(0.0, 0.0)),
    meaning=Stage(steps=600, learning_rate=(8e-4, 5e-5), warmup=20, text_rows=8, novels=(0.2, 0.2)),
    conversations=24,
    num_intents=256,
    num_groups=380,
    own_meanings=64,
    num_workers=0,
)


class Conversations:
    """Batches of customers' wordings and what they mean: the canonical question, the answer or another wording."""

    def __init__(self, tokenizer: Any, intents: Sequence[corpus.Intent], rows: int, length: int) -> None:
        self._tokenizer, self._intents = tokenizer, intents
        self._rows, self._length = rows, length

    def batch(self, seed: str) -> tuple[Tensor, Tensor]:
        """Token ids and labels, (rows, length); the loss is on what follows the wording."""
        rng = random.Random(seed)
        ids = torch.full((self._rows, self._length), self._tokenizer.pad_token_id)
        labels = torch.full((self._rows, self._length), IGNORED)
        for row in range(self._rows):
            asked, meant = self._pair(rng)
            prompt = encode_prompt(self._tokenizer, asked)[-self._length // 2 :]
            target = encode_answer(self._tokenizer, meant)[: self._length - len(prompt)]
            end = len(prompt) + len(target)
            ids[row, :end] = torch.tensor([*prompt, *target])
            labels[row, len(prompt) : end] = torch.tensor(target)
        return ids, labels

    def _pair(self, rng: random.Random) -> tuple[str, str]:
        kind = rng.random()
        if kind < 0.05:
            return corpus.retold(rng.choice(corpus.off_topic()), rng), DECLINE
        if kind < 0.17:
            one, other = rng.sample(rng.choice(corpus.same_meaning()), 2)
            return one, other
        intent = rng.choice(self._intents)
        asked = rng.choice(intent.wordings)
        if kind < 0.3:
            return corpus.retold(asked, rng), rng.choice(intent.wordings)
        return corpus.retold(asked, rng), fold(intent.question) if kind < 0.5 else intent.answer


class Meanings:
    """Batches of texts with the sentence vector of another that means the same, or their own."""

    def __init__(self, recipe: ModelRecipe, tokenizer: Any, vectors: SentenceVectors, sentences: Sequence[str]) -> None:
        self._tokenizer, self._vectors, self._sentences = tokenizer, vectors, sentences
        self._length, self._num_own = recipe.meaning_length, recipe.own_meanings
        self._pairs = Pairs(recipe.num_intents, recipe.num_groups)

    def batch(self, seed: str) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, (rows, length), each prompt's last place, (rows,), and vectors, (rows, dimensions)."""
        rng = random.Random(seed)
        # Some as they stand, some as others type them.
        pairs = [
            (_perhaps_retold(one, 0.5, rng), _perhaps_retold(other, 0.3, rng)) for one, other in self._pairs.draw(rng)
        ]
        pairs += [(sentence, sentence) for sentence in rng.choices(self._sentences, k=self._num_own)]
        ids, ends = self.prompts([one for one, _ in pairs])
        return ids, ends, torch.from_numpy(self._vectors.of(count_ngrams([other for _, other in pairs])))

    def prompts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids, (texts, length), and each prompt's last place, (texts,)."""
        ids = torch.full((len(texts), self._length), self._tokenizer.pad_token_id)
        ends = torch.zeros(len(texts), dtype=torch.long)
        for row, text in enumerate(texts):
            *words, last = encode_prompt(self._tokenizer, text)
            prompt = [*words[: self._length - 1], last]
            ids[row, : len(prompt)] = torch.tensor(prompt)
            ends[row] = len(prompt) - 1
        return ids, ends


def _perhaps_retold(text: str, probability: float, rng: random.Random) -> str:
    return corpus.retold(text, rng) if rng.random() < probability else text


class Batches(Dataset[tuple[Tensor, ...]]):
    """What each step learns from, by its number; the same step draws the same."""

    def __init__(self, recipe: ModelRecipe, windows: Windows, conversations: Conversations, meanings: Meanings) -> None:
        self._recipe, self._windows = recipe, windows
        self._conversations, self._meanings = conversations, meanings

    def __len__(self) -> int:
        return self._recipe.steps

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        stage, place = self._recipe.at(step)
        text = self._windows.batch(step, stage.text_rows, stage.share_of_novels(place))
        if stage is self._recipe.reading:
            return (text,)
        return text, *self._conversations.batch(f"support:{step}"), *self._meanings.batch(f"meaning:{step}")
