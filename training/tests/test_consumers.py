"""Staff who watch a training, over the real channel layer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.test import Client

from chatbot_site.asgi import application
from training import runs
from training.consumers import CLOSE_FORBIDDEN
from training.models import RunEvent, TrainingRun
from training.tests.test_admin import clerk

pytestmark = pytest.mark.django_db(transaction=True)


def socket(
    user: User | None, origin: bytes = b"http://testserver", path: str = "/ws/training/"
) -> WebsocketCommunicator:
    client = Client()
    if user is not None:
        client.force_login(user)
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
    headers = [
        (b"origin", origin),
        (b"cookie", cookies.encode()),
        (b"accept-language", b"en"),
        (b"host", b"testserver"),
    ]
    return WebsocketCommunicator(application, path, headers=headers)


def watch(user: User | None, scenario: Callable[[WebsocketCommunicator], Awaitable[None]]) -> None:
    communicator = socket(user)

    async def whole() -> None:
        connected, _subprotocol = await communicator.connect()
        assert connected
        await scenario(communicator)
        await communicator.disconnect()

    async_to_sync(whole)()


async def told(communicator: WebsocketCommunicator) -> Any:
    return json.loads(await communicator.receive_from(timeout=2))["run"]


async def is_shut_out(communicator: WebsocketCommunicator) -> None:
    closed = await communicator.receive_output(timeout=2)
    assert (closed["type"], closed["code"]) == ("websocket.close", CLOSE_FORBIDDEN)


def test_who_may_see_runs_is_told_at_once_and_of_every_step() -> None:
    run = runs.start_in_foreground()

    async def scenario(communicator: WebsocketCommunicator) -> None:
        assert (await told(communicator))["phase_text"] == "Preparing the questions"
        values = {"step": 50, "max_steps": 200, "curve": [[50, 1.5, None]], "memory_mb": 900}
        await database_sync_to_async(runs.progress)(run, phase=TrainingRun.Phase.TRAINING, **values)
        status = await told(communicator)
        assert (status["phase_text"], status["step"], status["percent"]) == ("Learning", 50, 30)
        assert (status["curve"], status["memory_mb"]) == ([[50, 1.5, None]], 900)
        assert "left" in status["left_text"]

    watch(clerk("view_trainingrun"), scenario)


def test_the_log_and_the_queue_are_sent_as_they_grow() -> None:
    run = runs.start_in_foreground()

    async def scenario(communicator: WebsocketCommunicator) -> None:
        first = json.loads(await communicator.receive_from(timeout=2))
        assert [line["text"] for line in first["run"]["log"]] == ["Asked for", "Started"]
        assert first["queue"] == []
        waiting = await database_sync_to_async(runs.queue_run)()
        second = json.loads(await communicator.receive_from(timeout=2))
        assert (second["run"]["id"], second["queue"]) == (run.pk, [waiting.pk])
        await database_sync_to_async(runs.record)(run, RunEvent.Code.STEP, step=1, max_steps=2, loss=0.5)
        await database_sync_to_async(runs.progress)(run, step=1, max_steps=2)
        third = (await told(communicator))["log"]
        assert third[:2] == first["run"]["log"], "a line keeps its name and its words"
        assert third[2]["text"] == "Learning: step 1 of 2, 61 % sure of the right words"
        await database_sync_to_async(runs.succeed)(run)
        last = json.loads(await communicator.receive_from(timeout=2))
        assert (last["run"]["id"], last["queue"]) == (waiting.pk, [waiting.pk]), "its turn comes"

    watch(clerk("view_trainingrun"), scenario)


def test_a_step_is_told_that_no_row_holds() -> None:
    run = runs.start_in_foreground()

    async def scenario(communicator: WebsocketCommunicator) -> None:
        await told(communicator)
        await database_sync_to_async(runs.progress)(run, phase=TrainingRun.Phase.TRAINING, step=50, max_steps=200)
        assert (await told(communicator))["step"] == 50
        values = {"step": 60, "max_steps": 200, "curve": [[60, 1.5, None]], "memory_mb": 900}
        await database_sync_to_async(runs.tell)(run, **values)
        status = await told(communicator)
        assert (status["step"], status["percent"], status["curve"]) == (60, 34, [[60, 1.5, None]])
        await database_sync_to_async(runs.queue_run)()
        assert (await told(communicator))["step"] == 60, "it does not go back when something else is told"
        await database_sync_to_async(runs.release)(run)
        await told(communicator)
        taken = await database_sync_to_async(runs.claim)(run.pk)
        assert taken is not None
        await database_sync_to_async(runs.tell)(run, **values)
        await told(communicator)
        assert (await told(communicator))["step"] == 50, "whoever has lost the run says nothing of it any more"

    watch(clerk("view_trainingrun"), scenario)
    run.refresh_from_db()
    assert run.step == 50


def test_nothing_to_watch_is_said_too() -> None:
    async def scenario(communicator: WebsocketCommunicator) -> None:
        assert await told(communicator) is None

    watch(clerk("view_trainingrun"), scenario)


@pytest.mark.parametrize("who", ["stranger", "customer", "clerk without the right"])
def test_others_are_shut_out(who: str) -> None:
    run = runs.start_in_foreground()
    user = None
    if who == "customer":
        user = User.objects.create_user("carla")
    elif who != "stranger":
        user = clerk("view_faqentry")
    watch(user, is_shut_out)
    assert run.is_active


def test_a_right_taken_away_ends_the_watching() -> None:
    run = runs.start_in_foreground()
    user = clerk("view_trainingrun")

    async def scenario(communicator: WebsocketCommunicator) -> None:
        await told(communicator)
        await database_sync_to_async(user.user_permissions.clear)()
        await database_sync_to_async(runs.progress)(run, step=1)
        await is_shut_out(communicator)

    watch(user, scenario)


def test_another_site_cannot_watch_with_a_clerks_cookie() -> None:
    communicator = socket(clerk("view_trainingrun"), origin=b"https://elsewhere.example")

    async def whole() -> bool:
        connected, _code = await communicator.connect()
        # To its end: a loop that closes around a waiting consumer may wait with it for ever.
        await communicator.disconnect()
        return connected

    assert not async_to_sync(whole)()
