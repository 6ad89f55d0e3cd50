from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from faq.models import FaqEntry
from training import trials, versions
from training.going_live import go_back, go_live, try_out
from training.models import AdapterVersion, ScheduledActivation, Trial
from training.scheduling import follow_schedule
from training.tests.conftest import Answers, MakeVersion
from training.tests.test_admin import clerk

pytestmark = [pytest.mark.django_db, pytest.mark.database]

Outcome = Trial.Outcome
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _nothing_to_load(settings: Settings) -> None:
    """The versions here have no adapters that could answer; test_going_live.py has real ones."""
    settings.SMOKE_TEST_QUESTIONS = 0


@pytest.fixture
def champion(make_version: MakeVersion) -> AdapterVersion:
    version = make_version()
    versions.activate(version)
    return version


@pytest.fixture
def challenger(champion: AdapterVersion, make_version: MakeVersion) -> AdapterVersion:
    return make_version()


@pytest.fixture
def trial(challenger: AdapterVersion, olga: User) -> Trial:
    return try_out(challenger, share=20, note="warmer words", started_by=olga)


def ended(trial: Trial) -> Trial:
    trial.refresh_from_db()
    assert trial.ended_at is not None
    return trial


@pytest.mark.parametrize("share", [1, 10, 50])
def test_conversations_are_drawn_by_the_share_and_always_alike(trial: Trial, share: int) -> None:
    trial.share = share
    ids = [uuid.UUID(int=number) for number in range(20_000)]

    taken = [trial.takes(each) for each in ids]

    assert abs(sum(taken) / len(ids) - share / 100) < 0.01
    assert taken == [trial.takes(each) for each in ids]


def test_another_trial_draws_anew(trial: Trial) -> None:
    """Else the same customers would meet every challenger."""
    ids = [uuid.UUID(int=number) for number in range(5_000)]
    first = {each for each in ids if trial.takes(each)}
    trial.pk += 1

    second = {each for each in ids if trial.takes(each)}

    assert abs(len(first & second) / len(first) - 0.2) < 0.05


def test_it_begins_beside_the_live_version(
    trial: Trial, champion: AdapterVersion, challenger: AdapterVersion, olga: User
) -> None:
    assert (trial.challenger, trial.champion, trial.share, trial.started_by) == (challenger, champion, 20, olga)
    assert versions.live_version() == champion
    assert trials.running_trial() == trial
    assert versions.speaking_versions() == [champion, challenger]


def test_only_one_at_a_time(trial: Trial, make_version: MakeVersion) -> None:
    other = make_version()
    with pytest.raises(trials.TrialInProgress, match="under way"):
        try_out(other, share=5, note="another")

    trials.end(trial, Outcome.STOPPED, by=None, reason="")

    assert try_out(other, share=5, note="another").challenger == other


@pytest.mark.parametrize("share", [0, 51])
def test_a_share_outside_the_limits_gets_no_row(
    champion: AdapterVersion, challenger: AdapterVersion, share: int
) -> None:
    with pytest.raises(IntegrityError):
        trials.start(challenger, champion, share=share, note="x", started_by=None)


def test_it_needs_a_live_version_and_another_one(make_version: MakeVersion) -> None:
    version = make_version()
    with pytest.raises(versions.VersionError, match="nothing to try another beside"):
        try_out(version, share=5, note="x")

    versions.activate(version)

    with pytest.raises(versions.VersionError, match="live already"):
        try_out(version, share=5, note="x")


def test_what_may_not_go_live_may_not_be_tried(challenger: AdapterVersion, make_version: MakeVersion) -> None:
    (challenger.path / versions.WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(versions.VersionError, match="damaged"):
        try_out(challenger, share=5, note="x")
    with pytest.raises(versions.VersionError, match="exam"):
        try_out(make_version(has_exam=False), share=5, note="x")
    assert not Trial.objects.exists()


def test_one_that_breaks_a_critical_answer_needs_the_right(
    shop: None, champion: AdapterVersion, challenger: AdapterVersion, answered: Answers
) -> None:
    FaqEntry.objects.filter(key="hours").update(is_critical=True)
    answered(champion, cierran=("hours", "hours"))
    answered(challenger, cierran=("hours", None))

    with pytest.raises(versions.CriticalBroken):
        try_out(challenger, share=5, note="all the same")

    assert try_out(challenger, share=5, note="all the same", despite_critical=True).is_running


def test_using_it_for_everybody_ends_it(trial: Trial, challenger: AdapterVersion, olga: User) -> None:
    go_live(challenger, activated_by=olga)

    assert (ended(trial).outcome, trial.ended_by) == (Outcome.PROMOTED, olga)
    assert trials.running_trial() is None
    assert versions.speaking_versions() == [challenger]


def test_another_version_that_goes_live_ends_it_and_says_so(
    trial: Trial, make_version: MakeVersion, olga: User
) -> None:
    other = make_version()

    go_live(other, activated_by=olga)

    assert (ended(trial).outcome, trial.ended_by) == (Outcome.STOPPED, olga)
    assert trial.reason == f"{other} was put in use."


def test_a_refused_activation_ends_nothing(trial: Trial, make_version: MakeVersion) -> None:
    other = make_version()
    (other.path / versions.WEIGHTS).unlink()

    with pytest.raises(versions.VersionError):
        go_live(other)

    trial.refresh_from_db()
    assert trial.is_running


def test_going_back_ends_it(champion: AdapterVersion, make_version: MakeVersion) -> None:
    later, challenger = make_version(), make_version()
    versions.activate(later)
    trial = try_out(challenger, share=5, note="x")

    go_back()

    assert (ended(trial).outcome, trial.reason) == (Outcome.STOPPED, f"{champion} was put in use.")


def test_the_live_version_going_live_again_ends_nothing(trial: Trial, champion: AdapterVersion) -> None:
    versions.activate(champion)

    trial.refresh_from_db()
    assert trial.is_running


def test_a_planned_activation_ends_it(trial: Trial, make_version: MakeVersion, olga: User) -> None:
    christmas, now = make_version(), timezone.now()
    ScheduledActivation.objects.create(version=christmas, starts_at=now, ends_at=now + HOUR, planned_by=olga)

    follow_schedule()

    assert versions.live_version() == christmas
    assert (ended(trial).outcome, trial.reason) == (Outcome.STOPPED, f"{christmas} was put in use.")


def test_it_is_over_at_its_time_for_whoever_looks(challenger: AdapterVersion, make_version: MakeVersion) -> None:
    trial = try_out(challenger, share=5, note="x", ends_at=timezone.now() + HOUR)
    assert trials.running_trial() == trial

    Trial.objects.update(ends_at=timezone.now())

    assert trials.running_trial() is None
    assert (ended(trial).outcome, trial.ended_by) == (Outcome.OVER, None)
    assert try_out(make_version(), share=5, note="the next").is_running


def test_of_two_ends_the_first_stays(trial: Trial, olga: User) -> None:
    assert trials.end(trial, Outcome.RETREATED, by=None, reason="worse")
    assert not trials.end(trial, Outcome.STOPPED, by=olga, reason="")

    assert (ended(trial).outcome, trial.ended_by, trial.reason) == (Outcome.RETREATED, None, "worse")


@pytest.mark.django_db(transaction=True)
def test_a_trial_never_goes_on_beside_another_live_version(make_version: MakeVersion) -> None:
    """One person begins it while another puts a third version in use."""
    first, challenger, third = make_version(), make_version(), make_version()
    for _ in range(10):
        versions.activate(first)
        barrier = Barrier(2)

        def begin(barrier: Barrier = barrier) -> None:
            barrier.wait()
            try_out(challenger, share=5, note="x")

        def put_in_use(barrier: Barrier = barrier) -> None:
            barrier.wait()
            versions.activate(third)

        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(in_own_connection, act) for act in (begin, put_in_use)]:
                future.result()

        trial = trials.running_trial()
        assert trial is None or trial.champion == versions.live_version() == third
        if trial is not None:
            trials.end(trial, Outcome.STOPPED, by=None, reason="")


def in_own_connection(act: Callable[[], None]) -> None:
    try:
        act()
    finally:
        connection.close()


# The pages.


@pytest.fixture
def publisher(client: Client) -> Client:
    user = clerk("activate_adapterversion", "view_activation", "view_adapterversion", "view_trainingrun")
    client.force_login(user)
    return client


def url_of(version: AdapterVersion, page: str) -> str:
    return f"/admin/training/adapterversion/{version.pk}/{page}/"


def test_staff_begin_a_trial_from_the_versions_page_and_stop_it(
    publisher: Client, champion: AdapterVersion, challenger: AdapterVersion
) -> None:
    url = url_of(challenger, "try")
    assert url in publisher.get(url_of(challenger, "change")).content.decode()
    assert url_of(champion, "try") not in publisher.get(url_of(champion, "change")).content.decode()

    response = publisher.post(url, {"share": "15", "note": "<b>warmer</b>", "ends_at": "2035-01-07T08:00"}, follow=True)

    trial = Trial.objects.get()
    assert (trial.share, trial.note, trial.started_by) == (15, "<b>warmer</b>", User.objects.get(username="clara"))
    assert trial.ends_at is not None
    front = response.content.decode()
    assert f"<strong>{challenger}</strong> answers 15 of every hundred new conversations" in front
    assert "&lt;b&gt;warmer" in front
    assert url_of(challenger, "activate") in front
    assert url not in publisher.get(url_of(challenger, "change")).content.decode(), "one at a time"

    stop = f"/admin/training/trial/{trial.pk}/stop/"
    assert f'action="{stop}"' in front
    assert publisher.get(stop).status_code == 405
    publisher.post(stop)
    assert (ended(trial).outcome, trial.ended_by) == (Outcome.STOPPED, trial.started_by)
    again = publisher.post(stop, follow=True).content.decode()
    assert "has ended already" in again
    assert "answers 15 of every hundred" not in again


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"share": "60"}, "less than or equal to 50"),
        ({"share": "a few"}, "whole number"),
        ({"note": " "}, "required"),
        ({"ends_at": "2001-01-01T08:00"}, "This time has passed."),
        ({"ends_at": "soon"}, "valid date"),
    ],
)
def test_a_form_that_is_wrong_says_why_and_loses_nothing(
    publisher: Client, challenger: AdapterVersion, wrong: dict[str, str], says: str
) -> None:
    form = {"share": "15", "note": "warmer words", "ends_at": "2035-01-07T08:00"} | wrong

    page = publisher.post(url_of(challenger, "try"), form).content.decode()

    assert says in page
    assert not Trial.objects.exists()
    for value in (form["share"], form["ends_at"]):
        assert f'value="{value}"' in page


def test_a_second_trial_is_refused_in_words(publisher: Client, trial: Trial, make_version: MakeVersion) -> None:
    other = make_version()

    page = publisher.post(url_of(other, "try"), {"share": "5", "note": "mine"}).content.decode()

    assert "A trial is under way." in page
    assert 'value="mine"' in page
    assert Trial.objects.count() == 1


def test_what_is_on_trial_keeps_its_critical_answers(
    shop: None, publisher: Client, trial: Trial, challenger: AdapterVersion, answered: Answers
) -> None:
    FaqEntry.objects.filter(key="hours").update(is_critical=True)
    answered(challenger, cierran=("hours", "hours"))

    page = publisher.post(url_of(challenger, "threshold"), {"threshold": "0.95"}, follow=True).content.decode()

    assert "a critical answer would no longer be given" in page


def test_past_trials_are_read_and_never_changed(publisher: Client, trial: Trial) -> None:
    trials.end(trial, Outcome.RETREATED, by=None, reason="It was <worse>.")
    url = "/admin/training/trial/"

    assert "It was &lt;worse&gt;." in publisher.get(url).content.decode()
    page = publisher.get(f"{url}{trial.pk}/change/").content.decode()
    assert "It was &lt;worse&gt;." in page
    assert "how sure, on average" in page
    assert publisher.post(f"{url}{trial.pk}/change/", {"share": 9}).status_code == 403
    assert publisher.get(f"{url}add/").status_code == 403
    assert publisher.post(f"{url}{trial.pk}/delete/", {"post": "yes"}).status_code == 403
    assert publisher.get(f"{url}999/change/").status_code == 302
