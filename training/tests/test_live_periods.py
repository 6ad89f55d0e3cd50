"""The log of what was live when, and ten minutes in which a change is undone."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from training import versions
from training.going_live import go_back, undo
from training.models import Activation, AdapterVersion
from training.tests.conftest import MakeVersion
from training.tests.test_admin import clerk
from training.versions import UNDO_TIME, VersionError, live_at, undo_on_offer

pytestmark = [pytest.mark.django_db, pytest.mark.database]

MADRID = ZoneInfo("Europe/Madrid")
MAY = datetime(2025, 5, 3, 17, 20, tzinfo=MADRID)
LIST = "/admin/training/activation/"
UNDO = "/admin/training/adapterversion/undo/"


@pytest.fixture(autouse=True)
def _nothing_to_load(settings: Settings) -> None:
    """The versions here have no adapters that could answer; test_going_live.py has real ones."""
    settings.SMOKE_TEST_QUESTIONS = 0
    settings.TIME_ZONE = "Europe/Madrid"


@pytest.fixture
def owner(client: Client, olga: User) -> Client:
    client.force_login(olga)
    return client


def activate(version: AdapterVersion, at: datetime) -> Activation:
    activation = versions.activate(version)
    Activation.objects.filter(pk=activation.pk).update(activated_at=at)
    activation.refresh_from_db()
    return activation


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_it_knows_which_version_was_live_at_any_moment(make_version: MakeVersion) -> None:
    assert live_at(MAY) is None
    first, second = make_version(), make_version()
    rows = [activate(first, MAY), activate(second, MAY + timedelta(hours=1)), activate(first, MAY + timedelta(hours=2))]

    instant = timedelta(microseconds=1)
    assert live_at(MAY - instant) is None
    for row in rows:
        assert live_at(row.activated_at) == row, "a period begins with its first instant"
        if row != rows[0]:
            assert live_at(row.activated_at - instant) == rows[rows.index(row) - 1]
    assert live_at(timezone.now()) == rows[-1]


def test_of_two_that_went_live_in_the_same_instant_the_later_row_counts(make_version: MakeVersion) -> None:
    first, second = make_version(), make_version()
    activate(first, MAY)
    last = activate(second, MAY)

    assert live_at(MAY) == last
    assert live_at(MAY - timedelta(microseconds=1)) is None


def test_a_clock_that_went_back_does_not_bring_an_earlier_row_back(make_version: MakeVersion) -> None:
    """The log's order is that of its rows: who is last in it is live."""
    first, second = make_version(), make_version()
    activate(first, MAY)
    last = activate(second, MAY - timedelta(minutes=1))

    assert live_at(MAY + timedelta(hours=1)) == last
    assert versions.live_version() == second


def test_the_list_shows_each_period_from_beginning_to_end(owner: Client, make_version: MakeVersion) -> None:
    first, second = make_version(), make_version()
    activate(first, MAY)
    activate(second, MAY + timedelta(days=3, hours=2))

    rows = re.findall(r"<tr.*?</tr>", owner.get(LIST).content.decode(), re.DOTALL)
    texts = [text_of(row) for row in rows]

    past = next(text for text in texts if str(first) in text and "2025" in text)
    assert "May 3, 2025, 5:20 p.m." in past
    assert "May 6, 2025, 7:20 p.m." in past
    assert "3\xa0days, 2\xa0hours" in past or "3 days, 2 hours" in past
    assert any(str(second) in text and " now " in text for text in texts)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("2025-05-03T17:20", "On 05/03/2025 5:20 p.m. {first} was live, since 05/03/2025 5:20 p.m."),
        ("2025-05-03T18:19", "{first} was live"),
        ("2025-05-03T18:20", "{second} was live"),
        ("2025-05-03T17:19", "no version was live yet"),
        ("9999-12-31T23:59", "That time has not come yet."),
        ("0001-01-01T00:00", "Nothing is recorded of that time."),
        ("yesterday", "Enter a valid date/time."),
        ("", "This field is required."),
    ],
)
def test_one_may_ask_which_version_spoke(owner: Client, make_version: MakeVersion, at: str, said: str) -> None:
    """In the time of the site, by its own clock."""
    first, second = make_version(), make_version()
    activate(first, MAY)
    activate(second, MAY + timedelta(hours=1))

    response = owner.get(LIST, {"at": at})

    assert response.status_code == 200
    assert said.format(first=first, second=second) in text_of(response.content.decode())


def test_the_list_is_still_sorted_and_searched_by_itself(owner: Client, make_version: MakeVersion) -> None:
    activate(make_version(), MAY)

    response = owner.get(LIST, {"at": "2025-05-03T17:20", "o": "2"})

    assert response.status_code == 200
    assert "was live" in text_of(response.content.decode())


def test_a_change_can_be_undone_with_one_click(owner: Client, olga: User, make_version: MakeVersion) -> None:
    first, second = make_version(), make_version()
    versions.activate(first)
    activation = versions.activate(second)

    for page in ("/admin/", f"/admin/training/adapterversion/{second.pk}/change/"):
        assert f"Undo: back to {first}" in owner.get(page).content.decode()
    assert "Undo:" not in owner.get(f"/admin/training/adapterversion/{first.pk}/change/").content.decode()
    response = owner.post(UNDO, {"activation": activation.pk}, follow=True)

    assert f"{first} is live again." in response.content.decode()
    newest = Activation.objects.first()
    assert newest is not None
    assert (newest.version, newest.activated_by, newest.is_rollback) == (first, olga, True)
    assert "Undo:" not in owner.get("/admin/").content.decode(), "what was undone is not undone again"


def test_one_button_at_a_time(owner: Client, make_version: MakeVersion) -> None:
    first, second = make_version(), make_version()
    versions.activate(first)
    versions.activate(second)
    hidden = "data-after-undo hidden>"

    assert hidden in owner.get("/admin/").content.decode()
    Activation.objects.update(activated_at=timezone.now() - UNDO_TIME)
    page = owner.get("/admin/").content.decode()
    assert hidden not in page
    assert "Undo:" not in page
    assert f"Roll back to {first}" in page


def test_after_ten_minutes_it_is_refused_and_going_back_is_still_there(
    owner: Client, make_version: MakeVersion
) -> None:
    first, second = make_version(), make_version()
    versions.activate(first)
    activation = activate(second, timezone.now() - UNDO_TIME)

    response = owner.post(UNDO, {"activation": activation.pk}, follow=True)

    assert "ten minutes for undoing have passed" in response.content.decode()
    assert versions.live_version() == second
    assert go_back().version == first


def test_it_is_refused_once_somebody_changed_what_is_live(owner: Client, make_version: MakeVersion) -> None:
    first, second, third = make_version(), make_version(), make_version()
    versions.activate(first)
    activation = versions.activate(second)
    versions.activate(third)

    for given in (activation.pk, "", "x", "9" * 30):
        response = owner.post(UNDO, {"activation": given}, follow=True)
        assert "Meanwhile somebody changed what is live." in response.content.decode()
    assert versions.live_version() == third


@pytest.mark.django_db(transaction=True)
def test_two_people_who_undo_at_once_go_back_once(make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = make_version(), make_version(), make_version()
    versions.activate(first)
    versions.activate(second)
    activation = versions.activate(third)
    # Both have seen that it may be undone, and have loaded what was live before, when the first one does it.
    both_ready = Barrier(2)
    roll_back = versions.roll_back

    def roll_back_together(**values: Any) -> Activation:
        both_ready.wait(timeout=30)
        return roll_back(**values)

    monkeypatch.setattr(versions, "roll_back", roll_back_together)

    def undone() -> bool:
        try:
            undo(activation.pk)
        except VersionError:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(2) as pool:
        results = [future.result() for future in [pool.submit(undone) for _ in range(2)]]

    assert sorted(results) == [False, True]
    assert (versions.live_version(), versions.previous_version()) == (second, first)


def test_it_goes_back_to_what_was_live_right_before(make_version: MakeVersion) -> None:
    """Whatever ways back were taken earlier."""
    first, second, third = make_version(), make_version(), make_version()
    for version in (first, second):
        versions.activate(version)
    versions.roll_back()
    activation = versions.activate(third)

    assert undo(activation.pk).version == first


def test_what_changed_nothing_or_went_back_is_not_offered(make_version: MakeVersion) -> None:
    first, second = make_version(), make_version()
    versions.activate(first)
    assert undo_on_offer() is None, "nothing was live before"
    versions.activate(first)
    assert undo_on_offer() is None, "nothing changed"
    versions.activate(second)
    offer = undo_on_offer()
    assert offer is not None
    assert offer.before == first
    assert 0 < offer.seconds_left <= UNDO_TIME.total_seconds()
    versions.roll_back()
    assert undo_on_offer() is None


def test_only_who_may_put_versions_in_use_undoes(client: Client, make_version: MakeVersion) -> None:
    first, second = make_version(), make_version()
    versions.activate(first)
    activation = versions.activate(second)
    assert "/admin/login/" in client.post(UNDO, {"activation": activation.pk}).headers["Location"]
    client.force_login(clerk("view_adapterversion", "view_trainingrun", "view_activation"))

    assert client.post(UNDO, {"activation": activation.pk}).status_code == 403
    assert "Undo:" not in client.get("/admin/").content.decode()
    assert "Undo:" not in client.get(f"/admin/training/adapterversion/{second.pk}/change/").content.decode()
    assert versions.live_version() == second


def test_undoing_is_not_done_by_following_a_link(owner: Client) -> None:
    assert owner.get(UNDO).status_code == 405
