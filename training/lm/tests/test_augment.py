from __future__ import annotations

import random
import re

import pytest

from training.lm.augment import REGIONAL, augment, exchanged, fold, strip_accents

QUESTIONS = [
    "¿Por qué no puedo devolver el pedido 48213?",
    "¿Puedo pagar 59,90 € sin tarjeta?",
    "¿Nunca cobran el envío a Bogotá?",
    "¿Hacen envíos a México antes del 24 de diciembre?",
]


def test_it_gives_the_same_ways_for_the_same_seed() -> None:
    assert augment(QUESTIONS[0], count=5, seed=3) == augment(QUESTIONS[0], count=5, seed=3)
    assert augment(QUESTIONS[0], count=5, seed=3) != augment(QUESTIONS[0], count=5, seed=4)


@pytest.mark.parametrize("question", QUESTIONS)
def test_it_never_changes_the_meaning(question: str) -> None:
    """Numbers, negations and names survive in every way of typing."""
    kept = [word.strip("¿?,.") for word in question.split() if re.search(r"\d", word) or word[:1].isupper()]
    kept += [word for word in ("no", "sin", "antes") if word in question.split()]
    for way in augment(question, count=200, seed=random.Random(0).randrange(10)):
        plain = strip_accents(way).lower()
        for word in kept:
            assert strip_accents(word).lower() in plain, way


def test_it_returns_different_ways_none_equal_to_the_question() -> None:
    ways = augment(QUESTIONS[1], count=10, seed=0)

    assert len(set(ways)) == len(ways) == 10
    assert QUESTIONS[1] not in ways


def test_it_gives_up_on_what_cannot_be_typed_differently() -> None:
    assert augment("7", count=3, seed=0) is not None
    assert len(augment("", count=3, seed=0)) <= 3


@pytest.mark.parametrize(
    ("question", "kept"),
    [
        ("¿Tienen anillos de plata?", "plata"),
        ("¿Cómo manejo la aplicación?", "manejo"),
        ("¿Necesito receta?", "necesito"),
        ("¿Cuándo sale el barco?", "sale"),
        ("¿Qué es un auto judicial?", "auto"),
    ],
)
def test_it_leaves_words_with_second_meanings_alone(question: str, kept: str) -> None:
    """Except for one mistyped letter."""
    for way in augment(question, count=200, seed=0):
        assert exchanged(question, REGIONAL, random.Random(0)) == question
        assert len(kept) >= 5 or kept in way.lower(), way


def test_it_says_it_as_another_country_does() -> None:
    ways = augment("¿Cuánto cuesta un celular?", count=100, seed=0)

    assert any("móvil" in way or "movil" in way.lower() for way in ways)
    assert any("precio" in way.lower() for way in ways)
    assert augment("¿Aceptan dıneros o plata?", count=5, seed=0), "letters that only seem to be ours"


def test_folding_leaves_what_every_way_of_typing_has_in_common() -> None:
    assert fold("¿Mañana HAY envío gratis?") == "mañana hay envio gratis"
    assert fold("¡Pingüinos!") == "pinguinos"


def test_it_keeps_the_letter_that_customers_do_type() -> None:
    assert strip_accents("¿Mañana hay envío?") == "¿Mañana hay envio?"
