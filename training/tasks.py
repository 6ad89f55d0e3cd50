"""Celery as one more way in: a task calls one function and has no logic of its own."""

from __future__ import annotations

import signal
from types import FrameType

from celery import shared_task
from celery.signals import worker_ready

from training import runs

SWEEP_SECONDS = 20


@shared_task
def run_training() -> None:
    from training.pipeline import ToldToGo, execute

    def leave(signum: int, frame: FrameType | None) -> None:
        raise ToldToGo

    run = runs.claim_next()
    if run is not None:
        signal.signal(signal.SIGTERM, leave)
        execute(run)


@shared_task
def sweep_runs() -> None:
    if runs.sweep():
        runs.wake(expires=SWEEP_SECONDS)


@shared_task
def follow_schedule() -> None:
    from training.scheduling import follow_schedule as do_what_is_due

    do_what_is_due()


@shared_task
def train_if_due() -> None:
    from training.retraining import train_if_due as look

    look()


@worker_ready.connect
def wake_waiting_runs(**kwargs: object) -> None:
    """Runs may have been asked for while no worker or no Redis was there."""
    sweep_runs.delay()
