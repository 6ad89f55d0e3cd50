"""What a version's exam says beyond its figures: which entries it mixes up, and what another threshold would bring."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.db import transaction

from faq.models import FaqEntry
from training.models import AdapterVersion, ExamAnswer
from training.versions import read_learned

THRESHOLDS = tuple(step / 100 for step in range(30, 100))
MAX_CONFUSED = 10


@dataclass(frozen=True, slots=True)
class Confused:
    """An entry that was asked for and another that came first."""

    expected_key: str
    expected: str
    answered_key: str
    answered: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """What the exam would have been with a threshold, in shares of the questions to answer and of those to decline."""

    threshold: float
    right: float
    wrong: float
    declined: float
    off_topic_declined: float | None


def confused_pairs(version: AdapterVersion) -> list[Confused]:
    """Most often mixed up first; whether the customer heard it or an "I don't know" makes no difference."""
    questions: dict[tuple[str, str], list[str]] = defaultdict(list)
    for answer in ExamAnswer.objects.filter(exam__version=version).exclude(expected_key=""):
        if answer.answered_key and answer.answered_key != answer.expected_key:
            questions[answer.expected_key, answer.answered_key].append(answer.question)
    titles = entry_titles(version)
    pairs = [
        Confused(asked, titles.get(asked, asked), said, titles.get(said, said), tuple(texts))
        for (asked, said), texts in questions.items()
    ]
    return sorted(pairs, key=lambda pair: (-len(pair.questions), pair.expected_key))[:MAX_CONFUSED]


def entry_titles(version: AdapterVersion) -> dict[str, str]:
    """Entries' own questions by key: as they read now, or as the version learned them where an entry is gone."""
    try:
        learned = {key: entry.question for key, entry in read_learned(version).items()}
    except OSError:
        # Its files have been taken away; its exam stays.
        learned = {}
    return learned | dict(FaqEntry.objects.values_list("key", "question"))


def thresholds(version: AdapterVersion) -> list[AtThreshold]:
    """The exam at each threshold that staff may choose; none if it asked nothing."""
    answers = list(ExamAnswer.objects.filter(exam__version=version))
    in_scope = [answer for answer in answers if answer.expected_key]
    off_topic = [answer for answer in answers if not answer.expected_key]
    if not in_scope:
        return []
    return [_at(threshold, in_scope, off_topic) for threshold in THRESHOLDS]


def _at(threshold: float, in_scope: Sequence[ExamAnswer], off_topic: Sequence[ExamAnswer]) -> AtThreshold:
    answered = [answer for answer in in_scope if answer.confidence >= threshold]
    num_right = sum(answer.answered_key == answer.expected_key for answer in answered)
    num = len(in_scope)
    declined_off_topic = [answer for answer in off_topic if answer.confidence < threshold]
    return AtThreshold(
        threshold=threshold,
        right=num_right / num,
        wrong=(len(answered) - num_right) / num,
        declined=(num - len(answered)) / num,
        off_topic_declined=len(declined_off_topic) / len(off_topic) if off_topic else None,
    )


def critical_lost(version: AdapterVersion, threshold: float | None) -> bool:
    """Whether a critical question of the exam that is answered right now would no longer be."""
    limit = version.exam.threshold if threshold is None else threshold
    critical = FaqEntry.objects.filter(is_critical=True).values("key")
    asked = ExamAnswer.objects.filter(exam__version=version, expected_key__in=critical)
    return any(answer.is_right and answer.confidence < limit for answer in asked)


def as_json(table: Sequence[AtThreshold]) -> list[dict[str, Any]]:
    return [asdict(row) for row in table]


def apply_threshold(version: AdapterVersion, threshold: float | None) -> None:
    """Choose another threshold for a version, None for the fitted one, and say what its exam comes to with it.

    What it would have suggested is not known again, so the figures of suggestions stay.
    """
    with transaction.atomic():
        AdapterVersion.objects.filter(pk=version.pk).update(threshold=threshold)
        version.threshold = threshold
        answers = list(ExamAnswer.objects.filter(exam=version.exam))
        for answer in answers:
            answer.is_declined = not answer.confidence >= version.threshold_in_use
        ExamAnswer.objects.bulk_update(answers, ["is_declined"], batch_size=500)
        in_scope = [answer for answer in answers if answer.expected_key]
        off_topic = [answer for answer in answers if not answer.expected_key]
        exam = version.exam
        if in_scope:
            exam.answered_right = sum(answer.is_right for answer in in_scope) / len(in_scope)
            exam.declined = sum(answer.is_declined for answer in in_scope) / len(in_scope)
            exam.answered_wrong = 1 - exam.answered_right - exam.declined
        if off_topic:
            exam.off_topic_declined = sum(answer.is_declined for answer in off_topic) / len(off_topic)
        exam.save(update_fields=["answered_right", "answered_wrong", "declined", "off_topic_declined"])
