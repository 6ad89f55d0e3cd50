"""What the live version knows of each published entry, for the list of entries and the admin's front page."""

from __future__ import annotations

from collections import Counter

from django.db import models
from django.db.models import Case, CharField, QuerySet, Value, When
from django.utils.translation import gettext_lazy as _

from faq.models import FaqEntry
from training.comparison import Outcome, compare
from training.differences import Kind, changes_since
from training.models import AdapterVersion, ExamAnswer
from training.versions import live_version, previous_version


class Learned(models.TextChoices):
    """The first that fits."""

    NEVER = "never", _("never learned")
    CHANGED = "changed", _("changed since")
    REGRESSED = "regressed", _("worse than before")
    WEAK = "weak", _("weak in the exam")
    UNTESTED = "untested", _("not examined")
    LEARNED = "learned", _("well learned")


def learned_statuses() -> dict[str, Learned]:
    """Of every published entry, by key; none where nothing is live or the live version's files are gone."""
    live = live_version()
    if live is None:
        return {}
    try:
        changes = changes_since(live)
    except OSError:
        return {}
    kinds = {each.key: each.kind for each in changes.differences}
    regressed = _regressed(live)
    is_right: dict[str, bool] = {}
    for answer in ExamAnswer.objects.filter(exam__version=live).exclude(expected_key=""):
        is_right[answer.expected_key] = is_right.get(answer.expected_key, True) and answer.is_right
    statuses = {}
    for key in FaqEntry.objects.published().values_list("key", flat=True):
        if kinds.get(key) == Kind.NEW:
            statuses[key] = Learned.NEVER
        elif key in kinds:
            statuses[key] = Learned.CHANGED
        elif key in regressed:
            statuses[key] = Learned.REGRESSED
        elif key not in is_right or not live.exam.is_held_out:
            statuses[key] = Learned.UNTESTED
        else:
            statuses[key] = Learned.LEARNED if is_right[key] else Learned.WEAK
    return statuses


def _regressed(live: AdapterVersion) -> set[str]:
    before = previous_version()
    if before is None:
        return set()
    return {each.expected_key for each in compare(live, before).questions if each.outcome == Outcome.BROKEN}


def with_learned(entries: QuerySet[FaqEntry]) -> QuerySet[FaqEntry]:
    """The entries with `learned`, empty where there is nothing to say."""
    keys: dict[Learned, list[str]] = {}
    for key, status in learned_statuses().items():
        keys.setdefault(status, []).append(key)
    whens = [When(key__in=of_status, then=Value(status.value)) for status, of_status in keys.items()]
    return entries.annotate(learned=Case(*whens, default=Value(""), output_field=CharField()))


def count_learned() -> list[tuple[Learned, int]]:
    """How many entries have each status, those without left out."""
    counted = Counter(learned_statuses().values())
    return [(status, counted[status]) for status in Learned if counted[status]]
