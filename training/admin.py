from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import display

from faq.admin import FaqEntryAdmin
from faq.models import FaqEntry
from training import bundles, insights, runs, views
from training.forms import MomentForm
from training.learned import Learned, with_learned
from training.models import Activation, AdapterVersion, RetrainingSchedule, ScheduledActivation, TrainingRun
from training.overview import overview, queue, run_status
from training.trials import running_trial
from training.versions import live_at, live_version, undo_on_offer, with_ends


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The admin's front page (settings.UNFOLD)."""
    if request.user.has_perm("training.view_trainingrun"):
        context["overview"] = overview(request.user)
    return context


admin.site.unregister(FaqEntry)


class LearnedFilter(admin.SimpleListFilter):
    title = _("state of learning")
    parameter_name = "learned"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return Learned.choices

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(learned=self.value()) if self.value() in Learned.values else queryset


@admin.register(FaqEntry)
class LearnedFaqEntryAdmin(FaqEntryAdmin):
    """The entries as staff keep them, with what the live version has learned of each."""

    list_display = ["question", "category", "show_status", "show_learned", *FaqEntryAdmin.list_display[3:]]
    list_filter: Any = ["status", LearnedFilter, *FaqEntryAdmin.list_filter[1:]]

    def get_queryset(self, request: HttpRequest) -> QuerySet[FaqEntry]:
        entries = super().get_queryset(request)
        # It takes reading two exams, so only where it is shown.
        is_list = request.resolver_match is not None and request.resolver_match.url_name == "faq_faqentry_changelist"
        return with_learned(entries) if is_list else entries

    @display(
        description=_("learned"),
        ordering="learned",
        label={
            Learned.NEVER: "warning",
            Learned.CHANGED: "warning",
            Learned.REGRESSED: "danger",
            Learned.WEAK: "danger",
            Learned.UNTESTED: "info",
            Learned.LEARNED: "success",
        },
    )
    def show_learned(self, entry: Any) -> tuple[str, str] | None:
        return (entry.learned, str(Learned(entry.learned).label)) if entry.learned else None


class ReadOnlyAdmin(ModelAdmin):
    """Rows that only the training itself writes."""

    list_disable_select_all = True
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(TrainingRun)
class TrainingRunAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "show_status", "show_progress", "preset", "requested_by", "requested_at", "show_seconds"]
    list_filter = ["status", "preset"]
    list_select_related = ["requested_by"]
    change_form_outer_before_template = "admin/training/run.html"
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("status", "preset"),
                    ("requested_by", "requested_at"),
                    ("started_at", "ended_at"),
                    "show_snapshot",
                ]
            },
        ),
        (
            _("Advanced"),
            {
                "fields": [
                    "base_model",
                    "config",
                    "train_loss",
                    "eval_loss",
                    "num_attempts",
                    "origin",
                    "warm_start_from",
                ],
                "classes": ["collapse"],
            },
        ),
    ]

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        own = [
            path("prepare/", wrap(views.prepare), name="training_prepare"),
            path("differences.csv", wrap(views.differences), name="training_differences"),
            path("train-now/", wrap(views.train_now), name="training_train_now"),
            path("status.json", wrap(views.status), name="training_status"),
            path("<int:run_pk>/cancel/", wrap(views.cancel_run), name="training_cancel_run"),
            path("<int:run_pk>/retry/", wrap(views.retry_run), name="training_retry_run"),
        ]
        return own + super().get_urls()

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        run = self.get_object(request, object_id or "")
        context = {
            **(extra_context or {}),
            "run": run,
            "run_status": run_status(run) if run else None,
            "queue": queue(),
            "not_as_preset": runs.differences_from_preset(run) if run else {},
            "version": AdapterVersion.objects.filter(run=run).select_related("exam").first() if run else None,
            "live": live_version(),
            "can_retry": request.user.has_perm("training.add_trainingrun"),
            "can_cancel": request.user.has_perm("training.change_trainingrun"),
            "can_activate": request.user.has_perm("training.activate_adapterversion"),
        }
        return super().changeform_view(request, object_id, form_url, context)

    @display(
        description=_("status"),
        ordering="status",
        label={
            TrainingRun.Status.QUEUED: "info",
            TrainingRun.Status.RUNNING: "info",
            TrainingRun.Status.SUCCEEDED: "success",
            TrainingRun.Status.FAILED: "danger",
            TrainingRun.Status.CANCELLED: "warning",
        },
    )
    def show_status(self, run: TrainingRun) -> tuple[str, str]:
        return run.status, run.get_status_display()

    @display(description=_("progress"))
    def show_progress(self, run: TrainingRun) -> str:
        return f"{run.percent} %"

    @display(description=_("seconds"))
    def show_seconds(self, run: TrainingRun) -> str:
        return f"{run.seconds:.0f}" if run.seconds is not None else "–"

    @display(description=_("training data"))
    def show_snapshot(self, run: TrainingRun) -> str:
        if run.snapshot is None:
            return "–"
        return _("%(entries)d answers in %(wordings)d wordings (%(digest)s)") % {
            "entries": run.snapshot.num_entries,
            "wordings": run.snapshot.num_train + run.snapshot.num_eval,
            "digest": run.snapshot,
        }


@admin.register(AdapterVersion)
class AdapterVersionAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "show_live", "created_at", "show_right", "show_wrong", "show_declined", "show_off_topic"]
    list_select_related = ["exam"]
    list_before_template = "admin/training/versions.html"
    change_form_outer_before_template = "admin/training/version.html"
    fieldsets = [
        (None, {"fields": [("number", "created_at"), "run"]}),
        (_("Advanced"), {"fields": ["base_model", "sha256", "snapshot"], "classes": ["collapse"]}),
    ]

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        own = [
            path("<int:version_pk>/activate/", wrap(views.activate), name="training_activate"),
            path("<int:version_pk>/try/", wrap(views.try_version), name="training_try"),
            path("<int:version_pk>/threshold/", wrap(views.set_threshold), name="training_threshold"),
            path("<int:version_pk>/compare/", wrap(views.compare_versions), name="training_compare"),
            path("<int:version_pk>/export/", wrap(views.export_version), name="training_export_version"),
            path("import/", wrap(views.import_version), name="training_import_version"),
            path("roll-back/", wrap(views.roll_back), name="training_roll_back"),
            path("undo/", wrap(views.undo), name="training_undo"),
            path("playground/", wrap(views.playground), name="training_playground"),
            path("playground/add-wording/", wrap(views.add_wording), name="training_add_wording"),
        ]
        return own + super().get_urls()

    def get_queryset(self, request: HttpRequest) -> QuerySet[AdapterVersion]:
        live = live_version()
        is_live = Q(pk=live.pk) if live else Q(pk=None)
        return super().get_queryset(request).annotate(is_live=ExpressionWrapper(is_live, BooleanField()))

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        version = self.get_object(request, object_id or "")
        answers = list(version.exam.answers.all()) if version else []
        context = {
            **(extra_context or {}),
            "version": version,
            "live": live_version(),
            "trial": running_trial(),
            "exam_answers": sorted(answers, key=lambda answer: answer.is_right),
            "titles": insights.entry_titles(version) if version else {},
            "confused": insights.confused_pairs(version) if version else [],
            "thresholds": insights.as_json(insights.thresholds(version)) if version else [],
            "can_activate": request.user.has_perm("training.activate_adapterversion"),
            "can_export": request.user.has_perm("training.export_adapterversion"),
            "reproduction": bundles.reproduction(version) if version else None,
            "undo": undo_on_offer() if request.user.has_perm("training.activate_adapterversion") else None,
            **views.entry_links(request),
        }
        return super().changeform_view(request, object_id, form_url, context)

    @display(description=_("live"), label={"live": "success"})
    def show_live(self, version: Any) -> tuple[str, str] | None:
        return ("live", str(_("Live"))) if version.is_live else None

    @display(description=_("answered right"))
    def show_right(self, version: AdapterVersion) -> str:
        return f"{100 * version.exam.answered_right:.0f} %"

    @display(description=_("answered wrong"))
    def show_wrong(self, version: AdapterVersion) -> str:
        return f"{100 * version.exam.answered_wrong:.0f} %"

    @display(description=_("said “I don't know”"))
    def show_declined(self, version: AdapterVersion) -> str:
        return f"{100 * version.exam.declined:.0f} %"

    @display(description=_("off-topic declined"))
    def show_off_topic(self, version: AdapterVersion) -> str:
        share = version.exam.off_topic_declined
        return f"{100 * share:.0f} %" if share is not None else "–"


@admin.register(Activation)
class ActivationAdmin(ReadOnlyAdmin):
    list_display = ["version", "activated_at", "show_end", "show_duration", "activated_by", "is_rollback", "note"]
    list_select_related = ["version", "activated_by"]
    list_display_links = None
    list_before_template = "admin/training/live_at.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Activation]:
        return with_ends(super().get_queryset(request))

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        form = MomentForm(request.GET if "at" in request.GET else None, label_suffix="")
        context = {**(extra_context or {}), "moment_form": form}
        if form.is_valid():
            asked_at = form.cleaned_data["at"]
            context |= {"asked_at": asked_at, "found_at": live_at(asked_at)}
        # The list would take it for a filter of its own.
        query = request.GET.copy()
        query.pop("at", None)
        request.GET = query  # type: ignore[assignment]
        return super().changelist_view(request, context)

    @display(description=_("until"))
    def show_end(self, activation: Any) -> Any:
        return activation.ended_at or _("now")

    @display(description=_("how long"))
    def show_duration(self, activation: Any) -> str:
        return timesince(activation.activated_at, activation.ended_at)


@admin.register(RetrainingSchedule)
class RetrainingScheduleAdmin(ModelAdmin):
    """One row, so its list leads to it. Who may train may change it; who may not make a version live, not that part."""

    fields = ["is_enabled", "at", "num_changes", "activates", "changed_by", "looked_at", "outcome"]
    readonly_fields = ["changed_by", "looked_at", "outcome"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("training.view_trainingrun"))

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("training.add_trainingrun"))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        may_activate = request.user.has_perm("training.activate_adapterversion")
        return self.readonly_fields if may_activate else ["activates", *self.readonly_fields]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        RetrainingSchedule.objects.get_or_create(pk=1)
        return redirect("admin:training_retrainingschedule_change", 1)

    def save_model(self, request: HttpRequest, obj: RetrainingSchedule, form: Any, change: bool) -> None:
        # What goes live by itself does so in the name of somebody who may put it in use.
        if not obj.activates or request.user.has_perm("training.activate_adapterversion"):
            obj.changed_by = request.user  # type: ignore[assignment]
        super().save_model(request, obj, form, change)


@admin.register(ScheduledActivation)
class ScheduledActivationAdmin(ModelAdmin):
    """Whoever may make a version live may plan it, and unplan it until it begins."""

    list_display = ["version", "starts_at", "ends_at", "show_state", "planned_by", "note"]
    list_select_related = ["version", "planned_by"]
    fields = ["version", "starts_at", "ends_at", "note"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("training.activate_adapterversion"))

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("training.view_activation"))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_waiting = obj is None or obj.state == ScheduledActivation.State.WAITING
        return is_waiting and bool(request.user.has_perm("training.activate_adapterversion"))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        # One by one: deleting many asks nobody about each.
        return {}

    def save_model(self, request: HttpRequest, obj: ScheduledActivation, form: Any, change: bool) -> None:
        obj.planned_by = request.user  # type: ignore[assignment]
        super().save_model(request, obj, form, change)

    @display(
        description=_("status"),
        ordering="state",
        label={
            ScheduledActivation.State.WAITING: "info",
            ScheduledActivation.State.LIVE: "success",
            ScheduledActivation.State.OVER: "warning",
            ScheduledActivation.State.FAILED: "danger",
        },
    )
    def show_state(self, scheduled: ScheduledActivation) -> tuple[str, str]:
        text = scheduled.get_state_display()
        return scheduled.state, f"{text}: {scheduled.error}" if scheduled.error else text
