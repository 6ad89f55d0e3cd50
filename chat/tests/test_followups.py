"""Questions that rest on what was said before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import Client as Browser

from chat import inbox
from chat.earlier import spoken_of
from chat.exports import COLUMNS, _row
from chat.models import Conversation, Message
from chat.tests.test_consumers import Client, run
from faq.models import FaqEntry, Paraphrase
from training.models import AdapterVersion

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


def answers_to(*questions: str) -> list[Message]:
    """The stored replies to one question after the other, in one conversation."""

    async def scenario() -> None:
        client = Client()
        await client.open(language="es")
        for number, text in enumerate(questions):
            await client.ask(text, f"c{number}")
            await client.read_answer()
        await client.close()

    run(scenario)
    newest = Message.objects.filter(role="assistant").order_by("-pk")[: len(questions)]
    return list(newest)[::-1]


def test_a_follow_up_is_understood_together_with_what_was_asked_before(live: AdapterVersion) -> None:
    (alone,) = answers_to("¿y si está usado?")
    assert alone.is_declined
    assert alone.context == ""

    _, answer = answers_to("quiero devolver algo", "¿y si está usado?")

    assert (answer.text, answer.entry_key) == ("Tiene treinta días.", "return")
    assert answer.context == "quiero devolver algo"
    assert answer.version == live
    assert answer.confidence is not None
    assert answer.confidence >= 0.5


def test_a_follow_up_to_a_follow_up_goes_on_from_the_entry(live: AdapterVersion) -> None:
    *_, answer = answers_to("quiero devolver algo", "¿y si está usado?", "¿y si está roto?")
    assert answer.context == "¿Puedo devolver un producto?"


def test_what_could_be_asked_of_anything_is_asked_of_what_was_spoken_of(live: AdapterVersion) -> None:
    """Alone it would be answered surely, with another entry that has the same words."""
    entry = FaqEntry.objects.get(key="hours")
    Paraphrase.objects.create(entry=entry, text="¿y hasta cuándo?")
    alone, _, after = answers_to("¿y hasta cuándo?", "quiero devolver algo", "¿y hasta cuándo?")
    assert alone.entry_key == "hours"
    assert after.entry_key != "hours"
    assert after.context == "quiero devolver algo"


# Nothing is sure enough but what staff wrote.
UNSURE = '{"threshold": 1.0, "min_coverage": 1.0}'


def test_a_follow_up_that_is_somewhere_a_wording_belongs_to_what_is_spoken_of(live: AdapterVersion) -> None:
    (live.path / "calibration.json").write_text(UNSURE, encoding="utf-8")
    Paraphrase.objects.create(entry=FaqEntry.objects.get(key="pay"), text="¿y si está usado?")
    alone, _, after = answers_to("¿y si está usado?", "quiero devolver algo", "¿y si está usado?")
    assert alone.entry_key == "pay"
    assert (after.entry_key, after.context) == ("", "quiero devolver algo")


def test_what_customers_say_of_themselves_is_nobodys_wording(live: AdapterVersion) -> None:
    (live.path / "calibration.json").write_text(UNSURE, encoding="utf-8")
    Paraphrase.objects.create(entry=FaqEntry.objects.get(key="hours"), text="teléfono")
    word, number = answers_to("teléfono", "+34 600 123 456")
    assert word.entry_key == "hours"
    assert number.entry_key == "", "it is read as “[teléfono]”"


def test_a_suggestion_that_is_taken_up_goes_on_from_nothing(live: AdapterVersion) -> None:
    """Also where nothing is sure, and where it could be asked of anything."""
    (live.path / "calibration.json").write_text(UNSURE, encoding="utf-8")
    FaqEntry.objects.filter(key="hours").update(question="¿Y hasta cuándo?")
    for text in ("¿Y hasta cuándo?", "y hasta cuando"):
        *_, answer = answers_to("quiero devolver algo ya", text)
        assert (answer.entry_key, answer.context, answer.is_declined) == ("hours", "", False)


def test_what_has_just_been_said_is_not_said_again(live: AdapterVersion) -> None:
    """Whoever asks on of a subject has read the answer to it, and is asked which other one is meant."""
    (live.path / "calibration.json").write_text(
        '{"prior_weight": 10.0, "decline_credit": 0.0, "threshold": 0.4, "suggestion_threshold": 0.5}', encoding="utf-8"
    )
    first, second, third = answers_to("quiero devolver algo", "¿y cuánto tarda?", "quiero devolver algo")
    assert first.entry_key == "return"
    assert second.context == "quiero devolver algo"
    assert second.is_declined
    assert "¿Puedo devolver un producto?" not in second.suggestions
    assert third.entry_key == "return", "a whole question is answered as often as it is asked"


def test_what_is_sure_alone_goes_on_from_nothing(live: AdapterVersion) -> None:
    _, answer = answers_to("quiero devolver algo", "¿y se puede pagar con tarjeta?")
    assert (answer.entry_key, answer.context) == ("pay", "")


@pytest.mark.parametrize("first", ["quiero devolver algo", "¿A qué hora cierran?", "zzz qqq"])
@pytest.mark.parametrize("second", ["formas de pago", "¿A qué hora cierran?", "hola", "xyz zzz", "como se paga"])
def test_a_whole_question_is_answered_as_if_nothing_had_been_said(
    live: AdapterVersion, first: str, second: str
) -> None:
    (alone,) = answers_to(second)
    _, after = answers_to(first, second)
    for name in ("text", "entry_key", "is_declined", "confidence", "suggestions", "context"):
        if (name, first) != ("text", "zzz qqq"):
            assert getattr(after, name) == getattr(alone, name), name
    assert after.context == ""


def test_an_off_topic_follow_up_is_declined(live: AdapterVersion) -> None:
    _, answer = answers_to("quiero devolver algo", "¿y quién ganó el mundial?")
    assert answer.is_declined
    assert answer.context == "", "it goes on from nothing"


def test_nothing_is_invented_where_neither_is_sure(live: AdapterVersion) -> None:
    (live.path / "calibration.json").write_text('{"prior_weight": 5.0, "threshold": 1.1}', encoding="utf-8")
    _, answer = answers_to("quiero devolver algo", "¿y si está usado?")
    assert answer.is_declined
    assert answer.entry_key == ""


Said = tuple[str, str, dict[str, Any]]


def said(*messages: Said) -> Message:
    """The newest of the messages of a conversation."""
    conversation, _ = Conversation.start("es")
    for role, text, more in messages:
        newest = conversation.messages.create(role=role, text=text, **more)
    return newest


ASKED: Said = ("user", "quiero devolver algo", {})
ANSWERED: Said = (
    "assistant",
    "Tiene treinta días.",
    {"finish_reason": "stop", "entry_key": "return", "entry_question": "¿D?"},
)
DECLINED = {"finish_reason": "stop", "is_declined": True}
FOLLOW_UP: Said = ("user", "¿y si está usado?", {})
REPLY: Said = ("assistant", "", {})


@pytest.mark.parametrize(
    ("between", "subject"),
    [
        ([], "quiero devolver algo"),
        ([FOLLOW_UP, ("assistant", "Algo ha fallado.", {"finish_reason": "error"})], "quiero devolver algo"),
        ([FOLLOW_UP, ("assistant", "", {"finish_reason": "cancelled"})], "quiero devolver algo"),
        ([FOLLOW_UP, ("assistant", "No sé.", DECLINED)], ""),
        ([FOLLOW_UP, ("assistant", "No sé.", DECLINED | {"context": "devolver"})], "devolver"),
        ([("user", "¿Arreglan lámparas viejas?", {}), ("assistant", "No sé.", DECLINED)], "¿Arreglan lámparas viejas?"),
        ([("system", "Está de nuevo con el asistente.", {"finish_reason": "stop"})], ""),
        ([("agent", "Hola, soy Olga.", {"finish_reason": "stop"})], ""),
    ],
)
def test_it_goes_on_from_the_last_answer_and_from_nothing_else(db: None, between: Sequence[Said], subject: str) -> None:
    reply = said(ASKED, ANSWERED, *between, FOLLOW_UP, REPLY)
    assert async_to_sync(spoken_of)(reply) == subject


def test_what_was_sent_in_several_lines_is_one_subject(db: None) -> None:
    reply = said(("user", "hola", {}), ASKED, ANSWERED, FOLLOW_UP, REPLY)
    assert async_to_sync(spoken_of)(reply) == "hola quiero devolver algo"


def test_another_conversation_is_none_of_its_business(db: None) -> None:
    said(ASKED, ANSWERED)
    assert async_to_sync(spoken_of)(said(FOLLOW_UP, REPLY)) == ""


def test_staff_read_on_what_a_follow_up_went_on(client: Browser) -> None:
    answer = said(
        ASKED, ANSWERED, FOLLOW_UP, ("assistant", "Sí.", {"finish_reason": "stop", "context": "<i>devolver</i>"})
    )
    client.force_login(User.objects.create_superuser("olga"))

    page = client.get(f"/admin/chat/conversation/{answer.conversation_id}/change/").content.decode()

    assert "understood as going on from “&lt;i&gt;devolver&lt;/i&gt;”" in page
    assert "understood as going on from “<i>devolver</i>”" in inbox._basis(answer)
    assert dict(zip(COLUMNS, _row(answer), strict=True))["context"] == "<i>devolver</i>"
    assert COLUMNS[-3] == "context", "what reads by place finds the others where they were"
