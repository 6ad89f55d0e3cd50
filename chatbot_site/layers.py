"""The channel layer: the sockets of one process are told directly, those of all others over Redis.

An event reaches the sockets of the event loop in which it is sent before `group_send` returns, in the order in which it
is sent, whether Redis is there or not. Redis carries it to all other loops, which give it to their own sockets: in the
same order, at most once. What they missed while Redis was away nobody knows; so once it is back, each consumer that is
in a group hears `layer.resumed` within SPREAD_SECONDS, and tells its page anew what is stored.

Events are JSON. The consumers of a process share them and change nothing in them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from channels.layers import BaseChannelLayer
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

Event = dict[str, Any]

RESUMED: Event = {"type": "layer.resumed"}
# So many events may wait for one consumer. Whoever leaves more unread has ceased to listen, and misses what follows.
CAPACITY = 1_000
# So many may wait for Redis to carry them. What follows is lost elsewhere, which is told as any loss is.
OUTBOX_CAPACITY = 10_000
# When nothing has been heard for so long, Redis is asked whether it is there.
SILENCE_SECONDS = 30.0
RETRY_SECONDS = 1.0
# What comes within so long is told elsewhere as one message: under load, a message for each event cost as much as the
# answers' own way to their pages.
LINGER_SECONDS = 0.05
# All who hear that something may be lost ask the database, and not all at once.
SPREAD_SECONDS = 3.0
# A worker has other things to do than wait for Redis, and a server that is told to go must go.
PUBLISH_SECONDS = 0.5
DRAIN_SECONDS = 3.0


class BridgedChannelLayer(BaseChannelLayer):
    """
    Args:
        url: of the Redis; loops that name the same database there hear each other.
    """

    extensions = ["groups"]

    def __init__(self, url: str) -> None:
        super().__init__(capacity=CAPACITY)
        self._url = url
        self._sides: WeakKeyDictionary[asyncio.AbstractEventLoop, _Side] = WeakKeyDictionary()

    async def new_channel(self, prefix: str = "specific") -> str:
        """A channel for the consumer that the current task is; it goes when the task ends."""
        loop = asyncio.get_running_loop()
        if loop not in self._sides:
            self._sides[loop] = _Side(self._url)
        return await self._sides[loop].new_channel(prefix)

    async def send(self, channel: str, message: Event) -> None:
        self._here.put(channel, message)

    async def receive(self, channel: str) -> Event:
        return await self._here.channels[channel].events.get()

    async def group_add(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)
        self._here.join(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self._here.leave(group, channel)

    async def group_send(self, group: str, message: Event) -> None:
        """Nothing is raised where Redis is away: whoever tells something has stored it."""
        side = self._sides.get(asyncio.get_running_loop())
        if side is None:
            # A worker or a command, whose loop may end with this call.
            await _publish_once(self._url, group, message)
        else:
            side.tell(group, message)

    async def drain(self) -> None:
        """Wait until Redis has taken what was sent in this loop, or is found to be away: the loop is about to end.

        What it has not taken within DRAIN_SECONDS is lost.
        """
        side = self._sides.get(asyncio.get_running_loop())
        if side is not None:
            await side.drain()

    @property
    def _here(self) -> _Side:
        return self._sides[asyncio.get_running_loop()]


@dataclass(frozen=True, slots=True)
class _Channel:
    events: asyncio.Queue[Event] = field(default_factory=lambda: asyncio.Queue(CAPACITY))
    groups: set[str] = field(default_factory=set)


class _Side:
    """One event loop's channels, and its connection to all other loops."""

    def __init__(self, url: str) -> None:
        self.channels: dict[str, _Channel] = {}
        # The names of the channels, in the order in which they joined.
        self._groups: dict[str, dict[str, None]] = {}
        self._name = uuid.uuid4().hex
        self._url = url
        # Publishes over one connection: of two, the second still waits to be found dead once Redis is back.
        self._redis = _connect(url)
        self._topic = _topic(self._redis)
        self._outbox: asyncio.Queue[str] = asyncio.Queue(OUTBOX_CAPACITY)
        # Whether others missed something of what was sent here.
        self._has_lost = False
        # The channels that will hear so.
        self._resuming: set[str] = set()
        # Once Redis has answered or could not be reached.
        self._is_settled = asyncio.Event()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._talk())]

    async def new_channel(self, prefix: str) -> str:
        # Else what others send in the first moment would be missed.
        await self._is_settled.wait()
        name = f"{prefix}.{self._name}!{uuid.uuid4().hex}"
        self.channels[name] = _Channel()
        consumer = asyncio.current_task()
        assert consumer is not None, "this runs in one"
        consumer.add_done_callback(lambda _: self._drop(name))
        return name

    def _drop(self, name: str) -> None:
        for group in list(self.channels[name].groups):
            self.leave(group, name)
        del self.channels[name]

    def join(self, group: str, name: str) -> None:
        self._groups.setdefault(group, {})[name] = None
        self.channels[name].groups.add(group)

    def leave(self, group: str, name: str) -> None:
        members = self._groups.get(group, {})
        members.pop(name, None)
        if not members:
            self._groups.pop(group, None)
        self.channels[name].groups.discard(group)

    def put(self, name: str, event: Event) -> None:
        try:
            self.channels[name].events.put_nowait(event)
        except asyncio.QueueFull:
            logger.warning("a consumer has ceased to listen: %s is lost on it", event["type"])

    def tell(self, group: str, event: Event) -> None:
        """Give an event to everybody in a group: here at once, elsewhere as soon as Redis has carried it."""
        self._tell_here(group, event)
        try:
            self._outbox.put_nowait(_packed(group, event))
        except asyncio.QueueFull:
            self._has_lost = True

    async def drain(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._outbox.join()

    def _tell_here(self, group: str, event: Event) -> None:
        for name in self._groups.get(group, ()):
            self.put(name, event)

    def _resume(self) -> None:
        loop = asyncio.get_running_loop()
        for name, channel in self.channels.items():
            if channel.groups and name not in self._resuming:
                self._resuming.add(name)
                loop.call_later(random.uniform(0, SPREAD_SECONDS), self._resume_one, name)

    def _resume_one(self, name: str) -> None:
        self._resuming.discard(name)
        if name in self.channels:
            self.put(name, RESUMED)

    async def _talk(self) -> None:
        """Publish what is to be told elsewhere, all that is ready as one message."""
        while not _is_cancelled():
            ready = await self._ready()
            had_lost, self._has_lost = self._has_lost, False
            try:
                bundle = _bundle(self._name, [_packed("", RESUMED), *ready] if had_lost else ready)
                await self._redis.publish(self._topic, bundle)
            except (RedisError, OSError):
                # _listen says so.
                self._has_lost = True
            except Exception:
                logger.exception("%s events were not told to other processes", len(ready))
                self._has_lost = True
            for _ in ready:
                self._outbox.task_done()

    async def _ready(self) -> list[str]:
        """What is to be told, once there is something. That something was lost is told soon, if need be alone."""
        ready = []
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS if self._has_lost else None):
                ready.append(await self._outbox.get())
        await asyncio.sleep(LINGER_SECONDS)
        while not self._outbox.empty():
            ready.append(self._outbox.get_nowait())
        return ready

    async def _listen(self) -> None:
        while not _is_cancelled():
            try:
                async with _connect(self._url) as redis, redis.pubsub() as pubsub:
                    await pubsub.subscribe(self._topic)
                    while not _is_cancelled():
                        self._hear(await _next_message(pubsub))
            except (RedisError, OSError) as error:
                logger.warning("Redis is away, other processes are not heard: %s", error)
                self._is_settled.set()
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                logger.exception("other processes are not heard")
                self._is_settled.set()
                await asyncio.sleep(RETRY_SECONDS)

    def _hear(self, message: Event) -> None:
        if message["type"] == "subscribe":
            # At first, and again each time that redis-py has connected anew.
            self._resume()
            self._is_settled.set()
        elif message["type"] == "message":
            try:
                sender, events = json.loads(message["data"])
                events = [] if sender == self._name else [(group, event) for group, event in events]
            except (ValueError, TypeError) as error:
                logger.warning("somebody else publishes on %s: %s", self._topic, error)
                return
            for group, event in events:
                if group:
                    self._tell_here(group, event)
                else:
                    self._resume()


def _is_cancelled() -> bool:
    """Whether the current task should end: where redis-py is connecting, it keeps that to itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _next_message(pubsub: PubSub) -> Event:
    """
    Raises:
        RedisError, OSError: Redis is away, or has said nothing although it was asked.
    """
    message = await pubsub.get_message(timeout=SILENCE_SECONDS)
    if message is None:
        await pubsub.ping()
        message = await pubsub.get_message(timeout=SILENCE_SECONDS)
    if message is None:
        raise TimeoutError("it does not answer")
    return message


async def _publish_once(url: str, group: str, event: Event) -> None:
    try:
        async with asyncio.timeout(PUBLISH_SECONDS), _connect(url) as redis:
            await redis.publish(_topic(redis), _bundle("", [_packed(group, event)]))
    except (RedisError, OSError) as error:
        logger.debug("%s was not told to %s: %s", event["type"], group, error)


def _connect(url: str) -> Redis:
    # Never twice: what has failed is lost, and that is told.
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0))


def _topic(redis: Redis) -> str:
    """Redis publishes to all its databases alike; who has another one is another installation."""
    return f"chat.events.{redis.connection_pool.connection_kwargs.get('db', 0)}"


def _packed(group: str, event: Event) -> str:
    # ASCII, which holds a lone surrogate too: UTF-8 does not, and what was ready with it would be lost.
    return json.dumps([group, event])


def _bundle(sender: str, packed: list[str]) -> str:
    """A message as others read it: who sends it, and its events."""
    return f'["{sender}", [{", ".join(packed)}]]'
