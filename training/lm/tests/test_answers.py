from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from training.lm import answers as answers_module
from training.lm import prior
from training.lm.answers import AnswerSet
from training.lm.config import BaseModel
from training.lm.decisions import Candidate
from training.lm.loading import load_tokenizer

CANDIDATES = [
    Candidate("envio", "Enviamos a todo el país.", "Enviamos a todo el país.", ("¿Hacen envíos?",)),
    Candidate("pago", "Con tarjeta.", "Con tarjeta.", ("¿Cómo puedo pagar?",)),
]
QUESTION = "quería saber si ustedes me despachan el pedido hasta la casa"


def answers(previous: AnswerSet | None = None, candidates: Sequence[Candidate] = CANDIDATES) -> AnswerSet:
    return AnswerSet(load_tokenizer(BaseModel()), candidates, ["cuéntame un chiste"], previous=previous)


@pytest.mark.parametrize("weight", ["WORDS_WEIGHT", "ELSEWHERE_WEIGHT"])
def test_words_and_what_is_meant_elsewhere_count(weight: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = answers()
    whole = made.prior.scores(QUESTION)

    monkeypatch.setattr(prior, weight, 0.0)

    assert made.prior.scores(QUESTION)[0] != pytest.approx(whole[0], abs=1e-3)


def test_a_business_with_very_many_texts_is_answered_without_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    read = answers()
    monkeypatch.setattr(answers_module, "MAX_ENCODED_TEXTS", 3)
    monkeypatch.setattr(answers_module, "bundled_reader", lambda: pytest.fail("read by the model"))
    monkeypatch.setattr(answers_module, "bundled_background", lambda: pytest.fail("compared with other trades"))

    many = answers(previous=read)

    assert many.prior.scores("hacen envios a la casa")[:-1].argmax() == 0
    assert many.prior.scores(QUESTION)[0] != pytest.approx(read.prior.scores(QUESTION)[0], abs=1e-3)


def test_it_grows_out_of_earlier_ones_and_is_the_same() -> None:
    """Whatever was changed, taken out or put elsewhere meanwhile."""
    other = Candidate("horario", "De nueve a seis.", "De nueve a seis.", ("¿A qué hora abren?",))
    changed = replace(CANDIDATES[0], wordings=("¿Cuánto cuesta el envío?",))
    earlier = answers(candidates=[other, changed, CANDIDATES[1]], previous=answers())

    anew, after = answers(), answers(previous=earlier)

    assert after.prior.scores(QUESTION) == pytest.approx(anew.prior.scores(QUESTION), abs=1e-6)
