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
    days_of: dict[tuple[Span, ...], list[int]] = {}
    for day in sorted(by_day):
        days_of.setdefault(by_day[day], []).append(day)
    return "; ".join(f"{_listed(_names(days))} {_times(spans)}" for spans, days in days_of.items())


def moment_in_words(moment: datetime, now: datetime | None = None) -> str:
    """When a local time is, as people say it: today at 20:00; on Monday, 30 November, at 09:00."""
    today = timezone.localtime(now).date()
    values = {
        "weekday": WEEKDAYS[moment.weekday()],
        "date": date_format(moment, "MONTH_DAY_FORMAT" if moment.year == today.year else "DATE_FORMAT"),
        "time": _clock(moment.time()),
    }
    if moment.date() == today:
        return _("today at %(time)s") % values
    if moment.date() == today + timedelta(days=1):
        return _("tomorrow at %(time)s") % values
    return _("on %(weekday)s, %(date)s, at %(time)s") % values


def _spans_of(day: date) -> Iterator[tuple[datetime, datetime]]:
    if ClosedDay.objects.filter(day=day).exists():
        return
    for hours in OpeningHours.objects.filter(weekday=day.weekday()):
        start, end = (timezone.make_aware(datetime.combine(day, each)) for each in (hours.opens, hours.closes))
        yield start, end


def _names(days: list[int]) -> list[str]:
    """The names of days in order; three or more in a row as from one to another."""
    names: list[str] = []
    for _offset, group in groupby(enumerate(days), key=lambda each: each[1] - each[0]):
        run = [str(WEEKDAYS[day]) for _index, day in group]
        names += [_("%(first)s to %(last)s") % {"first": run[0], "last": run[-1]}] if len(run) > 2 else run
    return names


def _listed(names: list[str]) -> str:
    *others, last = names
    return _("%(others)s and %(last)s") % {"others": ", ".join(others), "last": last} if others else last


def _times(spans: tuple[Span, ...]) -> str:
    return ", ".join(f"{_clock(start)}–{_clock(end)}" for start, end in spans)


def _clock(moment: time) -> str:
    return time_format(moment, "H:i")
