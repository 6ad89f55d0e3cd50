"""Fit how much the lexical prior weighs and from which confidence on to answer, on questions held out from training.

Two steps: the prior's weight and the standing of "I don't know" by likelihood, shrunk towards values measured on public
FAQ sets, since an exam may hold ten questions; then the threshold by what right and wrong answers are worth.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from training.lm.answers import AnswerSet
from training.lm.decisions import Calibration
from training.lm.decoding import FloatArray, guided_search
from training.lm.packing import Expected, TokenTree

DEFAULT = Calibration()
PRIOR_WEIGHTS = (0.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 25.0, 30.0)
DECLINE_CREDITS = (0.0, 0.1, 0.2, 0.3, 0.4)
OFF_TOPIC_WEIGHTS = (0.0, 0.5, 1.0)
# How many exam questions the defaults weigh as much as.
SHRINKAGE = 10.0
WRONG_COST = 8.0
MAX_SCORED_LEAVES = 1_000
UNLIKELY = -60.0
THRESHOLDS = tuple(round(0.3 + 0.01 * step, 2) for step in range(66))


@dataclass(frozen=True, slots=True)
class Scored:
    """A held-out question with the model's log-probability of every leaf."""

    expected: str | None
    log_probs: FloatArray  # (leaves,)
    question: str


def score(answers: AnswerSet, tree: TokenTree, question: str) -> Generator[list[int], Expected, Scored]:
    """What the model says of every leaf; a generator as in decoding.py.

    Of more leaves than are worth reading for one question, those that the model or the prior make likely.
    """
    is_whole = len(answers.trie) <= MAX_SCORED_LEAVES
    bonus = np.zeros(len(answers.trie)) if is_whole else answers.bonus(answers.prior.scores(question), DEFAULT)
    guided = yield from guided_search(tree, answers.trie, bonus, tolerance=0 if is_whole else 0.001)
    log_probs = np.full(len(answers.trie), UNLIKELY)
    found = np.log(np.maximum(guided.probabilities, np.exp(UNLIKELY))) - bonus[guided.leaves]
    log_probs[guided.leaves] = np.maximum(found, UNLIKELY)
    return Scored(expected=None, log_probs=log_probs, question=question)


def fit(answers: AnswerSet, scored: Sequence[Scored]) -> Calibration:
    """The calibration for these answers; the defaults where there is nothing to fit on."""
    if not any(each.expected for each in scored):
        return DEFAULT
    log_probs = np.stack([each.log_probs for each in scored])
    right = np.array([_leaf(answers, each.expected) for each in scored])
    lexical = [answers.prior.scores(each.question) for each in scored]
    posteriors = {}
    for values in product(PRIOR_WEIGHTS, DECLINE_CREDITS, OFF_TOPIC_WEIGHTS):
        calibration = Calibration(*values)
        prior = np.stack([answers.prior_of_leaves(scores, calibration) for scores in lexical])
        posteriors[calibration] = _normalized(log_probs + calibration.prior_weight * prior)
    best = min(posteriors, key=lambda calibration: _loss(posteriors[calibration], right, answers, calibration))
    return replace(best, threshold=_threshold(posteriors[best], right, answers.decline_leaf))


def _normalized(scores: FloatArray) -> FloatArray:
    """Probabilities over the leaves, (questions, leaves)."""
    return np.asarray(np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)))


def _loss(posterior: FloatArray, right: NDArray[np.int_], answers: AnswerSet, calibration: Calibration) -> float:
    """Negative log-likelihood of the right leaves, in-scope and off-topic questions weighing the same, and how far
    the calibration is from the defaults."""
    losses = -np.log(np.maximum(posterior[np.arange(len(right)), right], 1e-4))
    is_off_topic = right == answers.decline_leaf
    fit_term = sum(float(losses[part].mean()) for part in (is_off_topic, ~is_off_topic) if part.any())
    distance = (calibration.prior_weight - DEFAULT.prior_weight) / 10.0
    credit_distance = (calibration.decline_credit - DEFAULT.decline_credit) / 0.1
    return fit_term + 0.1 * SHRINKAGE / len(right) * (distance**2 + credit_distance**2)


def _threshold(posterior: FloatArray, right: NDArray[np.int_], decline_leaf: int) -> float:
    """The threshold that serves customers best when a wrong answer costs WRONG_COST times what a right one brings.

    Drawn towards the default by as much as SHRINKAGE questions would.
    """
    answered = posterior.copy()
    answered[:, decline_leaf] = -1.0
    confidence = answered.max(axis=1)
    worth = np.where(answered.argmax(axis=1) == right, 1.0, -WRONG_COST)
    gains = {limit: float(worth[confidence >= limit].sum()) for limit in THRESHOLDS}
    # Where many thresholds serve equally well, as on an exam without errors, the middle one errs to neither side.
    equal = [limit for limit in THRESHOLDS if gains[limit] == max(gains.values())]
    best = equal[len(equal) // 2]
    return float(len(right) * best + SHRINKAGE * DEFAULT.threshold) / (len(right) + SHRINKAGE)


def _leaf(answers: AnswerSet, key: str | None) -> int:
    if key is None:
        return answers.decline_leaf
    place = next(i for i, candidate in enumerate(answers.candidates) if candidate.key == key)
    return answers.trie.leaf_of[place]
