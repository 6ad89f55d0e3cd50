"""What conversations add up to: counted from their rows, together with what deleted ones left behind."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any

from django.db import models
from django.db.models import (
    Case,
    CharField,
    Count,
    Expression,
    F,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from chat.models import Conversation, DailyFigures, Handover, Message, Rating
from faq.models import FaqEntry, Language
from training.lm.augment import plain

Kind = DailyFigures.Kind
FinishReason = Message.FinishReason

_ENDED = Q(role=Message.Role.ASSISTANT, finish_reason__in=[FinishReason.STOP, FinishReason.LENGTH])
# Every reply that has ended is exactly one of these.
OUTCOMES: dict[Kind, Q] = {
    Kind.ANSWERED: _ENDED & Q(is_declined=False, is_courtesy=False),
    Kind.SUGGESTED: _ENDED & Q(is_declined=True) & ~Q(suggestions=[]),
    Kind.DECLINED: _ENDED & Q(is_declined=True, suggestions=[]),
    Kind.COURTESY: _ENDED & Q(is_declined=False, is_courtesy=True),
    Kind.STOPPED: Q(role=Message.Role.ASSISTANT, finish_reason=FinishReason.CANCELLED),
    Kind.INTERRUPTED: Q(role=Message.Role.ASSISTANT, finish_reason=FinishReason.ERROR),
}
# What a customer may say of a reply, however it ended.
RATINGS = (Kind.UP, Kind.DOWN)
# Why a conversation was handed over to people.
REASONS = (Kind.ASKED, Kind.UNCLEAR, Kind.STEPPED_IN)
# These, and whether anybody came.
HANDED_OVER = (*REASONS, Kind.TAKEN)
_OF_CONVERSATIONS: dict[Kind, Count] = {
    Kind.CONVERSATIONS: Count("pk"),
    Kind.PERSONS: Count("wants_person_at"),
    Kind.ALL_UP: Count("pk", filter=Q(rating=Rating.UP)),
    Kind.ALL_DOWN: Count("pk", filter=Q(rating=Rating.DOWN)),
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
    """What is counted together: a day, or a number that stands for a time, and the columns of DailyFigures."""

    at: Any
    kind: str
    language: str
    version_number: int = 0
    entry_key: str = ""


def tally(
    conversations: QuerySet[Conversation],
    messages: QuerySet[Message],
    handovers: QuerySet[Handover],
    *,
    at: Expression,
    by_entry: bool,
) -> Counter[Cell]:
    """How many there are of each.

    Args:
        at: makes the cells' time of `created_at`; a hand-over's is when the customer asked.
        by_entry: whether to tell entries apart, which makes many cells.
    """
    counts: Counter[Cell] = Counter()
    begun = conversations.order_by().annotate(at=at).values_list("at", "language")
    for when, language, *nums in begun.annotate(**{f"num_{kind}": num for kind, num in _OF_CONVERSATIONS.items()}):
        for kind, num in zip(_OF_CONVERSATIONS, nums, strict=True):
            if num:
                counts[Cell(when, kind, language)] += num
    asked = handovers.order_by().annotate(created_at=F("asked_at")).annotate(at=at)
    handed_over = asked.values_list("at", "reason", "conversation__language")
    for when, reason, language, num, num_taken in handed_over.annotate(num=Count("pk"), num_taken=Count("taken_at")):
        counts[Cell(when, reason, language)] += num
        if num_taken:
            counts[Cell(when, Kind.TAKEN, language)] += num_taken
    columns = ["at", "kind", "conversation__language", "number", *(["entry_key"] if by_entry else [])]
    dated = messages.order_by().annotate(at=at, number=Coalesce("version__number", 0))
    # A rating counts when the reply was given.
    rated = dated.filter(feedback__isnull=False).annotate(kind=F("feedback__rating"))
    for each in (dated.annotate(kind=_KIND).exclude(kind=""), rated):
        for *cell, num in each.values_list(*columns).annotate(num=Count("pk")):
            counts[Cell(*cell)] += num
    return counts


class Period(models.TextChoices):
    DAY = "24h", _("last 24 hours")
    WEEK = "7d", _("last 7 days")
    MONTH = "30d", _("last 30 days")


NUM_LISTED = 10
# Of these, the newest, the frequent ones among the questions without an answer are found.
MAX_UNANSWERED = 5_000


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: how the replies of one version, language or moment ended."""

    name: str
    counts: dict[Kind, int]

    @property
    def num_replies(self) -> int:
        return sum(self.counts[kind] for kind in OUTCOMES)

    @property
    def num_to_questions(self) -> int:
        """Of these, those to somebody who asked something."""
        return self.num_replies - self.counts[Kind.COURTESY]

    @property
    def num_handed_over(self) -> int:
        return sum(self.counts[kind] for kind in REASONS)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and how often it was asked. `key` is its entry's, `message_pk` where one without was put last."""

    question: str
    num: int
    key: str = ""
    message_pk: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a period adds up to. Times are seconds from a question to the first words; None where nobody asked."""

    totals: Row
    over_time: list[Row]
    by_version: list[Row]
    by_language: list[Row]
    most_asked: list[Asked]
    unanswered: list[Asked]
    first_words_p50: float | None
    first_words_p95: float | None


def figures(period: Period) -> Figures:
    """Count a period, the current hour or day included. Deleted conversations count in all but the times and texts."""
    moments = _moments(period)
    messages = Message.objects.filter(created_at__gte=moments[0])
    conversations = Conversation.objects.filter(created_at__gte=moments[0])
    handovers = Handover.objects.filter(asked_at__gte=moments[0])
    # Their hour is not known any more, so of 24 hours only today's count.
    first_day = timezone.localdate(moments[-1] if period == Period.DAY else moments[0])
    deleted = DailyFigures.objects.filter(day__gte=first_day)
    counts = tally(conversations, messages, handovers, at=_place(moments), by_entry=False)
    for day, *columns, num in (
        deleted.order_by().values_list("day", "kind", "language", "version_number").annotate(sum=Sum("num"))
    ):
        place = -1 if period == Period.DAY else (day - first_day).days
        counts[Cell(place, *columns)] += num
    p50, p95 = _percentiles(messages, 0.5, 0.95)
    # The second is translated, since not every language begins a month with a capital.
    shown = "H:i" if period == Period.DAY else gettext("j M")
    over_time = dict(_split(counts, "at"))
    return Figures(
        totals=Row("", _summed(counts)),
        over_time=[
            Row(date_format(moment, shown), over_time.get(place, _summed(Counter())))
            for place, moment in enumerate(moments)
        ],
        by_version=[Row(f"v{number}", each) for number, each in _split(counts, "version_number") if number],
        by_language=[Row(str(Language(language).label), each) for language, each in _split(counts, "language")],
        most_asked=_most_asked(messages, deleted),
        unanswered=_unanswered(messages),
        first_words_p50=p50,
        first_words_p95=p95,
    )


def _moments(period: Period) -> list[datetime]:
    """When the hours or days of a period begin, the last of them the current one."""
    now = timezone.localtime()
    if period == Period.DAY:
        hour = now.replace(minute=0, second=0, microsecond=0)
        return [timezone.localtime(hour - timedelta(hours=back)) for back in reversed(range(24))]
    days = [now.date() - timedelta(days=back) for back in reversed(range(7 if period == Period.WEEK else 30))]
    return [timezone.make_aware(datetime.combine(day, time.min)) for day in days]


def _place(moments: list[datetime]) -> Case:
    """Which of the times that begin at these moments; by comparing, which every database does fast."""
    until = enumerate(moments[1:])
    return Case(
        *(When(created_at__lt=moment, then=Value(place)) for place, moment in until),
        default=Value(len(moments) - 1),
        output_field=IntegerField(),
    )


def _summed(counts: Counter[Cell]) -> dict[Kind, int]:
    totals = dict.fromkeys(Kind, 0)
    for cell, num in counts.items():
        totals[Kind(cell.kind)] += num
    return totals


def _split(counts: Counter[Cell], column: str) -> list[tuple[Any, dict[Kind, int]]]:
    """The same for each value of a column, that with most of everything first."""
    parts: defaultdict[Any, Counter[Cell]] = defaultdict(Counter)
    for cell, num in counts.items():
        parts[getattr(cell, column)][cell] += num
    summed = [(value, _summed(part)) for value, part in parts.items()]
    return sorted(summed, key=lambda each: -sum(each[1].values()))


def _most_asked(messages: QuerySet[Message], deleted: QuerySet[DailyFigures]) -> list[Asked]:
    by_key: Counter[str] = Counter()
    replies = deleted.filter(kind__in=OUTCOMES)
    said = messages.filter(role=Message.Role.ASSISTANT).order_by().values_list("entry_key").annotate(num=Count("pk"))
    for key, num in (*said, *replies.order_by().values_list("entry_key").annotate(sum=Sum("num"))):
        by_key[key] += num
    # Where no entry was said.
    del by_key[""]
    most = by_key.most_common(NUM_LISTED)
    questions = dict(FaqEntry.objects.filter(key__in=dict(most)).values_list("key", "question"))
    return [Asked(questions.get(key, key), num, key) for key, num in most]


def _unanswered(messages: QuerySet[Message]) -> list[Asked]:
    """What was asked before a reply that gave no answer, alike but for case, accents and punctuation taken as one."""
    asked = Message.objects.filter(
        conversation=OuterRef("conversation"), role=Message.Role.USER, pk__lt=OuterRef("pk")
    ).order_by("-pk")
    not_known = messages.filter(OUTCOMES[Kind.DECLINED] | OUTCOMES[Kind.SUGGESTED]).order_by("-created_at")
    first = {name: Subquery(asked.values(name)[:1]) for name in ("text", "pk")}
    found = not_known.annotate(asked_text=first["text"], asked_pk=first["pk"]).values_list("asked_text", "asked_pk")
    wordings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    last: dict[str, int] = {}
    for text, pk in found[:MAX_UNANSWERED]:
        if text:
            wordings[plain(text)][text] += 1
            last.setdefault(text, pk)
    most = sorted(wordings.values(), key=lambda alike: -alike.total())[:NUM_LISTED]
    asked_most = [(alike.most_common(1)[0][0], alike.total()) for alike in most]
    return [Asked(text, num, message_pk=last[text]) for text, num in asked_most]


def _percentiles(messages: QuerySet[Message], *shares: float) -> list[float | None]:
    """Seconds within which so many of a hundred customers read the first words."""
    timed = messages.filter(role=Message.Role.ASSISTANT, first_delta_ms__isnull=False)
    milliseconds = list(timed.order_by("first_delta_ms").values_list("first_delta_ms", flat=True))
    if not milliseconds:
        return [None for _share in shares]
    return [(milliseconds[math.ceil(share * len(milliseconds)) - 1] or 0) / 1000 for share in shares]
