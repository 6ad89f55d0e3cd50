from __future__ import annotations

import pytest

from training.lm import prior as prior_module
from training.lm.background import bundled_background
from training.lm.encoder import bundled_reader
from training.lm.prior import Prior, Reader
from training.lm.semantics import bundled_vectors
from training.lm.words import WordMatcher

TEXTS = [
    "¿Cuánto cuesta el envío?",
    "gastos de envio a canarias",
    "¿Cómo devuelvo un producto?",
    "quiero devolver algo",
]
OWNERS = [0, 0, 1, 1]
OFF_TOPIC = ["¿Quién ganó el mundial?", "cuéntame un chiste"]


def test_it_finds_the_owner_of_a_similar_wording() -> None:
    prior = Prior(TEXTS, OWNERS, 2, OFF_TOPIC)

    assert prior.scores("cuanto sale el ENVIO").argmax() == 0
    assert prior.scores("devolver producto").argmax() == 1


def test_it_knows_what_is_off_topic() -> None:
    prior = Prior(TEXTS, OWNERS, 2, OFF_TOPIC)

    assert prior.scores("un chiste de futbol").argmax() == 2
    assert prior.scores("日本語").max() == 0


def test_it_works_with_no_text_at_all() -> None:
    prior = Prior([], [], 0)

    assert prior.scores("¿hola?").shape == (1,)


def test_it_falls_back_to_the_centres_when_there_are_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior_module, "MAX_FITTED_TEXTS", 5)

    scores = Prior(TEXTS, OWNERS, 2).scores("quiero devolver algo")

    assert scores.argmax() == 1
    assert 0 < scores[1] < prior_module.SCALE


@pytest.mark.parametrize("reader", [None, bundled_vectors()])
def test_a_text_that_is_all_of_its_owner_is_wholly_like_it(reader: Reader | None) -> None:
    """Questions are weighed as the texts are: the cosine of a text with itself is one."""
    prior = Prior(TEXTS, range(len(TEXTS)), len(TEXTS), reader=reader)
    prior._dual = None

    for owner, text in enumerate(TEXTS):
        assert prior.scores(text)[owner] == pytest.approx(prior_module.SCALE, abs=1e-5)


@pytest.mark.parametrize("reader", [None, bundled_vectors()])
def test_likeness_to_a_centre_is_the_cosine_with_the_sum_of_the_texts(reader: Reader | None) -> None:
    """So it is less than whole for texts of several words for one thing, and as whole as ever for one said twice."""
    prior = Prior([*TEXTS, TEXTS[0], TEXTS[0]], [*OWNERS, 2, 2], 3, OFF_TOPIC, reader=reader)
    prior._dual = None

    assert prior.scores(TEXTS[0])[2] == pytest.approx(prior_module.SCALE, abs=1e-5)
    for text, owner in zip(TEXTS, OWNERS, strict=True):
        assert 0 < prior.scores(text)[owner] < prior_module.SCALE


def test_it_takes_over_what_has_not_changed() -> None:
    """A later publication gives the same prior whether it starts from an earlier one or from nothing."""
    earlier = Prior(["otra cosa", *TEXTS], [2, *OWNERS], 3, OFF_TOPIC)
    texts, owners = [*TEXTS[:3], "¿Puedo pagar con tarjeta?"], [0, 0, 1, 2]

    anew, taken_over = (Prior(texts, owners, 3, OFF_TOPIC, previous=previous) for previous in (None, earlier))

    for question in ("cuanto sale el ENVIO", "un chiste de futbol", "tarjeta", "日本語"):
        assert taken_over.scores(question) == pytest.approx(anew.scores(question), abs=1e-6)


@pytest.mark.parametrize("earlier_reader", [None, bundled_vectors()])
def test_it_takes_nothing_over_from_another_reader(earlier_reader: Reader | None) -> None:
    earlier = Prior(TEXTS, OWNERS, 2, OFF_TOPIC, reader=earlier_reader)

    anew, after = (Prior(TEXTS, OWNERS, 2, reader=bundled_reader(), previous=previous) for previous in (None, earlier))

    assert after.scores("quiero mi plata") == pytest.approx(anew.scores("quiero mi plata"), abs=1e-6)


def test_it_learns_a_new_text_from_nothing() -> None:
    earlier = Prior([], [], 0)

    assert Prior(TEXTS, OWNERS, 2, previous=earlier).scores("devolver algo").argmax() == 1


def test_the_letters_of_no_text_say_nothing() -> None:
    assert Prior(TEXTS, OWNERS, 2).scores("") == pytest.approx([0, 0, 0])


def test_an_owner_that_has_a_word_for_what_is_asked_gains_by_it() -> None:
    question = "me llegó y quiero hacer una devolución del pedido completo"
    by_owner = [TEXTS[:2], TEXTS[2:]]
    words = WordMatcher(by_owner, bundled_vectors(), bundled_background())
    without, with_words = (Prior(TEXTS, OWNERS, 2, reader=bundled_reader(), words=each) for each in (None, words))

    gained = with_words.scores(question) - without.scores(question)

    assert gained[:2] == pytest.approx(prior_module.WORDS_WEIGHT * words.scores(question))
    assert gained[1] > gained[0]
    assert gained[2] == 0
