"""The sentence vectors of the bundled base (semantics.py): how they are learned and what they are worth."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.lm import corpus
from training.lm.ngrams import count_ngrams, count_spelling_and_pairs
from training.lm.pretrain_text import neighbouring_sentences
from training.lm.prior import Prior
from training.lm.semantics import FILE_NAME, SentenceVectors

# Trades in a batch: the fewer, the nearer are the neighbours that are told apart.
NUM_DOMAINS = 6
# Groups side by side in the file are of one field, and often differ in one aspect: so many of them in a row.
NUM_NEIGHBOURS = 20
TEMPERATURE = 0.1


@dataclass(frozen=True, slots=True)
class VectorRecipe:
    """How the sentence vectors are learned.

    Attributes:
        num_intents, num_groups, num_sentences: pairs a step: wordings of one intent, groups that mean one thing (a
            multiple of NUM_NEIGHBOURS), neighbouring sentences of running text.
        sentence_weight: of the sentences' loss.
        left_out: share of a text's pairs of words that are left out whenever it is read, so that they are not learned
            in place of the words: a customer puts them together differently.
        retellings: ways in which each text of the corpus is typed.
    """

    buckets: int = 1 << 18
    dimensions: int = 128
    steps: int = 1600
    num_intents: int = 256
    num_groups: int = 380
    num_sentences: int = 256
    sentence_weight: float = 0.5
    left_out: float = 0.5
    learning_rate: float = 4e-3
    weight_learning_rate: float = 2e-2
    retellings: int = 2


class Pairs:
    """Pairs of texts that mean one thing, most of them of a few fields, so that neighbours are told apart."""

    def __init__(self, num_intents: int, num_groups: int) -> None:
        self._num_intents, self._num_groups = num_intents, num_groups
        self._groups = corpus.same_meaning()
        self._by_domain: dict[str, list[corpus.Intent]] = {}
        for intent in corpus.learned_intents():
            self._by_domain.setdefault(intent.domain, []).append(intent)

    def draw(self, rng: random.Random) -> list[tuple[str, str]]:
        pairs: list[tuple[str, str]] = []
        for domain in rng.sample(sorted(self._by_domain), min(len(self._by_domain), NUM_DOMAINS)):
            of_domain = self._by_domain[domain]
            for intent in rng.sample(of_domain, min(len(of_domain), self._num_intents // NUM_DOMAINS)):
                wordings = [*intent.wordings, *[intent.question] * 4, *[intent.answer] * 2]
                one, other = rng.sample(wordings, 2)
                pairs.append((one, other))
        stretch = min(NUM_NEIGHBOURS, self._num_groups)
        for start in rng.sample(range(0, len(self._groups), stretch), self._num_groups // stretch):
            for group in self._groups[start : start + stretch]:
                one, other = rng.sample(group, 2)
                pairs.append((one, other))
        return pairs


@dataclass(frozen=True, slots=True)
class ReadText:
    """The buckets of a text: of its letters and words, and of its pairs of words."""

    spelling: NDArray[np.int64]
    pairs: NDArray[np.int64]

    def seen(self, left_out: float, chance: np.random.Generator) -> NDArray[np.int64]:
        """Those of one look at it."""
        return np.concatenate([self.spelling, self.pairs[chance.random(len(self.pairs)) >= left_out]])


class VectorTable(nn.Module):
    """A vector and a weight for each bucket of n-grams."""

    def __init__(self, recipe: VectorRecipe) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vectors = nn.EmbeddingBag(recipe.buckets, recipe.dimensions, mode="sum", sparse=True)
        # Small random vectors, so that n-grams that are never learned still tell one word from another.
        nn.init.normal_(self.vectors.weight, std=0.03)
        self.weights = nn.Embedding(recipe.buckets, 1, sparse=True)
        nn.init.zeros_(self.weights.weight)

    def forward(self, buckets: Sequence[NDArray[np.int64]]) -> Tensor:
        flat = torch.from_numpy(np.concatenate(buckets))
        starts = torch.tensor(np.cumsum([0, *(len(each) for each in buckets[:-1])]))
        weights = nn.functional.softplus(self.weights(flat)[:, 0])
        return nn.functional.normalize(self.vectors(flat, starts, per_sample_weights=weights), dim=-1)

    def table(self) -> NDArray[np.float32]:
        with torch.no_grad():
            return (self.vectors.weight * nn.functional.softplus(self.weights.weight)).numpy()


def train_vectors(folder: Path, work: Path, recipe: VectorRecipe) -> None:
    """Pull texts that mean one thing together and push the others, most of them of the same fields, apart."""
    rng, chance = random.Random(0), np.random.default_rng(0)
    texts = list(dict.fromkeys(corpus.texts()))
    ways = {text: [text, *(corpus.retold(text, rng) for _ in range(recipe.retellings))] for text in texts}
    everything = list(dict.fromkeys(way for each in ways.values() for way in each))
    read = dict(zip(everything, _read(everything, recipe), strict=True))
    sentences = neighbouring_sentences(folder)
    sentences = rng.sample(sentences, min(len(sentences), recipe.steps * recipe.num_sentences))
    befores, afters = (_read([pair[side] for pair in sentences], recipe) for side in (0, 1))
    pairs = Pairs(recipe.num_intents, recipe.num_groups)
    table = VectorTable(recipe)

    def vectors_of(texts: Iterable[ReadText]) -> Tensor:
        return table([text.seen(recipe.left_out, chance) for text in texts])

    optimizers = [
        torch.optim.SparseAdam(list(table.vectors.parameters()), lr=recipe.learning_rate),
        torch.optim.SparseAdam(list(table.weights.parameters()), lr=recipe.weight_learning_rate),
    ]
    schedules = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=recipe.steps) for optimizer in optimizers
    ]
    for step in range(1, recipe.steps + 1):
        drawn = [(rng.choice(ways[one]), rng.choice(ways[other])) for one, other in pairs.draw(rng)]
        loss = contrastive(*(vectors_of(read[pair[side]] for pair in drawn) for side in (0, 1)))
        places = rng.sample(range(len(sentences)), min(len(sentences), recipe.num_sentences))
        neighbours = contrastive(*(vectors_of(side[place] for place in places) for side in (befores, afters)))
        (loss + recipe.sentence_weight * neighbours).backward()
        for each in (*optimizers, *schedules):
            each.step()
        table.zero_grad()
        if step % 100 == 0 or step == recipe.steps:
            print("vectors", step, f"{loss.item():.4f}", flush=True)
    work.mkdir(parents=True, exist_ok=True)
    SentenceVectors.from_table(table.table()).save(work / FILE_NAME)


def contrastive(ones: Tensor, others: Tensor) -> Tensor:
    """InfoNCE both ways (https://arxiv.org/abs/1807.03748): each of `ones`, (pairs, dimensions), finds its partner."""
    likeness = ones @ others.T / TEMPERATURE
    partner = torch.arange(len(likeness), device=likeness.device)
    loss: Tensor = sum(nn.functional.cross_entropy(each, partner) for each in (likeness, likeness.T)) / 2
    return loss


def _read(texts: Sequence[str], recipe: VectorRecipe) -> list[ReadText]:
    parts = []
    for counts in count_spelling_and_pairs(texts):
        spans = zip(counts.indptr, counts.indptr[1:], strict=False)
        parts.append([counts.indices[start:end].astype(np.int64) % recipe.buckets for start, end in spans])
    return [ReadText(*each) for each in zip(*parts, strict=True)]


def token_vectors(vectors: SentenceVectors, tokenizer: Any) -> NDArray[np.float32]:
    """What the n-grams of each token's letters add to a sentence vector, (tokens, dimensions)."""
    special = set(tokenizer.all_special_ids)
    ids = range(len(tokenizer))
    texts = ["" if token in special else tokenizer.decode([token]) for token in ids]
    return vectors.sums(count_ngrams(texts))


def cold_start(vectors: SentenceVectors | None) -> float:
    """Share of wordings of held-out intents that lie nearest to their own question or answer."""
    held_out = corpus.held_out_intents()
    known = [text for intent in held_out for text in (intent.question, intent.answer)]
    owners = [number for number in range(len(held_out)) for _ in range(2)]
    prior = Prior(known, owners, len(held_out), reader=vectors)
    asked = [(wording, number) for number, intent in enumerate(held_out) for wording in intent.wordings]
    return float(np.mean([prior.scores(wording)[:-1].argmax() == number for wording, number in asked]))
