from __future__ import annotations

import pytest

from training.lm.followups import Rests, rests, together
from training.lm.prior import Prior

TEXTS = [
    *("¿Cuánto cuesta el envío?", "gastos de envio a canarias", "precio del envío"),
    *("¿Cuánto cuesta una devolución?", "coste de devolver un producto", "precio de la devolución"),
    *("¿Cómo devuelvo un producto?", "quiero devolver algo", "pasos para una devolución"),
]
SHIPPING, REFUND_PRICE, REFUND = range(3)
OWNERS = [*[SHIPPING] * 3, *[REFUND_PRICE] * 3, *[REFUND] * 3]
OFF_TOPIC = ["¿Quién ganó el partido?", "¿quién ganó el mundial?", "cuéntame un chiste", "¿qué tiempo hace?"]


@pytest.fixture
def prior() -> Prior:
    return Prior(TEXTS, OWNERS, 3, OFF_TOPIC)


@pytest.mark.parametrize(
    "text",
    [
        *("y a canarias?", "¿Y eso es gratis?", "¿y con PayPal?", "¿y cancelarlo?", "¿puedo cambiarla?"),
        *("lo mismo para México", "and how long?", "what about Mexico", "verlas antes", "¿y el e-mail?"),
        *("¿y dónde están?", "¿y qué más tienen?"),
    ],
)
def test_it_knows_what_plainly_rests_on_something(text: str) -> None:
    assert rests(text) is Rests.PLAINLY


@pytest.mark.parametrize(
    "text",
    ["¿y cuánto tarda?", "y cuando??", "¿cuánto cuesta eso?", "¿y cuánto tarda? gracias", "¿y eso?", "how much is it?"],
)
def test_it_knows_what_has_no_subject_of_its_own(text: str) -> None:
    assert rests(text) is Rests.ENTIRELY


@pytest.mark.parametrize("text", ["¿hasta cuándo?", "¿cuánto dura?", "¿en qué horario?", "¿por qué?", "how much?"])
def test_it_knows_what_may_rest_on_something(text: str) -> None:
    assert rests(text) is Rests.MAYBE


@pytest.mark.parametrize(
    "text",
    [
        *("", "?", "👍", "ok, gracias", "y gracias", "vale", "hola", "sí", "thanks"),
        *("formas de pago", "quiero devolver un producto", "¿Puedo cambiar la dirección de entrega?"),
        "y además querría saber si la garantía de la mesa cubre arañazos",
        "¿Puedo devolver la lámpara si eso que viene en la caja está roto?",
        "can I return the lamp if it arrived broken",
        *("E-mail de soporte", "pulsera de perlas", "dirección de Carlos", "Is there a store in Madrid?"),
        *("eso es todo, gracias", "eso es todo", "that's all, thank you", "gracias por esto", "nada más, adiós"),
    ],
)
def test_it_leaves_whole_questions_and_politeness_alone(text: str) -> None:
    assert rests(text) is Rests.NOT


def test_both_parts_make_one_text() -> None:
    assert together("¿y cuánto tarda?", "¿Cuánto cuesta el envío?") == "¿Cuánto cuesta el envío. ¿y cuánto tarda?"


def test_what_was_spoken_of_chooses_between_what_the_follow_up_leaves_open(prior: Prior) -> None:
    after_refund = prior.scores_after("¿y cuánto cuesta?", "¿Cómo devuelvo un producto?")
    after_shipping = prior.scores_after("¿y cuánto cuesta?", "gastos de envio")
    assert after_refund is not None
    assert after_shipping is not None
    assert after_refund.argmax() == REFUND_PRICE
    assert after_shipping.argmax() == SHIPPING


def test_the_words_of_a_question_without_a_subject_do_not_choose_alone(prior: Prior) -> None:
    alone = prior.scores("¿y cuánto cuesta?")
    after = prior.scores_after("¿y cuánto cuesta?", "quiero devolver algo")
    assert alone.argmax() == SHIPPING
    assert after is not None
    assert after[SHIPPING] < min(after[REFUND_PRICE], after[REFUND])


def test_a_follow_up_may_lead_away(prior: Prior) -> None:
    scores = prior.scores_after("¿y cómo devuelvo un producto?", "¿Cuánto cuesta el envío?")
    assert scores is not None
    assert scores.argmax() == REFUND


def test_an_off_topic_follow_up_goes_on_from_nothing(prior: Prior) -> None:
    assert prior.scores_after("¿y quién ganó el partido?", "¿Cuánto cuesta el envío?") is None


def test_a_question_without_a_subject_is_not_off_topic_by_itself() -> None:
    prior = Prior(TEXTS, OWNERS, 3, [*OFF_TOPIC, "¿y cuándo?"])
    assert prior.scores("¿y cuándo?").argmax() == 3
    after = prior.scores_after("¿y cuándo?", "quiero devolver algo")
    assert after is not None
    assert after[:-1].argmax() == REFUND


def test_what_goes_on_from_an_off_topic_question_is_off_topic(prior: Prior) -> None:
    after = prior.scores_after("¿y cuánto cuesta?", "quién ganó el mundial")
    assert after is not None
    assert after.argmax() == 3
    assert not after[:-1].any()
