"""How much of what a question says stands in an entry's texts, word by word.

Late interaction as in ColBERT (MaxSim, https://arxiv.org/abs/2004.12832): each word of the question meets the word
nearest to it in meaning among those of the entry. Where a sentence is one vector, two questions that differ in one word
lie close; here that word is looked for by itself. The words' vectors are what they add to a sentence's
by themselves (semantics.py), so those that are typed wrong are found too, and their lengths are how much they say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.lm.augment import plain
from training.lm.background import Background
from training.lm.ngrams import count_ngrams
from training.lm.semantics import SentenceVectors

# Numbers that are looked at at once, so that long answers take time and no memory.
MAX_LOOKED_AT = 4_000_000
# Distinct words of a question; what follows them is not looked at.
MAX_WORDS = 64
# A question of fewer than so many usual words has said little, whoever has them: "¿y todo?" is not about the entry that
# says where everything is delivered. On `bench/businesses` longer ones are found as well as without.
ENOUGH_WORDS = 8.0

# Places of the owners' words one after the other, and where each owner's begin.
Spans = tuple[NDArray[np.int_], NDArray[np.int_]]


class WordMatcher:
    """Immutable.

    Args:
        texts: each owner's.
        previous: of an earlier publication, with the same vectors and background: what an owner has of the usual words
            is taken over where the texts are the same.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[str]],
        vectors: SentenceVectors,
        background: Background,
        *,
        previous: WordMatcher | None = None,
    ) -> None:
        self._vectors = vectors
        # Row 0 is no word's, and is in everybody's reach: a word that is like none is as good as missing, not worse.
        rows: dict[str, int] = {"": 0}
        found = []
        for each in texts:
            words = [word for text in each for word in plain(text).split()]
            found.append(np.array(list(dict.fromkeys([0, *(rows.setdefault(word, len(rows)) for word in words)]))))
        self._words = _unit(vectors.sums(count_ngrams(list(rows)))).T.copy()
        weights = background.shares * np.linalg.norm(background.words, axis=1)
        self._enough = ENOUGH_WORDS * float(weights.sum() / background.shares.sum())
        # A long answer has something like any word; what it has of the usual ones is taken off.
        usual = dict(previous._usual_by_texts) if previous is not None else {}
        new = [place for place, each in enumerate(texts) if tuple(each) not in usual]
        columns, starts = _spans([found[place] for place in new])
        used, columns = np.unique(columns, return_inverse=True)
        reached = _reached(background.words, self._words[:, used], (columns, starts), weights / weights.sum())
        usual.update(zip((tuple(texts[place]) for place in new), reached.tolist(), strict=True))
        self._usual_by_texts: dict[tuple[str, ...], float] = {tuple(each): usual[tuple(each)] for each in texts}
        self._usual = np.array([usual[tuple(each)] for each in texts])
        self._found = _spans(found)

    def scores(self, question: str) -> NDArray[np.float64]:
        """The share of the question that each owner has words for, beyond what it has for any, (owners,)."""
        words = list(dict.fromkeys(plain(question).split()))[:MAX_WORDS]
        if not words:
            return np.zeros(len(self._usual))
        asked = self._vectors.sums(count_ngrams(words))
        weights = np.linalg.norm(asked, axis=1)
        surplus = _reached(asked, self._words, self._found, weights) - weights.sum() * self._usual
        return np.asarray(surplus / max(float(weights.sum()), self._enough))


def _reached(
    words: NDArray[np.float32], known: NDArray[np.float32], found: Spans, weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """How like the words are to the likest of each owner's, 0 to 1 times their weights, added up, (owners,).

    Args:
        words: vectors of any length, (words, dimensions).
        known: vectors of length 1, of which the spans name the columns, (dimensions, known words).
        weights: (words,).
    """
    columns, starts = found
    reached = np.zeros(len(starts))
    step = max(1, MAX_LOOKED_AT // max(1, len(columns)))
    for first in range(0, len(words) if len(starts) else 0, step):
        likeness = _unit(words[first : first + step]) @ known
        reached += weights[first : first + step] @ np.maximum.reduceat(likeness[:, columns], starts, axis=1)
    return reached


def _spans(found: Sequence[NDArray[np.int_]]) -> Spans:
    rows = np.concatenate(found) if found else np.zeros(0, dtype=int)
    return rows, np.cumsum([0, *(len(each) for each in found)])[:-1]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
