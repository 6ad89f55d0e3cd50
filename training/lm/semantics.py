"""Sentence vectors: texts that mean one thing point the same way, whatever their letters.

A vector for each bucket of n-grams, added up and brought to length 1: no forward pass, a tenth of a millisecond a
question. The table belongs to the bundled base and was learned from its customer-service corpus (pretrain.py), so it
also serves any other base model. Like fastText (https://arxiv.org/abs/1607.04606), but learned so that wordings of one
intent lie close and those of others far (InfoNCE, https://arxiv.org/abs/1807.03748).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

from training.lm.config import BUNDLED_BASE

FILE_NAME = "sentence_vectors.safetensors"
# In the same file: how a vector is read from the model's last state (encoder.py).
READING = "reading"
# Four bits a number, of which one value stays unused so that zero is a value.
_LEVELS = 7


class SentenceVectors:
    """Immutable. A table of (buckets, dimensions), the weight of each n-gram multiplied in.

    It stays in four bits, and the few rows that a text needs are unpacked: whole it would be eight times as large.

    Args:
        packed, scale: as `in_four_bits` gives them.
    """

    def __init__(self, packed: NDArray[np.uint8], scale: NDArray[np.float16]) -> None:
        self._packed, self._scale = packed, scale

    @classmethod
    def from_table(cls, table: NDArray[np.float32]) -> SentenceVectors:
        return cls(*in_four_bits(table))

    @classmethod
    def load(cls, path: Path) -> SentenceVectors:
        """Read what `save` wrote."""
        stored = load_file(path)
        return cls(stored["table"], stored["scale"])

    def save(self, path: Path) -> None:
        save_file({"table": self._packed, "scale": self._scale}, path)

    @property
    def num_buckets(self) -> int:
        return len(self._packed)

    @property
    def dimensions(self) -> int:
        return 2 * int(self._packed.shape[1])

    def of(self, counts: csr_matrix) -> NDArray[np.float32]:
        """Vectors of texts, (texts, dimensions), length 1, or 0 for a text without letters.

        Args:
            counts: of n-grams (ngrams.py), (texts, NUM_NGRAMS). That one occurs is what counts, not how often.
        """
        vectors = self.sums(counts)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)

    def read(self, texts: Sequence[str], counts: csr_matrix) -> NDArray[np.float32]:
        """The same, as a prior's reader (prior.Reader)."""
        return self.of(counts)

    def sums(self, counts: csr_matrix) -> NDArray[np.float32]:
        """The same before they are brought to length 1: those of its words add up to a sentence's, but for its
        pairs of words."""
        buckets, columns = np.unique(counts.indices % self.num_buckets, return_inverse=True)
        present = csr_matrix(
            (np.ones(len(columns), dtype=np.float32), columns, counts.indptr), shape=(counts.shape[0], len(buckets))
        )
        sums: NDArray[np.float32] = present @ of_four_bits(self._packed[buckets], self._scale[buckets])
        return sums


def in_four_bits(table: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Two numbers a byte, (rows, columns / 2), and the scale of each row: an eighth of the table's size."""
    scale = (np.abs(table).max(axis=1) / _LEVELS).astype(np.float16)
    divisor = np.maximum(scale.astype(np.float32), np.finfo(np.float16).tiny)[:, None]
    levels = (np.clip(np.rint(table / divisor), -_LEVELS, _LEVELS) + _LEVELS).astype(np.uint8)
    return levels[:, 0::2] | (levels[:, 1::2] << 4), scale


def of_four_bits(packed: NDArray[np.uint8], scale: NDArray[np.float16]) -> NDArray[np.float32]:
    """What `in_four_bits` was given, nearly."""
    table = np.empty((len(packed), 2 * packed.shape[1]), dtype=np.float32)
    table[:, 0::2], table[:, 1::2] = packed & 15, packed >> 4
    # In place, since of very many texts nearly all rows are asked for.
    table -= _LEVELS
    table *= scale.astype(np.float32)[:, None]
    return table


@cache
def bundled_vectors() -> SentenceVectors:
    return SentenceVectors.load(BUNDLED_BASE / FILE_NAME)
