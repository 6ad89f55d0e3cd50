"""Celery wakes training runs; the rows say what is to be done (training/runs.py)."""

from __future__ import annotations

import os

from celery import Celery
from celery.signals import setup_logging

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatbot_site.settings")

app = Celery("chatbot_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def keep_django_logging(**kwargs: object) -> None:
    """Settings configure the log; Celery, finding somebody connected here, leaves it alone."""
