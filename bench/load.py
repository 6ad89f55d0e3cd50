"""Chats that ask at once, and how long they wait."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from bench.llama_cpp import Completion


@dataclass(frozen=True, slots=True)
class Load:
    """What chats saw. Times in seconds, from the question to the first piece of text and to the last."""

    answers_per_second: float
    first_p50: float
    first_p95: float
    full_p50: float
    full_p95: float


def put_under_load(answer: Callable[[int], Completion], *, chats: int, num_questions: int) -> Load:
    """Have so many chats ask questions 0 to `num_questions` - 1, each its next one as soon as it has been answered."""
    numbers = count()
    firsts: list[float] = []
    fulls: list[float] = []
    errors: list[BaseException] = []

    def chat() -> None:
        while not errors and (number := next(numbers)) < num_questions:
            asked_at = time.perf_counter()
            try:
                completion = answer(number)
            except BaseException as error:
                errors.append(error)
                raise
            firsts.append(completion.first_at - asked_at)
            fulls.append(completion.last_at - asked_at)

    threads = [threading.Thread(target=chat) for _ in range(chats)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if errors:
        raise errors[0]
    return Load(
        num_questions / seconds,
        quantile(firsts, 0.5),
        quantile(firsts, 0.95),
        quantile(fulls, 0.5),
        quantile(fulls, 0.95),
    )


def quantile(values: Sequence[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def median_of(loads: Sequence[Load]) -> Load:
    """Figure by figure."""
    return Load(*(statistics.median(values) for values in zip(*map(_figures, loads), strict=True)))


def _figures(load: Load) -> tuple[float, ...]:
    return load.answers_per_second, load.first_p50, load.first_p95, load.full_p50, load.full_p95
