from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, Exists, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.urls import URLPattern, path
from django.utils.text import Truncator, smart_split, unescape_string_literal
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import display

from chat import handovers, inbox, people_admin, spelling, staff, trials  # noqa: F401 - the inbox's pages are registered
from chat.columns import short_moment
from chat.figures import OUTCOMES
from chat.filters import StartedFilter, TrialFilter, WholeRatingFilter
from chat.models import Conversation, DailyFigures, Feedback, Handover, Message, Rating, Site
from chat.retention import forget
from faq.models import FaqEntry
from training import views
from training.admin import ReadOnlyAdmin
from training.admin import dashboard as training_dashboard
from training.models import AdapterVersion, Trial


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The admin's front page (settings.UNFOLD): the training room's, and the trial with customers."""
    context = training_dashboard(request, context)
    if request.user.has_perm(inbox.PERMISSION):
        context["num_waiting"] = _num_waiting()
    if request.user.has_perm("training.view_activation"):
        trials.look()
        context |= _trial_context(request, trials.trial_to_show())
    return context


def inbox_badge(request: HttpRequest) -> str:
    """How many customers wait for a person, beside the inbox on every page (settings.UNFOLD)."""
    num_waiting = _num_waiting() if request.user.has_perm(inbox.PERMISSION) else 0
    return str(num_waiting) if num_waiting else ""


def _num_waiting() -> int:
    return Handover.objects.filter(state=Handover.State.WAITING).count()


def _trial_context(request: HttpRequest, trial: Trial | None) -> dict[str, Any]:
    """What trial.html needs."""
    return {
        "trial": trial,
        "sides": trials.sides(trial) if trial else None,
        "can_decide": request.user.has_perm("training.activate_adapterversion"),
    }


class MessageFilter(DropdownFilter):
    """Conversations in which there is at least one message of a kind."""

    def condition(self, value: str) -> Q:
        raise NotImplementedError

    def queryset(self, request: HttpRequest, queryset: QuerySet[Conversation]) -> QuerySet[Conversation]:
        value = self.value()
        if value not in {str(known) for known, _label in self.lookup_choices}:
            return queryset
        return queryset.filter(Exists(Message.objects.filter(self.condition(value), conversation=OuterRef("pk"))))


class OutcomeFilter(MessageFilter):
    title = _("outcome")
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [(kind.value, kind.label) for kind in OUTCOMES]

    def condition(self, value: str) -> Q:
        return next(condition for kind, condition in OUTCOMES.items() if kind.value == value)


class EntryFilter(MessageFilter):
    title = _("answer")
    parameter_name = "entry"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        said = Message.objects.order_by().exclude(entry_key="").values_list("entry_key", flat=True).distinct()
        questions = dict(FaqEntry.objects.values_list("key", "question"))
        named = [(key, Truncator(questions.get(key, key)).chars(80)) for key in said]
        return sorted(named, key=lambda each: each[1])

    def condition(self, value: str) -> Q:
        return Q(entry_key=value)


class VersionFilter(MessageFilter):
    title = _("version that spoke")
    parameter_name = "version"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [(str(version.number), str(version)) for version in AdapterVersion.objects.all()]

    def condition(self, value: str) -> Q:
        return Q(version__number=int(value))


class RatingFilter(MessageFilter):
    title = _("rating")
    parameter_name = "rating"
    NONE = "none"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [*Rating.choices, (self.NONE, _("Not rated"))]

    def condition(self, value: str) -> Q:
        return Q(feedback__rating=value)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Conversation]) -> QuerySet[Conversation]:
        if self.value() == self.NONE:
            return queryset.filter(~Exists(Feedback.objects.filter(message__conversation=OuterRef("pk"))))
        return super().queryset(request, queryset)


class PersonFilter(DropdownFilter):
    title = _("request for a person")
    parameter_name = "person"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [("yes", _("Yes")), ("no", _("No"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Conversation]) -> QuerySet[Conversation]:
        value = self.value()
        return queryset if value not in ("yes", "no") else queryset.filter(wants_person_at__isnull=value == "no")


@admin.register(Conversation)
class ConversationAdmin(ModelAdmin):
    """Staff read conversations and delete them; only customers and the assistant write."""

    list_display = [
        *("__str__", "first_question", "num_messages", "language", "site"),
        *(short_moment(Conversation, name) for name in ("wants_person_at", "created_at", "updated_at")),
    ]
    list_select_related = ["site"]
    list_filter = [
        OutcomeFilter,
        RatingFilter,
        ("rating", WholeRatingFilter),
        PersonFilter,
        EntryFilter,
        VersionFilter,
        "language",
        "site",
        ("created_at", StartedFilter),
        ("is_challenger", TrialFilter),
    ]
    list_filter_submit = True
    date_hierarchy = "created_at"
    # Shows the box; what is found is up to get_search_results.
    search_fields = ["messages__text"]
    search_help_text = _(
        "Search in what was said, by an answer's key, by the conversation's number, or by the number, the name or the"
        " e-mail address of a customer"
    )
    list_before_template = "admin/chat/export.html"
    change_form_outer_before_template = "admin/chat/transcript.html"
    fields = [
        ("language", "created_at", "updated_at"),
        ("site", "wants_person_at", "rating"),
        ("customer_name", "customer_email"),
    ]

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        own = [
            path("export.csv", wrap(staff.export), {"model_admin": self, "form": "csv"}, name="chat_export_csv"),
            path("export.jsonl", wrap(staff.export), {"model_admin": self, "form": "jsonl"}, name="chat_export_jsonl"),
            path("wording/<int:message_pk>/", wrap(staff.add_wording), name="chat_add_wording"),
            path("<uuid:conversation_pk>/step-in/", wrap(staff.step_in), name="chat_step_in"),
        ]
        return own + super().get_urls()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        inside = Message.objects.filter(conversation=OuterRef("pk")).order_by("pk")
        counted = inside.order_by().values("conversation").annotate(num=Count("pk")).values("num")
        return (
            super()
            .get_queryset(request)
            .annotate(
                num=Coalesce(Subquery(counted), 0, output_field=IntegerField()),
                first=Subquery(inside.filter(role=Message.Role.USER).values("text")[:1]),
            )
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Conversation], search_term: str
    ) -> tuple[QuerySet[Conversation], bool]:
        """Those in which every word, or "phrase in quotes", stands somewhere, whatever its capitals and accents.

        Asked of the messages one after the other: the joins that the admin makes take seconds with 100,000 of them.
        """
        for bit in smart_split(search_term):
            word = unescape_string_literal(bit) if bit[0] == bit[-1] and bit[0] in "\"'" else bit
            written = spelling.pattern(word)
            said = Message.objects.filter(Q(text__iregex=written) | Q(entry_key__icontains=word))
            handed_over = Handover.objects.filter(
                Q(reference__icontains=handovers.reference_in(word)) | Q(email__icontains=word)
            )
            queryset = queryset.filter(
                Q(pk__in=said.order_by().values("conversation"))
                | Q(pk__in=handed_over.order_by().values("conversation"))
                | Q(pk__icontains=word)
                | Q(customer_name__iregex=written)
                | Q(customer_email__icontains=word)
            )
        return queryset, False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: Conversation) -> None:
        forget(Conversation.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Conversation]) -> None:
        forget(queryset)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        can_export = request.user.has_perm("chat.export_conversation")
        return super().changelist_view(request, {**(extra_context or {}), "can_export": can_export})

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        conversation = self.get_object(request, object_id or "")
        transcript = staff.transcript(request, conversation) if conversation else {}
        return super().changeform_view(request, object_id, form_url, {**(extra_context or {}), **transcript})

    @display(description=_("first question"))
    def first_question(self, conversation: Any) -> str:
        return Truncator(conversation.first or "–").chars(90)

    @display(description=_("messages"), ordering="num")
    def num_messages(self, conversation: Any) -> int:
        return int(conversation.num)


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


@admin.register(DailyFigures)
class FiguresAdmin(ModelAdmin):
    """One page, which counts what is there together with what these rows keep of what is not."""

    def get_urls(self) -> list[URLPattern]:
        return [path("", self.admin_site.admin_view(staff.figures), name="chat_dailyfigures_changelist")]

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("chat.view_conversation"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Site)
class SiteAdmin(ModelAdmin):
    list_display = ["name", "origins", "is_active"]
    fields = ["name", "origins", "title", "greeting", "is_active"]
    # How the chat gets into the website's pages.
    change_form_before_template = "admin/chat/embedding.html"
