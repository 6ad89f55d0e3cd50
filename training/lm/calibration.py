"""Fit how model and prior weigh and from which confidence on to answer, on questions held out from training.

Two steps: the weights of model and prior and the standing of "I don't know" by likelihood, then the thresholds by how
many wrong answers are borne. All are drawn towards values measured on businesses that the base has never seen: what an
exam holds out is little, and nearer to what was learned than what customers ask.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from training.lm.answers import AnswerSet, prior_of
from training.lm.decisions import MAX_SUGGESTIONS, Calibration
from training.lm.decoding import FloatArray, guided_search
from training.lm.packing import Expected, TokenTree

DEFAULT = Calibration()
MODEL_WEIGHTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
PRIOR_WEIGHTS = (0.0, 2.5, 5.0, 7.5, 10.0, 12.5, 15.0, 20.0, 25.0, 30.0)
DECLINE_CREDITS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
# How many exam questions the defaults weigh as much as. An exam's off-topic questions are general ones: left to
# themselves, the weights learn to tell those from the business's, and trust no question any more that is put in words
# of its own; and one wrong answer among seventy questions moves the threshold to where hardly any is answered
# (docs/answers.md).
SHRINKAGE = 100.0
# How many answers the confidences' own word counts for, beside those that the exam counted.
ADMITTED_WEIGHT = 10.0
# Of a hundred answers given, this many may be wrong; of a hundred off-topic questions, so many may be met with
# suggestions.
TARGET_WRONG = 0.02
TARGET_SUGGESTED = 0.1
FAR_BELOW = 0.5
MAX_SCORED_LEAVES = 1_000
UNLIKELY = -60.0
# λ where only the answers are known: what usually fits in fields that the bundled base knows, with answers of so many
# words and more (with shorter ones the less, by the root), and how many entries have to say that it is another field.
USUAL_UNDERSTOOD = 8.0
TELLING_WORDS = 20
FULLY_HEARD = 10
MAX_ASKED = 400
UNDERSTOOD_WEIGHTS = np.geomspace(0.5, 50.0, 93)
THRESHOLDS = tuple(round(0.3 + 0.01 * step, 2) for step in range(70))


@dataclass(frozen=True, slots=True)
class Scored:
    """A held-out question with the model's log-probability and coverage of every leaf, (leaves,)."""

    expected: str | None
    log_probs: FloatArray
    coverages: FloatArray
    question: str


def score(answers: AnswerSet, tree: TokenTree, question: str) -> Generator[list[int], Expected, Scored]:
    """What the model says of every leaf; a generator as in decoding.py.

    Of more leaves than are worth reading for one question, those that the model or the prior make likely.
    """
    is_whole = len(answers.trie) <= MAX_SCORED_LEAVES
    bonus = np.zeros(len(answers.trie)) if is_whole else answers.bonus(answers.prior.scores(question), DEFAULT)
    weight = 1.0 if is_whole else DEFAULT.model_weight
    tolerance = 0 if is_whole else 0.001
    guided = yield from guided_search(tree, answers.trie, bonus, model_weight=weight, tolerance=tolerance)
    log_probs = np.full(len(answers.trie), UNLIKELY)
    found = (np.log(np.maximum(guided.probabilities, np.exp(UNLIKELY))) - bonus[guided.leaves]) / weight
    # Up to a number that is the same for all leaves of the question, which tells nothing about any of them.
    log_probs[guided.leaves] = np.maximum(found - (0.0 if is_whole else found.max()), UNLIKELY)
    coverages = np.zeros(len(answers.trie))
    coverages[guided.leaves] = guided.coverages
    return Scored(expected=None, log_probs=log_probs, coverages=coverages, question=question)


def fit(
    answers: AnswerSet,
    scored: Sequence[Scored],
    *,
    model_weights: Sequence[float] = MODEL_WEIGHTS,
    prior_weights: Sequence[float] = PRIOR_WEIGHTS,
) -> Calibration:
    """The calibration for these answers, drawn towards the defaults, which are as sure as the prior understands the
    answers; just those where there is nothing to fit on.

    Args:
        model_weights, prior_weights: what to choose from; (0.0,) leaves one of the two out, for a comparison.
    """
    understanding = understanding_of(answers)
    # Both weights, so that what is not understood is not left to the model instead.
    default = replace(
        DEFAULT,
        model_weight=DEFAULT.model_weight * understanding,
        prior_weight=DEFAULT.prior_weight * understanding,
    )
    if not any(each.expected for each in scored):
        return replace(
            default,
            model_weight=default.model_weight if any(model_weights) else 0.0,
            prior_weight=default.prior_weight if any(prior_weights) else 0.0,
        )
    log_probs = np.stack([each.log_probs for each in scored])
    right = np.array([_leaf(answers, each.expected) for each in scored])
    by_prior = [answers.prior.scores(each.question) for each in scored]
    best, best_loss = DEFAULT, np.inf
    for values in product(model_weights, prior_weights, DECLINE_CREDITS):
        calibration = Calibration(*values)
        probabilities = _posterior(answers, log_probs, by_prior, calibration)
        loss = _loss(probabilities, right, answers.decline_leaf) + _distance(calibration, default) / len(right)
        if loss < best_loss:
            best, best_loss = calibration, loss
    posterior = _posterior(answers, log_probs, by_prior, best)
    coverages = np.stack([each.coverages for each in scored])
    is_heard = best.model_weight > 0
    return replace(
        best,
        threshold=_threshold(posterior, right, answers.decline_leaf),
        min_coverage=_min_coverage(posterior, coverages, right, answers.decline_leaf) if is_heard else 0.0,
        suggestion_threshold=_suggestion_threshold(posterior, right, answers.decline_leaf),
    )


def understanding_of(answers: AnswerSet) -> float:
    """How well the prior understands the answers, from 0.5 to 1.

    With one wording an entry as `_understanding` says, with two the root of that, with three and more 1: then wordings
    explain each other, and it is the exam that knows.
    """
    known = [min(max(len(each.wordings), 1), 3) for each in answers.candidates]
    sparseness = (3 - sum(known) / len(known)) / 2 if known else 0.0
    return _understanding(answers) ** sparseness if sparseness else 1.0


def _understanding(answers: AnswerSet) -> float:
    """How well the prior finds whose wording one is while it knows the answers alone, from 0.5 to 1.

    A field that the bundled base knows little of shows in that: there the likenesses are of letters and accidents, and
    as sure as elsewhere. It is the λ that would have been right, beside the usual one: half way in powers, less where
    fewer than ten entries say it (docs/answers.md). Answers that do not speak of their question ("Escríbanos.") look
    like such a field too; those that several entries share are left out.
    """
    num_sharing = Counter(each.answer for each in answers.candidates)
    asked = [each for each in answers.candidates if each.wordings and num_sharing[each.answer] == 1]
    asked = asked[:: math.ceil(len(asked) / MAX_ASKED) or 1]
    # So many texts that the encoder does not read them are weighed as ever.
    if len(asked) < 2 or answers.prior.words is None:
        return 1.0
    prior = prior_of([(each.answer,) for each in asked], answers.off_topic, previous=answers.prior)
    texts = [(owner, text) for owner, each in enumerate(asked) for text in each.wordings[:2]]
    scores = np.stack([prior.scores(text) for _, text in texts])
    scores[:, -1] = [DEFAULT.declining(off_topic) for off_topic in scores[:, -1]]
    right = scores[np.arange(len(texts)), [owner for owner, _ in texts]]
    gains = [(weight * right - np.logaddexp.reduce(weight * scores, axis=1)).mean() for weight in UNDERSTOOD_WEIGHTS]
    fitting = float(UNDERSTOOD_WEIGHTS[int(np.argmax(gains))])
    num_words = max(1.0, sum(len(each.answer.split()) for each in asked) / len(asked))
    usual = USUAL_UNDERSTOOD * min(1.0, num_words / TELLING_WORDS) ** 0.5
    power = len(asked) / (len(asked) + max(len(asked), FULLY_HEARD))
    return min(max((fitting / usual) ** power, 0.5), 1.0)


def _posterior(
    answers: AnswerSet, log_probs: FloatArray, by_prior: Sequence[FloatArray], calibration: Calibration
) -> FloatArray:
    """Probabilities over the leaves, (questions, leaves)."""
    prior = np.stack([answers.prior_of_leaves(scores, calibration) for scores in by_prior])
    scores = calibration.model_weight * log_probs + calibration.prior_weight * prior
    return np.asarray(np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)))


def _loss(posterior: FloatArray, right: NDArray[np.int_], decline_leaf: int) -> float:
    """Negative log-likelihood of the right leaves, in-scope and off-topic questions weighing the same."""
    losses = -np.log(np.maximum(posterior[np.arange(len(right)), right], 1e-4))
    is_off_topic = right == decline_leaf
    return sum(float(losses[part].mean()) for part in (is_off_topic, ~is_off_topic) if part.any())


def _distance(calibration: Calibration, default: Calibration) -> float:
    """What it costs to be so far from the defaults, shared by the questions of the exam."""
    distances = (
        (calibration.model_weight - default.model_weight) / 0.1,
        (calibration.prior_weight - default.prior_weight) / 10.0,
        (calibration.decline_credit - default.decline_credit) / 0.1,
    )
    return 0.1 * SHRINKAGE * sum(distance**2 for distance in distances)


def _threshold(posterior: FloatArray, right: NDArray[np.int_], decline_leaf: int) -> float:
    answered = posterior.copy()
    answered[:, decline_leaf] = -1.0
    return fit_threshold(answered.max(axis=1), answered.argmax(axis=1) == right)


def fit_threshold(
    confidences: FloatArray, is_right: NDArray[np.bool_], *, admitted_weight: float = ADMITTED_WEIGHT
) -> float:
    """The lowest threshold at which no more than TARGET_WRONG of the answers given are wrong.

    Counted on the exam and, for as much as `admitted_weight` answers, by what the confidences themselves admit: ten
    questions without an error have not shown that there are none, nor one error that there are many. Drawn towards the
    default by as much as SHRINKAGE questions would; where none keeps within the target, the one that errs least.

    Args:
        confidences: of the likeliest answer to each question, (questions,).
        is_right: whether it is the right one, which it is not for an off-topic question.
        admitted_weight: 0 for confidences that are no probabilities.
    """
    risks = {}
    for limit in THRESHOLDS:
        given = confidences >= limit
        if given.any():
            admitted = admitted_weight * float((1 - confidences[given]).mean())
            risks[limit] = ((~is_right[given]).sum() + admitted) / (given.sum() + admitted_weight)
    within = [limit for limit, risk in risks.items() if risk <= TARGET_WRONG]
    fitted = within[0] if within else min(risks, key=lambda limit: risks[limit], default=DEFAULT.threshold)
    return float(len(confidences) * fitted + SHRINKAGE * DEFAULT.threshold) / (len(confidences) + SHRINKAGE)


def _min_coverage(posterior: FloatArray, coverages: FloatArray, right: NDArray[np.int_], decline_leaf: int) -> float:
    """Far below every coverage with which the exam's questions were answered right, the further the fewer they are.

    Much lower is what the model would hardly have said by itself: some off-topic questions, and hardly any other. How
    high coverages are depends on the base and the training, so there is no default.
    """
    is_right = (posterior.argmax(axis=1) == right) & (right != decline_leaf)
    if not is_right.any():
        return DEFAULT.min_coverage
    lowest = float(coverages[is_right, right[is_right]].min())
    # Rounded, since the order of a sum changes its last digits, and an exam taken again is to give the same.
    return round(FAR_BELOW * lowest * float(is_right.sum() / (is_right.sum() + SHRINKAGE)), 3)


def _suggestion_threshold(posterior: FloatArray, right: NDArray[np.int_], decline_leaf: int) -> float:
    """The lowest threshold at which no more than TARGET_SUGGESTED of off-topic questions meet with suggestions."""
    answers = np.delete(posterior[right == decline_leaf], decline_leaf, axis=1)
    likeliest = np.sort(answers, axis=1)[:, -MAX_SUGGESTIONS:].sum(axis=1)
    if not len(likeliest):
        return DEFAULT.suggestion_threshold
    fitted = max(float(np.quantile(likeliest, 1 - TARGET_SUGGESTED)), THRESHOLDS[0])
    return (len(likeliest) * fitted + SHRINKAGE * DEFAULT.suggestion_threshold) / (len(likeliest) + SHRINKAGE)


def _leaf(answers: AnswerSet, key: str | None) -> int:
    if key is None:
        return answers.decline_leaf
    place = next(i for i, candidate in enumerate(answers.candidates) if candidate.key == key)
    return answers.trie.leaf_of[place]
