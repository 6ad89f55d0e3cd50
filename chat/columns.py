"""Columns of staff's lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.admin.utils import label_for_field
from django.db.models import Model
from django.utils import timezone
from django.utils.formats import date_format
from unfold.decorators import display


def short_moment(model: type[Model], name: str) -> Callable[[Any], str | None]:
    """A date and time as short as the reader's language has it: in words, three of them are wider than a laptop."""

    @display(description=label_for_field(name, model), ordering=name)
    def moment(row: Any) -> str | None:
        value = getattr(row, name)
        return date_format(timezone.localtime(value), "SHORT_DATETIME_FORMAT") if value else None

    moment.__name__ = name
    return moment
