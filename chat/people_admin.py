"""Staff's pages around people: the inbox, the log of hand-overs, and when people answer."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from unfold.admin import ModelAdmin

from chat.columns import short_moment
from chat.filters import TakenByFilter
from chat.inbox import choose_name, inbox
from chat.models import ClosedDay, Handover, OpeningHours
from training.admin import ReadOnlyAdmin


@admin.register(Handover)
class HandoverAdmin(ReadOnlyAdmin):
    list_display = [
        *("reference", "state", "reason", short_moment(Handover, "asked_at"), "taken_by"),
        *(short_moment(Handover, name) for name in ("taken_at", "returned_at", "closed_at")),
    ]
    list_filter = ["state", "reason", ("taken_by", TakenByFilter)]
    list_select_related = ["taken_by"]
    search_fields = ["reference", "email"]
    fields = [
        ("reference", "state", "reason"),
        ("conversation", "language", "email"),
        ("asked_at", "taken_by", "taken_at"),
        ("returned_at", "closed_at", "closed_by"),
    ]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may delete a conversation deletes what belongs to it; never a hand-over alone (delete_view)."""
        return request.user.has_perm("chat.delete_conversation")

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """The figures count it from its conversation as that is deleted."""
        raise PermissionDenied

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "show_delete": False})

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        own = [
            path("inbox/", wrap(inbox), name="chat_inbox"),
            path("inbox/name/", wrap(choose_name), name="chat_choose_name"),
        ]
        return own + super().get_urls()


@admin.register(OpeningHours)
class OpeningHoursAdmin(ModelAdmin):
    list_display = ["__str__", "weekday", "opens", "closes"]
    list_editable = ["weekday", "opens", "closes"]


@admin.register(ClosedDay)
class ClosedDayAdmin(ModelAdmin):
    list_display = ["day", "name"]
