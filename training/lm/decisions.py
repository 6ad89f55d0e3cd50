"""What can be said, what was decided or why not, and by which numbers: plain data that loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

# Questions in a "Did you mean …?", and how likely each of them must be.
MAX_SUGGESTIONS = 3
MIN_SUGGESTED = 0.05


class Stopped(Exception):
    """The engine was told to stop before it found an answer."""


class EngineBusy(RuntimeError):
    """More questions wait than the engine's queue holds."""


class EngineDied(RuntimeError):
    """The engine's thread ended while this question was with it. Another engine may be asked again."""


class FinishReason(StrEnum):
    """Why a generated text ended: OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


class Heeded(StrEnum):
    """Of which wordings a question that is one of them has the answer, whatever the version makes of it."""

    ALL = "all"
    # Those that are offered as suggestions: of what may go on from something else, no other.
    OFFERED = "offered"
    # None, where it is to be seen what the version has learned.
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Generated:
    """Free text.

    Attributes:
        is_declined: the model wrote its "I don't know".
        num_tokens: of the text.
        num_forwards: forwards of the model.
        context: what was spoken of before, where the question was understood together with it.
    """

    text: str
    is_declined: bool
    finish_reason: FinishReason
    num_tokens: int
    num_forwards: int
    context: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer that may be given.

    Attributes:
        key: of the entry.
        answer: what would be said, word for word.
        learned_text: the words that lead to it in the trie: those that the adapter was trained on where it knows the
            entry, so that an edited answer is found as surely as before; else the present ones.
        wordings: the questions that it answers, for the prior; first the one that is offered as a suggestion.
        is_learned: whether the adapter was trained on it.
    """

    key: str
    answer: str
    learned_text: str
    wordings: tuple[str, ...]
    is_learned: bool = True


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted on a version's exam and stored with it (calibration.py).

    The defaults suit entries of a single wording in fields that the bundled base knows, for which there is no exam:
    measured on businesses of the corpus that it has not seen.

    Attributes:
        model_weight: α in α · log p_model + λ · prior: a model that is surer than it is right is listened to less.
        prior_weight: λ.
        decline_credit: the prior that "I don't know" has for every question.
        off_topic_weight: how much the prior's view of a question as off-topic adds to that. Little by default: where
            answers have one wording each, a few dozen off-topic questions speak louder than all of them.
        threshold: the confidence from which on a question is answered.
        min_coverage: the coverage below which no learned answer is given, however probable: the model, left to itself,
            would say something that nobody approved. None without an exam.
        suggestion_threshold: the probability that the likeliest MAX_SUGGESTIONS entries must have together for an
            unanswered question to be met with "Did you mean …?".
    """

    model_weight: float = 0.05
    prior_weight: float = 10.0
    decline_credit: float = 0.35
    off_topic_weight: float = 0.1
    threshold: float = 0.85
    suggestion_threshold: float = 0.55
    min_coverage: float = 0.0

    def declining(self, off_topic: float) -> float:
        """The prior of "I don't know" where the prior holds the question to be off-topic by so much."""
        return self.decline_credit + self.off_topic_weight * off_topic

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, float]) -> Calibration:
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is made of a question.

    Attributes:
        key: of the most probable entry found, also when declined; None if none was looked at.
        is_declined: the customer hears "I don't know".
        confidence: the probability of that entry among all answers and "I don't know", 0 where the coverage is too low;
            never overstated, and where very many answers would have to be read for it, understated as far as the
            decision allows.
        coverage: the mass that the model left to itself put on approved answers (decoding.py).
        num_forwards: forwards of the model.
        on_topic: the probability of all answers together against "I don't know", 0 where the coverage is too low. A
            question halfway between two answers has little confidence and is on topic all the same.
        suggestions: of a question that is not answered, the entries that may be meant, likeliest first; none where the
            question seems to be about nothing that is published.
        near: the likeliest entries found with their probabilities, likeliest first, whatever is made of them.
        context: what was spoken of before, where the question was understood together with it.
    """

    key: str | None
    is_declined: bool
    confidence: float
    coverage: float
    num_forwards: int
    on_topic: float = 0.0
    suggestions: tuple[str, ...] = ()
    near: tuple[tuple[str, float], ...] = ()
    context: str = ""


def is_declined(confidence: float, calibration: Calibration) -> bool:
    """Whatever is not surely confident enough is declined, NaN too."""
    return not confidence >= calibration.threshold


def suggestions_of(near: Sequence[tuple[str, float]], calibration: Calibration) -> tuple[str, ...]:
    """Which of the likeliest entries to offer where none is sure: none if they are not likely enough together."""
    if not sum(probability for _, probability in near) >= calibration.suggestion_threshold:
        return ()
    return tuple(key for key, probability in near if probability >= MIN_SUGGESTED)


def passing_over(decision: Decision, key: str, calibration: Calibration) -> Decision:
    """The decision where an entry cannot be meant: whether one of the others is, is asked."""
    left = max(1.0 - sum(probability for each, probability in decision.near if each == key), 1e-9)
    others = tuple((each, min(1.0, probability / left)) for each, probability in decision.near if each != key)
    return replace(
        decision,
        key=others[0][0] if others else None,
        is_declined=True,
        confidence=others[0][1] if others else 0.0,
        suggestions=suggestions_of(others, calibration),
        near=others,
    )


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """How an engine is.

    Attributes:
        is_alive: its thread runs.
        is_stuck: its thread has been in one forward for longer than any forward takes.
        num_waiting: questions not yet let in.
        num_under_way: questions let in and not yet answered.
        resident: versions that are loaded, the one unused for longest first.
    """

    is_alive: bool
    is_stuck: bool
    num_waiting: int
    num_under_way: int
    resident: tuple[str, ...]
