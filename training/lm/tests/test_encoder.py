from __future__ import annotations

import numpy as np
import pytest

from training.lm import corpus
from training.lm.encoder import MAX_TOKENS, bundled_reader
from training.lm.prior import Prior
from training.lm.prompts import MAX_PROMPT_TOKENS
from training.lm.semantics import bundled_vectors

ENCODER = bundled_reader().encoder


@pytest.mark.parametrize(
    ("asked", "meant", "other"),
    [
        ("quiero mi dinero de vuelta", "¿Cómo pido un reembolso?", "¿A qué hora cierran?"),
        ("me olvidé de la clave y no puedo entrar", "Recuperar la contraseña", "¿Hacen envíos al exterior?"),
        ("lo que llegó no es lo que pedí", "Producto equivocado", "¿Tienen estacionamiento?"),
    ],
)
def test_what_means_one_thing_is_alike_whatever_its_words(asked: str, meant: str, other: str) -> None:
    vectors = ENCODER.of([asked, meant, other])

    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_a_text_is_read_the_same_alone_and_among_others() -> None:
    texts = ["hola", "¿Cuánto cuesta el envío a Sevilla de un paquete de dos kilos?", "gracias", ""]

    together = ENCODER.of(texts)

    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(ENCODER.of([text])[0], vector, atol=1e-4)
    assert ENCODER.of([]).shape == (0, together.shape[1])


def test_of_a_text_longer_than_any_prompt_the_beginning_is_read() -> None:
    beginning = "Los pedidos se envían a todo el país. " * MAX_TOKENS

    vectors = ENCODER.of([beginning, beginning + "Aceptamos tarjetas. " * MAX_PROMPT_TOKENS, "🎁" * 2_000])

    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.isfinite(vectors).all()


def test_it_finds_more_than_sentence_vectors_do_in_businesses_that_it_has_never_seen() -> None:
    """Of intents that nothing was learned of, found among all of those by their own question and answer only."""
    intents = corpus.held_out_intents()
    texts = [text for intent in intents for text in (intent.question, intent.answer)]
    owners = [owner for owner in range(len(intents)) for _ in range(2)]
    asked = [(wording, owner) for owner, intent in enumerate(intents) for wording in intent.wordings[:2]]
    found = {}
    for name, reader in (("vectors", bundled_vectors()), ("both", bundled_reader())):
        prior = Prior(texts, owners, len(intents), reader=reader)
        found[name] = np.mean([prior.scores(wording)[:-1].argmax() == owner for wording, owner in asked])

    assert found["both"] > found["vectors"] + 0.02, found
