"""What is asked of any business, as the bundled base knows it: the usual words, and what customers want of one.

Two things are told by it that a business's own texts cannot tell: how much of any question a long answer would seem to
have words for, and whether a question is nearer to something else that customers want than to what is answered here.
Made with the base (pretrain.py).
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from training.lm import corpus
from training.lm.augment import plain
from training.lm.config import BUNDLED_BASE
from training.lm.ngrams import count_ngrams
from training.lm.semantics import in_four_bits, of_four_bits

if TYPE_CHECKING:
    from training.lm.encoder import BundledReader

FILE_NAME = "background.safetensors"
NUM_WORDS = 1_000
# How many of the likeliest intents a question is taken to mean.
NUM_MEANT = 10
# How much of an intent's likeness to an owner counts as the owner's: with all of it, a question in words of its own
# seems to mean what is next door.
SHARED = 0.5


class Background:
    """Immutable.

    Args:
        words: vectors of the usual words, not of length 1 (SentenceVectors.sums), (words, vector dimensions).
        shares: how often each is used, (words,).
        intents: vectors of the intents, length 1, (intents, dimensions of the reader).
    """

    def __init__(self, words: NDArray[np.float32], shares: NDArray[np.float32], intents: NDArray[np.float32]) -> None:
        self.words, self.shares, self.intents = words, shares, intents

    @classmethod
    def load(cls, path: Path) -> Background:
        """Read what `save` wrote."""
        stored = load_file(path)
        words, intents = (of_four_bits(stored[name], stored[f"{name}_scale"]) for name in ("words", "intents"))
        return cls(words, stored["shares"], _unit(intents))

    def save(self, path: Path) -> None:
        tensors: dict[str, NDArray[Any]] = {"shares": self.shares}
        for name, table in (("words", self.words), ("intents", self.intents)):
            tensors[name], tensors[f"{name}_scale"] = in_four_bits(table)
        save_file(tensors, path)

    @classmethod
    def of_corpus(cls, reader: BundledReader) -> Background:
        """From what may be learned of the corpus."""
        learned = corpus.learned_intents()
        counts = Counter(word for intent in learned for text in intent.wordings for word in set(plain(text).split()))
        usual = counts.most_common(NUM_WORDS)
        centres = []
        for intent in learned:
            texts = [intent.question, *intent.wordings]
            centres.append(reader.read(texts, count_ngrams(texts)).mean(axis=0))
        return cls(
            reader.vectors.sums(count_ngrams([word for word, _ in usual])),
            np.array([number / counts.total() for _, number in usual], dtype=np.float32),
            _unit(np.stack(centres)),
        )

    def owned(self, centres: NDArray[np.float32]) -> NDArray[np.float32]:
        """How much of each intent is each owner's, (owners, intents), from the owners' vectors of length 1."""
        return np.asarray(SHARED * (centres @ self.intents.T), dtype=np.float32)

    def elsewhere(self, meaning: NDArray[np.float32], owned: NDArray[np.float32]) -> NDArray[np.float32]:
        """How surely something else is meant than what each owner answers, about 0 to 1, (owners,).

        The likeness of the question to an intent less what of that is the owner's, where that is most.

        Args:
            meaning: of the question, length 1, (dimensions,).
            owned: as the method of that name says.
        """
        likeness = self.intents @ meaning
        meant = np.argpartition(-likeness, NUM_MEANT)[:NUM_MEANT] if len(likeness) > NUM_MEANT else slice(None)
        return np.asarray((likeness[meant] - owned[:, meant]).max(axis=1))


def _unit(table: NDArray[np.float32]) -> NDArray[np.float32]:
    return table / np.maximum(np.linalg.norm(table, axis=-1, keepdims=True), 1e-6)


@cache
def bundled_background() -> Background:
    return Background.load(BUNDLED_BASE / FILE_NAME)
