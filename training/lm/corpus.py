"""The customer-service corpus that the bundled base learns from: what is in it, and what multiplies it.

Hand-written, in `support_es/`: intents with the really different ways in which customers put them, groups of words and
phrases that mean one thing, and messages that are nobody's business. Knows no model.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from training.lm.augment import REGIONAL, augment, exchanged

FOLDER = Path(__file__).parent / "support_es"
OFF_TOPIC_FILE = "off_topic.jsonl"
SAME_MEANING_FILE = "same_meaning.jsonl"
# One intent in eight is never learned, so that there are entries which the base has not seen.
HELD_OUT_EVERY = 8

# Beside augment's, words that are exchanged without looking at what they mean where they stand: the base is to learn
# that they often mean the same, and survives a sentence in which they do not.
_LOOSELY = (
    ("celular", "móvil", "teléfono"),
    ("boleta", "factura"),
    ("plata", "dinero"),
    ("envío", "despacho"),
    ("enviar", "mandar", "despachar"),
    ("auto", "coche", "carro"),
    ("departamento", "apartamento", "piso"),
    ("ordenador", "computador"),
    ("correo", "mail", "email"),
    ("descuento", "rebaja"),
    ("rápido", "pronto"),
    ("arreglar", "reparar", "componer"),
    ("ahora", "ahorita"),
    ("terminar", "acabar"),
    ("niños", "chicos", "nenes"),
    ("trabajo", "laburo", "chamba"),
    ("cuesta", "vale", "sale"),
    ("tienen", "manejan", "ofrecen"),
    # How a customer addresses the business: usted, tú, vos, plural.
    ("puede", "puedes", "podés", "pueden"),
    ("tiene", "tienes", "tenés", "tienen"),
    ("me ayuda", "me ayudas", "me ayudás", "me ayudan"),
    ("me dice", "me dices", "me decís", "me dicen"),
    ("hace", "haces", "hacés", "hacen"),
    ("vende", "vendes", "vendés", "venden"),
    ("quiere", "quieres", "querés", "quieren"),
)
LOOSELY_REGIONAL = REGIONAL | {
    word: tuple(other for other in group if other != word) for group in _LOOSELY for word in group
}
STORIES = (
    "Hola, les escribo porque tengo una duda.",
    "Buenas tardes, espero que estén bien.",
    "Disculpe la molestia, es la primera vez que escribo.",
    "Llevo un rato buscando en la página y no lo encuentro.",
    "Soy cliente desde hace años.",
    "Mi hermana me recomendó este sitio.",
    "Ya pregunté por teléfono y nadie me supo decir.",
    "Perdón por el mensaje tan largo.",
    "Estoy fuera de casa y le escribo desde el celular.",
    "A ver si me pueden ayudar.",
)
_TAILS = ("Es urgente.", "Quedo atento.", "Muchas gracias de antemano.", "Saludos.", "Espero su respuesta.", "Gracias.")


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing that customers want of one kind of business."""

    domain: str
    name: str
    question: str
    answer: str
    wordings: tuple[str, ...]

    @property
    def is_held_out(self) -> bool:
        """Whether no part of the base may learn it; the same whatever else the corpus holds."""
        return zlib.crc32(f"{self.domain}/{self.name}".encode()) % HELD_OUT_EVERY == 0


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


@cache
def intents() -> tuple[Intent, ...]:
    files = [path for path in sorted(FOLDER.glob("*.jsonl")) if path.name not in (OFF_TOPIC_FILE, SAME_MEANING_FILE)]
    return tuple(
        Intent(row["domain"], row["intent"], row["question"], row["answer"], tuple(row["wordings"]))
        for path in files
        for row in _rows(path)
    )


def learned_intents() -> list[Intent]:
    return [intent for intent in intents() if not intent.is_held_out]


def held_out_intents() -> list[Intent]:
    return [intent for intent in intents() if intent.is_held_out]


@cache
def off_topic() -> tuple[str, ...]:
    return tuple(row["question"] for row in _rows(FOLDER / OFF_TOPIC_FILE))


@cache
def same_meaning() -> tuple[tuple[str, ...], ...]:
    """Groups of words, phrases or short sentences; those of a group mean one thing."""
    return tuple(tuple(row["words"]) for row in _rows(FOLDER / SAME_MEANING_FILE))


def texts() -> Iterator[str]:
    """Everything that may be learned."""
    for intent in learned_intents():
        yield from (intent.question, intent.answer, *intent.wordings)
    for group in same_meaning():
        yield from group
    yield from off_topic()


def retold(text: str, rng: random.Random) -> str:
    """A wording as somebody else types it: another country's word, another form of address, a story, typos."""
    for _ in range(2):
        if rng.random() < 0.3:
            text = exchanged(text, LOOSELY_REGIONAL, rng)
    if rng.random() < 0.08:
        text = f"{rng.choice(STORIES)} {text}"
    if rng.random() < 0.06:
        text = f"{text.rstrip('. ')}{rng.choice(('.', ',', ''))} {rng.choice(_TAILS)}"
    if rng.random() < 0.5:
        text = next(iter(augment(text, count=1, seed=rng.randrange(1 << 30))), text)
    if rng.random() < 0.1:
        # Run on, as with the thumb.
        text = re.sub(r"[.,;:¿¡?!]", "", text)
    return text
