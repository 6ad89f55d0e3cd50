"""What the training room's templates cannot say by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import template
from django.utils.translation import gettext as _

register = template.Library()


@register.filter
def get(values: Mapping[Any, Any], key: Any) -> Any:
    return values.get(key)


@register.filter
def kind_of_change(kind: str) -> str:
    """A kind of difference (differences.py) in words."""
    return {
        "new": _("new"),
        "answer": _("other answer"),
        "wordings": _("other wordings"),
        "gone": _("taken out"),
    }[kind]
