"""In which language customers are answered: that of their message, as far as it shows one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.signing import get_cookie_signer
from django.test import Client as Browser
from django.utils import timezone

from chat import plain
from chat.earlier import mostly_spoken_language
from chat.languages import language_of
from chat.models import Conversation, Message
from chat.tests.test_consumers import Client, run
from faq.importing import read_json_lines
from faq.management.commands.load_demo import DEMO_DIR
from faq.models import FaqEntry
from training.models import AdapterVersion

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


def test_the_demo_shops_questions_are_spanish_or_undecided() -> None:
    entries = list(read_json_lines(DEMO_DIR / "shop_es.jsonl"))
    questions = [text for entry in entries for text in (entry["question"], *entry["variants"])]
    found = [language_of(text) for text in questions]
    assert found.count("en") == 0
    assert found.count("es") > 0.95 * len(questions)


@pytest.mark.parametrize(
    "text",
    [
        "how long does delivery take",
        "Can I return it?",
        "WHERE IS MY ORDER",
        "I’d like to cancel my order",
        "do you accept Bizum",
        "how much?",
        "please write to el.de.la@hotmail.es",
        "what about the Canary Islands",
    ],
)
def test_english_is_known(text: str) -> None:
    assert language_of(text) == "en"


@pytest.mark.parametrize(
    "text", ["cuánto cuesta", "¿Bizum?", "y a canarias?", "DONDE ESTA MI PEDIDO", "formas de pago"]
)
def test_spanish_is_known(text: str) -> None:
    assert language_of(text) == "es"


@pytest.mark.parametrize(
    "text",
    [
        *("", "?", "👍", "ok", "hola", "hi", "gracias", "thanks", "no", "sí", "total", "A-4821"),
        *("PayPal", "WhatsApp", "Nike Air Max 90", "The North Face", "IKEA KALLAX", "España", "newsletter"),
        *("john@hotmail.es", "www.tienda.es", "https://tienda.es/que/es", "tienda.es", "el.nino@correo.com"),
    ],
)
def test_what_could_be_either_is_left_undecided(text: str) -> None:
    assert language_of(text) is None


def ask_all(*texts: str, language: str) -> list[dict[str, Any]]:
    """What is answered to one message after the other, on a page in a language."""
    answers: list[dict[str, Any]] = []

    async def scenario() -> None:
        client = Client()
        await client.open(language=language)
        for number, text in enumerate(texts):
            await client.ask(text, f"c{number}")
            answers.append((await client.read_answer())[1])
        await client.close()

    run(scenario)
    return answers


def test_what_is_not_known_is_said_in_the_language_of_the_message(live: AdapterVersion) -> None:
    english, short, spanish, name = ask_all(
        "how is the weather on Mars", "ok", "quién ganó el mundial", "The North Face", language="es"
    )
    assert english["text"].startswith("I'm sorry")
    assert english["language"] == "en"
    assert short["text"].startswith("All right."), "a word that could be either changes nothing"
    assert spanish["text"].startswith("Lo siento")
    assert name["text"].startswith("Lo siento")


def test_what_may_be_meant_is_asked_in_the_language_of_the_message(live: AdapterVersion) -> None:
    calibration = {"prior_weight": 5.0, "threshold": 0.9999, "suggestion_threshold": 0.3}
    (live.path / "calibration.json").write_text(json.dumps(calibration), encoding="utf-8")
    (answer,) = ask_all("how can I devolver or pagar", language="es")
    assert answer["text"].startswith("I am not sure")
    assert "¿Puedo devolver un producto?" in answer["suggestions"]


def test_without_any_sign_the_pages_language_counts(live: AdapterVersion) -> None:
    (on_spanish,) = ask_all("zzz qqq", language="es")
    (on_english,) = ask_all("zzz qqq", language="en")
    assert on_spanish["text"].startswith("Lo siento")
    assert on_english["text"].startswith("I'm sorry")


def test_an_apology_comes_in_the_language_of_the_message(db: None) -> None:
    """No version is live."""
    (answer,) = ask_all("how can I pay", language="es")
    assert answer["finish_reason"] == "error"
    assert answer["text"].startswith("The assistant is still learning")


def test_a_person_is_announced_in_the_language_that_was_spoken(live: AdapterVersion) -> None:
    async def scenario() -> None:
        client = Client()
        await client.open(language="es")
        await client.ask("how can I pay")
        await client.read_answer()
        await client.send({"type": "person"})
        frame = await client.wait_for("message")
        while frame["message"]["role"] != "system":
            frame = await client.wait_for("message")
        assert frame["message"]["text"].startswith("You asked for a person")
        await client.close()

    run(scenario)


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["quiero devolver algo", "¿y cuánto tarda?", "how can I pay"], "es"),
        (["quiero devolver algo", "how can I pay"], "en"),
        (["how can I pay", "can I return it", "quiero devolver algo", "ok"], "en"),
        (["ok", "?"], "es"),
    ],
)
def test_a_person_speaks_the_language_of_most_of_what_was_said(texts: list[str], language: str) -> None:
    conversation, _ = Conversation.start("es")
    for number, text in enumerate(texts):
        conversation.messages.create(role="user", text=text, client_id=str(number))

    assert async_to_sync(mostly_spoken_language)(conversation, "es") == language


def test_an_answer_in_another_language_is_not_translated_but_noted(live: AdapterVersion) -> None:
    english, spanish = ask_all("can I pay con tarjeta, how can I", "¿se puede pagar con tarjeta?", language="es")
    assert english["text"] == spanish["text"] == "Con tarjeta o transferencia."
    assert english["note"] == "This answer was approved in Spanish and is not translated."
    assert english["language"] == "es", "of the text, for whoever reads it aloud"
    assert spanish["note"] == ""


def test_an_english_answer_is_known_though_nobody_chose_its_language(live: AdapterVersion) -> None:
    FaqEntry.objects.filter(key="pay").update(answer="You can pay with a card.", updated_at=timezone.now())
    english, spanish = ask_all("can I pay con tarjeta, how can I", "¿se puede pagar con tarjeta?", language="en")
    assert english["note"] == ""
    assert spanish["note"]


def test_the_note_is_in_the_page_without_javascript_too(client: Browser) -> None:
    conversation, token = Conversation.start("es")
    conversation.messages.create(
        role=Message.Role.ASSISTANT, text="Sí.", finish_reason="stop", entry_language="es", language="en"
    )
    client.cookies[plain.COOKIE] = get_cookie_signer(salt=plain.COOKIE).sign(f"{conversation.id} {token}")
    page = client.get("/plain/").content.decode()
    assert "This answer was approved in Spanish and is not translated." in page
