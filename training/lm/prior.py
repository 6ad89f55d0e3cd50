"""What a question's spelling and meaning say about which entry it means, without the adapter.

It needs no training, so it knows an entry added a minute ago. Knows no model and no database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix, vstack
from sklearn.feature_extraction.text import TfidfTransformer

from training.lm.background import Background
from training.lm.followups import Rests, rests
from training.lm.ngrams import NUM_NGRAMS, count_ngrams
from training.lm.words import WordMatcher

# The least-squares part solves a system as large as the number of texts. Owners with many lend it their first ones;
# beyond half as many owners their centres alone speak.
MAX_FITTED_TEXTS = 4_000
RIDGE = 1.0
FIT_ROUNDS = 10
# What the sum of centre and classifier, which weigh alike, is multiplied with: the numbers below are for that scale.
SCALE = 0.8

# How far what was spoken of before may lift an entry: enough to choose between those that a follow-up leaves open,
# not enough to hold it back from leading elsewhere. Measured on follow-ups to the demo shop (docs/answers.md).
CONTEXT_WEIGHT = 0.7
MAX_CONTEXT = 1.1
# How far the own words of a follow-up without a subject may lift an entry: they may be those of one, and mean another.
MAX_OWN = 0.5

# How much meaning weighs beside the n-grams.
MEANING_WEIGHT = 1.0
# How much it counts that an owner has words for what is asked, and that something else is meant; the latter beyond what
# is usual for questions of a business's own. Chosen on `bench/businesses` (docs/answers.md).
WORDS_WEIGHT = 0.6
ELSEWHERE_WEIGHT = 0.5
USUAL_ELSEWHERE = 0.5


class Reader(Protocol):
    """What knows meanings."""

    def read(self, texts: Sequence[str], counts: csr_matrix) -> NDArray[np.float32]:
        """Vectors of texts, (texts, dimensions): the product of two is how far the texts mean one thing.

        Args:
            counts: of the texts' n-grams, (texts, NUM_NGRAMS), which are there already.
        """


class Prior:
    """Likeness by n-grams (TF-IDF, ngrams.py) and by meaning, read in two ways.

    The centre of each owner's texts (Rocchio's prototypes), and a least-squares classifier of the owners, which learns
    what matters: they err differently. With one wording an entry and its answer, other wordings of seven unseen
    businesses of ten or forty entries were found right in 0.83 before the vectors knew pairs of words. With those of
    before that it was 0.77 without the encoder and 0.81 with it, which also tells off-topic questions better (AUROC
    0.86 instead of 0.81). The nearest text instead of the centre is as good or a point worse there, and two to four
    points worse on eight businesses whose entries are near neighbours: of several wordings one is always near by
    accident.

    To this are added what the owners have words for, word by word, and taken off what is more likely meant elsewhere.

    Args:
        texts: what staff wrote: questions, other wordings, answers.
        owners: whose text each one is, 0 to `num_owners` - 1.
        off_topic: questions to decline; their owner is number `num_owners`.
        reader: None for n-grams alone.
        words: the same owners' words; None to leave them out.
        background: what customers of any business want, in the reader's vectors; None to leave it out.
        previous: the prior of an earlier publication: its texts are not counted again, if its reader is the same.
    """

    def __init__(
        self,
        texts: Sequence[str],
        owners: Sequence[int],
        num_owners: int,
        off_topic: Sequence[str] = (),
        *,
        reader: Reader | None = None,
        words: WordMatcher | None = None,
        background: Background | None = None,
        previous: Prior | None = None,
    ) -> None:
        self.num_owners = num_owners
        self.words, self._background = words, background
        everyone = np.array([*owners, *[num_owners] * len(off_topic)], dtype=int)
        # By owner, so that each has one stretch of texts.
        order = np.argsort(everyone, kind="stable")
        self._owners = everyone[order]
        self._present, self._starts = np.unique(self._owners, return_index=True)
        everything = [*texts, *off_topic]
        self._texts = [everything[place] for place in order]
        self._reader = reader
        if previous is not None and previous._reader is not reader:
            previous = None
        # Meanings have one row a dimension, as a question's vector is multiplied with them.
        self._counts, self._meanings = _read(self._texts, reader, previous)
        self._dual: NDArray[np.float32] | None = None
        self._owned: NDArray[np.float32] | None = None
        if not self._texts:
            return
        weights = TfidfTransformer(sublinear_tf=True)
        ngrams = weights.fit_transform(self._counts)
        self._by_ngram = ngrams.T.tocsr()
        # N-grams that stand in none of the texts say nothing about which of them is meant.
        self._idf = weights.idf_ * (np.diff(self._by_ngram.indptr) > 0)
        self._lengths = self._lengths_of_sums(ngrams)
        self._answering = self._present[self._present < num_owners]
        if background is not None and self._meanings is not None:
            centres = np.add.reduceat(self._meanings, self._starts, axis=1)[:, : len(self._answering)].T
            self._owned = background.owned(centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-6))
        self._fitted = self._fitted_rows()
        if len(self._fitted):
            kernel = (ngrams[self._fitted] @ ngrams[self._fitted].T).toarray()
            if self._meanings is not None:
                meanings = self._meanings[:, self._fitted]
                kernel = _mixed(kernel, meanings.T @ meanings)
            self._dual = _classifier(kernel, np.eye(num_owners + 1, dtype=np.float32)[self._owners[self._fitted]])

    def _fitted_rows(self) -> NDArray[np.int_]:
        """Which texts the classifier learns: all, or as many of each owner as there is room for."""
        room = MAX_FITTED_TEXTS // (self.num_owners + 1)
        if room < 2 or not len(self._owners):
            return np.array([], dtype=int)
        sizes = np.diff(np.append(self._starts, len(self._owners)))
        return np.flatnonzero(np.arange(len(self._owners)) - np.repeat(self._starts, sizes) < room)

    def _lengths_of_sums(self, ngrams: csr_matrix) -> NDArray[np.float64]:
        """How long the sum of each present owner's texts is, by which their likenesses add up to that of its centre."""
        ends = np.append(self._starts[1:], len(self._owners))
        sum_by_owner = csr_matrix((np.ones(len(self._owners)), np.arange(len(self._owners)), [*self._starts, ends[-1]]))
        squares = np.asarray((sum_by_owner @ ngrams).power(2).sum(axis=1)).ravel()
        if self._meanings is not None:
            sums = np.add.reduceat(self._meanings, self._starts, axis=1)
            squares = _mixed(squares, (sums**2).sum(axis=0))
        return np.sqrt(np.maximum(squares, 1e-12))

    def scores(self, question: str) -> NDArray[np.float64]:
        """One number per owner, from about -0.5 to 2, and last one for off-topic, from about 0 to 1, (num_owners + 1,).

        The last comes from the classifier alone: the next off-topic question resembles none of those listed, so
        their centre says little about it.
        """
        scores = np.zeros(self.num_owners + 1)
        if not self._texts:
            return scores
        counts, meaning = count_ngrams([question]), None
        likeness = (self._weighted(counts) @ self._by_ngram).toarray()[0]
        if self._reader is not None and self._meanings is not None:
            meaning = self._reader.read([question], counts)[0]
            likeness = _mixed(likeness, meaning @ self._meanings)
        scores[self._present] = SCALE * np.add.reduceat(likeness, self._starts) / self._lengths
        scores[-1] = 0.0
        if self._dual is not None:
            # The classifier's kernel is the likeness.
            scores += SCALE * (likeness[self._fitted] @ self._dual)
        if self.words is not None:
            scores[:-1] += WORDS_WEIGHT * self.words.scores(question)
        # Without a letter nothing is meant.
        if self._background is not None and meaning is not None and self._owned is not None and counts.nnz:
            elsewhere = self._background.elsewhere(meaning / np.linalg.norm(meaning), self._owned)
            scores[self._answering] -= ELSEWHERE_WEIGHT * (elsewhere - USUAL_ELSEWHERE)
        return scores

    def scores_after(self, question: str, context: str) -> NDArray[np.float64] | None:
        """The same for a follow-up (followups.py); None for one whose own subject is nearer to off-topic than to any
        owner, and so goes on from nothing.

        Args:
            context: what was spoken of before.
        """
        scores = self.scores(question)
        has_subject = rests(question) is not Rests.ENTIRELY
        if has_subject and scores[-1] > scores[:-1].max(initial=0.0):
            return None
        subject = self.scores(context)
        before = np.minimum(subject[:-1], MAX_CONTEXT)
        if has_subject:
            scores[:-1] += CONTEXT_WEIGHT * before
        elif subject[-1] > subject[:-1].max(initial=0.0):
            # What was spoken of is off-topic, and so is what goes on from it.
            scores[:-1], scores[-1] = 0.0, subject[-1]
        else:
            scores[:-1] = np.minimum(scores[:-1], MAX_OWN) + before
        return scores

    def _weighted(self, counts: csr_matrix) -> csr_matrix:
        """What TfidfTransformer makes of one text, without its checks, which take longer than all the rest."""
        vector = counts.copy()
        vector.data = (1 + np.log(vector.data)) * self._idf[vector.indices]
        vector.data /= np.linalg.norm(vector.data) or 1.0
        return vector


def _classifier(kernel: NDArray[np.float32], owned: NDArray[np.float32]) -> NDArray[np.float32]:
    """Coefficients of the texts for each owner, (texts, owners), by kernel ridge regression with the squared hinge.

    A target that is passed is no error: it follows where the fit has gone, and the same system is solved again
    (Ho and Kashyap, "An Algorithm for Linear Inequalities and its Applications", 1965). Where owners have many texts
    this is worth one to two points over plain targets of one and zero.

    Args:
        kernel: likeness of the texts, (texts, texts).
        owned: 1 where a text is the owner's, else 0, (texts, owners).
    """
    system = cho_factor(kernel + RIDGE * np.eye(len(kernel), dtype=np.float32), overwrite_a=True)
    targets = owned
    for _ in range(FIT_ROUNDS):
        dual = cho_solve(system, targets)
        reached = targets - RIDGE * dual
        targets = np.where(owned > 0, np.maximum(reached, 1.0), np.minimum(reached, 0.0))
    return np.asarray(dual, dtype=np.float32)


def _mixed(ngrams: NDArray[np.float32], meanings: NDArray[np.float32]) -> NDArray[np.float32]:
    """One likeness from two; a kernel if both are."""
    return np.asarray((ngrams + MEANING_WEIGHT * meanings) / (1 + MEANING_WEIGHT), dtype=np.float32)


def _read(
    texts: Sequence[str], reader: Reader | None, previous: Prior | None
) -> tuple[csr_matrix, NDArray[np.float32] | None]:
    """How often each n-gram stands in each text, (texts, n-grams), and the texts' vectors, (dimensions, texts)."""
    known = {text: row for row, text in enumerate(previous._texts)} if previous is not None else {}
    new = list(dict.fromkeys(text for text in texts if text not in known))
    rows = known | {text: len(known) + place for place, text in enumerate(new)}
    order = [rows[text] for text in texts]
    counts = count_ngrams(new) if new else csr_matrix((0, NUM_NGRAMS), dtype=np.float32)
    meanings = reader.read(new, counts).T if reader is not None else None
    if previous is not None:
        counts = vstack([previous._counts, counts], format="csr")
        if meanings is not None and previous._meanings is not None:
            meanings = np.concatenate([previous._meanings, meanings], axis=1)
    return counts[order], np.ascontiguousarray(meanings[:, order]) if meanings is not None else None
