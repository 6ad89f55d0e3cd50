"""Letters and words of a text as numbers: how often each n-gram stands in it. Knows no language and no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

from training.lm.augment import plain

NUM_NGRAMS = 1 << 20
MAX_LETTERS = 5

_letters_of = CountVectorizer(analyzer="char_wb", ngram_range=(2, MAX_LETTERS), lowercase=False).build_analyzer()


def _spelling_of(words: list[str]) -> list[str]:
    # Shorter words are among the letters, with the spaces around them.
    return [*_letters_of(" ".join(words)), *(f" {word} " for word in words if len(word) > MAX_LETTERS - 2)]


def _pairs_of(words: list[str]) -> list[str]:
    return [f"{one} {other}" for one, other in pairwise(words)]


def _vectorizer(ngrams_of: Callable[[list[str]], list[str]]) -> HashingVectorizer:
    # Without a vocabulary a text's n-grams are counted by itself, so that one edited text costs one text.
    return HashingVectorizer(
        analyzer=lambda text: ngrams_of(plain(text).split()),
        norm=None,
        alternate_sign=False,
        n_features=NUM_NGRAMS,
        dtype=np.float32,
    )


_SPELLING = _vectorizer(_spelling_of)
_PAIRS = _vectorizer(_pairs_of)
_EVERYTHING = _vectorizer(lambda words: [*_spelling_of(words), *_pairs_of(words)])


def count_ngrams(texts: Sequence[str]) -> csr_matrix:
    """Counts of 2 to 5 letters within words, of words and of pairs of neighbouring words, (texts, NUM_NGRAMS)."""
    return _EVERYTHING.transform(texts)


def count_spelling_and_pairs(texts: Sequence[str]) -> tuple[csr_matrix, csr_matrix]:
    """The same in two parts: letters and words, and pairs of words."""
    return _SPELLING.transform(texts), _PAIRS.transform(texts)
