"""A customer asks for a person: what is said, and that the assistant is silent. Staff's side: test_inbox.py."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from pytest_django import Settings

from chat import handovers, opening, people
from chat.handovers import CannotDo
from chat.models import ClosedDay, Conversation, Handover, Message, OpeningHours
from chat.tests.test_consumers import Client as Page
from chat.tests.test_consumers import held_engine, run
from chat.tests.test_turns import Browser, serve
from training import serving
from training.models import AdapterVersion

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]

MADRID = ZoneInfo("Europe/Madrid")
# A Monday.
MONDAY = datetime(2026, 11, 30, 10, tzinfo=MADRID)


def always_open() -> None:
    OpeningHours.objects.bulk_create(
        [OpeningHours(weekday=day, opens=time(0), closes=time(23, 59, 59, 999999)) for day in range(7)]
    )


def never_open_today() -> None:
    OpeningHours.objects.create(
        weekday=(timezone.localtime() + timedelta(days=2)).weekday(), opens=time(9), closes=time(18)
    )


def agent(username: str = "lucia", first_name: str = "Lucía") -> User:
    return User.objects.create_user(username, first_name=first_name, is_staff=True, is_superuser=True)


def waiting(**values: Any) -> Handover:
    conversation, _token = Conversation.start("en")
    change = handovers.ask(conversation, "en")
    Handover.objects.filter(pk=change.handover.pk).update(**values)
    change.handover.refresh_from_db()
    return change.handover


def texts(handover: Handover) -> list[str]:
    return list(handover.conversation.messages.values_list("text", flat=True))


async def ask_for_person(page: Page) -> dict[str, Any]:
    await page.send({"type": "person"})
    notice: dict[str, Any] = (await page.wait_for("message"))["message"]
    return notice


@pytest.mark.parametrize("contact", ["", "Llame al 900 123 456"])
def test_who_asks_is_told_the_number_the_place_and_the_hours(settings: Settings, contact: str) -> None:
    settings.PERSON_CONTACT = contact
    always_open()
    waiting()

    async def scenario() -> None:
        page = Page()
        await page.open()
        notice = await ask_for_person(page)
        handover = (await page.wait_for("handover"))["handover"]
        assert notice["role"] == "system"
        assert handover["reference"] in notice["text"]
        assert "1 person is before you" in notice["text"]
        assert "Monday to Sunday 00:00–23:59" in notice["text"]
        assert contact in notice["text"]
        assert (handover["state"], handover["asks_for_email"]) == ("waiting", False)
        await page.send({"type": "person"})
        again = await page.wait_for("handover", "message")
        assert (again["type"], again.get("handover")) == ("handover", handover), "it is not said twice"
        await page.send({"type": "resume"})
        ready = await page.wait_for("ready")
        assert (ready["handover"], len(ready["messages"])) == (handover, 1), "also after a reload"
        await page.close()

    run(scenario)
    assert Conversation.objects.exclude(wants_person_at=None).count() == 2


def test_the_assistant_is_silent_until_the_customer_goes_back_to_it(live: AdapterVersion) -> None:
    always_open()

    async def scenario() -> None:
        page = Page()
        await page.open()
        await ask_for_person(page)
        await page.ask("formas de pago", "c1")
        assert (await page.wait_for("message"))["message"]["role"] == "user"
        await page.send({"type": "leave_people"})
        assert "back with the AI assistant" in (await page.wait_for("message", "done"))["message"]["text"]
        assert (await page.wait_for("handover"))["handover"] is None
        await page.ask("horario de cierre", "c2")
        _, answer = await page.read_answer()
        assert answer["text"] == "Cerramos a las ocho."
        await page.send({"type": "leave_people"})
        assert (await page.wait_for("error"))["code"] == "not_handed_over"
        await page.close()

    run(scenario)
    assert Message.objects.filter(role="assistant").count() == 1
    assert Handover.objects.get().state == "returned"


def test_a_reply_that_is_being_written_ends_when_a_person_is_asked_for(live: AdapterVersion) -> None:
    serving.prepare(live)

    async def scenario() -> None:
        page = Page()
        await page.open()
        with held_engine():
            await page.ask("formas de pago", "c1")
            await page.wait_for("message")
            await page.wait_for("message")
            assert (await ask_for_person(page))["role"] == "system"
        assert (await page.wait_for("done"))["message"]["finish_reason"] == "cancelled"
        await page.close()

    run(scenario)
    assert Message.objects.get(role="assistant").text == ""


def test_the_second_i_dont_know_is_the_reason(live: AdapterVersion) -> None:
    async def scenario() -> None:
        page = Page()
        await page.open()
        for number, text in enumerate(("zzzz wwww", "qqqq xxxx")):
            await page.ask(text, f"c{number}")
            await page.read_answer()
        await ask_for_person(page)
        await page.close()

    run(scenario)
    assert Handover.objects.get().reason == Handover.Reason.NOT_UNDERSTOOD


def test_off_hours_it_says_when_people_are_back_and_takes_an_address() -> None:
    never_open_today()

    async def scenario() -> None:
        page = Page()
        await page.open()
        notice = await ask_for_person(page)
        handover = (await page.wait_for("handover"))["handover"]
        assert "Nobody is here now. We are back" in notice["text"]
        assert ", at 09:00." in notice["text"]
        assert "You are next" not in notice["text"]
        assert handover["asks_for_email"]
        for wrong in ("", "nobody", "a@b", 7, None, "a@example.com\nBcc: b@example.com"):
            await page.send({"type": "contact", "email": wrong})
            assert (await page.wait_for("error", "message"))["code"] == "bad_email"
        await page.send({"type": "contact", "email": " ana@example.com "})
        await page.send({"type": "contact", "email": "ana@example.com"})
        assert "ana@example.com" in (await page.wait_for("message"))["message"]["text"]
        handover = (await page.wait_for("handover"))["handover"]
        assert (handover["email"], handover["asks_for_email"]) == ("ana@example.com", False)
        await page.close()

    run(scenario)
    assert Handover.objects.get().email == "ana@example.com"
    assert Message.objects.filter(text__contains="ana@example.com").count() == 1, "sent again is not said again"


def test_without_hours_nothing_is_promised() -> None:
    text = texts(waiting())[0]
    assert "We cannot say when" in text
    assert "We are back" not in text


def test_an_address_needs_somebody_who_waits() -> None:
    async def scenario() -> None:
        page = Page()
        await page.open()
        await page.send({"type": "contact", "email": "ana@example.com"})
        assert (await page.wait_for("error"))["code"] == "unknown_conversation"
        await page.send({"type": "leave_people"})
        assert (await page.wait_for("error"))["code"] == "unknown_conversation"
        await page.close()

    run(scenario)
    assert not Handover.objects.exists()


@pytest.mark.parametrize("move", [handovers.close, handovers.give_back])
def test_a_page_that_was_away_hears_that_people_have_closed_it(db: None, move: Any) -> None:
    always_open()
    conversation, token = Conversation.start("en")
    handover = handovers.ask(conversation, "en").handover
    olga = agent()
    handovers.take(handover.pk, olga)

    async def scenario() -> None:
        page = Page()
        assert not (await page.open(conversation=str(conversation.pk), token=token))["has_ended"]
        change = await database_sync_to_async(move)(handover.pk, olga)
        await people.tell(change)
        has_ended = move is handovers.close
        told = await page.wait_for("handover")
        assert (told["handover"], told["has_ended"]) == (None, has_ended)
        await page.send({"type": "resume"})
        assert (await page.wait_for("ready"))["has_ended"] == has_ended
        await page.ask("hello")
        await page.wait_for("done")
        await page.send({"type": "resume"})
        assert not (await page.wait_for("ready"))["has_ended"], "something was said since"
        await page.close()

    run(scenario)


def test_who_waits_long_is_told_once() -> None:
    always_open()
    handover = waiting()
    assert handovers.look() == []
    Handover.objects.update(asked_at=timezone.now() - handovers.LONG_WAIT - timedelta(seconds=1))

    assert [change.handover for change in handovers.look()] == [handover]
    assert handovers.look() == []
    assert "taking longer" in texts(handover)[-1]


def test_a_page_that_is_open_hears_that_it_takes_longer() -> None:
    always_open()

    async def scenario() -> None:
        page = Page()
        await page.open()
        await ask_for_person(page)
        long_ago = timezone.now() - handovers.LONG_WAIT - timedelta(seconds=1)
        await Handover.objects.aupdate(asked_at=long_ago, customer_seen_at=long_ago)
        await page.send({"type": "ping"})
        assert (await page.wait_for("pong"))["handover"]["asks_for_email"]
        assert "taking longer" in (await page.wait_for("message"))["message"]["text"]
        await page.close()

    run(scenario)
    assert Handover.objects.get().is_customer_here


def test_a_person_who_is_gone_holds_nobody() -> None:
    always_open()
    handover, lucia = waiting(), agent()
    handovers.take(handover.pk, lucia)
    long_ago = timezone.now() - handovers.GONE_AFTER - timedelta(seconds=1)
    handovers.reply(handover.pk, lucia, "Un momento.", "r1")
    Handover.objects.update(agent_seen_at=long_ago)
    assert handovers.look() == [], "the customer has an answer and waits for nothing"
    handover.conversation.messages.create(role="user", text="¿Sigue ahí?")

    (change,) = handovers.look()

    handover.refresh_from_db()
    assert (handover.state, handover.taken_by) == ("waiting", None)
    assert "Lucía is not there any more" in change.said[0].text
    assert handover.reference in change.said[0].text
    assert handovers.look() == []
    with pytest.raises(CannotDo):
        handovers.reply(handover.pk, lucia, "Ya estoy.", "r2")


def test_who_never_asked_for_a_person_gets_back_to_the_assistant_when_they_are_gone() -> None:
    conversation, _token = Conversation.start("en")
    conversation.messages.create(role="user", text="how can I pay")
    conversation.messages.create(role="assistant", text="By card.", finish_reason="stop")
    handover = handovers.step_in(conversation, agent(), "en").handover
    Handover.objects.update(agent_seen_at=timezone.now() - handovers.GONE_AFTER - timedelta(seconds=1))

    (change,) = handovers.look()

    handover.refresh_from_db()
    assert handover.state == "returned"
    assert handover.returned_at is not None
    assert change.said[0].text.startswith("You are back with the AI assistant.")
    assert handovers.look() == []


def test_a_sign_of_life_keeps_it() -> None:
    handover, lucia = waiting(), agent()
    handovers.take(handover.pk, lucia)
    Handover.objects.update(agent_seen_at=timezone.now() - handovers.GONE_AFTER - timedelta(seconds=1))
    handovers.see_agent(lucia)
    assert handovers.look() == []


def test_one_is_open_at_a_time_and_each_has_its_own_number() -> None:
    handover = waiting()
    again = handovers.ask(handover.conversation, "en")
    assert (again.handover, again.said) == (handover, [])
    with pytest.raises(IntegrityError), transaction.atomic():
        Handover.objects.create(conversation=handover.conversation, reference="A-1", reason="asked", language="en")
    handovers.leave(handover.conversation)
    later = handovers.ask(handover.conversation, "en").handover
    assert later.reference != handover.reference


def test_a_conversation_takes_its_hand_overs_with_it() -> None:
    handover = waiting(email="ana@example.com")
    handovers.take(handover.pk, agent())
    handover.conversation.delete()
    assert not Handover.objects.exists()


def test_the_login_is_never_said() -> None:
    handover = waiting()
    handovers.take(handover.pk, agent("admin-7731", first_name=""))
    handovers.reply(handover.pk, User.objects.get(), "Hola", "r1")
    said = list(handover.conversation.messages.values_list("author", "text"))
    assert "admin-7731" not in str(said)
    assert said[-1] == ("Our team", "Hola")


def test_people_are_polled_where_sockets_do_not_come_through() -> None:
    async def scenario() -> None:
        browser = Browser()
        answer = await browser.post(
            "/chat/frames/?site=&language=en",
            {"conversation": "", "frame": {"type": "person"}},
            content_type="application/json",
            headers={"origin": "http://testserver"},
        )
        ready = answer.json()["frames"][-1]
        assert ready["handover"]["state"] == "waiting"
        assert ready["messages"][0]["role"] == "system"

    serve(scenario)


def test_the_plain_form_leaves_an_address_and_goes_back() -> None:
    async def scenario() -> None:
        browser = Browser()
        await browser.post("/plain/", {"person": "1"})
        page = (await browser.get("/plain/")).content.decode()
        assert "You asked for a person" in page
        assert page.index("You asked for a person") < page.index('type="email"') < page.index("<textarea")
        refused = await browser.post("/plain/", {"email": "nobody"})
        assert (refused.status_code, "That is not an e-mail address." in refused.content.decode()) == (400, True)
        await browser.post("/plain/", {"email": "ana@example.con"})
        page = (await browser.get("/plain/")).content.decode()
        assert page.index("<summary>Correct the address</summary>") < page.index('value="ana@example.con"')
        await browser.post("/plain/", {"email": "ana@example.com"})
        handover = await Handover.objects.select_related("conversation").aget()
        assert handover.email == "ana@example.com"
        lucia = await database_sync_to_async(agent)()
        await database_sync_to_async(handovers.take)(handover.pk, lucia)
        text = "<b>Hola</b> **Ana**\nhttps://a.es"
        change = await database_sync_to_async(handovers.reply)(handover.pk, lucia, text, "r1")
        await people.tell(change)
        page = (await browser.get("/plain/")).content.decode()
        assert "&lt;b&gt;Hola&lt;/b&gt; **Ana**\n" in page
        assert '<a href="https://a.es" rel="noopener noreferrer">https://a.es</a>' in page
        assert "Lucía" in page
        assert page.index("<summary>Back to the assistant</summary>") < page.index('name="leave_people"')
        await browser.post("/plain/", {"leave_people": "1"})
        assert "Back to the assistant" not in (await browser.get("/plain/")).content.decode()

    serve(scenario)


# Opening hours


def office_hours() -> None:
    for day in range(5):
        OpeningHours.objects.create(weekday=day, opens=time(9), closes=time(14))
        OpeningHours.objects.create(weekday=day, opens=time(16), closes=time(18, 30))
    OpeningHours.objects.create(weekday=5, opens=time(10), closes=time(13))


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        (MONDAY.replace(hour=8, minute=59), False),
        (MONDAY.replace(hour=9), True),
        (MONDAY.replace(hour=14), False),
        (MONDAY.replace(hour=18, minute=29), True),
        (MONDAY.replace(hour=12) + timedelta(days=5), True),
        (MONDAY.replace(hour=12) + timedelta(days=6), False),
        # The time zone is the site's.
        (datetime(2026, 11, 30, 8, 30, tzinfo=UTC), True),
    ],
)
def test_it_is_open_within_the_hours(moment: datetime, is_open: bool) -> None:
    office_hours()
    assert opening.is_open(moment) == is_open


def test_it_knows_when_it_opens_again() -> None:
    assert opening.next_opening(MONDAY) is None
    office_hours()
    ClosedDay.objects.create(day=date(2026, 12, 1), name="Holiday")
    assert opening.next_opening(MONDAY) == MONDAY.replace(hour=16)
    assert opening.next_opening(MONDAY.replace(hour=19)) == datetime(2026, 12, 2, 9, tzinfo=MADRID)
    assert not opening.is_open(MONDAY + timedelta(days=1))
    # The clocks go back in the night before.
    assert opening.next_opening(datetime(2026, 10, 24, 20, tzinfo=MADRID)) == datetime(2026, 10, 26, 8, tzinfo=UTC)


def test_it_says_the_hours_in_a_line() -> None:
    assert opening.hours_in_words() == ""
    office_hours()
    assert opening.hours_in_words() == "Monday to Friday 09:00–14:00, 16:00–18:30; Saturday 10:00–13:00"
    OpeningHours.objects.filter(weekday=2).delete()
    assert opening.hours_in_words().startswith("Monday, Tuesday, Thursday and Friday 09:00–14:00, 16:00–18:30; Sat")
    OpeningHours.objects.filter(weekday=4).delete()
    OpeningHours.objects.create(weekday=2, opens=time(9), closes=time(18))
    assert opening.hours_in_words() == (
        "Monday, Tuesday and Thursday 09:00–14:00, 16:00–18:30; Wednesday 09:00–18:00; Saturday 10:00–13:00"
    )
    OpeningHours.objects.exclude(weekday=2).delete()
    for day in (0, 1, 3, 6):
        OpeningHours.objects.create(weekday=day, opens=time(9), closes=time(18))
    assert opening.hours_in_words() == "Monday to Thursday and Sunday 09:00–18:00"


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (MONDAY.replace(hour=20), "today at 20:00"),
        (MONDAY + timedelta(days=1), "tomorrow at 10:00"),
        (MONDAY + timedelta(days=2), "on Wednesday, December 2, at 10:00"),
        (MONDAY + timedelta(days=32), "on Friday, Jan. 1, 2027, at 10:00"),
    ],
)
def test_it_says_when_people_are_back(moment: datetime, words: str) -> None:
    assert opening.moment_in_words(moment, now=MONDAY.astimezone(UTC)) == words


def test_hours_end_after_they_begin() -> None:
    with pytest.raises(ValidationError, match="later"):
        OpeningHours(weekday=0, opens=time(9), closes=time(9)).full_clean()


def test_who_comes_back_reads_in_their_language_how_things_stand(settings: Settings) -> None:
    settings.LANGUAGE_CODE = "es"
    always_open()

    async def scenario() -> None:
        page = Page()
        await page.open()
        await ask_for_person(page)
        await page.close()
        again = Page()
        ready = await again.open(**page.conversation)
        assert ready["handover"]["note"] == "Waiting for a person. You are next."
        await again.close()

    run(scenario)
