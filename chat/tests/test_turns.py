"""What is around an answer: lines that are one turn, ratings, sources, and the way to a person."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync
from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.core import signing
from django.db import OperationalError, transaction
from django.test import AsyncClient, Client
from django.utils import timezone

from chat import plain, replies, rights, trials
from chat.limits import Allowances
from chat.models import MAX_FEEDBACK_CHARS, Conversation, Feedback, Message
from chat.tests.test_consumers import Client as Page
from chat.tests.test_consumers import held_engine, held_reply, run
from faq.models import FaqEntry
from training import serving
from training.lm.decisions import Stopped
from training.models import AdapterVersion

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


def test_lines_sent_quickly_are_one_turn(live: AdapterVersion) -> None:
    serving.prepare(live)

    async def scenario() -> None:
        page = Page()
        await page.open()
        with held_engine():
            await page.ask("quiero saber", "c1")
            first = (await page.wait_for("message"), await page.wait_for("message"))[1]["message"]
            await page.ask("las formas de pago", "c2")
            assert (await page.wait_for("withdrawn"))["message_id"] == first["id"]
        _, message = await page.read_answer()
        assert message["text"] == "Con tarjeta o transferencia."
        assert message["id"] > first["id"]
        await page.send({"type": "resume"})
        ready = await page.wait_for("ready")
        assert [each["role"] for each in ready["messages"]] == ["user", "user", "assistant"]
        assert ready["ids"] == [each["id"] for each in ready["messages"]]
        await page.close()

    run(scenario)
    assert not Message.objects.filter(role="assistant", finish_reason="").exists()


def test_a_line_that_comes_later_is_a_turn_of_its_own(live: AdapterVersion) -> None:
    serving.prepare(live)

    async def scenario() -> None:
        page = Page()
        await page.open()
        with held_engine():
            await page.ask("horario de cierre", "c1")
            await page.wait_for("message")
            await page.wait_for("message")
            long_ago = timezone.now() - timedelta(seconds=replies.TURN_SECONDS + 1)
            await Message.objects.filter(role="user").aupdate(created_at=long_ago)
            await page.ask("formas de pago", "c2")
            await page.wait_for("message")
        answers = {(await page.wait_for("done"))["message"]["text"] for _ in range(2)}
        assert answers == {"Cerramos a las ocho.", "Con tarjeta o transferencia."}
        await page.close()

    run(scenario)


def test_what_waited_for_a_connection_is_a_turn_of_its_own(live: AdapterVersion) -> None:
    serving.prepare(live)

    async def scenario() -> None:
        page = Page()
        await page.open()
        with held_engine():
            await page.ask("horario de cierre", "c1", is_late=True)
            await page.ask("formas de pago", "c2", is_late=True)
            for _ in range(4):
                await page.wait_for("message", "withdrawn")
        answers = {(await page.wait_for("done"))["message"]["text"] for _ in range(2)}
        assert answers == {"Cerramos a las ocho.", "Con tarjeta o transferencia."}
        await page.close()

    run(scenario)
    assert Message.objects.filter(role="assistant").count() == 2


@pytest.mark.parametrize(
    ("lines", "question"),
    [
        (["hola", "tengo una duda", "aceptan tarjeta?"], "aceptan tarjeta?"),
        (["compré unos zapatos", "gracias", "me quedan pequeños"], "compré unos zapatos\nme quedan pequeños"),
        (["hola", "tengo una duda"], "hola\ntengo una duda"),
    ],
)
def test_a_greeting_is_no_part_of_the_question(lines: list[str], question: str) -> None:
    assert replies._question_in(lines) == question


HELD = pytest.mark.parametrize("said", ["buenas tardes", "zzzz wwww"])


@HELD
def test_what_answers_nothing_waits_for_the_next_line(
    live: AdapterVersion, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setattr(replies, "HOLD_SECONDS", 600.0)

    async def scenario() -> None:
        page = Page()
        await page.open()
        await page.ask(said, "c1")
        first = (await held_reply()).message
        # However long ago that was: nothing has been said to it.
        await Message.objects.filter(role="user").aupdate(created_at=timezone.now() - timedelta(seconds=8))
        await page.ask("formas de pago", "c2")
        assert (await page.wait_for("withdrawn"))["message_id"] == first.pk
        _, message = await page.read_answer()
        assert message["text"] == "Con tarjeta o transferencia."
        await page.close()

    run(scenario)
    assert Message.objects.filter(role="assistant").count() == 1


def test_it_waits_while_the_customer_types(live: AdapterVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "HOLD_SECONDS", 600.0)

    async def scenario() -> None:
        page, stranger = Page(), Page()
        for each in (page, stranger):
            await each.open()
            await each.send({"type": "typing"})
        await page.ask("buenas tardes")
        reply = await held_reply()
        heard_at = reply.heard_at
        await stranger.ask("formas de pago")
        await stranger.send({"type": "typing"})
        await stranger.read_answer()
        assert reply.heard_at == heard_at
        await page.send({"type": "typing"})
        while reply.heard_at == heard_at:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        monkeypatch.setattr(replies, "HOLD_SECONDS", 0.0)
        _, message = await page.read_answer()
        assert message["text"] == "Hello! How can I help you?"
        for each in (page, stranger):
            await each.close()

    run(scenario)


@HELD
def test_it_does_not_wait_for_ever(live: AdapterVersion, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(replies, "HOLD_SECONDS", 600.0)
    monkeypatch.setattr(replies, "MAX_HOLD_SECONDS", 0.0)

    async def scenario() -> None:
        page = Page()
        await page.open()
        await page.ask(said)
        assert (await page.read_answer())[1]["finish_reason"] == "stop"
        await page.close()

    run(scenario)


def test_what_waits_is_stopped_at_once(live: AdapterVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "HOLD_SECONDS", 600.0)
    monkeypatch.setattr(replies, "MAX_HOLD_SECONDS", 600.0)

    async def scenario() -> None:
        page = Page()
        await page.open()
        await page.ask("buenas tardes")
        await held_reply()
        await page.send({"type": "stop"})
        done = (await page.wait_for("done"))["message"]
        assert (done["finish_reason"], done["text"]) == ("cancelled", "")
        await page.close()

    run(scenario)


def test_the_wait_does_not_count_as_slowness(db: None) -> None:
    conversation, _ = Conversation.start("es")
    message = conversation.messages.create(role="assistant")
    message.created_at -= timedelta(seconds=60)
    reply = replies.Reply(message, "hola", "es", conversation, None, held_seconds=59)

    run(partial(replies._say, reply, "Hola"))

    assert message.first_delta_ms is not None
    assert 1_000 <= message.first_delta_ms < 59_000


def test_a_reply_that_has_begun_is_not_taken_back(db: None) -> None:
    conversation, _ = Conversation.start("es")
    conversation.messages.create(role="user", text="hola")
    begun = conversation.messages.create(role="assistant", text="Cerramos", seq=1)

    with transaction.atomic():
        withdrawn, lines = replies._take_back(conversation, 4)

    assert (withdrawn, lines) == (None, [])
    assert conversation.messages.filter(pk=begun.pk).exists()


def test_nothing_is_stored_where_it_cannot_be_found_out_who_answers(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent again, it would else count as stored, and nobody would be at work on its answer."""
    conversation, _ = Conversation.start("es")

    def is_lost(_: Conversation) -> None:
        raise OperationalError

    with monkeypatch.context() as patch:
        patch.setattr(trials, "version_for", is_lost)
        with pytest.raises(OperationalError):
            async_to_sync(replies.store)(conversation, "hola", "c1")
    assert not Message.objects.exists()

    assert async_to_sync(replies.store)(conversation, "hola", "c1").answer is not None


def test_a_reply_that_was_withdrawn_says_nothing_more(db: None) -> None:
    conversation, _ = Conversation.start("es")
    message = conversation.messages.create(role="assistant")
    Message.objects.filter(pk=message.pk).delete()

    async def scenario() -> None:
        with pytest.raises(Stopped):
            await replies._say(replies.Reply(message, "hola", "es", conversation, None), "Cerramos")

    run(scenario)
    assert not Message.objects.exists()


def test_an_approved_answer_names_its_source(live: AdapterVersion) -> None:
    revised = FaqEntry.objects.get(key="pay").updated_at

    async def scenario() -> None:
        page = Page()
        await page.open()
        await page.ask("formas de pago")
        _, message = await page.read_answer()
        assert message["source"] == {"question": "¿Cómo puedo pagar?", "revised": revised.isoformat()}
        assert message["html"] == "<p>Con tarjeta o transferencia.</p>"
        await page.close()

    run(scenario)
    entry = FaqEntry.objects.get(key="pay")
    entry.question = "¿Otra?"
    entry.save()
    assert Message.objects.get(role="assistant").entry_question == "¿Cómo puedo pagar?", "as it was when it was said"


def test_marks_are_rendered_while_they_are_written(live: AdapterVersion) -> None:
    answer = "Con **tarjeta de crédito** o [transferencia](https://banco.example/x), " * 12
    FaqEntry.objects.filter(key="pay").update(answer=answer, updated_at=timezone.now())

    async def scenario() -> None:
        page = Page()
        await page.open()
        await page.ask("formas de pago")
        deltas, message = await page.read_answer()
        assert len(deltas) > 3
        assert not any("**" in delta["html"] or "](" in delta["html"] for delta in deltas)
        assert message["text"] == answer, "what is stored is what was approved"
        assert message["html"].count("<strong>tarjeta de crédito</strong>") == 12
        await page.close()

    run(scenario)


def test_the_second_i_dont_know_offers_a_person(live: AdapterVersion) -> None:
    async def scenario() -> None:
        page = Page()
        await page.open()
        await page.ask("zzzz wwww", "c1")
        _, first = await page.read_answer()
        await page.ask("qqqq xxxx", "c2")
        _, second = await page.read_answer()
        await page.ask("formas de pago", "c3")
        _, third = await page.read_answer()
        assert [each["offers_person"] for each in (first, second, third)] == [False, True, False]
        assert "another way" in first["text"]
        assert "ask for a person" in second["text"]
        assert first["source"] is None
        await page.close()

    run(scenario)


def rating(message: dict[str, Any], rating: str | None, **more: Any) -> dict[str, Any]:
    return {"type": "feedback", "message_id": message["id"], "rating": rating, **more}


def test_an_answer_is_rated_and_the_rating_is_taken_back(live: AdapterVersion) -> None:
    async def scenario() -> None:
        page = Page()
        await page.open()
        for number, question in enumerate(("formas de pago", "zzzz wwww")):
            await page.ask(question, f"c{number}")
            _, message = await page.read_answer()
            await page.send(rating(message, "down", reasons=["other", "incorrect"], text=" <b>no</b>\0 "))
            told = (await page.wait_for("message"))["message"]
            assert told["feedback"] == {"rating": "down", "reasons": ["incorrect", "other"], "text": "<b>no</b>"}
            await page.send({"type": "resume"})
            assert (await page.wait_for("ready"))["messages"][-1]["feedback"] == told["feedback"]
        await page.send(rating(message, "up", reasons=["incorrect"], text="gracias"))
        told = (await page.wait_for("message"))["message"]
        assert told["feedback"] == {"rating": "up", "reasons": [], "text": ""}
        await page.send(rating(message, None))
        assert (await page.wait_for("message"))["message"]["feedback"] is None
        await page.close()

    run(scenario)
    kept = Feedback.objects.get()
    assert (kept.message.version, kept.message.entry_key) == (live, "pay")
    assert kept.message.confidence is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"rating": "five"},
        {"rating": ["up"]},
        {"rating": "down", "reasons": ["boring"]},
        {"rating": "down", "reasons": "incorrect"},
        {"rating": "down", "reasons": [{}]},
        {"rating": "down", "text": 5},
        {"rating": "down", "text": "x" * (MAX_FEEDBACK_CHARS + 1)},
    ],
)
def test_a_rating_that_makes_no_sense_is_refused_in_words(db: None, wrong: dict[str, Any]) -> None:
    conversation, token = Conversation.start("es")
    answer = conversation.messages.create(role="assistant", text="Sí.", finish_reason="stop")

    async def scenario() -> None:
        page = Page()
        await page.open(conversation=str(conversation.id), token=token)
        await page.send({"type": "feedback", "message_id": answer.pk, **wrong})
        error = await page.wait_for("error")
        assert (error["code"], bool(error["text"])) == ("bad_feedback", True)
        await page.close()

    run(scenario)
    assert not Feedback.objects.exists()


def test_only_finished_answers_of_ones_own_conversation_are_rated(db: None) -> None:
    conversation, token = Conversation.start("es")
    other, _ = Conversation.start("es")
    foreign = other.messages.create(role="assistant", text="Sí.", finish_reason="stop")
    question = conversation.messages.create(role="user", text="¿Sí?")
    failed = conversation.messages.create(role="assistant", text="Algo ha fallado", finish_reason="error")
    unfinished = conversation.messages.create(role="assistant", text="S")

    async def scenario() -> None:
        page, stranger = Page(), Page()
        await page.open(conversation=str(conversation.id), token=token)
        await stranger.open()
        for number in (foreign.pk, question.pk, failed.pk, unfinished.pk, 0, -1, 2**70, "1", None, True, [1]):
            await page.send({"type": "feedback", "message_id": number, "rating": "up"})
            assert (await page.wait_for("error"))["code"] == "unknown_message"
        await stranger.send({"type": "feedback", "message_id": foreign.pk, "rating": "up"})
        assert (await stranger.wait_for("error"))["code"] == "unknown_message"
        await page.close()
        await stranger.close()

    run(scenario)
    assert not Feedback.objects.exists()


def test_a_whole_conversation_is_rated_and_the_rating_is_taken_back(db: None) -> None:
    conversation, token = Conversation.start("es")
    other, _ = Conversation.start("es")

    async def scenario() -> None:
        page, second, stranger = Page(), Page(), Page()
        for each in (page, second):
            await each.open(conversation=str(conversation.id), token=token)
        await stranger.open()
        for rating in ("up", "down", None):
            await page.send({"type": "rate", "rating": rating})
            for each in (page, second):
                assert (await each.wait_for("rated"))["rating"] == rating
            await second.send({"type": "resume"})
            assert (await second.wait_for("ready"))["rating"] == rating
            stored = await Conversation.objects.aget(pk=conversation.pk)
            assert stored.rating == (rating or "")
        await page.send({"type": "rate", "rating": "down"})
        await page.wait_for("rated")
        wrong: Any
        for wrong in ("five", 5, ["up"], {}):
            await page.send({"type": "rate", "rating": wrong})
            assert (await page.wait_for("error"))["code"] == "bad_feedback"
        await stranger.send({"type": "rate", "rating": "up"})
        assert (await stranger.wait_for("error"))["code"] == "unknown_conversation"
        for each in (page, second, stranger):
            await each.close()

    run(scenario)
    ratings = dict(Conversation.objects.values_list("pk", "rating"))
    assert ratings == {conversation.pk: "down", other.pk: ""}


def test_staff_read_the_rating_beside_the_answer(client: Client) -> None:
    conversation, _ = Conversation.start("es")
    answer = conversation.messages.create(role="assistant", text="Sí.", finish_reason="stop")
    Feedback.objects.create(message=answer, rating="down", reasons=["outdated"], text="<script>alert(1)</script>")
    client.force_login(User.objects.create_superuser("olga"))

    page = client.get(f"/admin/chat/conversation/{conversation.pk}/change/").content.decode()

    for shown in ("Not helpful", "Outdated", "&lt;script&gt;alert(1)"):
        assert shown in page
    assert "<script>alert(1)" not in page


def test_a_frame_with_a_name_is_acknowledged_and_an_error_names_it(db: None) -> None:
    conversation, token = Conversation.start("es")
    answer = conversation.messages.create(role="assistant", text="Sí.", finish_reason="stop")

    async def scenario() -> None:
        page = Page()
        await page.open(conversation=str(conversation.id), token=token)
        for number, (frame, answered) in enumerate(
            [
                (rating({"id": answer.pk}, "up"), "ack"),
                ({"type": "rate", "rating": "up"}, "ack"),
                ({"type": "rate", "rating": "five"}, "error"),
                ({"type": "leave_people"}, "error"),
                ({"type": "contact", "email": "nobody"}, "error"),
                ({"type": "person"}, "ack"),
                ({"type": "leave_people"}, "ack"),
                ({"type": "nonsense"}, "error"),
            ]
        ):
            await page.send({**frame, "client_id": f"n{number}"})
            told = await page.wait_for("ack", "error")
            assert (told["type"], told["client_id"]) == (answered, f"n{number}")
        for nameless in ("", "a b", 5, None, ["x"], "x" * 65):
            await page.send({"type": "rate", "rating": "down", "client_id": nameless})
            assert (await page.wait_for("rated", "ack"))["type"] == "rated"
            await page.send({"type": "ping"})
            assert (await page.wait_for("pong", "ack"))["type"] == "pong"
        await page.close()

    run(scenario)


# A conversation that is gone


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "message", "client_id": "c2", "text": "hola"},
        {"type": "person"},
        {"type": "feedback", "rating": "down"},
        {"type": "rate", "rating": "down"},
    ],
)
def test_what_comes_after_the_deletion_is_refused_and_leaves_nothing(db: None, frame: dict[str, Any]) -> None:
    """Also where nobody has told the page yet."""
    conversation, token = Conversation.start("es")
    answer = conversation.messages.create(role="assistant", text="Sí.", finish_reason="stop")

    async def scenario() -> None:
        page = Page()
        await page.open(conversation=str(conversation.id), token=token)
        await Conversation.objects.filter(pk=conversation.pk).adelete()
        await page.send({**frame, "message_id": answer.pk})
        error = await page.wait_for("error")
        assert error["code"] in ("unknown_conversation", "unknown_message")
        assert error["client_id"] == frame.get("client_id", "")
        await page.close()

    run(scenario)
    assert not Message.objects.exists()
    assert not Feedback.objects.exists()


def test_a_customer_deletes_the_conversation_in_the_chat(db: None) -> None:
    conversation, token = Conversation.start("es")
    conversation.messages.create(role="assistant", text="Sí.", finish_reason="stop")
    other, _ = Conversation.start("es")

    async def scenario() -> None:
        page, second, stranger = Page(), Page(), Page()
        for each in (page, second):
            await each.open(conversation=str(conversation.id), token=token)
        await stranger.open()
        await stranger.send({"type": "forget"})
        await page.send({"type": "forget"})
        for each in (page, second):
            assert (await each.wait_for("forgotten"))["conversation"] == str(conversation.id)
        await page.ask("hola")
        assert (await page.wait_for("conversation"))["conversation"] != str(conversation.id)
        for each in (page, second, stranger):
            await each.close()

    run(scenario)
    assert not Conversation.objects.filter(pk=conversation.pk).exists()
    assert Conversation.objects.filter(pk=other.pk).exists()


# Without JavaScript


class Browser(AsyncClient):
    async def request(self, **request: Any) -> Any:
        # As the server does it: what of a request is synchronous has a thread of its own.
        async with ThreadSensitiveContext():
            return await super().request(**request)


def serve(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run as under the server, whose loop no synchronous code waits for."""

    async def whole() -> None:
        await scenario()
        while replies._tasks:
            await asyncio.gather(*replies._tasks)

    asyncio.run(whole())


def test_the_page_without_javascript_has_a_form(client: Client) -> None:
    page = client.get("/").content.decode()

    form = page[page.index("<noscript>") :]
    assert 'action="/plain/"' in form
    assert "csrfmiddlewaretoken" in form
    assert 'name="person"' in form


def test_a_plain_form_holds_a_conversation(live: AdapterVersion) -> None:
    async def scenario() -> None:
        browser = Browser()
        empty = await browser.get("/plain/")
        assert "AI assistant" in empty.content.decode()
        assert "please ask in Spanish" in empty.content.decode()
        sent = await browser.post("/plain/", {"text": "formas de pago", "client_id": "f1"})
        assert (sent.status_code, sent.headers["Location"]) == (302, "/plain/#newest")
        cookie = sent.cookies[plain.COOKIE]
        assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
        page = (await browser.get("/plain/")).content.decode()
        assert "Con tarjeta o transferencia." in page
        assert "¿Cómo puedo pagar?" in page
        assert page.index('class="message user"') < page.index('class="message assistant" id="newest"')
        await browser.post("/plain/", {"text": "formas de pago", "client_id": "f1"})
        await browser.post("/plain/", {"question": "horario de cierre", "client_id": "f2"})
        page = (await browser.get("/plain/")).content.decode()
        assert page.index("Con tarjeta") < page.index("Cerramos a las ocho.")
        await browser.post("/plain/", {"person": "1"})
        assert "Ha pedido hablar con una persona" in (await browser.get("/plain/")).content.decode()
        stranger = await Browser().get("/plain/")
        assert "Con tarjeta" not in stranger.content.decode()

    serve(scenario)
    assert Conversation.objects.count() == 1
    assert Message.objects.filter(role="user").count() == 2


def test_a_plain_form_says_how_it_was(live: AdapterVersion) -> None:
    async def scenario() -> None:
        browser = Browser()
        assert "Was this conversation helpful?" not in (await browser.get("/plain/")).content.decode()
        await browser.post("/plain/", {"text": "formas de pago", "client_id": "f1"})
        for pressed, stored in (("down", "down"), ("up", "up"), ("", "")):
            rated = await browser.post("/plain/", {"rate": pressed})
            assert rated.headers["Location"] == "/plain/?rated#rating"
            thanked = (await browser.get(rated.headers["Location"])).content.decode()
            assert ("Thank you." in thanked) == bool(stored)
            assert (await Conversation.objects.aget()).rating == stored
            page = (await browser.get("/plain/")).content.decode()
            assert page.count('aria-pressed="true"') == bool(stored)
            assert "Thank you." not in page
        assert (await browser.post("/plain/", {"rate": "five"})).status_code == 400
        assert (await Browser().post("/plain/", {"rate": "up"})).status_code == 400

    serve(scenario)


def test_a_plain_form_does_not_wait_for_ever(live: AdapterVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "WAIT_SECONDS", 0.2)
    serving.prepare(live)

    async def scenario() -> None:
        browser = Browser()
        with held_engine():
            await browser.post("/plain/", {"text": "formas de pago", "client_id": "f1"})
            pages = [(await browser.get("/plain/")).content.decode() for _time in range(2)]
            first, second = (re.findall(r'href="([^"]*)">Look again', page) for page in pages)
            assert first[0].endswith("#newest")
            assert first != second, "to another place on the same page a browser goes without asking anew"

    serve(scenario)


def test_a_plain_form_gives_back_what_it_cannot_take(db: None) -> None:
    async def scenario() -> None:
        for text in ("", "a" * 1001):
            page = await Browser().post("/plain/", {"text": text, "client_id": "f1"})
            assert page.status_code == 400
            assert 'role="alert"' in page.content.decode()
            assert text in page.content.decode()

    serve(scenario)


def test_a_plain_form_trusts_no_cookie_that_it_did_not_sign(db: None) -> None:
    conversation, token = Conversation.start("es")
    conversation.messages.create(role="user", text="un secreto")

    async def scenario() -> None:
        browser = Browser()
        browser.cookies[plain.COOKIE] = f"{conversation.id} {token}"
        assert "un secreto" not in (await browser.get("/plain/")).content.decode()

    serve(scenario)


def test_a_plain_form_is_guarded_against_other_sites(live: AdapterVersion) -> None:
    async def scenario() -> None:
        guarded, browser = Browser(enforce_csrf_checks=True), Browser()
        assert (await guarded.post("/plain/", {"text": "hola", "client_id": "f1"})).status_code == 403
        assert (await browser.post("/plain/", {"text": "formas de pago", "client_id": "f2"})).status_code == 302
        guarded.cookies[plain.COOKIE] = browser.cookies[plain.COOKIE].value
        for name in ("forget", "download"):
            assert (await guarded.post("/plain/", {name: "1"})).status_code == 403

    serve(scenario)
    assert Message.objects.get(role="user").text == "formas de pago"


def test_a_plain_form_deletes_the_conversation(live: AdapterVersion) -> None:
    async def scenario() -> None:
        browser = Browser()
        assert 'name="forget"' not in (await browser.get("/plain/")).content.decode(), "there is none yet"
        await browser.post("/plain/", {"text": "formas de pago", "client_id": "f1"})
        page = (await browser.get("/plain/?deleted")).content.decode()
        assert 'name="forget"' in page
        assert "is deleted" not in page
        deleted = await browser.post("/plain/", {"forget": "1"})
        assert (deleted.status_code, deleted.headers["Location"]) == (302, "/plain/?deleted")
        assert (browser.cookies[plain.COOKIE].value, browser.cookies[plain.COOKIE]["path"]) == ("", "/plain/")
        again = await browser.post("/plain/", {"forget": "1"})
        assert (again.status_code, "not here any more" in again.content.decode()) == (404, True)
        page = (await browser.get("/plain/?deleted")).content.decode()
        assert "Your conversation is deleted." in page
        assert "Con tarjeta" not in page
        assert not await Conversation.objects.aexists()
        await browser.post("/plain/", {"text": "horario de cierre", "client_id": "f2"})
        assert "Cerramos a las ocho." in (await browser.get("/plain/")).content.decode(), "what follows begins another"

    serve(scenario)


def test_a_plain_form_gives_the_conversation_as_a_file(live: AdapterVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "_per_conversation", Allowances(capacity=1, per_second=0.001))

    async def scenario() -> None:
        browser = Browser()
        nothing = await browser.post("/plain/", {"download": "1"})
        assert (nothing.status_code, "not here any more" in nothing.content.decode()) == (404, True)
        await browser.post("/plain/", {"text": "formas de pago", "client_id": "f1"})
        assert 'name="download"' in (await browser.get("/plain/")).content.decode()
        conversation = await Conversation.objects.aget()
        given = await browser.post("/plain/", {"download": "1"})
        assert given.content == (await database_sync_to_async(rights.as_text_file)(conversation)).content
        assert "AI assistant\nCon tarjeta o transferencia.\n" in given.content.decode()
        assert given.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert given.headers["Content-Disposition"] == f'attachment; filename="conversation-{conversation}.txt"'
        assert given.headers["Cache-Control"] == "no-store"
        refused = await browser.post("/plain/", {"download": "1"})
        assert (refused.status_code, "Too many requests" in refused.content.decode()) == (429, True)

    serve(scenario)


def test_a_plain_form_deletes_nothing_for_a_stranger(db: None) -> None:
    conversation, token = Conversation.start("es")
    other, others = Conversation.start("es")
    signed = signing.get_cookie_signer(salt=plain.COOKIE).sign(f"{conversation.id} {others}")

    async def scenario() -> None:
        for cookie in ("", f"{conversation.id} {token}", signed):
            browser = Browser()
            browser.cookies[plain.COOKIE] = cookie
            for name in ("forget", "download"):
                refused = await browser.post("/plain/", {name: "1"})
                assert (refused.status_code, "is deleted" in refused.content.decode()) == (404, False)

    serve(scenario)
    assert set(Conversation.objects.all()) == {conversation, other}
