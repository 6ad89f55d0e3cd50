from __future__ import annotations

from datetime import time, timedelta

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone

from faq.models import FaqEntry, OffTopicQuestion, Paraphrase
from faq.publication import current_publication
from training import runs, versions
from training.models import RetrainingSchedule, TrainingRun
from training.retraining import QUIET, last_edit, train_if_due
from training.snapshots import build_snapshot
from training.tests.conftest import Answers, MakeVersion
from training.tests.test_admin import clerk

pytestmark = [pytest.mark.django_db, pytest.mark.database]

HOUR = timedelta(hours=1)
PAGE = "/admin/training/retrainingschedule/1/change/"


def set_schedule(**values: object) -> None:
    """As if it had stood for a day."""
    RetrainingSchedule.objects.update_or_create(pk=1, defaults={"is_enabled": True, **values})
    RetrainingSchedule.objects.update(changed_at=timezone.now() - 25 * HOUR)


def outcome() -> str:
    return RetrainingSchedule.objects.get().outcome


def local_time(delta: timedelta) -> time:
    return (timezone.localtime() + delta).time()


def let_pass(delta: timedelta) -> None:
    """Everything was edited so much earlier."""
    for rows in (FaqEntry.objects.all(), Paraphrase.objects.all(), OffTopicQuestion.objects.all()):
        rows.update(updated_at=timezone.now() - delta)
    FaqEntry.history.update(history_date=timezone.now() - delta)


def end(run: TrainingRun, status: str = "succeeded") -> None:
    snapshot = build_snapshot(current_publication())
    TrainingRun.objects.filter(pk=run.pk).update(status=status, snapshot=snapshot)


def test_nothing_happens_without_a_timetable(shop: None) -> None:
    assert train_if_due() is None
    set_schedule(is_enabled=False, at=local_time(-HOUR))
    assert train_if_due() is None


def test_it_trains_once_a_night(shop: None) -> None:
    set_schedule(at=local_time(-HOUR))

    run = train_if_due()

    assert run is not None
    assert (run.status, run.preset, run.is_scheduled, run.activates_on_success) == ("queued", "normal", True, False)
    assert outcome() == f"Training {run}."
    end(run)
    assert train_if_due() is None, "this night is over"
    RetrainingSchedule.objects.update(looked_at=timezone.now() - 24 * HOUR)
    assert train_if_due() is None
    assert outcome() == f"Nothing has changed since training {run}."
    FaqEntry.objects.filter(key="pay").update(answer="Solo en efectivo.")
    RetrainingSchedule.objects.update(looked_at=timezone.now() - 24 * HOUR)
    assert train_if_due() is not None


def test_a_timetable_made_after_its_hour_waits_for_the_next_night(shop: None) -> None:
    set_schedule(at=local_time(-HOUR))
    RetrainingSchedule.objects.update(changed_at=timezone.now())

    assert train_if_due() is None


def test_it_waits_for_a_training_under_way(shop: None) -> None:
    set_schedule(at=local_time(-HOUR))
    asked = runs.queue_run()

    assert train_if_due() is None
    assert TrainingRun.objects.count() == 1
    runs.request_cancel(asked.pk)
    assert train_if_due() is not None


def test_it_trains_after_enough_changes_once_nobody_edits(shop: None) -> None:
    set_schedule(num_changes=3)
    assert train_if_due() is None, "somebody has just edited"
    let_pass(QUIET)

    run = train_if_due()

    assert run is not None
    end(run, "failed")
    assert train_if_due() is None, "it failed on just this"
    FaqEntry.objects.get(key="pay").save()
    let_pass(QUIET)
    RetrainingSchedule.objects.update(looked_at=timezone.now() - HOUR)
    assert train_if_due() is None, "saved, but not changed"


def test_it_counts_changes_since_what_is_live(shop: None, make_version: MakeVersion) -> None:
    """The live version knows one entry, with another wording less: three differ."""
    versions.activate(make_version())
    let_pass(QUIET)
    set_schedule(num_changes=4)
    assert train_if_due() is None
    set_schedule(num_changes=3)
    assert train_if_due() is not None


def test_it_says_what_keeps_it_from_training(db: None) -> None:
    set_schedule(at=local_time(-HOUR))

    assert train_if_due() is None

    assert "At least 2 published answers are needed" in outcome()


def test_an_entry_taken_out_is_an_edit(shop: None) -> None:
    let_pass(HOUR)
    FaqEntry.objects.get(key="pay").delete()

    edited = last_edit()

    assert edited is not None
    assert timezone.now() - edited < QUIET


def test_it_activates_only_for_whom_may(shop: None, olga: User) -> None:
    clara = clerk("add_trainingrun")
    set_schedule(at=local_time(-HOUR), activates=True, changed_by=clara)
    run = train_if_due()
    assert run is not None
    assert not run.activates_on_success

    runs.request_cancel(run.pk)
    set_schedule(at=local_time(-HOUR), activates=True, changed_by=olga, looked_at=None)
    run = train_if_due()
    assert run is not None
    assert (run.activates_on_success, run.requested_by) == (True, olga)


def test_a_version_that_breaks_anything_waits_for_somebody(make_version: MakeVersion, answered: Answers) -> None:
    live, worse = make_version(), make_version()
    answered(live, hola=("hours", "hours"))
    answered(worse, hola=("hours", None))
    versions.check_nothing_broken(worse)
    versions.activate(live)

    with pytest.raises(versions.VersionError, match="1 question worse"):
        versions.check_nothing_broken(worse)
    versions.check_nothing_broken(live)


def test_its_page(client: Client, olga: User) -> None:
    client.force_login(olga)
    assert client.get("/admin/training/retrainingschedule/").headers["Location"] == PAGE

    refused = client.post(PAGE, {"is_enabled": "on", "at": "", "num_changes": ""})
    assert "Say at what time, or after how many changes." in refused.content.decode()
    assert (
        client.post(PAGE, {"is_enabled": "on", "at": "03:00", "num_changes": "5", "activates": "on"}).status_code == 302
    )

    schedule = RetrainingSchedule.objects.get()
    assert (schedule.is_enabled, schedule.at, schedule.num_changes, schedule.activates) == (True, time(3), 5, True)
    assert schedule.changed_by == olga


def test_a_trainer_cannot_have_versions_put_in_use(client: Client) -> None:
    clara = clerk("add_trainingrun", "view_trainingrun")
    RetrainingSchedule.objects.create(pk=1)
    client.force_login(clara)

    client.post(PAGE, {"is_enabled": "on", "at": "03:00", "activates": "on"})

    schedule = RetrainingSchedule.objects.get()
    assert (schedule.is_enabled, schedule.activates) == (True, False)


def test_there_is_one_row(db: None) -> None:
    RetrainingSchedule.objects.create(pk=1)
    with pytest.raises(IntegrityError), transaction.atomic():
        RetrainingSchedule.objects.create(pk=2)
