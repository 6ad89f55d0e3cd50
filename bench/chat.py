"""The chat as customers have it: hundreds of chats at once over real websockets, then thousands that say nothing.

    python -m bench.chat [--quick] [--folder FOLDER]

One web process as it is shipped, a Redis and a database of its own, the bundled base, and a version of a part of the
demo shop, trained in FOLDER (bench/out/chat) at the first run. The last line is one JSON object:

    chats                      so many at once, each asking in a rhythm of its own
    lost                       answers that did not end, or whose deltas do not join to the stored text
    gaps, duplicates           deltas whose number is not the next one; messages and their ends told twice
    first_delta_p95_vs_engine  from sending a question to its first delta, against the engine alone: the same questions
                               put to `Engine.submit` at the same moments, until they are decided, in a process
                               without sockets, database or Redis; 95th percentiles of both, over the questions that
                               were answered: the others' replies are held back on purpose (chat/replies.py)
    idle_sockets               open at a time on one process, greeted, saying nothing; all that answer at the end
    bytes_per_idle_socket      of the web process's resident memory, ten seconds after the last came

--quick takes five minutes; without it each chat asks four times as often, for a quarter of an hour, and there is a
Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import uvloop
from websockets.asyncio.client import ClientConnection, connect

from bench.instance import set_up
from bench.load import quantile
from bench.processes import Redis, Web, running
from training.lm.config import TrainConfig

NUM_CHATS = 300
NUM_IDLE = 2_000
# Reading an answer and typing the next question.
PAUSE_SECONDS = (10.0, 40.0)
PATIENCE_SECONDS = 60.0
SETTLE_SECONDS = 10.0
# How many handshakes are under way at a time.
NUM_AT_THE_DOOR = 50
# The client's end of each socket, and some more for all else.
NUM_SPARE_FILES = 500

NUM_ENTRIES = 24
CONFIG = TrainConfig(min_steps=30, max_steps=30, num_augmented=0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("bench/out/chat"))
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        measure(options)
        return
    sys.exit(130)


def measure(options: argparse.Namespace) -> None:
    if options.train:
        set_up(options.folder)
        train()
        return
    num_idle = allowed_sockets(NUM_IDLE)
    folder = options.folder.resolve()
    with running(Redis()) as redis:
        os.environ["REDIS_URL"] = redis.url
        command = [sys.executable, "-m", "bench.chat", "--train", "--folder", str(folder)]
        subprocess.run(command, check=True)  # noqa: S603 - this very program
        set_up(folder)
        with running(Web()) as web:
            chats = uvloop.run(have_chats(web.url, num_questions=3 if options.quick else 12))
        asked = [question for chat in chats for question in chat.asked]
        firsts = [each.first for each in asked if each.is_answered]
        served = {"p50": quantile(firsts, 0.5), "p95": quantile(firsts, 0.95)}
        alone = engine_alone(asked)
        with running(Web()) as web:
            idle = uvloop.run(stay_idle(web, num_idle))
    lost = sum(each.is_lost for each in asked) + sum(chat.num_unanswered for chat in chats) + count_unstored(asked)
    values = {
        "chats": len(chats),
        "lost": lost,
        "gaps": sum(chat.gaps for chat in chats),
        "duplicates": sum(chat.duplicates for chat in chats),
        "first_delta_p95_vs_engine": round(served["p95"] / alone["p95"], 2),
        "idle_sockets": idle["sockets"],
        "bytes_per_idle_socket": idle["bytes_a_socket"],
    }
    figures = {
        "questions": len(asked),
        "answered": len(firsts),
        "questions a second": round(len(asked) / (max(e.asked_at for e in asked) - min(e.asked_at for e in asked)), 1),
        "first delta p50 / p95, ms": f"{1e3 * served['p50']:.0f} / {1e3 * served['p95']:.0f}",
        "the engine alone p50 / p95, ms": f"{1e3 * alone['p50']:.0f} / {1e3 * alone['p95']:.0f}",
        "web process without sockets, MB": round(idle["bytes_without"] / 1e6),
        "web process idle with them, share of a core": idle["cpu"],
        "load average of the machine": " ".join(f"{each:.1f}" for each in os.getloadavg()),
    }
    print(json.dumps(figures), flush=True)
    if not options.quick:
        print("\n".join(["| | |", "|---|---|", *(f"| {key} | {each} |" for key, each in (values | figures).items())]))
    print(json.dumps(values))


def allowed_sockets(wanted: int) -> int:
    """Raise the limit of open files for this process and those it starts, as far as it may be."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted + NUM_SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < wanted + NUM_SPARE_FILES:
        print(f"Only {limit - NUM_SPARE_FILES} idle sockets: the system allows {hard} open files.", flush=True)
    return limit - NUM_SPARE_FILES


def train() -> None:
    """A live version of a part of the demo shop, unless the instance has one that fits the base."""
    from bench.material import publish_part_of_the_demo
    from training import pipeline, runs
    from training.versions import VersionError, check_base, live_version

    live = live_version()
    if live is None:
        publish_part_of_the_demo(NUM_ENTRIES)
    else:
        with suppress(VersionError):
            check_base(live)
            return
    version = pipeline.execute(runs.start_in_foreground(config=CONFIG, activates_on_success=True))
    assert version is not None, "the training failed; its log is above"


def questions() -> list[str]:
    """As customers type them: those that the version has learned and others that mean the same."""
    from bench.material import DEMO

    lines = (DEMO / "shop_es.jsonl").read_text(encoding="utf-8").splitlines()[:NUM_ENTRIES]
    return [text for row in map(json.loads, lines) for text in (row["question"], *row["variants"])]


@dataclass(slots=True)
class Asked:
    """A question and what came of it. Times in seconds; `asked_at` by the monotonic clock."""

    text: str
    asked_at: float
    message_id: int = 0
    first: float = 0.0
    deltas: list[str] = field(default_factory=list)
    answer: str | None = None
    is_answered: bool = False

    @property
    def is_lost(self) -> bool:
        return self.answer is None or "".join(self.deltas) != self.answer


class Chat:
    """A customer's page, as far as its frames go."""

    def __init__(self, url: str, number: int) -> None:
        self._url = url
        self._rng = random.Random(number)
        self.asked: list[Asked] = []
        self.num_unanswered = 0
        self.gaps = 0
        self.duplicates = 0
        self._told: set[tuple[str, int]] = set()

    async def hold(self, texts: list[str], num_questions: int) -> None:
        async with open_socket(self._url) as socket:
            for number in range(num_questions):
                await asyncio.sleep(self._rng.uniform(*PAUSE_SECONDS) if number else self._rest_of_a_pause())
                asked = Asked(self._rng.choice(texts), time.monotonic())
                frame = {"type": "message", "client_id": f"c{number}", "text": asked.text}
                await socket.send(json.dumps(frame))
                try:
                    await asyncio.wait_for(self._hear(socket, asked), PATIENCE_SECONDS)
                except TimeoutError:
                    self.num_unanswered += 1
                else:
                    self.asked.append(asked)

    def _rest_of_a_pause(self) -> float:
        """As of a chat that has long been going on, so that no more are asking at one time than at another.

        A moment falls into a long pause more often than into a short one, and anywhere in it.
        """
        shortest, longest = PAUSE_SECONDS
        return self._rng.uniform(0.0, self._rng.uniform(shortest**2, longest**2) ** 0.5)

    async def _hear(self, socket: ClientConnection, asked: Asked) -> None:
        async for text in socket:
            frame = json.loads(text)
            if frame["type"] in ("message", "done"):
                self._count(frame["type"], frame["message"]["id"])
            if frame["type"] == "message" and frame["message"]["role"] == "assistant":
                asked.message_id = frame["message"]["id"]
            if frame["type"] == "delta":
                self._count_delta(asked, frame)
            if frame["type"] == "done":
                asked.answer = frame["message"]["text"]
                asked.is_answered = frame["message"]["source"] is not None
                return

    def _count(self, kind: str, message_id: int) -> None:
        self.duplicates += (kind, message_id) in self._told
        self._told.add((kind, message_id))

    def _count_delta(self, asked: Asked, frame: dict[str, Any]) -> None:
        due = len(asked.deltas) + 1
        if not asked.deltas:
            asked.first = time.monotonic() - asked.asked_at
        self.gaps += frame["message_id"] != asked.message_id or frame["seq"] > due
        self.duplicates += frame["seq"] < due
        asked.deltas.append(frame["text"])


def open_socket(url: str) -> Any:
    """A socket that has greeted and been answered once it is entered."""

    class Greeted:
        async def __aenter__(self) -> ClientConnection:
            address = url.replace("http", "ws", 1) + "/ws/chat/"
            self.socket = await connect(address, origin=url, ping_interval=None, compression=None, open_timeout=60)  # type: ignore[arg-type]
            await self.socket.send(json.dumps({"type": "start", "language": "es"}))
            assert json.loads(await self.socket.recv())["type"] == "ready", "nothing else answers a greeting"
            return self.socket

        async def __aexit__(self, *_: object) -> None:
            await self.socket.close()

    return Greeted()


async def have_chats(url: str, *, num_questions: int) -> list[Chat]:
    texts = questions()
    # The first question loads what the others find loaded.
    await Chat(url, -1).hold(texts, 1)
    chats = [Chat(url, number) for number in range(NUM_CHATS)]
    await asyncio.gather(*(chat.hold(texts, num_questions) for chat in chats))
    return chats


def count_unstored(asked: Iterable[Asked]) -> int:
    """Answers that are stored in other words than were heard, or not at all."""
    from chat.models import Message

    stored = dict(Message.objects.exclude(finish_reason="").values_list("pk", "text"))
    return sum(stored.get(each.message_id) != each.answer for each in asked)


def engine_alone(asked: list[Asked]) -> dict[str, float]:
    """The engine's own time for the same questions at the same moments."""
    from concurrent.futures import Future, ThreadPoolExecutor
    from threading import Event

    from faq.personal_data import mask
    from training import serving
    from training.lm.engine import Request
    from training.versions import live_version

    version = live_version()
    assert version is not None, "it has been trained"
    servable = serving.prepare(version)
    engine = serving.engine()
    seconds: dict[int, float] = {}

    def submit(text: str, place: int) -> None:
        began = time.monotonic()
        request = Request(mask(text), version.name, servable.answers, servable.calibration, Event())

        def note(_: Future[Any]) -> None:
            seconds[place] = time.monotonic() - began

        engine.submit(request).add_done_callback(note)

    ordered = sorted(asked, key=lambda each: each.asked_at)
    submit(ordered[0].text, 0)
    time.sleep(1)
    seconds.clear()
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for place, each in enumerate(ordered):
            time.sleep(max(0.0, each.asked_at - ordered[0].asked_at - (time.monotonic() - began)))
            pool.submit(submit, each.text, place)
    while len(seconds) < len(ordered):
        time.sleep(0.01)
    serving.close()
    needed = [seconds[place] for place, each in enumerate(ordered) if each.is_answered]
    return {"p50": quantile(needed, 0.5), "p95": quantile(needed, 0.95)}


async def stay_idle(web: Web, num_sockets: int) -> dict[str, Any]:
    process = psutil.Process(web.pid)
    door = asyncio.Semaphore(NUM_AT_THE_DOOR)

    async def enter() -> Any:
        async with door:
            opened = open_socket(web.url)
            await opened.__aenter__()
            return opened

    # What the first sockets bring into memory once is no socket's own.
    for opened in await asyncio.gather(*(enter() for _ in range(NUM_AT_THE_DOOR))):
        await opened.__aexit__()
    await asyncio.sleep(SETTLE_SECONDS)
    without = process.memory_info().rss
    sockets = await asyncio.gather(*(enter() for _ in range(num_sockets)))
    await asyncio.sleep(SETTLE_SECONDS)
    with_them = process.memory_info().rss
    process.cpu_percent()
    await asyncio.sleep(SETTLE_SECONDS)
    cpu = process.cpu_percent() / 100
    alive = await asyncio.gather(*(answers(each.socket, door) for each in sockets))
    await asyncio.gather(*(each.__aexit__() for each in sockets))
    return {
        "sockets": sum(alive),
        "bytes_without": without,
        "bytes_a_socket": round((with_them - without) / num_sockets),
        "cpu": round(cpu, 2),
    }


async def answers(socket: ClientConnection, door: asyncio.Semaphore) -> bool:
    async with door:
        await socket.send('{"type": "ping"}')
        return bool(json.loads(await asyncio.wait_for(socket.recv(), PATIENCE_SECONDS))["type"] == "pong")


if __name__ == "__main__":
    main()
