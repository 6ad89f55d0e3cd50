"""Several web processes with one database and one Redis: here two event loops, which share nothing but these two."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import connections
from django.utils import timezone

from chat.models import Conversation
from chat.tests.test_consumers import Client as Page
from chat.tests.test_consumers import long_answer, run
from chat.tests.test_inbox import Desk, agent
from faq.models import FaqEntry
from training import serving
from training.models import AdapterVersion

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


@contextmanager
def elsewhere(scenario: Callable[[threading.Event], Awaitable[None]]) -> Iterator[None]:
    """A scenario in a thread and an event loop of its own. It is awaited until it sets the event, and at the end."""
    is_ready = threading.Event()

    def work() -> None:
        try:
            async_to_sync(scenario)(is_ready)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert is_ready.wait(30)
        yield
        working.result(30)


async def leave(page: Page) -> None:
    """As a server that is told to go: what it has said is heard elsewhere."""
    await page.close()
    layer: Any = get_channel_layer()
    await layer.drain()


@pytest.fixture
def begun(live: AdapterVersion) -> dict[str, str]:
    """A conversation that has just begun: what opens it."""
    serving.prepare(live)
    FaqEntry.objects.filter(key="pay").update(answer=long_answer(), updated_at=timezone.now())
    conversation, token = Conversation.start("en")
    return {"conversation": str(conversation.pk), "token": token}


def test_a_page_on_another_process_reads_along_once_and_in_order(begun: dict[str, str]) -> None:
    read: list[dict[str, Any]] = []

    async def read_along(is_ready: threading.Event) -> None:
        page = Page()
        await page.open(**begun)
        is_ready.set()
        while not read or read[-1]["type"] != "done":
            read.append(await page.wait_for("message", "delta", "done"))
        assert await page.socket.receive_nothing(timeout=0.3)
        await page.close()

    async def ask() -> None:
        page = Page()
        await page.open(**begun)
        await page.ask("formas de pago")
        await page.read_answer()
        await leave(page)

    with elsewhere(read_along):
        run(ask)

    assert [frame["type"] for frame in read[:2]] == ["message", "message"]
    deltas = read[2:-1]
    assert [delta["seq"] for delta in deltas] == list(range(1, len(deltas) + 1))
    assert "".join(delta["text"] for delta in deltas) == read[-1]["message"]["text"] == long_answer()


def test_a_page_on_another_process_stops_what_is_written(begun: dict[str, str]) -> None:
    async def stop(is_ready: threading.Event) -> None:
        page = Page()
        await page.open(**begun)
        is_ready.set()
        await page.wait_for("delta")
        await page.send({"type": "stop"})
        assert (await page.wait_for("done"))["message"]["finish_reason"] == "cancelled"
        await page.close()

    async def ask() -> None:
        page = Page()
        await page.open(**begun)
        await page.ask("formas de pago")
        _, message = await page.read_answer()
        assert (message["finish_reason"], len(message["text"]) < len(long_answer())) == ("cancelled", True)
        await leave(page)

    with elsewhere(stop):
        run(ask)


def test_an_inbox_on_another_process_hears_of_who_waits(begun: dict[str, str]) -> None:
    desk = Desk(agent("lucia"))

    async def wait(is_ready: threading.Event) -> None:
        assert (await desk.open())["waiting"] == []
        is_ready.set()
        while not (await desk.wait_for("inbox"))["waiting"]:
            pass
        await desk.close()

    async def ask() -> None:
        page = Page()
        await page.open(**begun)
        await page.send({"type": "person"})
        assert (await page.wait_for("handover"))["handover"]["state"] == "waiting"
        await leave(page)

    with elsewhere(wait):
        run(ask)


def test_pages_read_anew_what_they_may_have_missed(begun: dict[str, str]) -> None:
    async def scenario() -> None:
        page, stranger = Page(), Page()
        await page.open(**begun)
        connected, _ = await stranger.socket.connect()
        assert connected
        conversation = await Conversation.objects.aget(pk=begun["conversation"])
        missed = await conversation.messages.acreate(role="assistant", text="Hola", seq=1, finish_reason="stop")
        layer: Any = get_channel_layer()
        layer._here._resume()
        assert [message["id"] for message in (await page.wait_for("ready"))["messages"]] == [missed.pk]
        assert await stranger.socket.receive_nothing(timeout=0.2), "it has not said where it belongs"
        await page.close()
        await stranger.close()

    run(scenario)
