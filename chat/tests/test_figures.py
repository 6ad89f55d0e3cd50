"""What staff read about a period is what happened in it."""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone, translation
from pytest_django import Settings

from chat import retention
from chat.charts import HEIGHT, chart
from chat.figures import OUTCOMES, REASONS, Kind, Period, Row, figures
from chat.models import Conversation, Feedback, Handover, Message
from chat.tests.test_consumers import answer_to, run
from chat.tests.test_retention import make_conversation
from training.models import AdapterVersion
from training.tests.conftest import MakeVersion

pytestmark = [pytest.mark.django_db, pytest.mark.database]

PAGE = "/admin/chat/dailyfigures/"


def counted(period: Period) -> dict[str, int]:
    return {kind.value: num for kind, num in figures(period).totals.counts.items() if num}


def ask(*texts: str, **reply: Any) -> None:
    conversation, _ = Conversation.start("es")
    for number, text in enumerate(texts):
        conversation.messages.create(role="user", text=text, client_id=f"c{number}")
        conversation.messages.create(role="assistant", **{"finish_reason": "stop", **reply})


def test_it_counts_every_reply_once_by_how_it_ended() -> None:
    for answer in ("answered", "answered", "suggested", "declined", "courtesy", "stopped", "interrupted", "under way"):
        make_conversation(answer=answer)

    assert counted(Period.DAY) == {
        "conversations": 8,
        "questions": 8,
        "answered": 2,
        "suggested": 1,
        "declined": 1,
        "courtesy": 1,
        "stopped": 1,
        "interrupted": 1,
    }


def test_it_counts_what_is_in_the_period_by_the_hour_or_the_day() -> None:
    for days_ago in (0, 2, 20, 40):
        make_conversation(days_ago=days_ago)

    assert [counted(period).get("answered") for period in Period] == [1, 2, 3]
    week = figures(Period.WEEK).over_time
    assert [row.num_replies for row in week] == [0, 0, 0, 0, 1, 0, 1]
    assert [len(figures(period).over_time) for period in Period] == [24, 7, 30]
    assert figures(Period.DAY).over_time[-1].num_replies == 1


def test_a_deleted_conversation_still_counts_where_it_was() -> None:
    for days_ago in (0, 2, 20):
        make_conversation(days_ago=days_ago)
    kept = [counted(period) for period in Period]
    by_day = [row.counts for row in figures(Period.MONTH).over_time]
    most_asked = figures(Period.MONTH).most_asked

    retention.forget(Conversation.objects.all())

    assert [counted(period) for period in Period] == kept
    assert [row.counts for row in figures(Period.MONTH).over_time] == by_day
    assert figures(Period.MONTH).most_asked == most_asked


def test_ratings_and_who_asked_for_a_person_are_counted_and_stay_so() -> None:
    for rating in ("up", "down", "down"):
        answer = Message.objects.get(conversation=make_conversation(days_ago=2), role="assistant")
        Feedback.objects.create(message=answer, rating=rating)
    Conversation.objects.filter(messages__feedback__rating="up").update(wants_person_at=timezone.now(), rating="down")
    Conversation.objects.filter(messages__feedback__rating="down").update(rating="up")
    before = figures(Period.WEEK)

    retention.forget(Conversation.objects.all())

    assert not Feedback.objects.exists()
    for found in (before, figures(Period.WEEK)):
        counts = found.totals.counts
        assert (counts[Kind.UP], counts[Kind.DOWN], counts[Kind.PERSONS], counts[Kind.ANSWERED]) == (1, 2, 1, 3)
        assert (counts[Kind.ALL_UP], counts[Kind.ALL_DOWN], counts[Kind.CONVERSATIONS]) == (2, 1, 3)
        assert found.totals.num_replies == 3, "a rating is no reply of its own"
        assert [(each.key, each.num) for each in found.most_asked] == [("hours", 3)]


def test_hand_overs_are_counted_by_their_reason_and_stay_so(client: Client, olga: User) -> None:
    for reason, state in (("asked", "waiting"), ("asked", "closed"), ("unclear", "taken"), ("staff", "taken")):
        is_taken = state != "waiting"
        Handover.objects.create(
            conversation_id=make_conversation(days_ago=40),
            reference=f"A-{Handover.objects.count()}",
            reason=reason,
            state=state,
            language="es",
            asked_at=timezone.now() - timedelta(days=2),
            taken_at=timezone.now() if is_taken else None,
        )
    before = figures(Period.WEEK)

    retention.forget(Conversation.objects.all())

    assert not Handover.objects.exists()
    for found in (before, figures(Period.WEEK)):
        counts = found.totals.counts
        assert [counts[kind] for kind in REASONS] == [2, 1, 1]
        assert (counts[Kind.TAKEN], found.totals.num_handed_over, found.totals.num_replies) == (3, 4, 0)
        assert [row.counts[Kind.ASKED] for row in found.over_time] == [0, 0, 0, 0, 2, 0, 0]
    assert figures(Period.DAY).totals.num_handed_over == 0
    client.force_login(olga)
    page = client.get(PAGE).content.decode()
    for figure in ("<dd>4</dd>", "<dd>2 (50 %)</dd>", "<dd>1 (25 %)</dd>", "<dd>3 (75 %)</dd>"):
        assert figure in page
    names = Counter(re.findall(r"<dt>(.+?)</dt><dd>", page))
    assert set(names.values()) == {2}, "each in its card and among the meanings of that card alone"


def test_days_are_those_of_the_clock_that_staff_read(settings: Settings) -> None:
    """Half past midnight in Madrid is the day before in UTC."""
    settings.TIME_ZONE = "Europe/Madrid"
    midnight = timezone.localtime().replace(hour=0, minute=30, second=0, microsecond=0) - timedelta(days=3)
    make_conversation()
    Message.objects.update(created_at=midnight)
    Conversation.objects.update(created_at=midnight)

    before = [row.num_replies for row in figures(Period.WEEK).over_time]
    retention.forget(Conversation.objects.all())

    assert before == [0, 0, 0, 1, 0, 0, 0]
    assert [row.num_replies for row in figures(Period.WEEK).over_time] == before


def test_it_tells_versions_languages_and_entries_apart(make_version: MakeVersion) -> None:
    first, second = make_version(), make_version()
    ask("a", "b", version=first, entry_key="pay")
    ask("c", version=second, entry_key="hours")
    Conversation.objects.filter(messages__version=second).update(language="en")

    found = figures(Period.WEEK)

    assert [(row.name, row.num_replies) for row in found.by_version] == [
        (f"v{first.number}", 2),
        (f"v{second.number}", 1),
    ]
    assert [(row.name, row.counts[Kind.QUESTIONS]) for row in found.by_language] == [("Spanish", 2), ("English", 1)]
    assert [(each.key, each.num) for each in found.most_asked] == [("pay", 2), ("hours", 1)]


def test_questions_without_an_answer_are_grouped_by_their_plain_text() -> None:
    ask("¿Venden zapatos?", "venden ZAPATOS", "¡Véndén zapatos!", "¿Venden zapatos?", "otra", is_declined=True)
    ask("¿Venden zapatos?", entry_key="pay")

    found = figures(Period.WEEK).unanswered

    assert [(each.question, each.num) for each in found] == [("¿Venden zapatos?", 4), ("otra", 1)]
    asked = Message.objects.filter(role="user", text="¿Venden zapatos?").exclude(
        conversation__messages__entry_key="pay"
    )
    assert found[0].message_pk == max(asked.values_list("pk", flat=True)), "where it was asked last"


@pytest.mark.parametrize("may_teach", [True, False])
def test_a_question_without_an_answer_leads_to_the_form_that_teaches_it(client: Client, may_teach: bool) -> None:
    user = User.objects.create_user("olga", is_staff=True)
    rights = ["view_conversation", *(["add_paraphrase"] if may_teach else [])]
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client.force_login(user)
    ask("¿Venden zapatos?", is_declined=True)
    asked = Message.objects.get(role="user")

    page = client.get(PAGE).content.decode()

    assert (f'href="/admin/chat/conversation/wording/{asked.pk}/"' in page) == may_teach


def test_a_question_that_was_answered_with_suggestions_has_no_answer() -> None:
    ask("¿Venden zapatos?", is_declined=True, suggestions=["¿Venden botas?"])

    assert [each.question for each in figures(Period.WEEK).unanswered] == ["¿Venden zapatos?"]


def test_it_tells_within_what_time_the_first_words_came() -> None:
    for number in range(1, 101):
        ask("a", first_delta_ms=number * 10)

    found = figures(Period.WEEK)

    assert (found.first_words_p50, found.first_words_p95) == (0.5, 0.95)


@pytest.mark.parametrize(("milliseconds", "shown"), [(4, "4 ms"), (1_240, "1.2 s")])
def test_the_page_tells_short_times_in_milliseconds(client: Client, milliseconds: int, shown: str) -> None:
    client.force_login(User.objects.create_superuser("olga"))
    ask("a", first_delta_ms=milliseconds)

    page = client.get(PAGE, headers={"accept-language": "en"}).content.decode()

    assert page.count(f"<dd>{shown}</dd>") == 2


def test_months_are_written_as_the_language_writes_them() -> None:
    with translation.override("en"):
        assert figures(Period.WEEK).over_time[-1].name.split()[1].istitle()
    with translation.override("es"):
        assert figures(Period.WEEK).over_time[-1].name.split()[1].islower()


@pytest.mark.django_db(transaction=True)
def test_a_reply_notes_when_its_first_words_were_said(live: AdapterVersion) -> None:
    async def scenario() -> None:
        await answer_to("formas de pago")

    run(scenario)
    asked, answered = Message.objects.all()
    assert asked.first_delta_ms is None
    assert answered.first_delta_ms is not None
    written = (answered.updated_at - answered.created_at) / timedelta(milliseconds=1)
    assert 0 <= answered.first_delta_ms <= written


def test_columns_fill_the_chart_without_gaps() -> None:
    counts = {**dict.fromkeys(Kind, 0), Kind.ANSWERED: 1, Kind.SUGGESTED: 1, Kind.DECLINED: 1}
    drawn = chart([Row("x", counts), Row("y", dict.fromkeys(Kind, 0))])

    full, empty = drawn.columns
    assert sum(segment.height for segment in full.segments) == HEIGHT
    bottom = HEIGHT
    for segment in full.segments:
        assert segment.y + segment.height == bottom
        bottom = segment.y
    assert {segment.height for segment in empty.segments} == {0}
    assert (len(full.segments), drawn.highest) == (len(OUTCOMES), 3)


@pytest.mark.parametrize("query", ["", "?period=24h", "?period=30d", "?period=nonsense"])
def test_staff_read_the_figures_with_what_they_mean(client: Client, query: str) -> None:
    client.force_login(User.objects.create_superuser("olga"))
    attack = "<script>alert(1)</script>"
    make_conversation()
    ask(attack, is_declined=True)

    page = client.get(PAGE + query).content.decode()

    assert attack not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "Replies that gave an answer to the end." in page
    assert "those to which it offered questions that may have been meant" in page
    assert "<rect" in page
    assert page.count('<th scope="row">') >= {"?period=24h": 24, "?period=30d": 30}.get(query, 7)


def test_courtesies_make_no_share_of_answers(client: Client) -> None:
    client.force_login(User.objects.create_superuser("olga"))
    for answer in ("answered", "declined", "declined", "declined", "courtesy", "courtesy"):
        make_conversation(answer=answer)

    page = client.get(PAGE).content.decode()

    for figure in ("<dd>1 (25 %)</dd>", "<dd>3 (75 %)</dd>", "<dd>2</dd>"):
        assert figure in page


def test_what_was_said_before_courtesies_were_counted_is_told_by_what_it_rests_on() -> None:
    conversation, _ = Conversation.start("es")
    said: list[dict[str, Any]] = [{"entry_key": "hours"}, {"is_declined": True}, {}, {"coverage": None}]
    for values in said:
        conversation.messages.create(role="assistant", finish_reason="stop", **{"coverage": 0.5, **values})

    import_module("chat.migrations.0015_mark_courtesies").mark_courtesies(apps, None)

    assert [message.is_courtesy for message in conversation.messages.all()] == [False, False, True, False]


def test_an_empty_period_says_so(client: Client) -> None:
    client.force_login(User.objects.create_superuser("olga"))

    page = client.get(PAGE).content.decode()

    assert "Nobody has asked anything in this time." in page
    assert "<rect" not in page
    assert "records-ranking" not in page, "what is empty has no numbers"


def test_a_question_that_met_nothing_learned_is_not_called_answered(client: Client) -> None:
    client.force_login(User.objects.create_superuser("olga"))
    ask("¿Cómo puedo pagar?", finish_reason="error", text="The assistant is still learning.")

    page = client.get(PAGE).content.decode()

    assert "<dd>1 (100 %)</dd>" in page
    assert "an assistant that had not learned anything yet" in page
    assert "There is no such question in this time." in page
    assert page.count(">By language<") == 1, "the heading, not the column again"
