"""When people answer: opening hours and closed days, in the time zone of the site."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from itertools import groupby

from django.utils import timezone
from django.utils.dates import WEEKDAYS
from django.utils.formats import date_format, time_format
from django.utils.translation import gettext as _

from chat.models import ClosedDay, OpeningHours

# Whoever closes for longer than this says nothing about when they are back.
MAX_DAYS_AHEAD = 60

Span = tuple[time, time]


def is_open(now: datetime | None = None) -> bool:
    """Whether somebody should be there. Never where no hours have been entered."""
    local = timezone.localtime(now)
    return any(start <= local < end for start, end in _spans_of(local.date()))


def next_opening(now: datetime | None = None) -> datetime | None:
    """The next time at which it opens, in local time; None where nobody knows."""
    local = timezone.localtime(now)
    if not OpeningHours.objects.exists():
        return None
    for days in range(MAX_DAYS_AHEAD):
        for start, _end in _spans_of(local.date() + timedelta(days=days)):
            if start > local:
                return start
    return None


def hours_in_words() -> str:
    """All opening hours in a line, days with the same ones together; empty where there are none."""
    by_day: dict[int, tuple[Span, ...]] = {}
    for hours in OpeningHours.objects.all():
        by_day[hours.weekday] = (*by_day.get(hours.weekday, ()), (hours.opens, hours.closes))
    return "; ".join(f"{_days(run)} {_times(by_day[run[0]])}" for run in _runs(by_day))


def moment_in_words(moment: datetime) -> str:
    """A local time as people say it: Monday, 30 November 2026, 09:00."""
    return _("%(weekday)s, %(date)s, %(time)s") % {
        "weekday": WEEKDAYS[moment.weekday()],
        "date": date_format(moment, "DATE_FORMAT"),
        "time": _clock(moment.time()),
    }


def _spans_of(day: date) -> Iterator[tuple[datetime, datetime]]:
    if ClosedDay.objects.filter(day=day).exists():
        return
    for hours in OpeningHours.objects.filter(weekday=day.weekday()):
        start, end = (timezone.make_aware(datetime.combine(day, each)) for each in (hours.opens, hours.closes))
        yield start, end


def _runs(by_day: dict[int, tuple[Span, ...]]) -> list[list[int]]:
    """Days in a row that have the same hours."""
    keyed = groupby(enumerate(sorted(by_day)), key=lambda each: (each[1] - each[0], by_day[each[1]]))
    return [[day for _index, day in run] for _key, run in keyed]


def _days(run: list[int]) -> str:
    first, last = str(WEEKDAYS[run[0]]), str(WEEKDAYS[run[-1]])
    return first if len(run) == 1 else f"{first}, {last}" if len(run) == 2 else f"{first}–{last}"


def _times(spans: tuple[Span, ...]) -> str:
    return ", ".join(f"{_clock(start)}–{_clock(end)}" for start, end in spans)


def _clock(moment: time) -> str:
    return time_format(moment, "H:i")
