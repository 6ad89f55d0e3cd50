"""The channel layer, with a real Redis: two layers in one loop stand for two processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.conf import settings

from bench.processes import Redis, running
from chatbot_site import layers
from chatbot_site.layers import RESUMED, BridgedChannelLayer


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(layers, "SPREAD_SECONDS", 0.05)


class Consumer:
    """Keeps what it is told, until it is cancelled."""

    def __init__(self, layer: BridgedChannelLayer, *groups: str) -> None:
        self.layer = layer
        self.groups = groups
        self.heard: list[Any] = []
        self.is_ready = asyncio.Event()

    async def run(self) -> None:
        channel = await self.layer.new_channel()
        for group in self.groups:
            await self.layer.group_add(group, channel)
        self.is_ready.set()
        while True:
            self.heard.append(await self.layer.receive(channel))

    async def hears(self, *events: Any) -> None:
        """Wait until it has heard these, and only these."""
        await until(lambda: len(self.heard) >= len(events))
        # Time enough for what should not come.
        await asyncio.sleep(0.1)
        assert self.heard == list(events)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(*consumers: Consumer) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(consumer.run()) for consumer in consumers]
    try:
        for consumer in consumers:
            await consumer.is_ready.wait()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def numbered(number: int) -> dict[str, Any]:
    return {"type": "test.event", "number": number, "text": "¿Qué? 🎉"}


def test_everybody_in_a_group_hears_each_event_once_and_in_order() -> None:
    async def scenario() -> None:
        ours, others = (BridgedChannelLayer(settings.REDIS_URL) for _ in range(2))
        here, there, elsewhere = Consumer(ours, "a"), Consumer(others, "a"), Consumer(others, "b")
        async with listening(here, there, elsewhere):
            for number in range(500):
                await ours.group_send("a", numbered(number))
            await there.hears(*map(numbered, range(500)))
            await others.group_send("a", numbered(500))
            await here.hears(*map(numbered, range(501)))
            await there.hears(*map(numbered, range(501)))
            assert elsewhere.heard == []

    run(scenario)


def test_those_of_the_same_process_are_told_at_once() -> None:
    async def scenario() -> None:
        layer = BridgedChannelLayer(settings.REDIS_URL)
        channel = await layer.new_channel()
        await layer.group_add("a", channel)
        await layer.group_send("a", numbered(1))
        heard = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0)
        assert heard.done()

    run(scenario)


def test_whoever_has_left_hears_nothing_more() -> None:
    async def scenario() -> None:
        layer = BridgedChannelLayer(settings.REDIS_URL)
        channel = await layer.new_channel()
        await layer.group_add("a", channel)
        await layer.group_add("a", channel)
        await layer.group_discard("a", channel)
        await layer.group_discard("a", channel)
        await layer.group_send("a", numbered(1))
        await layer.send(channel, numbered(2))
        assert await layer.receive(channel) == numbered(2)

    run(scenario)


def test_a_consumer_that_has_ended_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        layer = BridgedChannelLayer(settings.REDIS_URL)
        async with listening(Consumer(layer, "a", "b"), Consumer(layer, "b")):
            pass
        await layer.group_send("b", numbered(1))
        side = layer._here
        assert (side.channels, side._groups) == ({}, {})

    run(scenario)


def test_one_that_has_ceased_to_listen_costs_nobody_else_anything(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        layer = BridgedChannelLayer(settings.REDIS_URL)
        await layer.group_add("a", await layer.new_channel())
        awake = Consumer(layer, "a")
        async with listening(awake):
            for number in range(layers.CAPACITY + 1):
                await layer.group_send("a", numbered(number))
                await asyncio.sleep(0)
            await awake.hears(*map(numbered, range(layers.CAPACITY + 1)))

    run(scenario)
    assert "ceased to listen" in caplog.text


def test_a_worker_tells_the_sockets_of_a_server() -> None:
    program = (
        "import django; django.setup(); from asgiref.sync import async_to_sync; "
        "from channels.layers import get_channel_layer; "
        "send = async_to_sync(get_channel_layer().group_send); "
        "[send('a', {'type': 'test.event', 'number': number, 'text': '¿Qué? 🎉'}) for number in range(3)]"
    )

    async def scenario() -> None:
        consumer = Consumer(BridgedChannelLayer(settings.REDIS_URL), "a")
        async with listening(consumer):
            await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=True)
            await consumer.hears(*map(numbered, range(3)))

    run(scenario)


@pytest.mark.parametrize("num_turns", range(30))
def test_it_ends_with_its_loop_whatever_it_is_doing(num_turns: int) -> None:
    async def scenario() -> None:
        layer = BridgedChannelLayer(settings.REDIS_URL)
        await layer.group_add("a", await layer.new_channel())
        await layer.group_send("a", numbered(1))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        tasks = layer._here._tasks
        for task in tasks:
            task.cancel()
        done, _pending = await asyncio.wait(tasks, timeout=10)
        assert done == set(tasks)

    run(scenario)


def test_another_database_of_the_same_redis_is_another_installation() -> None:
    async def scenario() -> None:
        ours = BridgedChannelLayer(settings.REDIS_URL)
        others = BridgedChannelLayer(settings.REDIS_URL.removesuffix("/0") + "/4")
        here, there = Consumer(ours, "a"), Consumer(others, "a")
        async with listening(here, there):
            await ours.group_send("a", numbered(1))
            await here.hears(numbered(1))
            assert there.heard == []

    run(scenario)


def test_a_process_goes_on_without_redis_and_reads_anew_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with running(Redis()) as redis:
            ours, others = BridgedChannelLayer(redis.url), BridgedChannelLayer(redis.url)
            here, there, alone = Consumer(ours, "a"), Consumer(others, "a"), Consumer(others)
            async with listening(here, there, alone):
                await ours.group_send("a", numbered(1))
                await there.hears(numbered(1))
                redis.kill()
                await ours.group_send("a", numbered(2))
                await here.hears(numbered(1), numbered(2))
                redis.start()
                await until(lambda: RESUMED in there.heard)
                await ours.group_send("a", numbered(3))
                await until(lambda: numbered(3) in there.heard)
                assert [event for event in here.heard if event != RESUMED] == [*map(numbered, (1, 2, 3))]
                assert [event for event in there.heard if event != RESUMED] == [numbered(1), numbered(3)]
                assert alone.heard == []

    with caplog.at_level(logging.WARNING):
        run(scenario)
    assert "Redis is away" in caplog.text


def test_a_server_that_starts_without_redis_serves_its_own_sockets() -> None:
    async def scenario() -> None:
        with running(Redis()) as redis:
            redis.kill()
            layer = BridgedChannelLayer(redis.url)
            consumer = Consumer(layer, "a")
            async with listening(consumer):
                await layer.group_send("a", numbered(1))
                await consumer.hears(numbered(1))
                redis.start()
                await consumer.hears(numbered(1), RESUMED)

    run(scenario)


def test_a_redis_that_says_nothing_is_taken_for_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(layers, "SILENCE_SECONDS", 0.2)

    async def scenario() -> None:
        with running(Redis()) as redis:
            consumer = Consumer(BridgedChannelLayer(redis.url), "a")
            async with listening(consumer):
                os.kill(redis.pid, signal.SIGSTOP)
                try:
                    await until(lambda: "Redis is away" in caplog.text)
                finally:
                    os.kill(redis.pid, signal.SIGCONT)
                await consumer.hears(RESUMED)

    run(scenario)


def test_what_was_lost_is_told_although_nothing_follows() -> None:
    async def scenario() -> None:
        with running(Redis()) as redis:
            ours, others = BridgedChannelLayer(redis.url), BridgedChannelLayer(redis.url)
            here, there = Consumer(ours, "a"), Consumer(others, "a")
            async with listening(here, there), layers._connect(redis.url) as operator:
                await operator.execute_command("ACL", "SETUSER", "default", "-publish")
                await ours.group_send("a", numbered(1))
                await until(lambda: ours._here._has_lost)
                await operator.execute_command("ACL", "SETUSER", "default", "+publish")
                await there.hears(RESUMED)

    run(scenario)


def test_what_is_too_much_to_wait_for_redis_is_told_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "OUTBOX_CAPACITY", 3)

    async def scenario() -> None:
        ours, others = (BridgedChannelLayer(settings.REDIS_URL) for _ in range(2))
        here, there = Consumer(ours, "a"), Consumer(others, "a")
        async with listening(here, there):
            for number in range(5):
                await ours.group_send("a", numbered(number))
            await here.hears(*map(numbered, range(5)))
            await until(lambda: RESUMED in there.heard)
            assert [event for event in there.heard if event != RESUMED] == [*map(numbered, range(3))]

    run(scenario)


def test_an_event_that_is_no_text_is_heard_like_any_other() -> None:
    async def scenario() -> None:
        ours, others = (BridgedChannelLayer(settings.REDIS_URL) for _ in range(2))
        here, there = Consumer(ours, "a"), Consumer(others, "a")
        async with listening(here, there):
            halved = {"type": "test.event", "text": "half of 🎉: \ud83c"}
            for event in (halved, numbered(1)):
                await ours.group_send("a", event)
            await there.hears(halved, numbered(1))

    run(scenario)


def test_it_goes_on_telling_after_what_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        ours, others = (BridgedChannelLayer(settings.REDIS_URL) for _ in range(2))
        here, there = Consumer(ours, "a"), Consumer(others, "a")
        async with listening(here, there):
            with monkeypatch.context() as patch:
                patch.setattr(ours._here._redis, "publish", lambda *message: 1 / 0)
                await ours.group_send("a", numbered(1))
                await until(lambda: "1 events were not told" in caplog.text)
            await there.hears(RESUMED)
            await ours.group_send("a", numbered(2))
            await there.hears(RESUMED, numbered(2))

    run(scenario)


def test_it_goes_on_hearing_after_what_is_not_its_own() -> None:
    async def scenario() -> None:
        ours, others = (BridgedChannelLayer(settings.REDIS_URL) for _ in range(2))
        here, there = Consumer(ours, "a"), Consumer(others, "a")
        async with listening(here, there), layers._connect(settings.REDIS_URL) as stranger:
            for strange in (b"\xff", b"7", b"[]", b'{"a": 1}', b""):
                await stranger.publish(ours._here._topic, strange)
            await others.group_send("a", numbered(1))
            await here.hears(numbered(1))
            # What looks like its own and is not: it may have missed something meanwhile, and says so.
            await stranger.publish(ours._here._topic, json.dumps(["", [[["no", "group"], {}]]]))
            await until(lambda: RESUMED in here.heard)
            await others.group_send("a", numbered(2))
            await until(lambda: numbered(2) in here.heard)

    run(scenario)


def test_a_redis_that_hangs_holds_nobody_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "DRAIN_SECONDS", 0.1)

    async def scenario() -> None:
        with running(Redis()) as redis:
            # Else redis-py gives up before long, which is too long still.
            url = f"{redis.url}?socket_timeout=600"
            server, worker = BridgedChannelLayer(url), BridgedChannelLayer(url)
            await server.new_channel()
            os.kill(redis.pid, signal.SIGSTOP)
            try:
                async with asyncio.timeout(60):
                    await worker.group_send("a", numbered(1))
                    await server.group_send("a", numbered(2))
                    await server.drain()
            finally:
                os.kill(redis.pid, signal.SIGCONT)

    run(scenario)


def test_all_read_anew_one_after_the_other_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "SPREAD_SECONDS", 0.5)

    async def scenario() -> None:
        layer = BridgedChannelLayer(settings.REDIS_URL)
        heard: list[int] = []

        class Numbered(list[Any]):
            def __init__(self, number: int) -> None:
                self.number = number

            def append(self, event: Any) -> None:
                heard.append(self.number)

        consumers = [Consumer(layer, "a") for _ in range(50)]
        for number, consumer in enumerate(consumers):
            consumer.heard = Numbered(number)
        async with listening(*consumers):
            layer._here._resume()
            layer._here._resume()
            await until(lambda: len(heard) >= 50)
        assert sorted(heard) == [*range(50)]
        assert heard != [*range(50)], "in an order of chance"

    run(scenario)
