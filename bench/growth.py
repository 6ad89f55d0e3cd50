"""How an answer's time grows with the number of entries and with the length of answers; what entries take."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil

from bench.contenders import Approved
from bench.material import many_candidates
from training.lm.answers import AnswerSet
from training.lm.augment import augment
from training.lm.decisions import Candidate

SIZES = (10, 100, 1_000, 10_000)
# Tails of 35 tokens: answers from about 20 to about 400.
TAILS = (0, 1, 3, 11)


@dataclass(frozen=True, slots=True)
class Grown:
    """One row of a growth table. Milliseconds are medians over questions, one asked after the other."""

    label: str
    answer_ms: float
    num_forwards: float
    build_s: float
    rebuild_s: float
    megabytes: float

    def row(self) -> str:
        return (
            f"| {self.label} | {self.answer_ms:.1f} | {self.num_forwards:.2f} | {self.build_s:.2f} "
            f"| {self.rebuild_s:.2f} | {self.megabytes:.0f} |"
        )


HEADER = (
    "| | answer, ms | forwards an answer | build, s | rebuild after an edit, s | memory, MB |\n"
    "|---|---|---|---|---|---|"
)


def by_entries(ours: Approved, *, num_questions: int, rounds: int) -> list[Grown]:
    return _measure(ours, {f"{size} entries": many_candidates(size) for size in SIZES}, num_questions, rounds)


def by_length(ours: Approved, *, num_questions: int, rounds: int) -> list[Grown]:
    tokenizer = ours.engine.tokenizer
    sets: dict[str, Sequence[Candidate]] = {}
    for num_tail in TAILS:
        candidates = many_candidates(100, num_tail=num_tail)
        length = statistics.median(len(tokenizer(each.answer)["input_ids"]) for each in candidates)
        sets[f"{length:.0f} tokens"] = candidates
    return _measure(ours, sets, num_questions, rounds)


def _measure(ours: Approved, sets: dict[str, Sequence[Candidate]], num_questions: int, rounds: int) -> list[Grown]:
    built = {label: _build(ours, candidates) for label, candidates in sets.items()}
    times: dict[str, list[float]] = {label: [] for label in sets}
    forwards: dict[str, list[int]] = {label: [] for label in sets}
    # Alternating, so that what disturbs this machine disturbs all alike.
    for turn in range(rounds):
        for label, candidates in sets.items():
            for question in _questions(candidates, num_questions, seed=turn):
                started = time.perf_counter()
                request = replace(ours.request(0), question=question, answers=built[label]["answers"])
                decision = ours.engine.submit(request).result()
                times[label].append(time.perf_counter() - started)
                forwards[label].append(decision.num_forwards)
    return [
        Grown(
            label,
            1_000 * statistics.median(times[label]),
            statistics.mean(forwards[label]),
            built[label]["build_s"],
            built[label]["rebuild_s"],
            built[label]["megabytes"],
        )
        for label in sets
    ]


def _build(ours: Approved, candidates: Sequence[Candidate]) -> dict[str, Any]:
    tokenizer = ours.engine.tokenizer
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    answers = AnswerSet(tokenizer, candidates)
    build_s = time.perf_counter() - started
    megabytes = (psutil.Process().memory_info().rss - before) / 1e6
    edited = [replace(candidates[0], answer="Un texto nuevo."), *candidates[1:]]
    started = time.perf_counter()
    AnswerSet(tokenizer, edited, previous=answers)
    return {
        "answers": answers,
        "build_s": build_s,
        "rebuild_s": time.perf_counter() - started,
        "megabytes": megabytes,
    }


def _questions(candidates: Sequence[Candidate], count: int, *, seed: int) -> list[str]:
    """Wordings as customers type them."""
    rng = random.Random(seed)
    chosen = [rng.choice(candidates).wordings[rng.randrange(2)] for _ in range(count)]
    return [(augment(text, count=1, seed=seed) or [text])[0] for text in chosen]
