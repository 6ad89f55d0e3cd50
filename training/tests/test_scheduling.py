from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from faq.models import FaqEntry
from training import versions
from training.models import Activation, AdapterVersion, ScheduledActivation
from training.scheduling import follow_schedule
from training.tests.conftest import Answers, MakeVersion
from training.tests.test_admin import clerk

pytestmark = [pytest.mark.django_db, pytest.mark.database]

HOUR = timedelta(hours=1)
State = ScheduledActivation.State


@pytest.fixture(autouse=True)
def _nothing_to_load(settings: Settings) -> None:
    """The versions here have no adapters that could answer; test_going_live.py has real ones."""
    settings.SMOKE_TEST_QUESTIONS = 0


@pytest.fixture
def pair(make_version: MakeVersion) -> tuple[AdapterVersion, AdapterVersion]:
    """What is live, and what is for Christmas."""
    live, christmas = make_version(), make_version()
    versions.activate(live)
    return live, christmas


def plan(version: AdapterVersion, starts: timedelta, ends: timedelta | None, by: User | None = None) -> int:
    now = timezone.now()
    scheduled = ScheduledActivation.objects.create(
        version=version, starts_at=now + starts, ends_at=now + ends if ends else None, planned_by=by, note="Navidad"
    )
    return scheduled.pk


def state_of(pk: int) -> str:
    return ScheduledActivation.objects.get(pk=pk).state


def test_it_goes_live_at_its_time_and_back_at_its_end(pair: tuple[AdapterVersion, AdapterVersion], olga: User) -> None:
    live, christmas = pair
    pk = plan(christmas, HOUR, 2 * HOUR, olga)
    follow_schedule()
    assert (versions.live_version(), state_of(pk)) == (live, State.WAITING)

    ScheduledActivation.objects.update(starts_at=timezone.now())
    follow_schedule()
    follow_schedule()
    assert (versions.live_version(), state_of(pk)) == (christmas, State.LIVE)
    newest = Activation.objects.first()
    assert newest is not None
    assert (newest.activated_by, newest.note) == (olga, "Navidad")

    ScheduledActivation.objects.update(ends_at=timezone.now())
    follow_schedule()
    follow_schedule()
    assert (versions.live_version(), state_of(pk)) == (live, State.OVER)
    assert Activation.objects.count() == 3


def test_its_end_changes_nothing_if_somebody_has_decided_otherwise(
    pair: tuple[AdapterVersion, AdapterVersion], make_version: MakeVersion
) -> None:
    _live, christmas = pair
    pk = plan(christmas, -HOUR, HOUR)
    follow_schedule()
    other = make_version()
    versions.activate(other)

    ScheduledActivation.objects.update(ends_at=timezone.now())
    follow_schedule()

    assert (versions.live_version(), state_of(pk)) == (other, State.OVER)


def test_one_plan_begins_when_another_ends(
    pair: tuple[AdapterVersion, AdapterVersion], make_version: MakeVersion
) -> None:
    live, christmas = pair
    kings = make_version()
    first, second = plan(christmas, -2 * HOUR, HOUR), plan(kings, HOUR, 2 * HOUR)
    follow_schedule()
    assert versions.live_version() == christmas

    ScheduledActivation.objects.filter(pk=first).update(ends_at=timezone.now())
    ScheduledActivation.objects.filter(pk=second).update(starts_at=timezone.now())
    follow_schedule()
    assert versions.live_version() == kings
    ScheduledActivation.objects.filter(pk=second).update(ends_at=timezone.now())
    follow_schedule()

    assert versions.live_version() == live
    assert {state_of(first), state_of(second)} == {State.OVER}
    assert versions.previous_version() is None, "nobody is offered to go back to Christmas"


def test_a_time_that_was_missed_is_over(pair: tuple[AdapterVersion, AdapterVersion]) -> None:
    live, christmas = pair
    pk = plan(christmas, -2 * HOUR, -HOUR)

    follow_schedule()

    assert (versions.live_version(), state_of(pk), Activation.objects.count()) == (live, State.OVER, 1)


def test_times_may_not_overlap(pair: tuple[AdapterVersion, AdapterVersion]) -> None:
    _live, christmas = pair
    plan(christmas, HOUR, 5 * HOUR)
    now = timezone.now()
    for starts, ends, overlaps in (
        (2 * HOUR, 3 * HOUR, True),
        (0 * HOUR, 2 * HOUR, True),
        (4 * HOUR, 9 * HOUR, True),
        (0 * HOUR, None, True),
        (6 * HOUR, 9 * HOUR, False),
        (6 * HOUR, None, False),
    ):
        other = ScheduledActivation(version=christmas, starts_at=now + starts, ends_at=now + ends if ends else None)
        if overlaps:
            with pytest.raises(ValidationError):
                other.clean()
        else:
            other.clean()


@pytest.mark.parametrize("has_right", [True, False])
def test_planning_gives_no_right_that_its_planner_lacks(
    shop: None, pair: tuple[AdapterVersion, AdapterVersion], answered: Answers, has_right: bool
) -> None:
    FaqEntry.objects.filter(key="hours").update(is_critical=True)
    live, christmas = pair
    answered(live, cierran=("hours", "hours"))
    answered(christmas, cierran=("hours", None))
    planner = clerk("activate_adapterversion", *(["activate_broken_adapterversion"] if has_right else []))
    pk = plan(christmas, -HOUR, HOUR, planner)

    follow_schedule()

    if has_right:
        assert (versions.live_version(), state_of(pk)) == (christmas, State.LIVE)
    else:
        assert (versions.live_version(), state_of(pk)) == (live, State.FAILED)


def test_without_an_end_it_stays(pair: tuple[AdapterVersion, AdapterVersion]) -> None:
    _live, christmas = pair
    pk = plan(christmas, -HOUR, None)

    follow_schedule()
    follow_schedule()

    assert (versions.live_version(), state_of(pk)) == (christmas, State.LIVE)


def test_one_that_cannot_go_live_says_why_and_leaves_the_live_one(pair: tuple[AdapterVersion, AdapterVersion]) -> None:
    live, christmas = pair
    (christmas.path / versions.WEIGHTS).write_bytes(b"damaged")
    pk = plan(christmas, -HOUR, HOUR)

    follow_schedule()
    follow_schedule()

    assert (versions.live_version(), state_of(pk)) == (live, State.FAILED)
    assert "damaged" in ScheduledActivation.objects.get(pk=pk).error


def test_staff_plan_and_unplan(client: Client, pair: tuple[AdapterVersion, AdapterVersion]) -> None:
    _live, christmas = pair
    user = clerk("activate_adapterversion", "view_activation", "view_adapterversion")
    client.force_login(user)
    url = "/admin/training/scheduledactivation/"
    form = {"version": christmas.pk, "starts_at_0": "2030-12-01", "starts_at_1": "08:00", "note": "Navidad"}
    backwards = client.post(f"{url}add/", form | {"ends_at_0": "2030-11-01", "ends_at_1": "08:00"})
    assert "It must end after it begins." in backwards.content.decode()

    client.post(f"{url}add/", form | {"ends_at_0": "2031-01-07", "ends_at_1": "08:00"})

    scheduled = ScheduledActivation.objects.get()
    assert (scheduled.version, scheduled.planned_by, scheduled.state) == (christmas, user, State.WAITING)
    assert "Navidad" in client.get(url).content.decode()
    assert client.post(f"{url}{scheduled.pk}/change/", form).status_code == 403
    client.post(f"{url}{scheduled.pk}/delete/", {"post": "yes"})
    assert not ScheduledActivation.objects.exists()

    pk = plan(christmas, -HOUR, HOUR)
    follow_schedule()
    assert client.post(f"{url}{pk}/delete/", {"post": "yes"}).status_code == 403, "what has begun is history"


def test_others_plan_nothing(client: Client, pair: tuple[AdapterVersion, AdapterVersion]) -> None:
    url = "/admin/training/scheduledactivation/"
    assert "/login/" in client.get(url).headers["Location"]
    client.force_login(clerk("view_activation", "add_scheduledactivation"))

    assert client.get(url).status_code == 200
    assert client.get(f"{url}add/").status_code == 403
