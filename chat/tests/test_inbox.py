"""Staff answer customers: both sides over real websockets. The customer's side alone: test_people.py."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.db.models.signals import pre_save
from django.test import Client as Browser
from django.utils import timezone
from django.utils.html import escape

from chat import handovers, inbox, retention
from chat.models import Conversation, Feedback, Handover, Message, PublicName
from chat.tests.test_consumers import ORIGIN, run
from chat.tests.test_consumers import Client as Page
from chat.tests.test_people import always_open, ask_for_person, waiting
from chatbot_site.asgi import application
from faq.models import FaqEntry
from training.consumers import CLOSE_FORBIDDEN, CLOSE_POLICY_VIOLATION
from training.models import AdapterVersion

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


def agent(username: str, first_name: str = "") -> User:
    """Somebody with the one permission that the inbox asks for."""
    user = User.objects.create_user(username, first_name=first_name, is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="answer_conversation"))
    return user


class Desk:
    """An inbox, as far as its frames go."""

    def __init__(self, user: User | None, language: str = "en") -> None:
        headers = [*ORIGIN, (b"accept-language", language.encode())]
        if user is not None:
            browser = Browser()
            browser.force_login(user)
            session = browser.cookies[settings.SESSION_COOKIE_NAME].value
            headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={session}".encode()))
        self.socket = WebsocketCommunicator(application, "/ws/inbox/", headers=headers)

    async def open(self) -> dict[str, Any]:
        assert (await self.socket.connect())[0]
        return await self.wait_for("inbox")

    async def send(self, kind: str, **values: Any) -> None:
        await self.socket.send_to(text_data=json.dumps({"type": kind, **values}))

    async def wait_for(self, kind: str, **having: Any) -> dict[str, Any]:
        """The next frame of a kind whose values are those given."""
        while True:
            frame: dict[str, Any] = json.loads(await self.socket.receive_from(timeout=10))
            if frame["type"] == kind and all(frame[name] == value for name, value in having.items()):
                return frame

    async def wait_for_end(self) -> int:
        while True:
            event = await self.socket.receive_output(timeout=10)
            if event["type"] == "websocket.close":
                return int(event["code"])

    async def close(self) -> None:
        await self.socket.disconnect()


def test_a_customer_and_a_person_talk_in_one_thread(live: AdapterVersion) -> None:
    always_open()
    desk = Desk(agent("lucia.p", "Lucía"))

    async def scenario() -> None:
        page = Page()
        await page.open()
        await page.ask("formas de pago", "c1")
        _, answer = await page.read_answer()
        await page.send({"type": "feedback", "message_id": answer["id"], "rating": "down"})
        await page.wait_for("message")
        assert (await desk.open())["waiting"] == []

        await ask_for_person(page)
        reference = (await page.wait_for("handover"))["handover"]["reference"]
        (row,) = (await desk.wait_for("inbox"))["waiting"]
        assert (row["reference"], row["is_here"], row["reason"]) == (reference, True, "Asked for a person")
        await page.ask("no encuentro <b>nada</b>", "c2")
        await page.wait_for("message")

        await desk.send("open", handover=row["id"])
        thread = await desk.wait_for("thread")
        said = {message["role"]: message for message in thread["messages"]}
        assert said["user"]["text"] == "no encuentro <b>nada</b>"
        version = await AdapterVersion.objects.aget()
        assert said["assistant"]["basis"][0] == "Answer: ¿Cómo puedo pagar?"
        assert said["assistant"]["basis"][1].endswith(" % sure")
        assert said["assistant"]["basis"][2:] == [str(version), "Not helpful"]
        assert (thread["may_take"], thread["is_mine"]) == (True, False)

        await desk.send("take", handover=row["id"])
        assert (await desk.wait_for("inbox", waiting=[]))["mine"][0]["waits"]
        assert "Lucía está ahora con usted" in (await page.wait_for("message"))["message"]["text"]
        assert (await page.wait_for("handover"))["handover"]["agent"] == "Lucía"

        for _ in range(2):
            await desk.send("reply", handover=row["id"], client_id="r1", text="Hola, **Ana**\n<b>mire</b>\0")
            await desk.wait_for("stored", client_id="r1")
        heard = (await page.wait_for("message"))["message"]
        assert (heard["role"], heard["author"], heard["text"]) == ("agent", "Lucía", "Hola, **Ana**\n<b>mire</b>")
        assert heard["html"] == "Hola, **Ana**\n&lt;b&gt;mire&lt;/b&gt;", "nothing in it is a mark"
        await page.send({"type": "resume"})
        ready = await page.wait_for("ready")
        assert [each["text"] for each in ready["messages"] if each["role"] == "agent"] == [heard["text"]]

        await desk.send("give_back", handover=row["id"])
        assert "Vuelve a hablar con el asistente" in (await page.wait_for("message"))["message"]["text"]
        assert (await page.wait_for("handover", "ready"))["handover"] is None
        await page.ask("horario de cierre", "c3")
        assert (await page.read_answer())[1]["text"] == "Cerramos a las ocho."
        assert "lucia.p" not in json.dumps(ready)
        await page.close()
        await desk.close()

    run(scenario)
    assert Feedback.objects.exists()


def test_each_hand_over_of_a_conversation_shows_its_own_last_words() -> None:
    lucia = agent("lucia")
    first = waiting()
    conversation = first.conversation
    conversation.messages.create(role="user", text="No llega.")
    handovers.take(first.pk, lucia)
    handovers.reply(first.pk, lucia, "Lo miro.", "r1")
    handovers.give_back(first.pk, lucia)

    second = handovers.ask(conversation, "en").handover
    rows = inbox.lists(lucia)
    assert [(row["last"], row["waits"]) for row in rows["waiting"]] == [("", True)], "what came before is not its own"
    assert handovers.waits(second)

    conversation.messages.create(role="user", text="¿Y ahora?")
    handovers.take(second.pk, lucia)
    handovers.reply(second.pk, lucia, "Resuelto.", "r2")
    handovers.close(second.pk, lucia)
    conversation.messages.create(role="user", text="Gracias, adiós.")
    assert [row["last"] for row in inbox.lists(lucia)["closed"]] == ["Resuelto.", "Lo miro."]


def test_of_two_who_take_it_one_gets_it_and_the_other_is_told_who() -> None:
    handover = waiting()
    desks = [Desk(agent("one", "Uno")), Desk(agent("two", "Dos"))]

    async def scenario() -> None:
        for desk in desks:
            await desk.open()
        for desk in desks:
            await desk.send("take", handover=handover.pk)
        for desk in desks:
            await desk.wait_for("inbox", waiting=[])
        winner = (await Handover.objects.select_related("taken_by").aget()).taken_by
        assert winner is not None
        loser = desks[1] if winner.username == "one" else desks[0]
        error = await loser.wait_for("error")
        assert error["text"] == f"{winner.first_name} has {handover.reference}."
        for move in ("take", "give_back", "close"):
            await loser.send(move, handover=handover.pk)
            assert (await loser.wait_for("error"))["code"] == "cannot"
        await loser.send("reply", handover=handover.pk, client_id="r1", text="Hola")
        assert (await loser.wait_for("error"))["client_id"] == "r1"
        await loser.send("open", handover=handover.pk)
        assert not (await loser.wait_for("thread"))["is_mine"]
        for desk in desks:
            await desk.close()

    run(scenario)
    assert not Message.objects.filter(role="agent").exists()
    assert Message.objects.filter(role="system").count() == 2


def test_a_closed_one_keeps_its_number_and_the_assistant_speaks_again(live: AdapterVersion) -> None:
    always_open()
    lucia = agent("lucia")
    desk = Desk(lucia)

    async def scenario() -> None:
        page = Page()
        await page.open()
        notice = await ask_for_person(page)
        handover = await Handover.objects.aget()
        await desk.open()
        await desk.send("take", handover=handover.pk)
        await page.wait_for("message")
        await desk.send("close", handover=handover.pk)
        closed = (await desk.wait_for("inbox", mine=[], waiting=[]))["closed"]
        assert [(row["reference"], row["state"]) for row in closed] == [(handover.reference, "closed")]
        text = (await page.wait_for("message"))["message"]["text"]
        assert handover.reference in text
        assert handover.reference in notice["text"]
        await page.ask("horario de cierre", "c1")
        assert (await page.read_answer())[1]["text"] == "Cerramos a las ocho."
        await page.close()
        await desk.close()

    run(scenario)
    handover = Handover.objects.get()
    assert (handover.closed_by, handover.closed_at is not None) == (lucia, True)


def test_the_inbox_is_alive_as_long_as_its_page_says_so() -> None:
    handover = waiting()
    lucia = agent("lucia", "Lucía")
    handovers.take(handover.pk, lucia)
    long_ago = timezone.now() - handovers.GONE_AFTER - timedelta(seconds=1)
    desk, other = Desk(lucia), Desk(agent("other"))
    Handover.objects.update(agent_seen_at=long_ago)

    async def scenario() -> None:
        assert (await other.open())["waiting"][0]["reference"] == handover.reference, "whoever looks frees it"
        await other.close()
        await desk.open()
        await desk.send("take", handover=handover.pk)
        await desk.wait_for("inbox", waiting=[])
        await Handover.objects.aupdate(agent_seen_at=long_ago)
        await desk.send("ping")
        assert (await desk.wait_for("inbox"))["mine"]
        await desk.close()

    run(scenario)
    assert Handover.objects.filter(state="taken", agent_seen_at__gt=long_ago).exists()


def test_published_answers_can_be_looked_up(shop: Any) -> None:
    FaqEntry.objects.filter(key="hours").update(status="draft")
    desk = Desk(agent("lucia"))

    async def scenario() -> None:
        await desk.open()
        await desk.send("find", text="tarjeta pagar")
        (found,) = (await desk.wait_for("found"))["answers"]
        assert found == {"question": "¿Cómo puedo pagar?", "answer": "Con tarjeta o transferencia."}
        await desk.send("find", text="cerramos")
        assert (await desk.wait_for("found"))["answers"] == []
        await desk.close()

    run(scenario)


@pytest.mark.parametrize("who", ["stranger", "customer", "staff", "agent", "retired agent"])
def test_only_who_may_answer_is_let_in(who: str) -> None:
    waiting()
    user = None
    if who != "stranger":
        user = agent("somebody") if "agent" in who else User.objects.create_user("somebody", is_staff=who == "staff")
    desk = Desk(user)
    if who == "retired agent":
        User.objects.update(is_staff=False)

    async def scenario() -> None:
        if who == "agent":
            assert len((await desk.open())["waiting"]) == 1
        else:
            assert (await desk.socket.connect())[0]
            event = await desk.socket.receive_output(timeout=10)
            assert (event["type"], event["code"]) == ("websocket.close", CLOSE_FORBIDDEN), "nothing was said"
        await desk.close()

    run(scenario)


@pytest.mark.parametrize("kind", ["frame", "signal"])
def test_a_right_that_is_taken_away_ends_it(kind: str) -> None:
    handover = waiting()
    lucia = agent("lucia")
    desk = Desk(lucia)

    async def scenario() -> None:
        await desk.open()
        await database_sync_to_async(lucia.user_permissions.clear)()
        if kind == "frame":
            await desk.send("take", handover=handover.pk)
        else:
            page = Page()
            await page.open()
            await ask_for_person(page)
            await page.close()
        assert (await desk.socket.receive_output(timeout=10))["code"] == CLOSE_FORBIDDEN
        await desk.close()

    run(scenario)
    handover.refresh_from_db()
    assert handover.state == "waiting"


BADGE = '<span class="room-badge">1<span class="visually-hidden"> waiting</span></span>'
BAD_FRAMES = [
    " ",
    "[]",
    "{}",
    '{"type": 7}',
    '{"type": "dance"}',
    '{"type": "take"}',
    '{"type": "take", "handover": "1"}',
    '{"type": "take", "handover": true}',
    '{"type": "take", "handover": 99999999999999999999}',
    '{"type": "take", "handover": 424242}',
    '{"type": "open", "handover": [1]}',
    '{"type": "open", "handover": 424242}',
    '{"type": "reply", "handover": 1, "text": "x"}',
    '{"type": "reply", "handover": 1, "client_id": "a", "text": " "}',
    '{"type": "reply", "handover": 1, "client_id": "a", "text": "\\ud800"}',
    json.dumps({"type": "reply", "handover": 1, "client_id": "a", "text": "x" * (handovers.MAX_REPLY_CHARS + 1)}),
    '{"type": "reply", "handover": 424242, "client_id": "a", "text": "x"}',
    "x" * 20_000,
]


def test_bad_frames_get_an_error_and_harm_nobody() -> None:
    desk = Desk(agent("lucia"), language="es")

    async def scenario() -> None:
        await desk.open()
        for frame in BAD_FRAMES:
            await desk.socket.send_to(text_data=frame)
            assert (await desk.wait_for("error"))["text"], frame
        await desk.send("ping")
        await desk.wait_for("inbox")
        await desk.close()

    run(scenario)


def test_a_flood_is_ended() -> None:
    desk = Desk(agent("lucia"))

    async def scenario() -> None:
        await desk.open()
        for _ in range(60):
            await desk.send("find", text="x")
        assert await desk.wait_for_end() == CLOSE_POLICY_VIOLATION
        await desk.close()

    run(scenario)


def test_a_conversation_with_a_hand_over_can_be_deleted_in_the_admin(client: Browser) -> None:
    handover = waiting()
    client.force_login(User.objects.create_superuser("olga"))
    client.post(f"/admin/chat/conversation/{handover.conversation_id}/delete/", {"post": "yes"})
    assert not Handover.objects.exists()


def test_what_is_deleted_goes_from_the_inbox_at_once() -> None:
    handover = waiting()
    lucia = agent("lucia")
    handovers.take(handover.pk, lucia)
    desk = Desk(lucia)

    async def scenario() -> None:
        await desk.open()
        await desk.send("open", handover=handover.pk)
        await desk.wait_for("thread", is_mine=True)

        await database_sync_to_async(retention.forget)(Conversation.objects.all())

        assert (await desk.wait_for("inbox"))["mine"] == []
        assert (await desk.wait_for("error", code="gone"))["text"] == "This conversation has been deleted."
        await desk.send("reply", handover=handover.pk, client_id="r1", text="Un momento")
        assert (await desk.wait_for("error", code="cannot"))["client_id"] == "r1"
        await desk.close()

    run(scenario)


def test_the_page_names_who_writes(client: Browser) -> None:
    client.force_login(agent("lucia.p", "Lucía"))
    page = client.get("/admin/chat/handover/inbox/").content.decode()
    assert "customers read from “Lucía”" in page
    assert 'href="/admin/chat/handover/inbox/"' in page, "in the menu"


def test_whoever_only_answers_finds_on_the_front_page_how_many_wait(client: Browser) -> None:
    user = agent("lucia")
    client.force_login(user)
    page = client.get("/admin/").content.decode()
    assert "No customer waits for a person." in page
    assert "room-badge" not in page
    waiting()
    handovers.take(waiting().pk, user)

    page = client.get("/admin/").content.decode()

    assert "1 customer waits for a person." in page
    assert BADGE in client.get("/admin/password_change/").content.decode(), "on every page"
    assert '<a class="room-button" href="/admin/chat/handover/inbox/">' in page
    client.force_login(User.objects.create_user("staff", is_staff=True))
    page = client.get("/admin/").content.decode()
    assert "customer waits" not in page, "not for others"
    assert "room-badge" not in page


@pytest.mark.parametrize(
    "address",
    [
        "/admin/",
        "/admin/chat/handover/",
        "/admin/chat/handover/inbox/",
        "/admin/training/adapterversion/",
        "/admin/training/adapterversion/playground/",
    ],
)
def test_the_menu_lights_one_entry(client: Browser, address: str) -> None:
    client.force_login(User.objects.create_superuser("olga"))

    groups = client.get(address).context["sidebar_navigation"]

    assert [item["link"] for group in groups for item in group["items"] if item["active"]] == [address]


def test_an_empty_list_asks_nobody_for_what_they_cannot_do(client: Browser) -> None:
    client.force_login(User.objects.create_superuser("olga"))

    page = client.get("/admin/chat/handover/").content.decode()
    filtered = client.get("/admin/chat/handover/?state__exact=waiting").content.decode()

    assert "There is nothing here yet." in page
    assert "Nothing matches the search and the filters." in filtered
    assert "Create a new item" not in page + filtered


NAME = "/admin/chat/handover/inbox/name/"


def test_people_choose_the_name_that_customers_read(client: Browser) -> None:
    user = agent("lucia.p", "Lucía")
    client.force_login(user)

    page = client.post(NAME, {"name": "  Zoë O’Neil-D'Or  jr. "}, follow=True).content.decode()
    assert "“Zoë O’Neil-D&#x27;Or jr.”" in page
    handover = waiting()
    handovers.take(handover.pk, user)
    handovers.reply(handover.pk, user, "Hola", "r1")
    notice, answer = handover.conversation.messages.order_by("-pk")[:2][::-1]
    assert answer.author == "Zoë O’Neil-D'Or jr."
    assert notice.text.startswith("Zoë O’Neil-D'Or jr. is with you now.")

    client.post(NAME, {"name": "नेहा"})
    assert handovers.name_of(user) == "नेहा"
    client.post(NAME, {"name": " "})
    assert handovers.name_of(user) == "Lucía"
    answer.refresh_from_db()
    assert answer.author == "Zoë O’Neil-D'Or jr.", "what was said then stays"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a" * 41, "at most 40 characters"),
        ("Lu\u202ecía", "cannot be seen"),
        ("[Lucía](https://evil.example)", "Only letters"),
        ("<b>Lucía</b>", "Only letters"),
        ("lucia@evil.example", "Only letters"),
        ("**Lucía**", "Only letters"),
        ("www.evil.example", "reads as an address"),
        ("1. Lucía", "reads as an address"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_stays_to_be_mended(client: Browser, name: str, why: str) -> None:
    user = agent("lucia.p", "Lucía")
    client.force_login(user)

    page = client.post(NAME, {"name": name}).content.decode()

    assert why in page
    assert f'value="{escape(name)}"' in page
    assert handovers.name_of(user) == "Lucía"


def test_of_two_names_that_are_chosen_at_once_one_stays() -> None:
    """Both windows find that none has been chosen before either keeps one."""
    user = agent("lucia.p", "Lucía")
    both = Barrier(2)

    def wait(**_: Any) -> None:
        # Where the other is not let in meanwhile, it is alone.
        with suppress(BrokenBarrierError):
            both.wait(timeout=1)

    def choose(name: str) -> int:
        browser = Browser()
        browser.force_login(user)
        try:
            return browser.post(NAME, {"name": name}).status_code
        finally:
            connection.close()

    pre_save.connect(wait, sender=PublicName)
    try:
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(choose, ["Ana", "Eva"])) == [302, 302]
    finally:
        pre_save.disconnect(wait, sender=PublicName)
    assert handovers.name_of(user) in ("Ana", "Eva")


def test_a_name_is_chosen_for_oneself_alone(client: Browser) -> None:
    client.force_login(agent("one", "Uno"))
    other = agent("two", "Dos")

    client.post(NAME, {"name": "Ana", "user": other.pk})

    assert handovers.name_of(other) == "Dos"


def test_a_person_steps_in_where_the_assistant_speaks(live: AdapterVersion, client: Browser) -> None:
    user = User.objects.create_superuser("lucia.p", first_name="Lucía")
    client.force_login(user)

    async def scenario() -> None:
        page = Page()
        await page.open()
        await page.ask("formas de pago", "c1")
        await page.read_answer()
        url = f"/admin/chat/conversation/{page.conversation['conversation']}/"
        shown = await database_sync_to_async(client.get)(url + "change/")
        assert "step-in/" in shown.content.decode()

        led = await database_sync_to_async(client.post)(url + "step-in/")

        handover = (await page.wait_for("handover"))["handover"]
        assert (handover["state"], handover["agent"]) == ("taken", "Lucía")
        opened = await Handover.objects.aget()
        assert led.headers["location"] == f"/admin/chat/handover/inbox/?handover={opened.pk}"
        await page.ask("¿y con bizum?", "c2")
        assert (await page.wait_for("message"))["message"]["role"] == "user"
        again = await database_sync_to_async(client.post)(url + "step-in/", follow=True)
        assert f"Lucía has {handover['reference']}" in again.content.decode()
        assert "step-in/" not in again.content.decode()
        await page.close()

    run(scenario)
    handover = Handover.objects.get()
    assert (handover.reason, handover.taken_by) == ("staff", user)
    assert inbox.lists(user)["mine"][0]["was_asked"] is False
    said = list(handover.conversation.messages.values_list("role", flat=True))
    assert said == ["user", "assistant", "system", "user"], "the assistant is silent"
    notice = handover.conversation.messages.get(role="system").text
    assert notice.startswith("Lucía está ahora con usted."), "as the customer wrote"
    assert handover.reference in notice
    assert handover.conversation.wants_person_at is None, "nobody asked"


def test_nobody_steps_in_where_a_customer_has_long_left(client: Browser) -> None:
    client.force_login(User.objects.create_superuser("olga"))
    conversation, _token = Conversation.start("es")
    Conversation.objects.update(updated_at=timezone.now() - timedelta(hours=2))

    url = f"/admin/chat/conversation/{conversation.pk}/"

    assert "step-in/" not in client.get(url + "change/").content.decode()
    page = client.post(url + "step-in/", follow=True).content.decode()

    assert "Nothing was said here for more than an hour" in page
    assert not Handover.objects.exists()


def test_who_steps_in_is_announced_in_the_language_that_was_spoken(client: Browser) -> None:
    client.force_login(User.objects.create_superuser("olga", first_name="Olga"))
    conversation, _token = Conversation.start("es")
    conversation.messages.create(role="user", text="how can I pay")

    client.post(f"/admin/chat/conversation/{conversation.pk}/step-in/")

    assert Handover.objects.get().language == "en"
    assert conversation.messages.get(role="system").text.startswith("Olga is with you now.")


def test_staff_read_notices_without_marks(client: Browser) -> None:
    handover = waiting()
    question = handover.conversation.messages.create(role="user", text="**hola**")
    olga = User.objects.create_superuser("olga")
    client.force_login(olga)

    notice, asked = inbox.thread(handover.pk, olga)["messages"]
    page = client.get(f"/admin/chat/conversation/{handover.conversation_id}/change/").content.decode()

    assert f"Your number is {handover.reference}." in notice["text"]
    assert f"Your number is {handover.reference}." in page
    assert asked["text"] == question.text, "as the customer wrote it"


def test_the_conversations_page_is_linked_for_those_who_may_see_it() -> None:
    handover = waiting()
    page = f"/admin/chat/conversation/{handover.conversation_id}/change/"

    assert inbox.thread(handover.pk, User.objects.create_superuser("olga"))["url"] == page
    assert inbox.thread(handover.pk, agent("lucia"))["url"] == ""


def test_the_overview_of_whoever_trains_tells_who_waits_too(client: Browser) -> None:
    client.force_login(User.objects.create_superuser("olga"))
    waiting()

    page = client.get("/admin/").content.decode()

    assert "1 customer waits for a person." in page
    assert "No version is live yet." in page


def test_a_hand_over_is_deleted_with_its_conversation_alone(client: Browser) -> None:
    handover = waiting()
    client.force_login(User.objects.create_superuser("olga"))
    url = f"/admin/chat/handover/{handover.pk}/"

    assert f"{url}delete/" not in client.get(url + "change/").content.decode()
    assert client.post(url + "delete/", {"post": "yes"}).status_code == 403
    assert Handover.objects.exists()
