"""How much of what a question says stands in an entry's texts, word by word.

Late interaction as in ColBERT (MaxSim, https://arxiv.org/abs/2004.12832): each word of the question meets the word
nearest to it in meaning among those of the entry. Where a sentence is one vector, two questions that differ in one word
lie close; here that word is looked for by itself. The words' vectors are what they add to a sentence's
(semantics.py), so those that are typed wrong are found too, and their lengths are how much they say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.lm.augment import plain
from training.lm.background import Background
from training.lm.ngrams import count_ngrams
from training.lm.semantics import SentenceVectors

# Usual words that meet all the owners' words at once.
BATCH_SIZE = 100


class WordMatcher:
    """Immutable.

    Args:
        texts: each owner's.
    """

    def __init__(self, texts: Sequence[Sequence[str]], vectors: SentenceVectors, background: Background) -> None:
        self._vectors = vectors
        # Row 0 is no word's, and is in everybody's reach: a word that is like none is as good as missing, not worse.
        rows: dict[str, int] = {"": 0}
        found = []
        for each in texts:
            words = [word for text in each for word in plain(text).split()]
            found.append(list(dict.fromkeys([0, *(rows.setdefault(word, len(rows)) for word in words)])))
        self._words = _unit(vectors.sums(count_ngrams(list(rows)))).T.copy()
        self._rows = np.concatenate([np.array(each) for each in found]) if found else np.zeros(0, dtype=int)
        self._starts = np.cumsum([0, *(len(each) for each in found)])[:-1]
        weights = background.shares * np.linalg.norm(background.words, axis=1)
        batches = (slice(start, start + BATCH_SIZE) for start in range(0, len(weights), BATCH_SIZE))
        # A long answer has something like any word; what it has of the usual ones is taken off.
        self._usual = sum(
            (weights[each] @ self._reached(background.words[each]) for each in batches), start=np.zeros(len(texts))
        ) / max(float(weights.sum()), 1e-6)

    def scores(self, question: str) -> NDArray[np.float64]:
        """The share of the question that each owner has words for, beyond what it has for any, (owners,)."""
        words = list(dict.fromkeys(plain(question).split()))
        if not words or not len(self._starts):
            return np.zeros(len(self._usual))
        asked = self._vectors.sums(count_ngrams(words))
        weights = np.linalg.norm(asked, axis=1)
        return np.asarray(weights @ self._reached(asked) / max(float(weights.sum()), 1e-6) - self._usual)

    def _reached(self, words: NDArray[np.float32]) -> NDArray[np.float32]:
        """How like each word is to the likest of each owner's, 0 to 1, (words, owners)."""
        if not len(self._starts):
            return np.zeros((len(words), 0), dtype=np.float32)
        return np.maximum.reduceat((_unit(words) @ self._words)[:, self._rows], self._starts, axis=1)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
