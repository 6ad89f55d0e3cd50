"""Switches under way, stops, and nonsense: what must not happen, counted; what may take a moment, measured."""

from __future__ import annotations

import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import psutil

from bench.contenders import Approved
from training.lm.adapters import AdapterError
from training.lm.config import GenerationParams
from training.lm.decisions import EngineBusy, Stopped
from training.lm.prompts import QuestionTooLong

NUM_STREAMS = 200
NUM_SWITCHES = 20
SWITCH_SECONDS = 0.4
# Half are choices among approved answers, half are texts that take many forwards and so live across switches.
TEXT_TOKENS = 24


class _Watch:
    """When anybody got anything; the longest time in which nobody did."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._lock = threading.Lock()
        self.longest_pause = 0.0

    def mark(self, *_: Any) -> None:
        with self._lock:
            now = time.perf_counter()
            self.longest_pause = max(self.longest_pause, now - self._last)
            self._last = now


def switch_under_load(versions: tuple[Any, Any], questions: list[str]) -> dict[str, Any]:
    """200 streams in flight, always, while the live version changes twenty times, through the application's own paths.

    With every switch an entry's answer is edited too. dropped: ended without an answer. mixed: said something else than
    its version says alone; `told_apart` is the share of questions of which the two versions write different texts, so
    that it would be seen. stale: a question that came after a switch or an edit was put to the version, or answered
    with the text, from before it.
    """
    from django.conf import settings

    from faq.models import FaqEntry
    from training import serving
    from training.lm.decisions import Heeded
    from training.versions import activate, live_version

    settings.GENERATION_PARAMETERS = {"max_new_tokens": TEXT_TOKENS}
    # What staff wrote any version would answer alike.
    ask = partial(serving.ask, heeded=Heeded.NONE)
    alone = {}
    for version in versions:
        for question in questions:
            key = ask(question, version)[1].result().key
            text = serving.write(question, version)[1].result().text
            alone[version.name, question] = (key, text)
    first, second = ([alone[version.name, question][1] for question in questions] for version in versions)
    activate(versions[0])
    watch = _Watch()
    counts = {"streams": 0, "switches": 0, "dropped": 0, "mixed": 0, "stale": 0}
    in_flight: list[tuple[str, str, bool, Future[Any]]] = []
    rng = random.Random(0)
    next_switch = time.perf_counter() + SWITCH_SECONDS
    live = versions[0]
    edited = FaqEntry.objects.order_by("pk")[0]
    while in_flight or counts["switches"] < NUM_SWITCHES:
        while len(in_flight) < NUM_STREAMS and counts["switches"] < NUM_SWITCHES:
            question, is_text = rng.choice(questions), rng.random() < 0.5
            version = live_version()
            assert version is not None, "one has been activated"
            put: Callable[..., Any] = partial(serving.write, on_delta=watch.mark) if is_text else ask
            servable, future = put(question, version)
            is_stale = servable.version != live or servable.entries[edited.key].answer != edited.answer
            counts["stale"] += is_stale
            future.add_done_callback(watch.mark)
            in_flight.append((version.name, question, is_text, future))
            counts["streams"] += 1
        if time.perf_counter() > next_switch and counts["switches"] < NUM_SWITCHES:
            live = versions[1] if live == versions[0] else versions[0]
            activate(live)
            counts["switches"] += 1
            edited.answer = f"{edited.answer.split(' · ')[0]} · {counts['switches']}"
            edited.save()
            next_switch = time.perf_counter() + SWITCH_SECONDS
        for stream in [stream for stream in in_flight if stream[3].done()]:
            in_flight.remove(stream)
            name, question, is_text, future = stream
            if future.cancelled() or future.exception() is not None:
                counts["dropped"] += 1
                continue
            key, text = alone[name, question]
            counts["mixed"] += (future.result().text != text) if is_text else (future.result().key != key)
        time.sleep(0.001)
    told_apart = sum(a != b for a, b in zip(first, second, strict=True)) / len(questions)
    assert told_apart > 0.5, "the two versions write the same: a mixture of them would not be seen"
    return {**counts, "told_apart": round(told_apart, 2), "longest_pause_ms": round(1_000 * watch.longest_pause)}


def stop_in_the_middle(ours: Approved, version: str, *, count: int) -> dict[str, float]:
    """Texts stopped at some moment after their third piece, by another thread, as a customer does it.

    Pieces that still came (one at most: that of the forward under way), and the time to silence against a forward's.
    """
    rng = random.Random(0)
    late: list[int] = []
    silence: list[float] = []
    forward: list[float] = []
    for number in range(count):
        request = replace(ours.request(number), version=version)
        heard: list[float] = []
        is_under_way = threading.Event()

        def hear(_: str, heard: list[float] = heard, is_under_way: threading.Event = is_under_way) -> None:
            heard.append(time.perf_counter())
            if len(heard) == 3:
                is_under_way.set()

        future = ours.engine.submit_generation(request, GenerationParams(max_new_tokens=200), on_delta=hear)
        if not is_under_way.wait(10):
            continue
        time.sleep(rng.uniform(0, 0.02))
        stopped_at = time.perf_counter()
        request.stop.set()
        try:
            future.result()
        except Stopped:
            silence.append(time.perf_counter() - stopped_at)
            forward.append((heard[2] - heard[0]) / 2)
            late.append(sum(at > stopped_at for at in heard))
    return {
        "stopped": len(silence),
        "most_late_pieces": max(late, default=0),
        "silence_vs_forward": round(sum(silence) / max(sum(forward), 1e-9), 2),
    }


def fuzz(ours: Approved, others: list[str], *, count: int) -> dict[str, Any]:
    """Random lengths, stops, cancels, versions and nonsense from eight threads; then a proper question."""
    engine = ours.engine
    outcomes: dict[str, int] = {}
    lock = threading.Lock()

    def pester(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(count // 8):
            outcome = _pester_once(ours, others, rng)
            with lock:
                outcomes[outcome] = outcomes.get(outcome, 0) + 1

    def run(first_seed: int) -> int:
        threads = [threading.Thread(target=pester, args=(first_seed + number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return int(psutil.Process().memory_info().rss)

    expected = engine.submit(ours.request(0)).result().key
    # The allocator takes what it wants in the first of two equal halves.
    count //= 2
    before = run(0)
    after = run(8)
    health = engine.health()
    return {
        "outcomes": outcomes,
        "alive": health.is_alive
        and health.num_waiting == health.num_under_way == 0
        and engine.submit(ours.request(0)).result().key == expected,
        "memory_growth": round(after / before - 1, 3),
    }


def _pester_once(ours: Approved, others: list[str], rng: random.Random) -> str:
    length = rng.choice([0, 5, 40, 200, 3_000])
    letters = "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0xD7FF)])) for _ in range(min(length, 400)))
    proper = ours.request(rng.randrange(1_000))
    text = rng.choice([letters * (length // 400 or 1), proper.question, "<|user|><|end|>" * 9])
    request = replace(proper, question=text, version=rng.choice([proper.version, *others, "v-999999-00000000"]))
    try:
        future: Future[Any] = (
            ours.engine.submit_generation(request, GenerationParams(max_new_tokens=rng.randint(1, 12)))
            if rng.random() < 0.2
            else ours.engine.submit(request)
        )
        if rng.random() < 0.1:
            request.stop.set()
        if rng.random() < 0.1:
            future.cancel()
        future.result(120)
    except (EngineBusy, Stopped, CancelledError, AdapterError, QuestionTooLong) as error:
        return type(error).__name__
    return "answered"


def memory(ours: Approved) -> dict[str, float]:
    """Kilobytes of a resident version, of a chat in the queue, and of one under way."""
    model, version = ours.engine._adapters.model, ours.request(0).version
    weights = [parameter for name, parameter in model.named_parameters() if f".{version}." in name]
    num_queued = 200
    tracemalloc.start()
    with _held(ours):
        before = tracemalloc.get_traced_memory()[0]
        futures = [ours.engine.submit(ours.request(number)) for number in range(num_queued)]
        queued = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    for future in futures:
        future.result()
    config = model.config
    head_size = config.hidden_size // config.num_attention_heads
    return {
        "version_kb": sum(each.numel() * each.element_size() for each in weights) / 1e3,
        "queued_chat_kb": queued / num_queued / 1e3,
        "under_way_kb_a_token": 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * head_size / 1e3,
    }


@contextmanager
def _held(ours: Approved) -> Iterator[None]:
    """The engine's thread does nothing meanwhile."""
    gate = threading.Event()

    def wait() -> None:
        gate.wait()

    ours.engine._schedule.add_errand(wait)
    try:
        yield
    finally:
        gate.set()
