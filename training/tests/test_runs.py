from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation
from pytest_django import Settings

from training import runs
from training.events import lines
from training.models import RunEvent, TrainingRun
from training.status import current_run, public_status
from training.tasks import run_training

pytestmark = [pytest.mark.django_db, pytest.mark.database]

Status = TrainingRun.Status


def silence(run: TrainingRun) -> None:
    TrainingRun.objects.filter(pk=run.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=5))


def in_threads(*actions: Callable[[], object]) -> None:
    """At the same moment, each with a connection of its own."""
    barrier = threading.Barrier(len(actions))

    def act(action: Callable[[], object]) -> None:
        barrier.wait()
        action()
        connections.close_all()

    threads = [threading.Thread(target=act, args=[action]) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_several_wait_and_one_runs() -> None:
    first, second, third = (runs.create_run("quick") for _ in range(3))

    assert list(runs.waiting()) == [first, second, third]
    running = runs.claim_next()

    assert running == first
    assert runs.claim_next() is None
    assert runs.claim(second.pk) is None, "one at a time, whoever asks"
    with pytest.raises(runs.RunInProgress, match=f"#{first.pk}"):
        runs.start_in_foreground()
    assert list(runs.waiting()) == [second, third], "a refused run leaves no row"


def test_a_second_running_row_is_refused_by_the_database() -> None:
    runs.start_in_foreground()
    other = runs.create_run()

    with pytest.raises(IntegrityError), transaction.atomic():
        TrainingRun.objects.filter(pk=other.pk).update(status=Status.RUNNING)


def test_so_many_wait_and_no_more() -> None:
    waiting = [runs.create_run() for _ in range(runs.MAX_WAITING)]

    with pytest.raises(runs.QueueFull, match=f"{runs.MAX_WAITING} trainings are waiting"):
        runs.create_run()

    runs.request_cancel(waiting[3].pk)
    runs.create_run()


def test_who_waited_longest_comes_next() -> None:
    first, second, third = (runs.create_run() for _ in range(3))
    running = runs.claim_next()
    assert running is not None
    runs.release(running)

    again = runs.claim_next()
    assert again == first, "what was interrupted keeps its place"
    runs.fail(again, "no memory")
    runs.request_cancel(second.pk)

    assert runs.claim_next(up_to=second.pk) is None
    assert runs.claim_next() == third


def test_a_cancelled_run_gives_its_place_away_at_once() -> None:
    running, waiting = runs.start_in_foreground(), runs.create_run()

    runs.request_cancel(waiting.pk)

    waiting.refresh_from_db()
    assert (waiting.status, waiting.ended_at is not None) == (Status.CANCELLED, True)
    runs.succeed(running)
    assert runs.claim_next() is None


@pytest.mark.parametrize("end", [runs.succeed, runs.cancel, lambda run: runs.fail(run, "no memory")])
@pytest.mark.django_db(transaction=True)
def test_whoever_ends_a_run_wakes_a_worker_for_the_next(end: Callable[[TrainingRun], None]) -> None:
    running = runs.start_in_foreground()
    broker = redis.Redis.from_url(django_settings.REDIS_URL)
    broker.delete("training")
    runs.create_run()
    assert broker.llen("training") == 0, "while one runs, nobody is woken"
    assert runs.sweep() is False

    end(running)

    assert broker.llen("training") == 1
    message = json.loads(broker.lpop("training"))
    assert message["headers"]["task"] == "training.tasks.run_training"
    end_of_next = runs.claim_next()
    assert end_of_next is not None
    end(end_of_next)
    assert broker.llen("training") == 0, "nobody waits any more"
    assert runs.sweep() is False


def test_a_woken_worker_takes_one_run_and_then_the_next(shop: None, settings: Settings, tmp_path: Path) -> None:
    settings.BASE_MODEL = str(tmp_path)  # nothing there, so that each ends soon
    first, second = runs.create_run(), runs.create_run()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        for _ in range(2):
            run_training()
        run_training()
    finally:
        signal.signal(signal.SIGTERM, handler)

    ended = [TrainingRun.objects.get(pk=run.pk) for run in (first, second)]
    assert [run.status for run in ended] == [Status.FAILED, Status.FAILED]
    assert ended[0].ended_at < ended[1].started_at  # type: ignore[operator]


@pytest.mark.django_db(transaction=True)
def test_one_of_many_workers_runs_however_many_wait() -> None:
    """Each is told of another run: the claim that comes second is refused by the database."""
    waiting = [runs.create_run() for _ in range(6)]
    claimed: list[TrainingRun | None] = []

    in_threads(*(partial(lambda pk: claimed.append(runs.claim(pk)), run.pk) for run in waiting))

    assert sum(each is not None for each in claimed) == 1
    assert TrainingRun.objects.filter(status=Status.RUNNING).count() == 1
    connection.close()


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

    in_threads(*[lambda: claimed.append(runs.claim_next())] * 6)

    assert [each for each in claimed if each is not None] == [run]
    connection.close()


@pytest.mark.django_db(transaction=True)
def test_many_ask_at_the_same_time_and_all_wait() -> None:
    in_threads(*[runs.create_run] * 6)

    assert runs.waiting().count() == 6
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
    assert runs.sweep() is False, "a run that beats is left alone"

    silence(run)

    assert runs.sweep() is True
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

    seen = current_run()

    assert seen is not None
    assert seen.status == Status.QUEUED


def test_what_runs_is_seen_before_what_waits() -> None:
    run = runs.start_in_foreground()
    runs.create_run()

    assert current_run() == run
    runs.succeed(run)
    assert current_run() == runs.waiting().get()
    runs.request_cancel(runs.waiting().get().pk)
    assert current_run() is None


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

    runs.create_run()
    status = public_status()

    assert status == {"live": False, "run": {"percent": 50}}


def test_it_keeps_what_happened_in_the_readers_words(olga: User) -> None:
    run = runs.create_run(requested_by=olga)
    claimed = runs.claim(run.pk)
    assert claimed is not None
    runs.record(claimed, RunEvent.Code.PHASE, phase="training")
    runs.record(claimed, RunEvent.Code.STEP, step=40, max_steps=120, loss=0.61)
    silence(claimed)
    runs.sweep()
    claimed = runs.claim(run.pk)
    assert claimed is not None
    runs.record(claimed, RunEvent.Code.RESUMED, step=40)
    runs.request_cancel(run.pk, by=olga)
    runs.request_cancel(run.pk)
    runs.cancel(claimed)

    assert [line["text"] for line in lines(run)] == [
        "Asked for by olga",
        "Started",
        "Learning",
        "Learning: step 40 of 120, 54 % sure of the right words",
        "Its process was lost; it goes on when its turn comes",
        "Started, attempt 2",
        "Goes on after step 40, which was saved",
        "Cancelled by olga",
        "Ended without a version",
    ]
    with translation.override("es"):
        assert lines(run)[2]["text"] == str(TrainingRun.Phase.TRAINING.label) == "Aprendiendo"
        assert "54 %" in lines(run)[3]["text"]
    olga.delete()
    assert lines(run)[0]["text"] == "Asked for"


def test_every_kind_of_event_has_words() -> None:
    run = runs.create_run()
    values: dict[str, Any] = {
        "attempt": 2,
        "answers": 3,
        "wordings": 9,
        "phase": "exam",
        "step": 1,
        "max_steps": 2,
        "loss": None,
    }
    for code in RunEvent.Code:
        runs.record(run, code, size=4, **values)

    assert all(line["text"] and "%" not in line["text"] for line in lines(run))


def test_old_steps_make_room_and_nothing_else_does() -> None:
    run = runs.create_run()
    for step in range(runs.MAX_EVENTS + 30):
        runs.record(run, RunEvent.Code.STEP, step=step, max_steps=500, loss=1.0)

    kept = list(run.events.all())
    assert len(kept) == runs.MAX_EVENTS
    assert kept[0].code == RunEvent.Code.ASKED
    assert kept[-1].values["step"] == runs.MAX_EVENTS + 29
