"""Celery as one more way in."""

from __future__ import annotations

from celery import shared_task

from chat import trials


@shared_task
def watch_trial() -> None:
    trials.look()
