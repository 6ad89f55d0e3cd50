"""What conversations add up to: counted from their rows, together with what deleted ones left behind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from django.db.models import Case, CharField, Count, Q, QuerySet, Value, When
from django.db.models.functions import Coalesce, TruncDate

from chat.models import Conversation, DailyFigures, Message

Kind = DailyFigures.Kind
FinishReason = Message.FinishReason

_ENDED = Q(role=Message.Role.ASSISTANT, finish_reason__in=[FinishReason.STOP, FinishReason.LENGTH])
# Every reply that has ended is exactly one of these.
OUTCOMES: dict[Kind, Q] = {
    Kind.ANSWERED: _ENDED & Q(is_declined=False),
    Kind.SUGGESTED: _ENDED & Q(is_declined=True) & ~Q(suggestions=[]),
    Kind.DECLINED: _ENDED & Q(is_declined=True, suggestions=[]),
    Kind.STOPPED: Q(role=Message.Role.ASSISTANT, finish_reason=FinishReason.CANCELLED),
    Kind.INTERRUPTED: Q(role=Message.Role.ASSISTANT, finish_reason=FinishReason.ERROR),
}
_KIND = Case(
    When(role=Message.Role.USER, then=Value(Kind.QUESTIONS.value)),
    *(When(condition, then=Value(kind.value)) for kind, condition in OUTCOMES.items()),
    # Being written.
    default=Value(""),
    output_field=CharField(),
)


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """What is counted together: a time, and the columns of DailyFigures."""

    at: date | datetime
    kind: str
    language: str
    version_number: int = 0
    entry_key: str = ""


def tally(
    conversations: QuerySet[Conversation], messages: QuerySet[Message], *, truncate: type[Any] = TruncDate
) -> Counter[Cell]:
    """How many there are of each. `truncate` makes the cells' time of a moment, in the time zone of the settings."""
    counts: Counter[Cell] = Counter()
    begun = conversations.order_by().values_list(truncate("created_at"), "language").annotate(num=Count("pk"))
    for at, language, num in begun:
        counts[Cell(at, Kind.CONVERSATIONS, language)] += num
    said = (
        messages.order_by()
        .annotate(kind=_KIND, number=Coalesce("version__number", 0))
        .exclude(kind="")
        .values_list(truncate("created_at"), "kind", "conversation__language", "number", "entry_key")
        .annotate(num=Count("pk"))
    )
    for at, kind, language, number, entry_key, num in said:
        counts[Cell(at, kind, language, number, entry_key)] += num
    return counts
