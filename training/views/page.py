"""What the pages of the training room have in common."""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from faq.models import FaqEntry
from training.differences import Changes, changes_since
from training.models import AdapterVersion


def require(request: HttpRequest, permission: str) -> None:
    if not request.user.has_perm(permission):
        raise PermissionDenied


def changes_of(version: AdapterVersion | None) -> Changes | None:
    """None where there is no version, or its files are gone."""
    try:
        return changes_since(version) if version else None
    except OSError:
        return None


def entry_links(request: HttpRequest) -> dict[str, object]:
    """What entry.html needs to lead to an entry."""
    may_look = request.user.has_perm("faq.view_faqentry") or request.user.has_perm("faq.change_faqentry")
    return {"entry_pks": dict(FaqEntry.objects.values_list("key", "pk")) if may_look else {}}


def page_context(request: HttpRequest) -> dict[str, object]:
    return admin.site.each_context(request)
