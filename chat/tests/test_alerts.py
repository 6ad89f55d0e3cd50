"""Staff hear by e-mail of customers who wait."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync
from celery import Celery
from django.core import mail
from pytest_django import Settings

from chat import alerts, handovers, people, tasks
from chat.models import Conversation, Handover

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


def queued(settings: Settings) -> list[Any]:
    """The alerts that wait for a worker; takes them out."""
    found = []
    with redis.Redis.from_url(settings.REDIS_URL) as broker:
        while (message := broker.rpop(settings.CELERY_TASK_DEFAULT_QUEUE)) is not None:
            headers = json.loads(message)["headers"]
            if headers["task"] == tasks.send_alert.name:
                found.append(headers["argsrepr"])
    return found


def ask() -> Handover:
    conversation, _ = Conversation.start("es")
    conversation.messages.create(role="user", text="soy Ana, 600 123 456", client_id="c1")
    async_to_sync(people.ask)(conversation, "es")
    return conversation.handovers.get()


def test_whoever_is_named_is_told_once_for_each_customer(settings: Settings) -> None:
    settings.HANDOVER_EMAILS, settings.LANGUAGE_CODE = ["tienda@example.com"], "es"
    queued(settings)

    handover = ask()
    async_to_sync(people.ask)(handover.conversation, "es")

    assert queued(settings) == [f"[{handover.pk}]"]
    tasks.send_alert(handover.pk)
    (sent,) = mail.outbox
    assert sent.to == ["tienda@example.com"]
    assert sent.subject == f"Un cliente espera a una persona: {handover.reference}"
    assert handover.reference in sent.body
    assert "Ana" not in sent.body, "what customers write is kept in one place"


def test_nobody_is_told_where_nobody_is_named(settings: Settings) -> None:
    queued(settings)

    ask()

    assert queued(settings) == []


def test_who_waits_no_more_is_not_told_of(settings: Settings) -> None:
    settings.HANDOVER_EMAILS = ["tienda@example.com"]
    handover = ask()
    handovers.leave(handover.conversation)

    tasks.send_alert(handover.pk)

    assert mail.outbox == []


def test_without_a_broker_the_customer_waits_in_the_inbox_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.HANDOVER_EMAILS = ["tienda@example.com"]
    # Nobody listens there.
    monkeypatch.setattr(alerts, "current_app", Celery(broker="redis://127.0.0.1:1/0"))

    handover = ask()

    assert handover.state == "waiting"
    assert f"nobody is told by e-mail of the hand-over {handover.reference}" in caplog.text
