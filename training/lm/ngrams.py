"""Letters of a text as numbers: how often each n-gram stands in it. Knows no language and no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer

from training.lm.augment import plain

NUM_NGRAMS = 1 << 20

# Without a vocabulary a text's n-grams are counted by itself, so that one edited text costs one text.
_VECTORIZER = HashingVectorizer(
    analyzer="char_wb",
    ngram_range=(2, 5),
    preprocessor=plain,
    norm=None,
    alternate_sign=False,
    n_features=NUM_NGRAMS,
    dtype=np.float32,
)


def count_ngrams(texts: Sequence[str]) -> csr_matrix:
    """Counts of 2 to 5 letters within words, (texts, NUM_NGRAMS)."""
    return _VECTORIZER.transform(texts)
