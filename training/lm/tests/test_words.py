from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.lm import words as words_module
from training.lm.background import bundled_background
from training.lm.semantics import bundled_vectors
from training.lm.words import WordMatcher


def matcher(*texts: list[str]) -> WordMatcher:
    return WordMatcher(texts, bundled_vectors(), bundled_background())


def test_a_word_finds_one_that_means_the_same_or_is_typed_wrong() -> None:
    found = matcher(["¿Aceptan tarjeta de crédito?"], ["¿Hacen envíos a domicilio?"])

    assert found.scores("despachan").argmax() == 1
    assert found.scores("targeta").argmax() == 0


def test_of_questions_that_differ_in_one_word_it_finds_the_one_that_has_it() -> None:
    found = matcher(
        ["¿Puedo cambiar la dirección de mi pedido?"],
        ["¿Puedo cambiar la talla de mi pedido?"],
        ["¿Puedo cambiar la fecha de mi pedido?"],
    )

    assert found.scores("puedo cambiar el día del pedido").argmax() == 2
    assert found.scores("cambio de domicilio del pedido").argmax() == 0
    assert found.scores("pedido: cambio de número de talla").argmax() == 1


def test_where_in_an_owners_texts_a_word_stands_and_how_often_does_not_count() -> None:
    once, often = ["¿Hacen envíos?", "Solo los lunes."], ["¿Hacen envíos?", "lunes, lunes: ¡solo los lunes!", "¿hacen?"]

    scores = matcher(once, often).scores("envios los lunes")

    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_a_long_answer_has_no_advantage_by_its_length() -> None:
    """Beside the usual words that it has, what is asked is in the short one as much, and so that is found."""
    story = (
        "Somos una empresa de la ciudad que desde hace muchos años atiende a todos los clientes como si fueran de "
        "casa, y por eso cuando usted quiere saber algo de nosotros puede escribir a cualquier hora del día."
    )
    found = matcher(["¿Cuánto tarda un pedido?", "Tres días."], ["¿Quiénes son?", story])

    assert found.scores("cuánto tengo que esperar un pedido cuando lo quiero").argmax() == 0


def test_nothing_asked_or_nobody_to_ask_is_nothing() -> None:
    found = matcher(["¿Hacen envíos?"], [], ["¿?"])

    assert not found.scores("¿?").any()
    assert np.isfinite(found.scores("envios")).all()
    assert found.scores("envios").argmax() == 0
    assert matcher().scores("envios").shape == (0,)


def test_words_are_looked_at_in_batches_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["¿Hacen envíos?"], ["¿Cuándo abren?", "De lunes a viernes."]
    whole = matcher(*texts).scores("envios el lunes")

    monkeypatch.setattr(words_module, "MAX_LOOKED_AT", 7)

    assert matcher(*texts).scores("envios el lunes") == pytest.approx(whole, abs=1e-5)


def test_a_word_alone_says_little() -> None:
    """It stands somewhere, and is no question about what stands there."""
    found = matcher(["¿A dónde entregan?", "A todo el país."], ["¿Cuánto tarda un pedido?", "Tres días."])

    few, many = found.scores("todo"), found.scores("entregan en todo el pais o solo en la capital y alrededores")

    assert few[0] > few[1]
    assert few[0] - few[1] < (many[0] - many[1]) / 2


def test_of_an_endless_question_the_beginning_is_looked_at() -> None:
    found = matcher(["¿Hacen envíos?"], ["¿Aceptan tarjetas?"])
    beginning = "envios " + " ".join(f"palabra{number}" for number in range(words_module.MAX_WORDS - 1))

    assert found.scores(beginning + " tarjetas aceptan") == pytest.approx(found.scores(beginning))


def test_it_takes_over_what_has_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = matcher(["¿Hacen envíos?"], ["¿Cuándo abren?", "De lunes a viernes."], ["¿Dónde están?"])
    texts = [["¿Cuándo abren?", "De lunes a viernes."], ["¿Hacen envíos?", "A todo el país."], ["¿Dónde están?"]]
    num_owners: list[int] = []
    reached = words_module._reached

    def counted(words: Any, known: Any, found: Any, weights: Any) -> Any:
        num_owners.append(len(found[1]))
        return reached(words, known, found, weights)

    monkeypatch.setattr(words_module, "_reached", counted)
    anew, after = (
        WordMatcher(texts, bundled_vectors(), bundled_background(), previous=each) for each in (None, earlier)
    )

    assert num_owners == [3, 1]
    assert after.scores("envian los lunes") == pytest.approx(anew.scores("envian los lunes"), abs=1e-6)
