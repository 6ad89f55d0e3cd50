"""Filters of the lists of conversations and hand-overs."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import BooleanFieldListFilter, ChoicesFieldListFilter, RelatedFieldListFilter
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.formats import get_format
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RangeDateFilter


class Titled:
    """A field's filter whose title is not the field's name, which would not read well after "By"."""

    title: Any
    own_title: Promise

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = self.own_title


class DaysFilter(RangeDateFilter):
    """Whole days, the last one too, written as the active language writes them: the calendar beside the field does.

    Unfold reads them as the settings alone say, whatever the language, and lists everything where it cannot.

    Attributes:
        problem: why nothing is listed; empty where both days could be read.
    """

    problem = ""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        try:
            limits = {
                f"{self.field_path}__gte": self._moment("from", time.min),
                f"{self.field_path}__lte": self._moment("to", time.max),
            }
        except ValidationError as error:
            (self.problem,) = error.messages
            messages.error(request, self.problem)
            return queryset.none()
        return queryset.filter(**{name: moment for name, moment in limits.items() if moment})

    def _moment(self, end: str, at: time) -> datetime | None:
        text = self.used_parameters.get(f"{self.field_path}_{end}", "")
        try:
            day = forms.DateField(required=False).clean(text)
            return timezone.make_aware(datetime.combine(day, at)) if day else None
        except ValidationError as error:
            example = timezone.localdate().strftime(get_format("DATE_INPUT_FORMATS")[0])
            raise ValidationError(
                _("“%(text)s” is not a day. Today is written %(example)s here.") % {"text": text, "example": example}
            ) from error


class StartedFilter(Titled, DaysFilter):
    own_title = gettext_lazy("beginning")


class WholeRatingFilter(Titled, ChoicesFieldListFilter):
    own_title = gettext_lazy("rating of the whole")


class TrialFilter(Titled, BooleanFieldListFilter):
    own_title = gettext_lazy("answers by the version on trial")


class TakenByFilter(Titled, RelatedFieldListFilter):
    own_title = gettext_lazy("person who took it")


def problem_of(listed: ChangeList) -> str:
    """Why a list's filters list nothing; empty where they could be read."""
    return next((each.problem for each in listed.filter_specs if isinstance(each, DaysFilter) and each.problem), "")
