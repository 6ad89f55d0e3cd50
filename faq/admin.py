from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, QuerySet
from django.forms import CharField, HiddenInput
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.text import slugify
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from import_export.admin import ImportExportMixin
from import_export.forms import ConfirmImportForm
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.import_export.forms import ExportForm, ImportForm
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from faq.models import FaqEntry, OffTopicQuestion, Paraphrase
from faq.publication import publication_stamp
from faq.resources import EntryResource, TableStorage
from faq.spreadsheets import CSV, XLSX, BadTable

MAX_TABLE_BYTES = 5_000_000
MAX_WARNINGS = 10

admin.site.index_title = _("Overview")
admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):
    pass


class ParaphraseInline(TabularInline):
    model = Paraphrase
    fields = ["text"]
    extra = 2
    hide_title = True
    verbose_name = _("other wording")
    verbose_name_plural = _("Other ways in which customers ask it (four or more teach best)")


class TableForm(ImportForm):
    def clean_import_file(self) -> Any:
        file = self.cleaned_data["import_file"]
        if file.size > MAX_TABLE_BYTES:
            raise ValidationError(_("This file has more than %(num)d MB.") % {"num": MAX_TABLE_BYTES // 1_000_000})
        return file


class ConfirmForm(ConfirmImportForm):
    """With what was published when the table was looked at."""

    seen = CharField(widget=HiddenInput)


@admin.register(FaqEntry)
class FaqEntryAdmin(ImportExportMixin, SimpleHistoryAdmin, ModelAdmin):
    list_display = ["question", "category", "show_status", "show_critical", "num_wordings", "updated_at"]
    list_filter = ["status", "category", "is_critical", "language"]
    list_filter_submit = False
    search_fields = ["question", "answer", "key", "paraphrases__text"]
    search_help_text = _("Search in questions, answers and wordings")
    list_per_page = 50
    inlines = [ParaphraseInline]
    actions = ["publish", "retire"]
    resource_classes = [EntryResource]
    formats = [XLSX, CSV]
    import_form_class = TableForm
    confirm_form_class = ConfirmForm
    export_form_class = ExportForm
    tmp_storage_class = TableStorage
    # The entries' own history says it.
    skip_admin_log = True
    fieldsets = [
        (None, {"fields": ["question", "answer", ("status", "category"), ("is_critical", "language")]}),
        (_("Advanced"), {"fields": ["key"], "classes": ["collapse"]}),
    ]
    warn_unsaved_form = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[FaqEntry]:
        return super().get_queryset(request).annotate(num_paraphrases=Count("paraphrases"))

    def has_import_permission(self, request: HttpRequest) -> bool:
        of_wordings = ("faq.add_paraphrase", "faq.delete_paraphrase")
        return (
            self.has_add_permission(request)
            and self.has_change_permission(request)
            and request.user.has_perms(of_wordings)
        )

    def has_export_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def get_export_queryset(self, request: HttpRequest) -> QuerySet[FaqEntry]:
        return super().get_export_queryset(request).prefetch_related("paraphrases")

    def get_export_filename(self, request: HttpRequest, queryset: Any, file_format: Any) -> str:
        return f"{slugify(_('Questions'))}-{timezone.localdate()}.{file_format.get_extension()}"

    def add_data_read_fail_error_to_form(self, form: Any, e: Exception) -> None:
        if not isinstance(e, BadTable):
            raise e
        form.add_error("import_file", str(e))

    def get_import_data_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_import_data_kwargs(**kwargs), "rollback_on_validation_errors": True}

    def get_confirm_form_initial(self, request: HttpRequest, import_form: Any) -> dict[str, Any]:
        return {**super().get_confirm_form_initial(request, import_form), "seen": publication_stamp()}

    def process_import(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if not self.has_import_permission(request):
            raise PermissionDenied
        if request.POST.get("seen") != publication_stamp():
            return self._not_imported(request, _("Nothing was imported: the answers have changed meanwhile."))
        try:
            response: HttpResponse = super().process_import(request, **kwargs)
        except (FileNotFoundError, ValueError, IndexError):
            # Pressed twice, or a day later, or not by the form.
            return self._not_imported(request, _("That table is not here any more. Choose it again."))
        return response

    def process_result(self, result: Any, request: HttpRequest) -> HttpResponse:
        if result.has_errors() or result.has_validation_errors():
            # It could be taken when it was looked at.
            return self._not_imported(request, _("Nothing was imported: the answers have changed meanwhile."))
        response: HttpResponse = super().process_result(result, request)
        self._warn_of_rivals(request, *(row.instance for row in result.rows if not row.is_skip()))
        return response

    def _not_imported(self, request: HttpRequest, why: str | Promise) -> HttpResponse:
        self.message_user(request, why, messages.ERROR)
        return redirect("admin:faq_faqentry_import")

    def add_success_message(self, result: Any, request: HttpRequest) -> None:
        nums = {name: result.totals[kind] for name, kind in (("new", "new"), ("changed", "update"), ("same", "skip"))}
        text = _("Imported. New: %(new)d, changed: %(changed)d, as they were: %(same)d.")
        self.message_user(request, text % nums, messages.SUCCESS)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        # Exams and snapshots name entries by their key for ever.
        return ["key"] if obj else []

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        self._warn_of_rivals(request, form.instance)

    def _warn_of_rivals(self, request: HttpRequest, *entries: FaqEntry) -> None:
        rivals = dict.fromkeys(other.question for entry in entries for other in entry.rivals())
        for question in list(rivals)[:MAX_WARNINGS]:
            text = _("“%(question)s” has such a wording too, and another answer: customers would have to choose.")
            self.message_user(request, text % {"question": question}, messages.WARNING)

    @display(
        description=_("status"),
        ordering="status",
        label={
            FaqEntry.Status.PUBLISHED: "success",
            FaqEntry.Status.DRAFT: "warning",
            FaqEntry.Status.RETIRED: "danger",
        },
    )
    def show_status(self, entry: FaqEntry) -> tuple[str, str]:
        return entry.status, entry.get_status_display()

    @display(description=_("critical"), ordering="is_critical", label={"critical": "danger"})
    def show_critical(self, entry: FaqEntry) -> tuple[str, str] | None:
        return ("critical", str(_("critical"))) if entry.is_critical else None

    @display(description=_("wordings"), ordering="num_paraphrases")
    def num_wordings(self, entry: Any) -> int:
        return int(entry.num_paraphrases) + 1

    @action(description=_("Publish the chosen ones"), permissions=["change"])
    def publish(self, request: HttpRequest, queryset: QuerySet[FaqEntry]) -> None:
        self._set_status(request, queryset, FaqEntry.Status.PUBLISHED)

    @action(description=_("Retire the chosen ones"), permissions=["change"])
    def retire(self, request: HttpRequest, queryset: QuerySet[FaqEntry]) -> None:
        self._set_status(request, queryset, FaqEntry.Status.RETIRED)

    def _set_status(self, request: HttpRequest, queryset: QuerySet[FaqEntry], status: FaqEntry.Status) -> None:
        num_changed = 0
        for entry in FaqEntry.objects.filter(pk__in=queryset.values("pk")).exclude(status=status):
            # Row by row, so that each change is in the entry's history.
            entry.status = status
            entry.updated_at = timezone.now()
            entry.save(update_fields=["status", "updated_at"])
            num_changed += 1
        text = ngettext("%(num)d answer changed.", "%(num)d answers changed.", num_changed) % {"num": num_changed}
        self.message_user(request, text, messages.SUCCESS)


@admin.register(OffTopicQuestion)
class OffTopicQuestionAdmin(ModelAdmin):
    list_display = ["text", "updated_at"]
    search_fields = ["text"]
    list_per_page = 100
