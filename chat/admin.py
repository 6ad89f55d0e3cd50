from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.urls import URLPattern, path
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display

from chat import trials
from chat.models import Conversation, Message
from training import views
from training.admin import ReadOnlyAdmin
from training.admin import dashboard as training_dashboard
from training.models import Trial


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The admin's front page (settings.UNFOLD): the training room's, and the trial with customers."""
    context = training_dashboard(request, context)
    if request.user.has_perm("training.view_activation"):
        trials.look()
        context |= _trial_context(request, trials.trial_to_show())
    return context


def _trial_context(request: HttpRequest, trial: Trial | None) -> dict[str, Any]:
    """What trial.html needs."""
    return {
        "trial": trial,
        "sides": trials.sides(trial) if trial else None,
        "can_decide": request.user.has_perm("training.activate_adapterversion"),
    }


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
    list_filter = ["language", "messages__is_declined", "is_challenger"]
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


@admin.register(Trial)
class TrialAdmin(ReadOnlyAdmin):
    """Trials and what came of them: figures of conversations, so it stands here and not in training."""

    list_display = ["__str__", "champion", "started_at", "ended_at", "show_outcome", "reason", "started_by"]
    list_select_related = ["challenger", "champion", "started_by"]
    change_form_outer_before_template = "admin/training/trial_page.html"
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("challenger", "champion", "share"),
                    ("started_at", "started_by", "note"),
                    ("ends_at", "ended_at", "ended_by"),
                    ("outcome", "reason"),
                ]
            },
        )
    ]

    def get_urls(self) -> list[URLPattern]:
        stop = path("<int:trial_pk>/stop/", self.admin_site.admin_view(views.stop_trial), name="training_stop_trial")
        return [stop, *super().get_urls()]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("training.view_activation"))

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        trial = self.get_object(request, object_id or "")
        context = {**(extra_context or {}), **_trial_context(request, trial)}
        return super().changeform_view(request, object_id, form_url, context)

    @display(
        description=_("result"),
        ordering="outcome",
        label={
            Trial.Outcome.RUNNING: "info",
            Trial.Outcome.PROMOTED: "success",
            Trial.Outcome.STOPPED: "warning",
            Trial.Outcome.OVER: "warning",
            Trial.Outcome.RETREATED: "danger",
        },
    )
    def show_outcome(self, trial: Trial) -> tuple[str, str]:
        return trial.outcome, trial.get_outcome_display()
