"""Staff and conversations: finding, reading, taking out, deleting, and learning from them."""

from __future__ import annotations

import csv
import json
import re
from datetime import datetime, timedelta
from io import StringIO
from typing import Any
from urllib.parse import urlencode

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.test import AsyncClient, Client
from django.utils import timezone

from chat.models import Conversation, DailyFigures, Feedback, Handover, Message, Site
from chat.tests.test_retention import make_conversation
from faq.models import FaqEntry, Paraphrase
from training.tests.conftest import MakeVersion

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.database,
    # The test client is synchronous; the server is not.
    pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume asynchronous"),
]

LIST = "/admin/chat/conversation/"


@pytest.fixture
def olga(client: Client, shop: None) -> User:
    """Olga owns the shop, and has logged in."""
    user = User.objects.create_superuser("olga")
    client.force_login(user)
    return user


def say(*texts: str, **values: Any) -> Conversation:
    """A conversation of these questions, the last with a reply."""
    conversation, _ = Conversation.start("es")
    for number, text in enumerate(texts):
        conversation.messages.create(role="user", text=text, client_id=f"c{number}")
    conversation.messages.create(role="assistant", **{"finish_reason": "stop", "text": "Con tarjeta.", **values})
    return conversation


def listed(client: Client, query: str) -> set[str]:
    response = client.get(LIST + query)
    assert response.status_code == 200, response.headers
    return {str(each.pk) for each in response.context["cl"].result_list}


def keys(*conversations: object) -> set[str]:
    return {str(each.pk if isinstance(each, Conversation) else each) for each in conversations}


def test_conversations_are_found_by_what_was_said_an_entry_or_their_number(client: Client, olga: User) -> None:
    paid = say("¿Puedo pagar con Bizum?", "¿o con PayPal?", entry_key="pay")
    hours = say("¿Cuándo abren?", entry_key="hours")

    assert listed(client, "?q=bizum") == keys(paid)
    assert listed(client, "?q=tarjeta") == keys(paid, hours)
    assert listed(client, "?q=hours") == keys(hours)
    assert listed(client, f"?q={str(paid.pk)[:8]}") == keys(paid)
    assert listed(client, f"?q={hours.pk}") == keys(hours)
    assert listed(client, "?q=bizum+paypal") == keys(paid)
    assert listed(client, "?q=%22pagar+con%22") == keys(paid)
    assert listed(client, "?q=%22con+pagar%22") == set()
    assert listed(client, "?q=nada") == set()


@pytest.mark.parametrize("word", ["lampara", "LÁMPARA", "Lampara", "lámpara", "la\u0301mpara"])
def test_the_search_minds_neither_capitals_nor_accents(client: Client, olga: User, word: str) -> None:
    texts = ("la lámpara", "LÁMPARAS", "Lampara", "una la\u0301mpara")
    wanted = [say(text, text="Sí.") for text in texts]
    say("¿Cuándo abren?")

    assert listed(client, f"?{urlencode({'q': word})}") == keys(*wanted)


def test_the_search_takes_every_character_for_itself(client: Client, olga: User) -> None:
    marks = "***(?i)[a-ñ]+.$^|{1}%_#&~- /?"
    marked = say(f"¿Qué es {marks}?", text="Nada.")
    say("abc", text="Nada.")

    assert listed(client, f"?{urlencode({'q': repr(marks)})}") == keys(marked)
    assert listed(client, f"?{urlencode({'q': 'ñ.' * 1_000})}") == set()


def test_conversations_are_found_by_who_wrote_and_by_the_number_of_a_handover(client: Client, olga: User) -> None:
    told, handed_over = say("uno"), say("dos")
    Conversation.objects.filter(pk=told.pk).update(customer_name="María Núñez", customer_email="maria@example.com")
    handed_over.handovers.create(reference="T-4754", reason="asked", language="es", email="ana@example.org")

    for query in ("nunez", "MARÍA", "maria@example", '"maria nunez"'):
        assert listed(client, f"?{urlencode({'q': query})}") == keys(told), query
    for query in ("T-4754", "t-4754", "T4754", "4754", "ANA@example.org"):
        assert listed(client, f"?{urlencode({'q': query})}") == keys(handed_over), query
    assert listed(client, "?q=@example") == keys(told, handed_over)


@pytest.mark.parametrize("outcome", ["answered", "suggested", "declined", "stopped", "interrupted"])
def test_conversations_are_found_by_how_it_went(client: Client, olga: User, outcome: str) -> None:
    outcomes = {
        each: make_conversation(answer=each)
        for each in ("answered", "suggested", "declined", "stopped", "interrupted", "under way")
    }

    assert listed(client, f"?outcome={outcome}") == keys(outcomes[outcome])


def test_conversations_are_found_by_version_entry_and_language(
    client: Client, olga: User, make_version: MakeVersion
) -> None:
    first, second = make_version(), make_version()
    one = say("uno", version=first, entry_key="pay")
    two = say("dos", version=second, entry_key="gone-for-good")
    Conversation.objects.filter(pk=two.pk).update(language="en")

    assert listed(client, f"?version={second.number}") == keys(two)
    assert listed(client, "?entry=pay") == keys(one)
    assert listed(client, "?entry=gone-for-good") == keys(two)
    assert listed(client, f"?entry=pay&version={second.number}") == set()
    assert listed(client, "?language__exact=en") == keys(two)
    assert listed(client, "?version=seven&outcome=nonsense") == keys(one, two)
    assert "¿Cómo puedo pagar?" in client.get(LIST).content.decode(), "entries are named by their question"


def rate(conversation: Conversation, rating: str, **values: Any) -> Feedback:
    """Rate the last reply of a conversation."""
    answer = conversation.messages.filter(role="assistant").latest("pk")
    return Feedback.objects.create(message=answer, rating=rating, **values)


def test_conversations_are_found_by_rating_and_by_who_asked_for_a_person(client: Client, olga: User) -> None:
    liked, disliked, unrated = say("uno"), say("dos"), say("tres")
    rate(liked, "up")
    rate(disliked, "down", reasons=["outdated"])
    Conversation.objects.filter(pk=disliked.pk).update(wants_person_at=timezone.now())

    assert listed(client, "?rating=up") == keys(liked)
    assert listed(client, "?rating=down") == keys(disliked)
    assert listed(client, "?rating=none") == keys(unrated)
    assert listed(client, "?person=yes") == keys(disliked)
    assert listed(client, "?person=no") == keys(liked, unrated)
    assert listed(client, "?rating=none&person=yes") == set()
    assert listed(client, "?rating=nonsense&person=nonsense") == keys(liked, disliked, unrated)


def test_a_transcript_shows_who_wrote_and_what_they_thought(client: Client, olga: User) -> None:
    attack = "<img src=x onerror=alert(1)>"
    site = Site.objects.create(name="Zapatos", origins="https://shop.example")
    conversation = say("hola")
    rate(conversation, "down", reasons=["incorrect", "other"], text=attack)
    mine = Conversation.objects.filter(pk=conversation.pk)
    mine.update(site=site, customer_name=attack, customer_email="ana@example.com", wants_person_at=timezone.now())

    page = client.get(f"{LIST}{conversation.pk}/change/").content.decode()

    for shown in ("Not helpful", "Incorrect, Something else", "Zapatos", "ana@example.com"):
        assert shown in page
    assert attack not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 2


def test_a_transcript_shows_which_person_wrote_and_what_was_handed_over(client: Client, olga: User) -> None:
    conversation = say("hola", entry_key="pay", confidence=0.93)
    conversation.messages.create(role="agent", author="Lucía", text="Buenos días.", finish_reason="stop")
    handover = conversation.handovers.create(
        reference="T-4754", reason="asked", state="taken", taken_by=olga, language="es", email="ana@example.org"
    )

    page = client.get(f"{LIST}{conversation.pk}/change/").content.decode()

    assert re.search(r"<strong[^>]*>Lucía</strong>\s*<span>Person</span>", page)
    assert f'<a href="/admin/chat/handover/{handover.pk}/change/">T-4754</a>' in page
    assert "<span>With a person</span>" in page
    assert '<a href="mailto:ana@example.org">ana@example.org</a>' in page
    assert "how sure: 93 %" in page


def test_a_greeting_was_not_chosen_and_shows_no_confidence(client: Client, olga: User) -> None:
    conversation = say("hola", confidence=0.0)
    greeting = conversation.messages.get(role="assistant")

    page = client.get(f"{LIST}{conversation.pk}/change/").content.decode()

    assert "how sure" not in page
    assert greeting.sureness is None
    for decided in ({"is_declined": True}, {"entry_key": "pay"}):
        assert Message(confidence=0.0, **decided).sureness == 0


def test_staff_find_conversations_by_what_customers_thought_of_the_whole(client: Client, olga: User) -> None:
    for said, rating in (("buena", "up"), ("mala", "down"), ("nada", "")):
        Conversation.objects.filter(pk=say(said).pk).update(rating=rating)

    page = client.get(LIST + "?rating__exact=down").content.decode()
    table: Any = client.get(LIST + "export.csv?rating__exact=down")

    assert "mala" in page
    assert "buena" not in page
    assert "nada" not in page
    (row, *_) = csv.DictReader(StringIO(b"".join(table).decode()))
    assert row["rating_of_the_whole"] == "down"


def test_an_export_holds_the_ratings(client: Client, olga: User) -> None:
    conversation = say("hola")
    rate(conversation, "down", reasons=["incorrect", "other"], text="=1+1")

    rows: Any = client.get(LIST + "export.jsonl")
    table: Any = client.get(LIST + "export.csv")

    asked, answered = [json.loads(line) for line in b"".join(rows).decode().splitlines()]
    assert (asked["rating"], asked["reasons"], asked["feedback"]) == (None, [], "")
    assert (answered["rating"], answered["reasons"], answered["feedback"]) == ("down", ["incorrect", "other"], "=1+1")
    last = list(csv.DictReader(StringIO(b"".join(table).decode())))[-1]
    assert (last["rating"], last["reasons"], last["feedback"]) == ("down", "incorrect · other", "'=1+1")


def test_a_range_of_days_holds_its_last_day(client: Client, olga: User) -> None:
    old = make_conversation(days_ago=10)
    young = make_conversation()
    today, before = timezone.localdate(), timezone.localdate() - timedelta(days=5)

    assert listed(client, f"?created_at_from={before}&created_at_to={today}") == keys(young)
    assert listed(client, f"?created_at_to={before}") == keys(old)
    assert listed(client, "?created_at_from=&created_at_to=") == keys(old, young)
    assert listed(client, "?created_at_from=0001-01-01&created_at_to=9999-12-31") == keys(old, young)


@pytest.mark.parametrize(("language", "written"), [("es", "%d/%m/%Y"), ("es", "%Y-%m-%d"), ("en", "%m/%d/%Y")])
def test_a_day_is_read_as_the_language_writes_it(client: Client, olga: User, language: str, written: str) -> None:
    make_conversation(days_ago=10)
    young = make_conversation()
    client.cookies[settings.LANGUAGE_COOKIE_NAME] = language
    query = urlencode({"created_at_from": (timezone.localdate() - timedelta(days=5)).strftime(written)})

    assert listed(client, f"?{query}") == keys(young)
    rows: Any = client.get(f"{LIST}export.jsonl?{query}")
    assert {json.loads(line)["conversation"] for line in b"".join(rows).decode().splitlines()} == keys(young)


def test_the_list_has_short_moments_in_the_readers_language_and_in_order(client: Client, olga: User) -> None:
    early, late = say("primero"), say("después")
    for conversation, day in ((early, 3), (late, 14)):
        moment = timezone.make_aware(datetime(2026, 2, day, 17, 5))
        Conversation.objects.filter(pk=conversation.pk).update(created_at=moment)

    spanish = client.get(LIST, headers={"accept-language": "es"}).content.decode()
    english = client.get(LIST, headers={"accept-language": "en"}).content.decode()

    assert "14/02/2026 17:05" in spanish
    assert "02/14/2026 5:05 p.m." in english
    assert "de febrero de 2026 a las" not in spanish
    page = client.get(LIST + "?o=7").content.decode()
    assert page.index(str(early.pk)) < page.index(str(late.pk)), "the seventh column is when they began"


def test_a_day_that_is_none_lists_and_exports_nothing_and_says_why(client: Client, olga: User) -> None:
    make_conversation()
    query = "?created_at_from=31%2F02%2F2026&created_at_to=2099-01-01"

    page = client.get(LIST + query)
    led_back = client.get(f"{LIST}export.csv{query}", follow=True)

    assert led_back.redirect_chain == [(LIST + query, 302)]
    # The empty list says it in its place too.
    expected = page.content.decode().count("is not a day")
    for shown in (page, led_back):
        assert not shown.context["cl"].result_list
        text = shown.content.decode()
        assert text.count("“31/02/2026” is not a day. Today is written ") == expected
        assert 'value="31/02/2026"' in text, "it stays to be mended"


def test_filters_have_titles_that_read_well(client: Client, olga: User) -> None:
    Handover.objects.create(conversation=say("hola"), reference="A-1", reason="asked", state="taken", taken_by=olga)

    titles = [str(spec.title) for spec in client.get(LIST).context["cl"].filter_specs]
    assert {"outcome", "request for a person", "answers by the version on trial", "beginning"} <= set(titles)
    taken_by = client.get("/admin/chat/handover/").context["cl"].filter_specs[-1]
    assert taken_by.title == "person who took it"


def test_a_transcript_shows_what_each_answer_rests_on_and_runs_nothing(
    client: Client, olga: User, make_version: MakeVersion
) -> None:
    version = make_version()
    attack = "<img src=x onerror=alert(1)>"
    conversation = say(
        attack, text=f"{attack}\nsegunda línea", entry_key="pay", version=version, confidence=0.87, first_delta_ms=1234
    )
    conversation.messages.create(
        role="assistant",
        text=attack,
        finish_reason="cancelled",
        is_declined=True,
        suggestions=[attack],
        first_delta_ms=4,
    )

    page = client.get(f"{LIST}{conversation.pk}/change/").content.decode()

    entry = FaqEntry.objects.get(key="pay")
    assert attack not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 4
    assert f'href="/admin/faq/faqentry/{entry.pk}/change/">¿Cómo puedo pagar?' in page
    assert f'href="/admin/training/adapterversion/{version.pk}/change/"' in page
    assert "87 %" in page
    assert "first words after 1.2 s" in page
    assert "first words after 4 ms" in page
    assert "Stopped by the customer" in page


def test_a_transcript_leads_only_where_one_may_go(client: Client, olga: User, make_version: MakeVersion) -> None:
    conversation = say("hola", entry_key="pay", version=make_version())
    clara = User.objects.create_user("clara", is_staff=True)
    clara.user_permissions.add(Permission.objects.get(codename="view_conversation"))
    client.force_login(clara)

    page = client.get(f"{LIST}{conversation.pk}/change/").content.decode()

    assert "¿Cómo puedo pagar?" in page
    for closed in ("/admin/faq/", "/admin/training/", "/wording/"):
        assert f'href="{closed}' not in page
    assert "export.csv" not in client.get(LIST).content.decode()
    assert client.get(f"{LIST}export.csv").status_code == 403


def test_a_table_is_what_is_listed_and_runs_nothing(client: Client, olga: User, make_version: MakeVersion) -> None:
    formulas = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1"]
    version = make_version()
    wanted = say(*formulas, 'Con "comillas", comas\ny líneas', entry_key="pay", version=version)
    say("otra cosa", entry_key="hours")

    page = client.get(LIST, {"entry": "pay", "q": "comillas"}).content.decode()
    assert "export.csv?entry=pay&amp;q=comillas" in page
    response: Any = client.get(LIST + "export.csv?entry=pay&q=comillas")

    assert response.streaming
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    text = b"".join(response).decode()
    assert text.startswith("\ufeff")
    rows = list(csv.DictReader(StringIO(text.removeprefix("\ufeff"))))
    assert [row["text"] for row in rows] == [
        *(f"'{formula}" for formula in formulas),
        'Con "comillas", comas\ny líneas',
        "Con tarjeta.",
    ]
    assert {row["conversation"] for row in rows} == keys(wanted)
    assert (rows[-1]["entry"], rows[-1]["declined"], rows[-1]["version"]) == ("pay", "False", str(version.number))


def test_json_lines_hold_the_same_as_it_is(client: Client, olga: User) -> None:
    say("=1+1 ¿sí?", is_declined=True, suggestions=["a", "b"], confidence=0.25)

    response: Any = client.get(LIST + "export.jsonl")

    asked, answered = [json.loads(line) for line in b"".join(response).decode().splitlines()]
    assert (asked["role"], asked["text"]) == ("user", "=1+1 ¿sí?")
    assert (answered["suggestions"], answered["declined"], answered["confidence"]) == (["a", "b"], True, 0.25)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_long_export_goes_out_in_pieces(client: Client, olga: User, form: str) -> None:
    conversation = say("hola")
    texts = [f"mensaje {number} " + "x" * 900 for number in range(300)]
    Message.objects.bulk_create(Message(conversation=conversation, role="user", text=text) for text in texts)

    async def pieces() -> list[bytes]:
        page = AsyncClient()
        await page.aforce_login(olga)
        response: Any = await page.get(f"{LIST}export.{form}")
        return [piece async for piece in response]

    received = async_to_sync(pieces)()

    assert len(received) > 3
    whole = b"".join(received).decode()
    assert [text for text in texts if whole.count(text) != 1] == []


def test_an_export_of_unknown_filters_leads_back(client: Client, olga: User) -> None:
    response = client.get(LIST + "export.csv?nonsense__x=1")

    assert (response.status_code, response.headers["Location"]) == (302, LIST)


def test_staff_delete_one_or_many_after_being_asked(client: Client, olga: User) -> None:
    one, two, three, kept = say("a"), say("b"), say("c"), say("secreto")

    url = f"{LIST}{one.pk}/delete/"
    assert client.get(url).status_code == 200
    assert Conversation.objects.count() == 4, "asked first"
    client.post(url, {"post": "yes"})
    many = {"action": "delete_selected", "_selected_action": [two.pk, three.pk]}
    client.post(LIST, many)
    assert Conversation.objects.count() == 3, "asked first"
    client.post(LIST, {**many, "post": "yes"})

    assert list(Conversation.objects.all()) == [kept]
    assert DailyFigures.objects.get(kind=DailyFigures.Kind.QUESTIONS).num == 3


def test_staff_delete_what_a_search_found(client: Client, olga: User) -> None:
    found, kept = say("borrar esto", "y borrar aquello"), say("otra")

    many = {"action": "delete_selected", "_selected_action": [found.pk, kept.pk], "select_across": "1"}
    client.post(LIST + "?q=borrar", {**many, "post": "yes"})

    assert list(Conversation.objects.all()) == [kept]


def test_a_question_becomes_a_wording_without_personal_data(client: Client, olga: User) -> None:
    conversation = say("¿Puedo pagar? Mi correo es ana@example.com", entry_key="pay")
    question = conversation.messages.get(role="user")
    entry = FaqEntry.objects.get(key="pay")
    url = f"{LIST}wording/{question.pk}/"
    assert url in client.get(f"{LIST}{conversation.pk}/change/").content.decode()

    form = client.get(url).context["form"]
    assert (form.initial["text"], form.initial["entry"]) == ("¿Puedo pagar? Mi correo es [correo]", entry)
    response = client.post(url, {"entry": entry.pk, "text": "¿puedo pagar ya?"}, follow=True)

    assert Paraphrase.objects.filter(entry=entry, text="¿puedo pagar ya?").exists()
    assert response.redirect_chain == [(f"{LIST}{conversation.pk}/change/", 302)]
    assert "¿Cómo puedo pagar?" in str(next(iter(response.context["messages"])))
    assert entry.history.first().history_change_reason == "A wording was added."


def test_what_was_suggested_is_offered_first(client: Client, olga: User) -> None:
    conversation = say("¿devuelven?", is_declined=True, suggestions=["¿Puedo devolver un producto?"])

    page = client.get(f"{LIST}wording/{conversation.messages.all()[0].pk}/")

    form = page.context["form"]
    assert [str(label) for _, label in form.fields["entry"].choices][1] == "¿Puedo devolver un producto?"
    assert form.initial["entry"] is None, "nobody has said that it is meant"
    assert "/admin/faq/faqentry/add/?question=%C2%BFdevuelven%3F" in page.content.decode()


def test_what_was_answered_is_chosen_already(client: Client, olga: User) -> None:
    conversation = say("¿devuelven?", entry_key="return")

    page = client.get(f"{LIST}wording/{conversation.messages.all()[0].pk}/")

    assert page.context["form"].initial["entry"] == FaqEntry.objects.get(key="return")


@pytest.mark.parametrize(
    ("text", "problem"),
    [("???", "at least one word"), ("a" * 501, "500"), ("formas de pago", "This is a wording of"), ("", "required")],
)
def test_a_wording_that_cannot_be_is_refused_in_words(client: Client, olga: User, text: str, problem: str) -> None:
    question = say("hola").messages.all()[0]
    num_before = Paraphrase.objects.count()

    response = client.post(f"{LIST}wording/{question.pk}/", {"entry": FaqEntry.objects.get(key="pay").pk, "text": text})

    assert problem in response.content.decode()
    assert Paraphrase.objects.count() == num_before


def test_only_a_customers_question_becomes_a_wording(client: Client, olga: User) -> None:
    reply = say("hola").messages.get(role="assistant")

    assert client.get(f"{LIST}wording/{reply.pk}/").status_code == 404
    assert Message.objects.count() == 2
