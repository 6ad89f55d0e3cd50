"""A staff question -> the ways in which customers type it.

Typing, greetings and one country's word for another's change, never the meaning: digits, negations and names stay.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

_MARKS = str.maketrans("", "", "¿?¡!")
_OPENINGS = ("hola", "buenas", "buenos días", "buenas tardes", "disculpe", "oiga", "una pregunta", "consulta", "perdón")
_CLOSINGS = ("gracias", "por favor", "porfa", "muchas gracias", "mil gracias")
_SHORTHAND = {"que": "q", "qué": "q", "por": "x", "para": "pa", "también": "tb", "porque": "xq"}
# What one country says and what others say for it. One way where the other word has second meanings: "plata" is money
# and silver, "manejar" is to drive and to handle.
REGIONAL = {
    "celular": ("móvil",),
    "dinero": ("plata",),
    "correo electrónico": ("mail", "email"),
    "email": ("mail", "correo electrónico"),
    "contraseña": ("clave",),
    "ordenador": ("computador",),
    "computadora": ("compu",),
    "coche": ("carro",),
    "alquilar": ("arrendar", "rentar"),
    "arrendar": ("alquilar",),
    "rentar": ("alquilar",),
    "alquiler": ("arriendo",),
    "arriendo": ("alquiler",),
    "comprar": ("adquirir",),
    "conducir": ("manejar",),
    "empezar": ("comenzar",),
    "comenzar": ("empezar",),
    "cuánto cuesta": ("qué precio tiene", "cuánto vale", "a cuánto está"),
    "qué precio tiene": ("cuánto cuesta", "cuánto vale"),
    "quiero": ("quisiera",),
    "quisiera": ("quiero",),
    "aquí": ("acá",),
    "acá": ("aquí",),
}
# A typo in one of these could turn a question into its opposite.
_UNTOUCHABLE = frozenset(
    {
        *("nunca", "jamás", "tampoco", "nadie", "nada", "ningún", "ninguna"),
        *("excepto", "salvo", "antes", "después", "todavía", "dentro", "fuera"),
    }
)


def strip_accents(text: str) -> str:
    """Drop accents but keep ñ, which customers do type."""
    kept = unicodedata.normalize("NFD", text.replace("ñ", "\0").replace("Ñ", "\1"))
    plain = "".join(letter for letter in kept if not unicodedata.combining(letter))
    return plain.replace("\0", "ñ").replace("\1", "Ñ")


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def fold(text: str) -> str:
    """Text as a hurried customer types it: lower case, no accents, no marks of question or exclamation.

    The bundled base reads every question in this form (its chat template folds it), so that nothing depends on how
    carefully somebody types.
    """
    return strip_accents(text.lower()).translate(_MARKS)


def plain(text: str) -> str:
    """What is left of a text when case, accents and punctuation do not count."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.findall(r"\w+", "".join(letter for letter in letters if not unicodedata.combining(letter))))


def _lower(text: str, rng: random.Random) -> str:
    return text.lower()


def _without_accents(text: str, rng: random.Random) -> str:
    return strip_accents(text)


def _without_marks(text: str, rng: random.Random) -> str:
    return text.translate(_MARKS).rstrip(". ")


def _with_opening(text: str, rng: random.Random) -> str:
    return f"{rng.choice(_OPENINGS)}, {text[:1].lower()}{text[1:]}"


def _with_closing(text: str, rng: random.Random) -> str:
    return f"{text.rstrip('. ')}, {rng.choice(_CLOSINGS)}"


def _shortened(text: str, rng: random.Random) -> str:
    return " ".join(_SHORTHAND.get(word, word) if rng.random() < 0.5 else word for word in text.split(" "))


def _from_elsewhere(text: str, rng: random.Random) -> str:
    """One word as another country says it."""
    return exchanged(text, REGIONAL, rng)


def exchanged(text: str, words: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """The text with one of these words in another's place, if it holds one."""
    found = [(match, word) for word in words for match in re.finditer(rf"\b{word}\b", text, re.IGNORECASE)]
    if not found:
        return text
    match, word = rng.choice(found)
    other = rng.choice(words[word])
    if match[0][0].isupper():
        other = other.capitalize()
    return text[: match.start()] + other + text[match.end() :]


def _typo(text: str, rng: random.Random) -> str:
    """Swap, drop or double one letter inside a long lower-case word."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if _may_be_mistyped(word)]
    if not places:
        return text
    place = rng.choice(places)
    word = words[place]
    at = rng.randrange(1, len(word) - 2)
    words[place] = rng.choice(
        (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        )
    )
    return " ".join(words)


def _may_be_mistyped(word: str) -> bool:
    return len(word) >= 5 and word.isalpha() and word.islower() and word not in _UNTOUCHABLE


_WAYS: tuple[tuple[float, Callable[[str, random.Random], str]], ...] = (
    (0.35, _from_elsewhere),
    (0.15, _shortened),
    (0.25, _typo),
    (0.6, _lower),
    (0.5, _without_accents),
    (0.5, _without_marks),
    (0.15, _with_opening),
    (0.08, _with_closing),
)


def augment(question: str, *, count: int, seed: int) -> list[str]:
    """Up to `count` different ways to type a question; the same seed gives the same ways."""
    rng = random.Random(f"{seed}:{question}")
    found: list[str] = []
    for _ in range(count * 4):
        text = question
        for chance, way in _WAYS:
            if rng.random() < chance:
                text = way(text, rng)
        if text and text != question and text not in found:
            found.append(text)
        if len(found) == count:
            break
    return found
