"""The exam: a trained adapter answers what it has never seen, and is calibrated on it, before anybody may use it.

The prior of an exam knows only the wordings that the training knew, as if customers had asked afterwards.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from django.db import transaction

from training.lm.answers import AnswerSet
from training.lm.augment import augment
from training.lm.calibration import Scored, fit
from training.lm.decisions import Calibration, Candidate, Heeded
from training.lm.engine import Engine, Request
from training.lm.evaluate import Asked, Metrics, measure
from training.lm.prompts import fits
from training.models import AdapterVersion, Exam, ExamAnswer
from training.snapshots import learned_entries

Row = dict[str, Any]
T = TypeVar("T")

# Questions of an exam that wait for the engine at once.
MAX_WAITING = 64


@dataclass(frozen=True, slots=True)
class ExamResult:
    metrics: Metrics
    calibration: Calibration
    asked: tuple[Asked, ...]
    is_held_out: bool
    is_quantized: bool


@dataclass(frozen=True, slots=True)
class Sitting:
    """An exam before anything is decided: what may be answered, what is asked, and what the model makes of it."""

    answers: AnswerSet
    questions: tuple[Row, ...]
    scored: tuple[Scored, ...]
    is_held_out: bool


def sit(
    engine: Engine,
    version: str,
    train_rows: Sequence[Row],
    eval_rows: Sequence[Row],
    *,
    on_progress: Callable[[], None] = lambda: None,
) -> Sitting:
    """Ask everything that was held out."""
    entries = learned_entries(train_rows)
    answers = AnswerSet(
        engine.tokenizer,
        [Candidate(each["key"], each["answer"], each["answer"], tuple(each["wordings"])) for each in entries],
        [row["question"] for row in train_rows if row["key"] is None],
    )
    is_held_out = any(row["key"] is not None for row in eval_rows)
    questions = list(eval_rows) if is_held_out else [*eval_rows, *_typed_variants(entries)]
    questions = [row for row in questions if fits(engine.tokenizer, row["question"])]
    requests = [Request(row["question"], version, answers, is_exact=True) for row in questions]
    scored: list[Scored] = []
    for row, result in zip(questions, asked_at_once(engine.submit_scoring, requests), strict=True):
        scored.append(replace(result, expected=row["key"]))
        on_progress()
    return Sitting(answers, tuple(questions), tuple(scored), is_held_out)


def examine(
    engine: Engine,
    version: str,
    train_rows: Sequence[Row],
    eval_rows: Sequence[Row],
    *,
    on_progress: Callable[[], None] = lambda: None,
) -> ExamResult:
    """Ask everything that was held out; fit the calibration on it; measure with that calibration."""
    sitting = sit(engine, version, train_rows, eval_rows, on_progress=on_progress)
    # Typed variants are too near to what was learned to say anything about customers' own words.
    calibration = fit(sitting.answers, sitting.scored if sitting.is_held_out else [])
    # What staff wrote any version answers; here it is to be seen what this one has learned.
    asking = partial(Request, version=version, answers=sitting.answers, calibration=calibration)
    requests = [asking(row["question"], is_exact=True, heeded=Heeded.NONE) for row in sitting.questions]
    asked = []
    for row, decision in zip(sitting.questions, asked_at_once(engine.submit, requests), strict=True):
        asked.append(Asked(row["question"], row["key"], decision))
        on_progress()
    is_quantized = engine.precision.is_quantized
    return ExamResult(measure(asked), calibration, tuple(asked), sitting.is_held_out, is_quantized)


def asked_at_once(submit: Callable[[Request], Future[T]], requests: Sequence[Request]) -> Iterator[T]:
    """Put questions as many customers would, so that they share forwards; the results in their order."""
    waiting: deque[Future[T]] = deque()
    for request in requests:
        if len(waiting) == MAX_WAITING:
            yield waiting.popleft().result()
        waiting.append(submit(request))
    while waiting:
        yield waiting.popleft().result()


def _typed_variants(entries: Sequence[Row]) -> list[Row]:
    return [
        {"key": entry["key"], "question": text, "answer": entry["answer"]}
        for entry in entries
        for text in augment(entry["question"], count=1, seed=1)
    ]


def write_report(result: ExamResult, path: Path) -> None:
    report = {
        "metrics": result.metrics.to_dict(),
        "calibration": result.calibration.to_dict(),
        "is_held_out": result.is_held_out,
        "is_quantized": result.is_quantized,
        "answers": [
            {
                "question": each.question,
                "expected": each.expected,
                "answered": each.decision.key,
                "declined": each.decision.is_declined,
                "suggested": each.decision.suggestions,
                "confidence": round(each.decision.confidence, 4),
                "coverage": round(each.decision.coverage, 4),
            }
            for each in result.asked
        ],
    }
    path.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")


def save(version: AdapterVersion, result: ExamResult) -> Exam:
    metrics = result.metrics
    with transaction.atomic():
        exam = Exam.objects.create(
            version=version,
            num_in_scope=metrics.in_scope,
            accuracy=metrics.accuracy or 0.0,
            answered_right=metrics.answered_right or 0.0,
            answered_wrong=metrics.answered_wrong or 0.0,
            declined=metrics.declined or 0.0,
            suggested=metrics.suggested or 0.0,
            suggested_right=metrics.suggested_right or 0.0,
            num_off_topic=metrics.off_topic,
            off_topic_declined=metrics.off_topic_declined,
            auroc=metrics.auroc,
            threshold=result.calibration.threshold,
            is_held_out=result.is_held_out,
            is_quantized=result.is_quantized,
        )
        ExamAnswer.objects.bulk_create(
            ExamAnswer(
                exam=exam,
                question=each.question,
                expected_key=each.expected or "",
                answered_key=each.decision.key or "",
                is_declined=each.decision.is_declined,
                confidence=each.decision.confidence,
                coverage=each.decision.coverage,
            )
            for each in result.asked
        )
    return exam
