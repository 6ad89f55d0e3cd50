from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.utils import timezone
from pytest_django import Settings

from chat import retention, trials
from chat.models import Conversation, Feedback, Message, TrialFigures
from chat.tasks import watch_trial
from chat.tests.conftest import FAST
from chat.tests.test_consumers import Client, long_answer, run
from faq.models import FaqEntry
from training import pipeline, runs, serving, versions
from training import trials as training_trials
from training.going_live import go_live, try_out
from training.models import AdapterVersion, Trial
from training.tests.conftest import MakeVersion

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]

Outcome = Trial.Outcome


def begun(*, is_challenger: bool) -> tuple[Conversation, str]:
    """A new conversation on that side of the trial under way, however many begin on the other side before it."""
    for _ in range(1000):
        conversation, token = Conversation.start("en")
        if conversation.is_challenger == is_challenger:
            return conversation, token
        conversation.delete()
    raise AssertionError("the draw never falls on this side")


def answer(conversation: Conversation, kind: str = "answered", confidence: float = 0.8) -> Message:
    values: dict[str, dict[str, Any]] = {
        "answered": {"entry_key": "hours"},
        "declined": {"is_declined": True},
        "suggested": {"is_declined": True, "suggestions": ["¿A qué hora cierran?"]},
        "courteous": {},
        "cancelled": {"finish_reason": "cancelled", "entry_key": "hours"},
        "failed": {"finish_reason": "error", "version": None, "confidence": None},
        "unfinished": {"finish_reason": "", "version": None, "confidence": None},
    }
    basis = {"version": trials.version_for(conversation), "confidence": confidence, "finish_reason": "stop"}
    return conversation.messages.create(role="assistant", **basis | values[kind])


# With rows alone.


@pytest.fixture
def trial(make_version: MakeVersion, settings: Settings) -> Trial:
    settings.SMOKE_TEST_QUESTIONS = 0
    versions.activate(make_version())
    return try_out(make_version(), share=20, note="warmer words")


def test_a_part_of_the_new_conversations_gets_the_challenger(trial: Trial) -> None:
    conversations = [Conversation.start("es")[0] for _ in range(600)]

    share = sum(each.is_challenger for each in conversations) / len(conversations)

    assert 0.12 < share < 0.28
    assert all(each.trial == trial for each in conversations)
    assert {trials.version_for(each) for each in conversations if each.is_challenger} == {trial.challenger}
    assert {trials.version_for(each) for each in conversations if not each.is_challenger} == {trial.champion}


def test_conversations_from_before_stay_with_the_live_version(make_version: MakeVersion, settings: Settings) -> None:
    settings.SMOKE_TEST_QUESTIONS = 0
    live = make_version()
    versions.activate(live)
    earlier = [Conversation.start("es")[0] for _ in range(40)]

    try_out(make_version(), share=50, note="x")

    assert {trials.version_for(each) for each in earlier} == {live}
    assert all(each.trial is None for each in earlier)


@pytest.mark.parametrize("outcome", [Outcome.STOPPED, Outcome.RETREATED, Outcome.OVER])
def test_when_it_ends_all_speak_with_the_live_version(trial: Trial, outcome: Outcome) -> None:
    conversation, _token = begun(is_challenger=True)
    assert trials.version_for(conversation) == trial.challenger

    training_trials.end(trial, outcome, by=None, reason="")

    assert trials.version_for(conversation) == trial.champion
    assert Conversation.start("es")[0].trial is None


def test_the_next_trial_takes_over_nobody_from_the_last(trial: Trial, make_version: MakeVersion) -> None:
    conversation, _token = begun(is_challenger=True)
    training_trials.end(trial, Outcome.STOPPED, by=None, reason="")

    try_out(make_version(), share=50, note="the next")

    assert trials.version_for(conversation) == trial.champion


def test_a_trial_whose_time_is_over_has_ended_for_customers_too(trial: Trial) -> None:
    conversation, _token = begun(is_challenger=True)

    Trial.objects.update(ends_at=timezone.now())

    assert trials.version_for(conversation) == trial.champion


def test_both_sides_are_counted_alike(trial: Trial) -> None:
    before = Conversation.objects.create(token_sha256="", language="es")
    answer(before)
    ours, others = begun(is_challenger=True)[0], [begun(is_challenger=False)[0] for _ in range(2)]
    for kind in ("answered", "declined", "declined", "suggested", "cancelled", "failed", "unfinished"):
        answer(ours, kind, confidence=0.5)
    answer(ours, "courteous", confidence=0.97)
    ours.messages.create(role="user", text="¿hola?")
    answer(others[0], confidence=0.9)
    answer(others[1], "suggested", confidence=0.7)

    found = trials.sides(trial)

    assert found.challenger == trials.Side(
        version=trial.challenger,
        num_conversations=1,
        num_conversations_declined=1,
        num_conversations_failed=1,
        num_answers=7,
        num_answered=3,
        num_suggested=1,
        num_declined=2,
        num_cancelled=1,
        num_failed=1,
        num_decided=5,
        sum_confidence=2.5,
    )
    assert found.challenger.confidence == 0.5
    champion = found.champion
    assert (champion.version, champion.num_conversations, champion.num_answers) == (trial.champion, 2, 2)
    assert (champion.num_answered, champion.num_suggested, champion.num_declined) == (1, 1, 0)
    assert champion.confidence == pytest.approx(0.8)
    rows = {name: (ours, theirs) for name, ours, theirs in found.rows}
    assert rows["answered"] == ("43 % (3)", "50 % (1)")
    assert rows["how sure, on average"] == ("50 %", "80 %")


def test_what_is_said_after_the_end_is_not_counted(trial: Trial) -> None:
    conversation, _token = begun(is_challenger=True)
    answer(conversation)
    training_trials.end(trial, Outcome.STOPPED, by=None, reason="")
    trial.refresh_from_db()

    answer(conversation, "declined")

    found = trials.sides(trial)
    assert (found.challenger.num_answers, found.champion.num_answers) == (1, 0)
    assert found.champion.figures[2][1] == "–", "nothing is no share"


def test_deleted_conversations_count_as_they_did(trial: Trial, client: Browser) -> None:
    """In two goes, some by the customer while the trial runs, the others when it has long ended."""
    for is_challenger in (True, True, False, False):
        conversation, _token = begun(is_challenger=is_challenger)
        for kind, confidence in (("answered", 0.9), ("suggested", 0.4), ("failed", 0.0)):
            answer(conversation, kind, confidence)
        Feedback.objects.create(message=conversation.messages.all()[0], rating="down")
    before = trials.sides(trial)

    retention.forget(Conversation.objects.filter(pk__in=[each.pk for each in Conversation.objects.all()[1:3]]))
    assert trials.sides(trial) == before
    training_trials.end(trial, Outcome.STOPPED, by=None, reason="")
    trial.refresh_from_db()
    answer(conversation, "declined")
    retention.forget(Conversation.objects.all())

    assert not Message.objects.exists()
    assert trials.sides(trial) == before
    assert (before.challenger.num_conversations, before.challenger.num_unhelpful) == (2, 2)
    assert before.challenger.confidence == pytest.approx(0.65)
    client.force_login(User.objects.create_superuser("olga"))
    page = client.get(f"/admin/training/trial/{trial.pk}/change/").content.decode()
    assert page.count("33 % (2)") == 8, "answered, asked what was meant, interrupted and not helpful, on both sides"


def test_a_conversation_of_no_trial_leaves_nothing_to_one(trial: Trial) -> None:
    answer(Conversation.objects.create(token_sha256="", language="es"))
    begun(is_challenger=True)

    retention.forget(Conversation.objects.all())

    assert not TrialFigures.objects.exists()


def test_customers_who_delete_do_not_hide_a_worse_challenger(trial: Trial) -> None:
    answer(begun(is_challenger=False)[0])
    for _ in range(12):
        answer(begun(is_challenger=True)[0], "declined")
    retention.forget(Conversation.objects.all())

    watch_trial()

    trial.refresh_from_db()
    assert "in 12 of 12 conversations" in trial.reason


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("declined", "left a question unanswered in 8 of 9 conversations; v{champion} in 1 of 36."),
        ("suggested", "left a question unanswered in 8 of 9 conversations; v{champion} in 1 of 36."),
        ("failed", "was interrupted in 8 of 9 conversations; v{champion} in 1 of 36."),
    ],
)
def test_a_worse_challenger_retreats_by_itself(trial: Trial, kind: str, says: str) -> None:
    for number in range(36):
        answer(begun(is_challenger=False)[0], kind if number == 0 else "answered")
    for number in range(9):
        answer(begun(is_challenger=True)[0], kind if number else "answered")

    watch_trial()

    trial.refresh_from_db()
    assert (trial.outcome, trial.ended_by) == (Outcome.RETREATED, None)
    assert trial.reason == f"v{trial.challenger.number} " + says.format(champion=trial.champion.number)
    assert versions.live_version() == trial.champion


def test_one_that_is_no_worse_stays(trial: Trial) -> None:
    for number in range(40):
        answer(begun(is_challenger=False)[0], "answered" if number % 3 else "declined")
    for number in range(10):
        answer(begun(is_challenger=True)[0], "answered" if number % 3 else "declined")

    watch_trial()

    trial.refresh_from_db()
    assert trial.is_running


def test_one_customer_who_keeps_asking_ends_nothing(trial: Trial) -> None:
    """However often a single conversation is declined, it is one."""
    conversation, _token = begun(is_challenger=True)
    for _ in range(200):
        answer(conversation, "declined")

    watch_trial()

    trial.refresh_from_db()
    assert trial.is_running


def test_without_a_trial_there_is_nothing_to_look_at(db: None) -> None:
    watch_trial()

    assert not Trial.objects.exists()


def test_the_front_page_says_that_and_why_it_ended(trial: Trial, client: Browser, make_version: MakeVersion) -> None:
    client.force_login(User.objects.create_superuser("olga"))
    answer(begun(is_challenger=False)[0])
    for _ in range(12):
        answer(begun(is_challenger=True)[0], "declined")

    front = client.get("/admin/").content.decode()

    assert "left a question unanswered in 12 of 12 conversations" in front, "whoever looks ends it"
    assert "Ended by itself: it was worse" in front
    go_live(make_version())
    assert "left a question unanswered" not in client.get("/admin/").content.decode(), "somebody has decided since"
    page = client.get(f"/admin/training/trial/{trial.pk}/change/").content.decode()
    assert "100 % (12)" in page


def test_those_who_see_no_live_periods_see_no_trial(trial: Trial, client: Browser) -> None:
    client.force_login(User.objects.create_user("clara", is_staff=True))

    assert "Trial with customers" not in client.get("/admin/").content.decode()


# With adapters that answer.


@pytest.fixture
def tried(live: AdapterVersion, settings: Settings) -> Trial:
    """Two real versions; the second one on trial with every second customer."""
    settings.SMOKE_TEST_QUESTIONS = 0
    challenger = pipeline.execute(runs.start_in_foreground(config=FAST))
    assert challenger is not None
    (challenger.path / "calibration.json").write_bytes((live.path / "calibration.json").read_bytes())
    return try_out(challenger, share=50, note="x")


async def joined(*, is_challenger: bool) -> tuple[Client, Conversation]:
    conversation, token = await database_sync_to_async(begun)(is_challenger=is_challenger)
    client = Client()
    await client.open(conversation=str(conversation.pk), token=token)
    return client, conversation


async def version_of(conversation: Conversation) -> AdapterVersion | None:
    """Which version spoke last."""
    newest = await conversation.messages.filter(role="assistant").select_related("version").alast()
    assert newest is not None
    return newest.version


async def asked(client: Client, number: int) -> dict[str, Any]:
    await client.ask("formas de pago", f"c{number}")
    _, message = await client.read_answer()
    return message


def test_two_customers_talk_to_two_versions_until_the_trial_ends(tried: Trial) -> None:
    async def scenario() -> None:
        ours, with_challenger = await joined(is_challenger=True)
        others, with_champion = await joined(is_challenger=False)
        for number in range(3):
            for client in (ours, others):
                assert (await asked(client, number))["text"] == "Con tarjeta o transferencia."
            assert await version_of(with_challenger) == tried.challenger
            assert await version_of(with_champion) == tried.champion

        await database_sync_to_async(training_trials.end)(tried, Outcome.STOPPED, by=None, reason="")

        for client, conversation in ((ours, with_challenger), (others, with_champion)):
            await asked(client, 3)
            assert await version_of(conversation) == tried.champion
            await client.close()

    run(scenario)


def test_a_customer_of_the_socket_is_drawn(tried: Trial) -> None:
    """From the first message on, as a new page asks it."""

    async def scenario() -> None:
        client = Client()
        await client.open()
        await asked(client, 1)
        conversation = await Conversation.objects.aget(pk=client.conversation["conversation"])
        assert conversation.is_challenger == tried.takes(conversation.pk)
        expected = tried.challenger if conversation.is_challenger else tried.champion
        assert await version_of(conversation) == expected
        await client.close()

    run(scenario)


def test_an_answer_under_way_outlives_the_trial(tried: Trial) -> None:
    FaqEntry.objects.filter(key="pay").update(answer=long_answer(), updated_at=timezone.now())

    async def scenario() -> None:
        client, conversation = await joined(is_challenger=True)
        await client.ask("formas de pago")
        await client.wait_for("delta")
        await database_sync_to_async(versions.activate)(tried.champion)
        await database_sync_to_async(training_trials.end)(tried, Outcome.STOPPED, by=None, reason="")
        _, message = await client.read_answer()
        assert (message["text"], message["finish_reason"]) == (long_answer(), "stop")
        assert await version_of(conversation) == tried.challenger
        await client.close()

    run(scenario)


def test_a_challenger_that_cannot_answer_retreats_after_a_few(tried: Trial, caplog: pytest.LogCaptureFixture) -> None:
    """No beat is needed: a worker may be training for hours."""
    (tried.challenger.path / versions.WEIGHTS).write_bytes(b"damaged")
    caplog.set_level(logging.CRITICAL)

    async def scenario() -> None:
        for _ in range(30):
            if not await Trial.objects.filter(outcome=Outcome.RUNNING).aexists():
                break
            client, _conversation = await joined(is_challenger=True)
            assert (await asked(client, 1))["finish_reason"] == "error"
            await client.close()

    run(scenario)
    tried.refresh_from_db()
    assert tried.outcome == Outcome.RETREATED
    assert "was interrupted in 8 of 8 conversations" in tried.reason


def test_both_versions_are_loaded_before_anybody_asks(tried: Trial) -> None:
    serving.close()

    serving.warm_up()

    with serving._warming:
        assert serving.engine().is_resident(tried.champion.name)
        assert serving.engine().is_resident(tried.challenger.name)


def test_old_trials_slow_nobody_down(trial: Trial, django_assert_num_queries: Any) -> None:
    conversation, _token = begun(is_challenger=False)
    with django_assert_num_queries(1):
        trials.version_for(conversation)
    ours, _token = begun(is_challenger=True)
    with django_assert_num_queries(2):
        trials.version_for(ours)
    training_trials.end(trial, Outcome.STOPPED, by=None, reason="")
    with django_assert_num_queries(2):
        trials.version_for(ours)


def test_a_trial_counts_what_began_in_it_whenever_it_is_answered(trial: Trial) -> None:
    conversation, _token = begun(is_challenger=True)
    message = answer(conversation, "unfinished")
    assert trials.sides(trial).challenger.num_answers == 0

    Message.objects.filter(pk=message.pk).update(finish_reason="stop", updated_at=timezone.now() + timedelta(hours=1))

    assert trials.sides(trial).challenger.num_answers == 1
