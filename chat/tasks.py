"""Celery's way in: a task calls one function and has no logic of its own."""

from __future__ import annotations

from celery import shared_task

from chat import alerts, retention, trials


@shared_task
def watch_trial() -> None:
    trials.look()


@shared_task(autoretry_for=(OSError,), retry_backoff=30, max_retries=6)
def send_alert(handover_pk: int) -> None:
    alerts.send(handover_pk)


@shared_task
def forget_expired() -> None:
    retention.forget_expired(max_batches=retention.MAX_BATCHES_PER_TASK)
