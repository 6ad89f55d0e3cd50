"""Exam metrics as pure functions of what was asked and what was decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.lm.decisions import Decision


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the entry that should answer it (None: it must be declined) and what was decided."""

    question: str
    expected: str | None
    decision: Decision

    @property
    def is_answered_right(self) -> bool:
        return not self.decision.is_declined and self.decision.key == self.expected

    @property
    def is_answered_wrong(self) -> bool:
        return not self.decision.is_declined and self.decision.key != self.expected


@dataclass(frozen=True, slots=True)
class Metrics:
    """Shares are of in-scope questions, `off_topic_declined` of off-topic ones; None where none was asked.

    Attributes:
        suggested: not answered, but met with "Did you mean …?"; part of `declined`.
        suggested_right: the right entry was among those.
        accuracy: the right entry came first, whatever the threshold made of it.
        auroc: the chance that an in-scope question is held to be on topic more than an off-topic one.
    """

    in_scope: int
    accuracy: float | None
    answered_right: float | None
    answered_wrong: float | None
    declined: float | None
    suggested: float | None
    suggested_right: float | None
    off_topic: int
    off_topic_declined: float | None
    off_topic_suggested: float | None
    auroc: float | None

    def to_dict(self) -> dict[str, Any]:
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


def measure(answers: Sequence[Asked]) -> Metrics:
    in_scope = [each for each in answers if each.expected is not None]
    off_topic = [each for each in answers if each.expected is None]
    return Metrics(
        in_scope=len(in_scope),
        accuracy=_share([each.decision.key == each.expected for each in in_scope]),
        answered_right=_share([each.is_answered_right for each in in_scope]),
        answered_wrong=_share([each.is_answered_wrong for each in in_scope]),
        declined=_share([each.decision.is_declined for each in in_scope]),
        suggested=_share([bool(each.decision.suggestions) for each in in_scope]),
        suggested_right=_share([each.expected in each.decision.suggestions for each in in_scope]),
        off_topic=len(off_topic),
        off_topic_declined=_share([each.decision.is_declined for each in off_topic]),
        off_topic_suggested=_share([bool(each.decision.suggestions) for each in off_topic]),
        auroc=auroc([each.decision.on_topic for each in in_scope], [each.decision.on_topic for each in off_topic]),
    )


def auroc(positives: Sequence[float], negatives: Sequence[float]) -> float | None:
    """Area under the ROC curve, as the share of pairs in the right order; ties count a half."""
    if not positives or not negatives:
        return None
    above = np.asarray(positives)[:, None] - np.asarray(negatives)[None, :]
    return float((above > 0).mean() + (above == 0).mean() / 2)


def _share(outcomes: Sequence[bool]) -> float | None:
    return sum(outcomes) / len(outcomes) if outcomes else None
