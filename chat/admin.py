from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display

from chat.models import Conversation, Message


class MessageInline(TabularInline):
    model = Message
    fields = readonly_fields = [
        "created_at",
        "role",
        "text",
        "entry_key",
        "suggestions",
        "show_confidence",
        "version",
        "finish_reason",
    ]
    extra = 0
    hide_title = True
    can_delete = False
    verbose_name_plural = _("Messages, and what each answer rests on")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description=_("confidence"))
    def show_confidence(self, message: Message) -> str:
        return f"{message.confidence:.0%}" if message.confidence is not None else "–"


@admin.register(Conversation)
class ConversationAdmin(ModelAdmin):
    list_display = ["__str__", "num_messages", "language", "created_at", "updated_at"]
    list_filter = ["language", "messages__is_declined"]
    search_fields = ["messages__text"]
    search_help_text = _("Search in what was said")
    fields = ["language", "created_at"]
    inlines = [MessageInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        return super().get_queryset(request).annotate(num_messages=Count("messages", distinct=True))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description=_("messages"), ordering="num_messages")
    def num_messages(self, conversation: Any) -> int:
        return int(conversation.num_messages)
