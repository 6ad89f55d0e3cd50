from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from training.lm import calibration
from training.lm.answers import AnswerSet
from training.lm.calibration import DEFAULT, TARGET_WRONG, Scored, fit, fit_threshold, score, understanding_of
from training.lm.config import BaseModel, Precision
from training.lm.decisions import Calibration, Candidate, Decision, is_declined
from training.lm.decoding import FloatArray, GuidedAnswer, run
from training.lm.evaluate import Asked, auroc, measure
from training.lm.loading import load_base, load_tokenizer
from training.lm.packing import TokenTree
from training.lm.prompts import encode_prompt

TOPICS = ["envío", "pago", "horario", "factura", "garantía", "devolución"]

# A question without a word, of which the prior says next to nothing.
NOTHING = "¿?"


@pytest.fixture(scope="module")
def answers() -> Iterator[AnswerSet]:
    candidates = [
        Candidate(topic, f"{topic}: respuesta", f"{topic}: respuesta", (f"¿Qué hay del {topic}?",)) for topic in TOPICS
    ]
    made = AnswerSet(load_tokenizer(BaseModel()), candidates, ["cuéntame un chiste"])
    with pytest.MonkeyPatch.context() as patch:
        # An exam here has one question hundreds of times.
        patch.setattr(made.prior, "scores", cache(made.prior.scores))
        yield made


def scored(
    answers: AnswerSet,
    question: str,
    expected: str | None,
    *,
    model_says: str | None,
    sure: float,
    covered: float = 1.0,
) -> Scored:
    """A question about which the model is this sure of this answer."""
    keys: list[str | None] = [*(each.key for each in answers.candidates), None]
    log_probs = np.full(len(answers.trie), np.log((1 - sure) / (len(keys) - 1)))
    log_probs[answers.trie.leaf_of[keys.index(model_says)]] = np.log(sure)
    return Scored(expected, log_probs, np.full(len(log_probs), covered), question)


def test_of_many_leaves_those_that_matter_are_told_apart_as_if_all_were_read(
    answers: AnswerSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_base(BaseModel(), precision=Precision.FULL)

    def said(question: str) -> FloatArray:
        tree = TokenTree(encode_prompt(load_tokenizer(BaseModel()), question))
        log_probs: FloatArray = run(model, tree, score(answers, tree, question)).log_probs
        return log_probs

    of_all = said("hola")
    monkeypatch.setattr(calibration, "MAX_SCORED_LEAVES", 1)
    monkeypatch.setattr(calibration, "DEFAULT", Calibration(model_weight=0.05, prior_weight=100.0))
    of_some = said("hola")

    is_found = of_some > calibration.UNLIKELY
    assert is_found.sum() > 1
    assert np.ptp(of_some[is_found]) > 0
    np.testing.assert_allclose(np.ptp((of_all - of_some)[is_found]), 0, atol=1e-3)


def test_it_keeps_the_defaults_when_there_is_nothing_to_fit_on(answers: AnswerSet) -> None:
    assert fit(answers, []) == DEFAULT
    off_topic = scored(answers, "un chiste", None, model_says=None, sure=0.9)
    assert fit(answers, [off_topic]) == DEFAULT


SHOP = [
    ("¿A qué hora abren?", "Abrimos de lunes a sábado, de nueve de la mañana a seis de la tarde."),
    ("¿Hacen envíos a otras ciudades?", "Sí, enviamos a todo el país y el paquete llega en tres días."),
    ("¿Cómo puedo pagar?", "Aceptamos tarjeta de crédito, transferencia y dinero en efectivo."),
    ("Mi producto llegó roto, ¿qué hago?", "Si el artículo llega dañado lo cambiamos o le devolvemos el dinero."),
    ("¿Dan factura?", "La factura se descarga en la sección Mis compras de su cuenta."),
    ("¿Dónde están?", "Nuestro local queda en la calle Mayor, número doce, frente a la plaza."),
]


OWN = [answer for _, answer in SHOP]
# Each answer given to the question before: the prior understands nothing of it; two of them: some.
OTHERS = [*OWN[1:], OWN[0]]
MIXED = [*OWN[:4], OWN[5], OWN[4]]


def shop(given: Sequence[str], *, num_wordings: int = 1) -> AnswerSet:
    candidates = [
        Candidate(str(number), answer, answer, tuple(f"{question}{' ' * more}" for more in range(num_wordings)))
        for number, ((question, _), answer) in enumerate(zip(SHOP, given, strict=False))
    ]
    return AnswerSet(load_tokenizer(BaseModel()), candidates, ["cuéntame un chiste"])


def test_it_is_as_sure_as_the_prior_understands_the_answers() -> None:
    mixed = understanding_of(shop(MIXED))

    assert understanding_of(shop(OWN)) == 1
    assert understanding_of(shop(OTHERS)) == 0.5
    assert 0.5 < mixed < 1
    fitted = fit(shop(MIXED), [])
    assert (fitted.prior_weight, fitted.model_weight) == (DEFAULT.prior_weight * mixed, DEFAULT.model_weight * mixed)
    assert fit(shop(MIXED), [], prior_weights=(0.0,)).prior_weight == 0
    assert understanding_of(shop(MIXED, num_wordings=2)) == pytest.approx(mixed**0.5)
    assert understanding_of(shop(MIXED, num_wordings=3)) == 1


def test_few_entries_say_little_of_what_it_understands() -> None:
    assert understanding_of(shop(OTHERS)) < understanding_of(shop([*OWN[1:3], OWN[0]]))


def test_answers_that_say_little_are_not_held_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    short = shop([" ".join(answer.split()[:4]) for answer in MIXED])
    understood = understanding_of(short)
    monkeypatch.setattr(calibration, "TELLING_WORDS", 4)
    assert understanding_of(short) < understood

    assert understanding_of(shop(["Escríbanos."] * len(SHOP))) == 1
    assert understanding_of(shop(OWN[:1])) == 1
    assert understanding_of(shop(OTHERS, num_wordings=0)) == 1
    assert understanding_of(shop([])) == 1


def test_an_exam_of_one_question_does_not_make_it_sure_of_what_it_does_not_understand() -> None:
    answers = shop(OTHERS)
    exam = [scored(answers, "¿Cuándo abren?", "0", model_says="0", sure=0.5)]
    assert fit(answers, exam).prior_weight < DEFAULT.prior_weight


def test_it_listens_to_the_prior_where_the_model_is_weak(answers: AnswerSet) -> None:
    """The wordings name the topic; the model is always wrong about it."""
    exam = [
        scored(answers, f"dudas del {topic}", topic, model_says=TOPICS[n - 1], sure=0.9)
        for n, topic in enumerate(TOPICS)
    ] * 3
    assert fit(answers, exam).prior_weight > 0


def test_it_lets_a_strong_model_lead(answers: AnswerSet) -> None:
    """The model is right; the letters of each question name another topic."""
    misleading = [
        scored(answers, f"dudas del {TOPICS[n - 1]}", topic, model_says=topic, sure=0.99)
        for n, topic in enumerate(TOPICS)
    ] * 10
    assert fit(answers, misleading).prior_weight < DEFAULT.prior_weight


def test_it_listens_less_to_a_model_that_is_surer_than_it_is_right(answers: AnswerSet) -> None:
    right = [scored(answers, NOTHING, topic, model_says=topic, sure=0.999) for topic in TOPICS] * 40
    wrong = [
        scored(answers, NOTHING, TOPICS[n - 1], model_says=topic, sure=0.999) for n, topic in enumerate(TOPICS)
    ] * 20

    assert fit(answers, right + wrong).model_weight < fit(answers, right).model_weight


def test_it_can_leave_the_model_or_the_prior_out(answers: AnswerSet) -> None:
    exam = [scored(answers, f"dudas del {topic}", topic, model_says=topic, sure=0.9) for topic in TOPICS] * 3

    assert fit(answers, exam, prior_weights=(0.0,)).prior_weight == 0
    assert fit(answers, exam, model_weights=(0.0,)).model_weight == 0
    assert fit(answers, [], prior_weights=(0.0,)) == replace(DEFAULT, prior_weight=0.0), "nor where nothing is fitted"
    assert fit(answers, [], model_weights=(0.0,)) == replace(DEFAULT, model_weight=0.0)


def test_it_lets_no_more_wrong_answers_through_than_are_borne() -> None:
    """Of many answers, the less confident are the more often wrong."""
    confidences = np.linspace(0.3, 1.0, 4000)
    is_right = np.random.default_rng(0).random(4000) < confidences

    threshold = fit_threshold(confidences, is_right)

    given = confidences >= threshold
    assert given.any()
    assert (~is_right[given]).mean() <= TARGET_WRONG + 0.002


def test_ten_questions_without_an_error_do_not_show_that_there_are_none() -> None:
    few, many = (fit_threshold(np.full(num, 0.95), np.ones(num, dtype=bool)) for num in (10, 1000))

    assert few > many
    assert few <= DEFAULT.threshold


def test_it_asks_for_more_confidence_where_unsure_answers_are_wrong(answers: AnswerSet) -> None:
    right = [scored(answers, NOTHING, topic, model_says=topic, sure=0.97) for topic in TOPICS] * 60
    wrong = [scored(answers, NOTHING, "pago", model_says=topic, sure=0.7) for topic in TOPICS if topic != "pago"] * 60

    careful, careless = fit(answers, right + wrong), fit(answers, right)

    assert careful.threshold > careless.threshold
    log_probs, by_prior = wrong[0].log_probs, answers.prior.scores(wrong[0].question)
    posterior = calibration._posterior(answers, log_probs[None], [by_prior], careful)[0]
    assert np.delete(posterior, answers.decline_leaf).max() < careful.threshold, "what was wrong is not answered"
    assert careless.threshold <= DEFAULT.threshold, "an exam without errors does not silence the version"


def decision(key: str | None, confidence: float, declined: bool, on_topic: float = 0.0) -> Decision:
    return Decision(key, declined, confidence, 1.0, 1, on_topic)


def test_it_declines_whatever_is_not_surely_confident_enough() -> None:
    calibration = replace(DEFAULT, threshold=0.6)

    assert [is_declined(value, calibration) for value in (0.59, 0.6, float("nan"))] == [True, False, True]


def test_it_suggests_what_may_be_meant_and_nothing_to_off_topic_questions(answers: AnswerSet) -> None:
    """Off-topic questions of the exam get a tenth of their probability from answers."""
    in_scope = [scored(answers, f"dudas del {topic}", topic, model_says=topic, sure=0.9) for topic in TOPICS] * 4
    off_topic = [scored(answers, NOTHING, None, model_says=None, sure=0.9)] * 20
    calibration = fit(answers, in_scope + off_topic)
    probabilities = np.array([0.45, 0.3, 0.15, 0.02, 0.08])
    leaves = np.array([*[answers.trie.leaf_of[n] for n in range(4)], answers.decline_leaf])
    guided = GuidedAnswer(leaves, probabilities, np.ones(5), 1)
    scores = np.zeros(len(TOPICS) + 1)

    unsure = answers.decision(guided, scores, replace(calibration, threshold=0.9))
    sure = answers.decision(guided, scores, replace(calibration, threshold=0.4))
    off = answers.decision(replace(guided, probabilities=probabilities[::-1] / 3), scores, calibration)

    assert calibration.suggestion_threshold < 0.6
    assert (unsure.is_declined, unsure.suggestions) == (True, tuple(TOPICS[:3]))
    assert (sure.is_declined, sure.suggestions) == (False, ())
    assert (off.is_declined, off.suggestions) == (True, ())


def test_a_question_between_two_answers_is_on_topic(answers: AnswerSet) -> None:
    leaves = np.array([*answers.trie.leaf_of[:2], answers.decline_leaf])
    shares = np.array([0.5, 0.375, 0.125])

    between = answers.decision(GuidedAnswer(leaves, shares, np.ones(3), 1), np.zeros(len(TOPICS) + 1), DEFAULT)

    assert (between.is_declined, between.confidence, between.on_topic) == (True, 0.5, 0.875)


def test_it_leaves_unanswered_what_the_model_would_hardly_have_said(answers: AnswerSet) -> None:
    """Low is what lies far below every coverage of the exam's right answers; wrong ones do not count."""
    right = [scored(answers, f"dudas del {topic}", topic, model_says=topic, sure=0.9, covered=0.8) for topic in TOPICS]
    wrong = scored(answers, "dudas del pago", "envío", model_says="pago", sure=0.99, covered=0.01)
    few, many = fit(answers, [*right, wrong]), fit(answers, [*right * 10, wrong])
    leaves = np.array([answers.trie.leaf_of[0], answers.decline_leaf])
    low, high = (
        answers.decision(
            GuidedAnswer(leaves, np.array([0.98, 0.02]), np.array([coverage, 1.0]), 1), np.zeros(len(TOPICS) + 1), many
        )
        for coverage in (0.1, 0.5)
    )

    assert 0 < few.min_coverage < many.min_coverage < 0.4
    assert (low.is_declined, low.confidence, low.suggestions) == (True, 0.0, (TOPICS[0],))
    assert (high.is_declined, high.confidence, high.coverage) == (False, 0.98, 0.5)
    assert (low.on_topic, high.on_topic) == (0.0, 0.98)
    assert fit(answers, right, model_weights=(0.0,)).min_coverage == 0, "a model that is not heard has no say"


def test_metrics_count_what_they_say() -> None:
    metrics = measure(
        [
            Asked("a", "hours", decision("hours", 0.9, False, 0.95)),
            Asked("b", "hours", decision("pay", 0.8, False, 0.84)),
            Asked("c", "hours", decision("hours", 0.3, True, 0.9)),
            Asked("d", "pay", decision("hours", 0.2, True, 0.2)),
            Asked("e", None, decision("pay", 0.1, True, 0.1)),
            Asked("f", None, decision("pay", 0.85, False, 0.86)),
        ]
    )

    assert (metrics.in_scope, metrics.off_topic) == (4, 2)
    assert metrics.accuracy == 0.5, "the right entry first, declined or not"
    assert (metrics.answered_right, metrics.answered_wrong, metrics.declined) == (0.25, 0.25, 0.5)
    assert metrics.off_topic_declined == 0.5
    assert metrics.auroc == 6 / 8, "by how far a question is on topic, not by how sure its answer is"


def test_metrics_of_nothing_are_none() -> None:
    metrics = measure([])

    assert (metrics.accuracy, metrics.off_topic_declined, metrics.auroc) == (None, None, None)


def test_auroc_counts_pairs_in_the_right_order() -> None:
    assert auroc([0.9, 0.8], [0.1]) == 1.0
    assert auroc([0.5], [0.5]) == 0.5
    assert auroc([0.1], [0.9]) == 0.0
    assert auroc([], [0.5]) is None
