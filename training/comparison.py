"""Two versions' exams side by side: what the newer one mends, what it breaks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum

from faq.models import FaqEntry
from training.models import AdapterVersion, ExamAnswer


class Outcome(IntEnum):
    """In the order in which staff want to see them."""

    BROKEN = 0
    FIXED = 1
    STILL_WRONG = 2
    NEW_WRONG = 3
    NEW_RIGHT = 4
    STILL_RIGHT = 5


@dataclass(frozen=True, slots=True)
class Compared:
    """One exam question.

    Attributes:
        expected: the entry's own question, or its key if it is gone; empty for a question to decline.
        before, now: what was answered, likewise; empty for "I don't know". `before` is None if it was not asked.
    """

    question: str
    expected_key: str
    expected: str
    before: str | None
    now: str
    outcome: Outcome
    is_critical: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    Attributes:
        questions: of the newer version's exam; critical ones first within each outcome.
    """

    questions: tuple[Compared, ...]

    def num(self, outcome: Outcome) -> int:
        return Counter(each.outcome for each in self.questions)[outcome]

    @property
    def num_broken(self) -> int:
        return self.num(Outcome.BROKEN)

    @property
    def num_fixed(self) -> int:
        return self.num(Outcome.FIXED)

    @property
    def num_unchanged(self) -> int:
        return self.num(Outcome.STILL_RIGHT) + self.num(Outcome.STILL_WRONG)

    @property
    def num_new(self) -> int:
        return self.num(Outcome.NEW_RIGHT) + self.num(Outcome.NEW_WRONG)

    @property
    def broken_critical(self) -> tuple[Compared, ...]:
        return tuple(each for each in self.questions if each.is_critical and each.outcome == Outcome.BROKEN)

    @property
    def noteworthy(self) -> tuple[Compared, ...]:
        return tuple(each for each in self.questions if each.outcome < Outcome.NEW_RIGHT)


def compare(version: AdapterVersion, against: AdapterVersion) -> Comparison:
    """What `version` answers to its exam, and what `against` answered to the same questions where it was asked them."""
    entries = {entry.key: entry for entry in FaqEntry.objects.only("key", "question", "is_critical")}
    before = {answer.question: answer for answer in ExamAnswer.objects.filter(exam__version=against)}

    def said(answer: ExamAnswer) -> str:
        return "" if answer.is_declined else title(answer.answered_key)

    def title(key: str) -> str:
        return entries[key].question if key in entries else key

    questions = []
    for answer in ExamAnswer.objects.filter(exam__version=version):
        earlier = before.get(answer.question)
        # A wording that has moved to another entry since was asked for something else.
        if earlier is not None and earlier.expected_key != answer.expected_key:
            earlier = None
        questions.append(
            Compared(
                question=answer.question,
                expected_key=answer.expected_key,
                expected=title(answer.expected_key),
                before=said(earlier) if earlier else None,
                now=said(answer),
                outcome=_outcome(earlier, answer),
                is_critical=answer.expected_key in entries and entries[answer.expected_key].is_critical,
            )
        )
    return Comparison(tuple(sorted(questions, key=lambda each: (each.outcome, not each.is_critical))))


def _outcome(before: ExamAnswer | None, now: ExamAnswer) -> Outcome:
    if before is None:
        return Outcome.NEW_RIGHT if now.is_right else Outcome.NEW_WRONG
    if before.is_right:
        return Outcome.STILL_RIGHT if now.is_right else Outcome.BROKEN
    return Outcome.FIXED if now.is_right else Outcome.STILL_WRONG
