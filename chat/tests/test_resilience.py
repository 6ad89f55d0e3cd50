"""The web server, and Redis, killed in the middle of fifty answers: what customers get, and what is stored.

Their pages do what static/chat/connection.js does: connect again, greet, send again what is not known to be stored, and
ask anew where an answer was interrupted.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from bench.processes import Process, Redis, Web, running
from chatbot_site.tests.server import environment_of, run_in
from training.tests.shop import SHOP

pytestmark = [pytest.mark.browser, pytest.mark.soak]

NUM_CLIENTS = 50
PATIENCE_SECONDS = 80
LONG = " ".join(f"palabra{n}" for n in range(120))


@dataclass
class Shop:
    web: Web
    redis: Redis
    database: Path

    def messages_after(self, message_id: int) -> list[sqlite3.Row]:
        with closing(sqlite3.connect(self.database)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute("SELECT * FROM chat_message WHERE id > ? ORDER BY id", [message_id]).fetchall()


LONG_ANSWERS = f"""
for entry in FaqEntry.objects.all():
    entry.answer = entry.key + " {LONG}"
    entry.save()
"""


@pytest.fixture(scope="module")
def shop(trained_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    shutil.copytree(trained_shop, folder, dirs_exist_ok=True)
    run_in(folder, LONG_ANSWERS)
    with running(Redis()) as redis:
        # That Redis is away is said once a socket.
        environment = environment_of(folder) | {"REDIS_URL": redis.url, "LOG_LEVEL": "CRITICAL"}
        with running(Web(environment, "chat.tests.impatient:application")) as web:
            yield Shop(web, redis, folder / "db.sqlite3")


@dataclass
class Page:
    """One customer with one question."""

    url: str
    number: int
    conversation: dict[str, str] = field(default_factory=dict)
    unsent: dict[str, str] = field(default_factory=dict)
    messages: dict[int, dict[str, Any]] = field(default_factory=dict)
    retried: set[int] = field(default_factory=set)
    has_ended: bool = False

    async def ask_until_answered(self) -> None:
        question = list(SHOP.values())[self.number % 3][2][0]
        self.unsent["first"] = question
        while not self.has_ended:
            try:
                async with connect(self.url, origin="http://localhost", open_timeout=10) as socket:  # type: ignore[arg-type]
                    await self._hear(socket, question)
            except (OSError, WebSocketException, TimeoutError):
                await asyncio.sleep(0.3)

    async def _hear(self, socket: ClientConnection, question: str) -> None:
        await socket.send(json.dumps({"type": "start", "language": "es", **self.conversation}))
        while not self.has_ended:
            try:
                frame = json.loads(await asyncio.wait_for(socket.recv(), 1))
            except TimeoutError:
                await socket.send('{"type": "resume"}')
                continue
            if frame["type"] == "ready":
                for message in frame["messages"]:
                    self._put(message)
                for client_id, text in self.unsent.items():
                    await socket.send(json.dumps({"type": "message", "client_id": client_id, "text": text}))
            elif frame["type"] == "conversation":
                self.conversation = {"conversation": frame["conversation"], "token": frame["token"]}
            elif frame["type"] in ("message", "done"):
                self._put(frame["message"])
            elif frame["type"] == "delta":
                await self._append(socket, frame)
            await self._look(socket, question)

    def _put(self, message: dict[str, Any]) -> None:
        known = self.messages.get(message["id"])
        if known is None or message["seq"] >= known["seq"]:
            self.messages[message["id"]] = message
        self.unsent.pop(message["client_id"], None)

    async def _append(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        message = self.messages.get(frame["message_id"])
        if message is not None and frame["seq"] == message["seq"] + 1:
            self.messages[message["id"]] = message | {"seq": frame["seq"], "text": message["text"] + frame["text"]}
        elif message is None or frame["seq"] > message["seq"]:
            await socket.send('{"type": "resume"}')

    async def _look(self, socket: ClientConnection, question: str) -> None:
        answer = self.answer
        if self.unsent or answer is None:
            return
        if answer["finish_reason"] == "error" and answer["id"] not in self.retried:
            # What the button "Try again" does.
            self.retried.add(answer["id"])
            client_id = f"again-{answer['id']}"
            self.unsent[client_id] = question
            await socket.send(json.dumps({"type": "message", "client_id": client_id, "text": question}))
        self.has_ended = answer["finish_reason"] == "stop"

    @property
    def answer(self) -> dict[str, Any] | None:
        answers = [message for message in self.messages.values() if message["role"] == "assistant"]
        return max(answers, key=lambda message: int(message["id"]), default=None)

    @property
    def text(self) -> str:
        return str(self.answer["text"]) if self.answer else ""

    @property
    def is_half_told(self) -> bool:
        return self.answer is not None and bool(self.text) and not self.answer["finish_reason"]


async def disturbed(shop: Shop, disturb: Callable[[], None]) -> list[Page]:
    """Fifty pages that ask at once; the disturbance comes when a third of them read half an answer."""
    pages = [Page(shop.web.url.replace("http", "ws") + "/ws/chat/", number) for number in range(NUM_CLIENTS)]
    asking = asyncio.gather(*(page.ask_until_answered() for page in pages))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while sum(page.is_half_told for page in pages) < NUM_CLIENTS // 3:  # noqa: ASYNC110 - pages tell nobody
            await asyncio.sleep(0.01)
        await asyncio.to_thread(disturb)
        await asking
    return pages


def restarted(process: Process) -> Callable[[], None]:
    def restart() -> None:
        process.kill()
        time.sleep(1)
        process.start()

    return restart


@pytest.mark.parametrize("which", ["web", "redis"])
def test_no_message_is_lost_or_doubled_when_a_server_is_killed(shop: Shop, which: str) -> None:
    before = max((row["id"] for row in shop.messages_after(0)), default=0)

    pages = asyncio.run(disturbed(shop, restarted(shop.web if which == "web" else shop.redis)))

    keys = list(SHOP)
    assert [page.text for page in pages] == [f"{keys[page.number % 3]} {LONG}" for page in pages]
    num_retries = sum(len(page.retried) for page in pages)
    assert num_retries > 0 or which == "redis", "it was killed in the middle of something"
    rows = shop.messages_after(before)
    asked = Counter((row["conversation_id"], row["client_id"]) for row in rows if row["role"] == "user")
    assert set(asked.values()) == {1}
    assert len(asked) == NUM_CLIENTS + num_retries
    answers = [row for row in rows if row["role"] == "assistant"]
    assert all(row["finish_reason"] for row in answers), "none is written for ever"
    whole = Counter(row["conversation_id"] for row in answers if row["finish_reason"] == "stop")
    assert len(whole) == NUM_CLIENTS
    assert set(whole.values()) == {1}, "each was told the whole text once"
    told = {message["id"]: message["text"] for page in pages for message in page.messages.values()}
    stored = {row["id"]: row["text"] for row in rows}
    assert told.items() <= stored.items()
