"""What staff do in the training room. Every view is wrapped by the admin (admin.py) and asks for its permission."""

from __future__ import annotations

import asyncio
import csv
import tempfile
from collections.abc import AsyncIterator
from typing import Any, BinaryIO, cast

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from faq.models import FaqEntry
from training import bundle_format, bundles, runs, trials, updates, versions
from training.comparison import compare
from training.differences import Changes, changes_since
from training.forms import TrainingForm
from training.going_live import go_back, go_live, try_out
from training.going_live import undo as undo_activation
from training.insights import THRESHOLDS, apply_threshold, critical_lost
from training.models import AdapterVersion, TrainingRun, Trial
from training.overview import queue, training_status
from training.playground import may_choose, may_try
from training.preflight import NotReady, Preflight, in_minutes, preflight, require_ready
from training.retraining import cheapest_preset
from training.spreadsheets import BYTE_ORDER_MARK, no_formula
from training.teaching import add_wording as teach_wording

MAX_NOTE_CHARS = 300


def _require(request: HttpRequest, permission: str) -> None:
    if not request.user.has_perm(permission):
        raise PermissionDenied


@require_safe
def prepare(request: HttpRequest) -> HttpResponse:
    """What a training would learn, what is wrong with it and how long it would take, before it is asked for."""
    _require(request, "training.add_trainingrun")
    return _prepare_page(request, TrainingForm(initial={"preset": cheapest_preset()}))


def _prepare_page(request: HttpRequest, form: TrainingForm) -> HttpResponse:
    found = preflight()
    context = {
        "title": _("Prepare a training"),
        "preflight": found,
        "changes": _changes_since(versions.live_version()),
        "live": versions.live_version(),
        "num_before": len(queue()) + (runs.running() is not None),
        "is_full": runs.is_full(),
        "presets": _presets(found),
        "update": _update(found),
        "form": form,
        "back_url": reverse("admin:index"),
    }
    return render(
        request, "admin/training/prepare.html", {**_admin_context(request), **entry_links(request), **context}
    )


def _changes_since(version: AdapterVersion | None) -> Changes | None:
    """None where there is no version, or its files are gone."""
    try:
        return changes_since(version) if version else None
    except OSError:
        return None


def _presets(found: Preflight) -> list[tuple[str, str, str, str]]:
    """Value, name, what it is for, and how long it takes."""
    Preset = TrainingRun.Preset
    hints = {
        Preset.QUICK: _("to try a change"),
        Preset.NORMAL: _("what to use for customers"),
        Preset.THOROUGH: _("takes longest, studies the answers as well as the questions"),
    }
    return [
        (preset, str(preset.label), hint, in_minutes(found.expected_seconds[preset])) for preset, hint in hints.items()
    ]


def _update(found: Preflight) -> dict[str, Any]:
    """Whether the training may go on from the live version, or why not."""
    try:
        version = updates.version_to_update()
    except updates.CannotUpdate as error:
        return {"reason": str(error)}
    return {"version": version, "duration": in_minutes(found.expected_seconds[TrainingRun.Preset.UPDATE])}


@require_safe
def differences(request: HttpRequest) -> HttpResponse:
    """What a training would learn anew, as a table for a spreadsheet."""
    _require(request, "training.add_trainingrun")
    changes = _changes_since(versions.live_version())
    if changes is None:
        raise Http404
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="changes.csv"'
    response.write(BYTE_ORDER_MARK)
    writer = csv.writer(response)
    writer.writerow(["key", "change", "question", "answer before", "answer now", "wordings added", "wordings gone"])
    for each in changes.differences:
        row = [each.key, each.kind, each.question, each.answer_before, each.answer_now]
        writer.writerow(no_formula(cell) for cell in [*row, *map("\n".join, (each.wordings_added, each.wordings_gone))])
    return response


@require_POST
def train_now(request: HttpRequest) -> HttpResponse:
    _require(request, "training.add_trainingrun")
    form = TrainingForm(request.POST)
    if not form.is_valid():
        messages.error(request, _("The training was not asked for. Mend what is marked below."))
        return _prepare_page(request, form)
    try:
        require_ready()
        if form.cleaned_data["preset"] == TrainingRun.Preset.UPDATE:
            updates.version_to_update(form.config)
        run = runs.queue_run(form.cleaned_data["preset"], requested_by=request.user, config=form.config)  # type: ignore[arg-type]
    except (NotReady, updates.CannotUpdate, runs.QueueFull) as error:
        messages.error(request, str(error))
        return _prepare_page(request, form)
    return redirect("admin:training_trainingrun_change", run.pk)


@require_POST
def cancel_run(request: HttpRequest, run_pk: int) -> HttpResponse:
    _require(request, "training.change_trainingrun")
    run = get_object_or_404(TrainingRun, pk=run_pk)
    runs.request_cancel(run.pk, by=request.user)  # type: ignore[arg-type]
    run.refresh_from_db()
    if run.status == TrainingRun.Status.RUNNING:
        messages.info(request, _("The training stops after its current step."))
    elif run.status == TrainingRun.Status.CANCELLED:
        messages.info(request, _("The training is cancelled."))
    return redirect("admin:training_trainingrun_change", run.pk)


@require_POST
def retry_run(request: HttpRequest, run_pk: int) -> HttpResponse:
    _require(request, "training.add_trainingrun")
    run = get_object_or_404(TrainingRun, pk=run_pk)
    try:
        retried = runs.retry(run, requested_by=request.user)  # type: ignore[arg-type]
    except ValueError:
        messages.error(request, _("Nothing is left of this training to go on from. Train again."))
        return redirect("admin:training_trainingrun_change", run.pk)
    except runs.QueueFull as error:
        messages.error(request, str(error))
        return redirect("admin:training_trainingrun_change", run.pk)
    return redirect("admin:training_trainingrun_change", retried.pk)


@require_safe
def status(request: HttpRequest) -> JsonResponse:
    _require(request, "training.view_trainingrun")
    return JsonResponse(training_status())


@require_http_methods(["GET", "HEAD", "POST"])
def activate(request: HttpRequest, version_pk: int) -> HttpResponse:
    """Show what would change; on POST do it."""
    _require(request, "training.activate_adapterversion")
    version = get_object_or_404(AdapterVersion.objects.select_related("exam"), pk=version_pk)
    may_break = request.user.has_perm("training.activate_broken_adapterversion")
    if request.method == "POST":
        note = request.POST.get("note", "").strip()[:MAX_NOTE_CHARS]
        try:
            go_live(version, activated_by=request.user, note=note, despite_critical=may_break)  # type: ignore[arg-type]
        except versions.CriticalBroken as error:
            messages.error(request, str(error))
            if may_break:
                messages.info(request, _("Write in the note why it should go live all the same."))
            return redirect("admin:training_activate", version.pk)
        except versions.VersionError as error:
            messages.error(request, str(error))
        else:
            messages.success(request, _("%(version)s is live.") % {"version": version})
        return redirect("admin:index")
    live = versions.live_version()
    context = {
        "title": _("Make %(version)s live?") % {"version": version},
        "version": version,
        "live": live,
        "changes": _changes_since(version),
        "comparison": compare(version, live) if live and live != version else None,
        "may_break": may_break,
        "max_note_chars": MAX_NOTE_CHARS,
        "back_url": reverse("admin:index"),
    }
    return render(
        request, "admin/training/activate.html", {**_admin_context(request), **entry_links(request), **context}
    )


class TrialForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Trial
        fields = ("share", "ends_at", "note")
        widgets = {
            "share": forms.NumberInput({"class": "room-input", "min": Trial.MIN_SHARE, "max": Trial.MAX_SHARE}),
            "ends_at": forms.DateTimeInput({"class": "room-input", "type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
            "note": forms.TextInput({"class": "room-input", "autocomplete": "off"}),
        }


@require_http_methods(["GET", "HEAD", "POST"])
def try_version(request: HttpRequest, version_pk: int) -> HttpResponse:
    """Ask how many of the new conversations get a version, and why; on POST begin the trial."""
    _require(request, "training.activate_adapterversion")
    version = get_object_or_404(AdapterVersion.objects.select_related("exam"), pk=version_pk)
    may_break = request.user.has_perm("training.activate_broken_adapterversion")
    form = TrialForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            try_out(version, **form.cleaned_data, started_by=request.user, despite_critical=may_break)  # type: ignore[arg-type]
        except (versions.VersionError, trials.TrialInProgress) as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, _("The trial of %(version)s has begun.") % {"version": version})
            return redirect("admin:index")
    live = versions.live_version()
    context = {
        "title": _("Try %(version)s with a part of the customers?") % {"version": version},
        "version": version,
        "live": live,
        "form": form,
        "trial": trials.running_trial(),
        "comparison": compare(version, live) if live and live != version else None,
        "may_break": may_break,
        "back_url": reverse("admin:training_adapterversion_change", args=[version.pk]),
    }
    return render(request, "admin/training/try.html", {**_admin_context(request), **entry_links(request), **context})


@require_POST
def stop_trial(request: HttpRequest, trial_pk: int) -> HttpResponse:
    _require(request, "training.activate_adapterversion")
    trial = get_object_or_404(Trial.objects.select_related("challenger"), pk=trial_pk)
    if trials.end(trial, Trial.Outcome.STOPPED, by=request.user, reason=""):  # type: ignore[arg-type]
        messages.success(request, _("The trial of %(version)s is stopped.") % {"version": trial.challenger})
    else:
        messages.error(request, _("The trial of %(version)s has ended already.") % {"version": trial.challenger})
    return redirect("admin:index")


@require_POST
def set_threshold(request: HttpRequest, version_pk: int) -> HttpResponse:
    """Choose how confident a version must be; an empty value goes back to what its exam fitted."""
    _require(request, "training.activate_adapterversion")
    version = get_object_or_404(AdapterVersion.objects.select_related("exam"), pk=version_pk)
    given = request.POST.get("threshold", "")
    # A browser sends 0.9 for 0.90.
    chosen = next((each for each in THRESHOLDS if given in (f"{each:.2f}", str(each))), None)
    if given and chosen is None:
        limits = {"min": THRESHOLDS[0], "max": THRESHOLDS[-1]}
        messages.error(request, _("Choose a value between %(min).2f and %(max).2f.") % limits)
        return redirect("admin:training_adapterversion_change", version.pk)
    may_break = request.user.has_perm("training.activate_broken_adapterversion")
    if version in versions.speaking_versions() and not may_break and critical_lost(version, chosen):
        messages.error(request, _("With this value a critical answer would no longer be given."))
        return redirect("admin:training_adapterversion_change", version.pk)
    before = version.threshold_in_use
    apply_threshold(version, chosen)
    change = f"{before:.2f} → {version.threshold_in_use:.2f}"
    assert request.user.pk is not None, "a permission was asked for"
    LogEntry.objects.log_actions(request.user.pk, [version], CHANGE, change_message=change, single_object=True)
    messages.success(
        request,
        _("%(version)s answers when it is at least %(percent)d %% sure.")
        % {"version": version, "percent": round(100 * version.threshold_in_use)},
    )
    return redirect("admin:training_adapterversion_change", version.pk)


@require_safe
def compare_versions(request: HttpRequest, version_pk: int) -> HttpResponse:
    """A version's exam beside any other's: the live one's, unless asked otherwise."""
    _require(request, "training.view_adapterversion")
    version = get_object_or_404(AdapterVersion.objects.select_related("exam"), pk=version_pk)
    others = AdapterVersion.objects.exclude(pk=version.pk).select_related("exam")
    chosen = request.GET.get("with", "")
    live = versions.live_version()
    against: AdapterVersion | None
    if chosen:
        against = get_object_or_404(others, pk=chosen if chosen.isdecimal() else 0)
    else:
        against = (others.filter(pk=live.pk).first() if live else None) or others.first()
    context = {
        "title": _("Compare %(version)s") % {"version": version},
        "version": version,
        "against": against,
        "others": others,
        "comparison": compare(version, against) if against else None,
        "back_url": reverse("admin:training_adapterversion_change", args=[version.pk]),
    }
    return render(
        request, "admin/training/compare.html", {**_admin_context(request), **entry_links(request), **context}
    )


@require_POST
def roll_back(request: HttpRequest) -> HttpResponse:
    _require(request, "training.activate_adapterversion")
    try:
        expected = versions.find(request.POST.get("version", ""))
        activation = go_back(activated_by=request.user, expected=expected)  # type: ignore[arg-type]
    except versions.VersionError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, _("%(version)s is live again.") % {"version": activation.version})
    return redirect("admin:index")


@require_POST
def export_version(request: HttpRequest, version_pk: int) -> HttpResponse | StreamingHttpResponse:
    """A version as one file, for another instance. Who took it is written down: it holds the business's wordings."""
    _require(request, "training.export_adapterversion")
    version = get_object_or_404(AdapterVersion.objects.select_related("run", "snapshot"), pk=version_pk)
    # Without a name, so that it is gone with its last reader.
    file = cast(BinaryIO, tempfile.TemporaryFile(dir=settings.ARTIFACTS_DIR))  # noqa: SIM115 - the response closes it
    try:
        bundles.export_version(version, file)
    except versions.VersionError as error:
        file.close()
        messages.error(request, str(error))
        return redirect("admin:training_adapterversion_change", version.pk)
    assert request.user.pk is not None, "a permission was asked for"
    LogEntry.objects.log_actions(request.user.pk, [version], CHANGE, change_message=_("Downloaded"), single_object=True)
    headers = {
        "Content-Disposition": f'attachment; filename="{version.name}.zip"',
        "Content-Length": str(file.tell()),
    }
    file.seek(0)
    return StreamingHttpResponse(_in_chunks(file), content_type="application/zip", headers=headers)


async def _in_chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    """Not from the event loop; and Django would read a file's plain iterator to its end before it sends anything."""
    with file:
        while chunk := await asyncio.to_thread(file.read, bundle_format.CHUNK_BYTES):
            yield chunk


@require_http_methods(["GET", "HEAD", "POST"])
def import_version(request: HttpRequest) -> HttpResponse:
    """Ask for a version's file; on POST look at it, and have a worker take its exam."""
    _require(request, "training.import_adapterversion")
    if request.method == "POST":
        upload = request.FILES.get("bundle")
        try:
            if upload is None:
                raise bundle_format.BundleError(_("Choose a file."))
            run = bundles.queue_import(cast(BinaryIO, upload.file), imported_by=request.user)  # type: ignore[arg-type]
        except (bundle_format.BundleError, runs.QueueFull) as error:
            messages.error(request, str(error))
            return redirect("admin:training_import_version")
        return redirect("admin:training_trainingrun_change", run.pk)
    context = {
        "title": _("Bring in a version"),
        "max_mb": bundle_format.MAX_BUNDLE_BYTES // bundle_format.MEGABYTE,
        "base_model": runs.configured_base().label,
        "is_full": runs.is_full(),
        "back_url": reverse("admin:training_adapterversion_changelist"),
    }
    return render(request, "admin/training/import.html", {**_admin_context(request), **context})


@require_POST
def undo(request: HttpRequest) -> HttpResponse:
    """Take back the activation that the button was shown for."""
    _require(request, "training.activate_adapterversion")
    given = request.POST.get("activation", "")
    try:
        activation = undo_activation(int(given) if given.isdecimal() else 0, activated_by=request.user)  # type: ignore[arg-type]
    except versions.VersionError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, _("%(version)s is live again.") % {"version": activation.version})
    return redirect("admin:index")


@require_safe
def playground(request: HttpRequest) -> HttpResponse:
    """Ask two versions one question, or the live one; it is answered over a websocket (consumers.py)."""
    if not may_try(request.user):
        raise PermissionDenied
    live = versions.live_version()
    is_free = may_choose(request.user)
    found = list(AdapterVersion.objects.all()) if is_free else [live] if live else []
    first, second = _side_by_side(found, live, request.GET.get("version", ""), request.GET.get("with", ""))
    may_teach = request.user.has_perm("faq.add_paraphrase")
    context = {
        "title": _("Try it out"),
        "versions": found,
        "live": live,
        "may_choose": is_free,
        "first": first,
        "second": second,
        "may_teach": may_teach,
        "entries": FaqEntry.objects.published().only("question").order_by("question") if may_teach else [],
        "texts": _playground_texts(),
        "back_url": reverse("admin:index"),
    }
    return render(request, "admin/training/playground.html", {**_admin_context(request), **context})


def _side_by_side(
    found: list[AdapterVersion], live: AdapterVersion | None, version: str, against: str
) -> tuple[AdapterVersion | None, AdapterVersion | None]:
    """The versions asked for by name; without any the live one, and the newest of the others."""
    by_name = {str(each): each for each in found}
    second = by_name.get(version)
    first = by_name.get(against) or live or (found[0] if found else None)
    if second is None or second == first:
        second = next((each for each in found if each != first), None)
    return first, second


def _playground_texts() -> dict[str, str]:
    """What the page's script says."""
    return {
        "thinking": _("The version is being loaded and asked…"),
        "said": _("This would be said"),
        "suggested": _("Not sure enough: it would ask what was meant"),
        "declined": _("It would say that it does not know"),
        "written": _("Written by the assistant itself: nobody has approved these words"),
        "stopped": _("Stopped"),
        "failed": _("No answer"),
        "lost": _("The connection was lost. Ask again."),
        "forbidden": _("You may no longer do this. Sign in again."),
        "restsOn": _("It rests on"),
        "likeliest": _("Likeliest"),
        "near": _("Also near"),
        "confidence": _("{confidence} sure; from {threshold} on it answers"),
    }


@require_POST
def add_wording(request: HttpRequest) -> JsonResponse:
    """Make a question that was tried another wording of a published entry."""
    _require(request, "faq.add_paraphrase")
    given = request.POST.get("entry", "")
    entry = FaqEntry.objects.published().filter(pk=given).first() if given.isdecimal() else None
    if entry is None:
        return JsonResponse({"is_added": False, "text": _("Choose a published answer.")})
    try:
        teach_wording(entry, request.POST.get("text", ""))
    except ValidationError as error:
        return JsonResponse({"is_added": False, "text": " ".join(error.messages)})
    text = _("Added to “%(question)s”. The chat knows it from now on, and the next training learns it.")
    return JsonResponse({"is_added": True, "text": text % {"question": entry.question}})


def entry_links(request: HttpRequest) -> dict[str, object]:
    """What entry.html needs to lead to an entry."""
    may_look = request.user.has_perm("faq.view_faqentry") or request.user.has_perm("faq.change_faqentry")
    return {"entry_pks": dict(FaqEntry.objects.values_list("key", "pk")) if may_look else {}}


def _admin_context(request: HttpRequest) -> dict[str, object]:
    return admin.site.each_context(request)
