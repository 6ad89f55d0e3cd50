from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from training import runs
from training.models import TrainingRun
from training.status import latest_run, public_status

pytestmark = [pytest.mark.django_db, pytest.mark.database]

Status = TrainingRun.Status


def silence(run: TrainingRun) -> None:
    TrainingRun.objects.filter(pk=run.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=5))


def test_it_queues_one_run_at_a_time() -> None:
    run = runs.create_run("quick")

    assert (run.status, run.config["learning_rate"] > 0) == (Status.QUEUED, True)
    with pytest.raises(runs.RunInProgress, match=f"#{run.pk}"):
        runs.create_run()


def test_it_is_claimed_once() -> None:
    run = runs.create_run()

    claimed = runs.claim(run.pk)

    assert claimed is not None
    assert (claimed.status, claimed.num_attempts) == (Status.RUNNING, 1)
    assert runs.claim(run.pk) is None, "a second delivery of the same message does nothing"


@pytest.mark.django_db(transaction=True)
def test_it_is_claimed_by_one_of_many_processes() -> None:
    run = runs.create_run()
    claimed: list[TrainingRun | None] = []
    barrier = threading.Barrier(6)

    def compete() -> None:
        barrier.wait()
        claimed.append(runs.claim(run.pk))
        connections.close_all()

    threads = [threading.Thread(target=compete) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(each is not None for each in claimed) == 1
    connection.close()


@pytest.mark.django_db(transaction=True)
def test_it_is_asked_for_once_by_many_at_the_same_time() -> None:
    outcomes: list[bool] = []
    barrier = threading.Barrier(6)

    def ask() -> None:
        barrier.wait()
        try:
            runs.create_run()
            outcomes.append(True)
        except runs.RunInProgress:
            outcomes.append(False)
        connections.close_all()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == [False] * 5 + [True]
    connection.close()


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (runs.succeed, Status.SUCCEEDED),
        (runs.cancel, Status.CANCELLED),
        (lambda run: runs.fail(run, "no memory", traceback="…"), Status.FAILED),
    ],
)
def test_it_ends_for_good(end: Callable[[TrainingRun], None], status: str) -> None:
    run = runs.start_in_foreground()
    end(run)

    run.refresh_from_db()
    assert run.status == status
    assert run.ended_at is not None
    for write in (runs.succeed, runs.cancel, lambda r: runs.fail(r, "x"), lambda r: runs.progress(r, step=1)):
        with pytest.raises(runs.ClaimLost):
            write(run)
    assert runs.claim(run.pk) is None
    runs.create_run()


def test_it_returns_to_the_queue_when_its_process_is_lost() -> None:
    run = runs.start_in_foreground()
    assert runs.sweep() == [], "a run that beats is left alone"

    silence(run)

    assert runs.sweep() == [run.pk]
    second = runs.claim(run.pk)
    assert second is not None
    assert second.num_attempts == 2
    with pytest.raises(runs.ClaimLost):
        runs.progress(run, step=5)
    runs.progress(second, step=6)
    second.refresh_from_db()
    assert second.step == 6


def test_it_fails_after_several_lost_processes() -> None:
    run = runs.create_run()
    for _ in range(runs.MAX_ATTEMPTS):
        claimed = runs.claim(run.pk)
        assert claimed is not None
        silence(claimed)
        runs.sweep()

    run.refresh_from_db()
    assert run.status == Status.FAILED
    assert str(runs.MAX_ATTEMPTS) in run.error


def test_it_is_not_taken_from_a_process_that_has_beaten_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop wakes from sleep: the run looks silent, and beats before the sweep has written."""
    run = runs.start_in_foreground()
    silence(run)
    write = runs._write

    def beat_first(swept: TrainingRun, **values: object) -> None:
        TrainingRun.objects.filter(pk=run.pk).update(heartbeat_at=timezone.now())
        write(swept, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "_write", beat_first)
    runs.sweep()

    run.refresh_from_db()
    assert run.status == Status.RUNNING


def test_it_takes_parameters_from_the_settings(settings: Settings) -> None:
    settings.TRAINING_PARAMETERS = {"learning_rate": 2e-4}

    assert runs.create_run("quick").config["learning_rate"] == 2e-4


def test_it_learns_whole_answers_where_the_model_writes_freely(settings: Settings) -> None:
    settings.ANSWER_POLICY = "free"

    assert runs.create_run("quick").config["cut_completions"] is False


def test_it_is_never_seen_running_for_ever() -> None:
    """No worker and no beat is needed: whoever looks sets it right."""
    run = runs.start_in_foreground()
    silence(run)

    seen = latest_run()

    assert seen is not None
    assert seen.status == Status.QUEUED


def test_it_can_be_cancelled_while_it_waits() -> None:
    run = runs.create_run()

    runs.request_cancel(run.pk)

    run.refresh_from_db()
    assert run.status == Status.CANCELLED
    assert runs.claim(run.pk) is None


def test_a_heartbeat_writes_only_when_no_progress_has() -> None:
    run = runs.start_in_foreground()
    runs.progress(run, step=1)

    with CaptureQueriesContext(connection) as queries:
        runs.heartbeat(run)
    assert not [query for query in queries if query["sql"].startswith("UPDATE")]

    silence(run)
    runs.heartbeat(run)
    run.refresh_from_db()
    assert not runs.is_silent(run)


def test_it_hears_of_a_cancellation_with_its_next_heartbeat() -> None:
    run = runs.start_in_foreground()
    assert runs.heartbeat(run) is False

    runs.request_cancel(run.pk)

    assert runs.heartbeat(run) is True
    run.refresh_from_db()
    assert run.status == Status.RUNNING, "it ends itself, after its step"


def test_it_is_cancelled_when_its_process_is_lost_meanwhile() -> None:
    run = runs.start_in_foreground()
    runs.request_cancel(run.pk)
    silence(run)

    runs.sweep()

    run.refresh_from_db()
    assert run.status == Status.CANCELLED


def test_it_is_given_back_without_counting_an_attempt() -> None:
    run = runs.start_in_foreground()

    runs.release(run)

    run.refresh_from_db()
    assert (run.status, run.num_attempts) == (Status.QUEUED, 0)
    assert runs.claim(run.pk) is not None


def test_it_tells_customers_how_far_it_is() -> None:
    assert public_status() == {"live": False, "run": None}
    run = runs.start_in_foreground()
    runs.progress(run, phase=TrainingRun.Phase.TRAINING, step=50, max_steps=100)

    status = public_status()

    assert status["live"] is False
    assert status["run"]["percent"] == 50
