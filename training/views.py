"""What staff do in the training room. Every view is wrapped by the admin (admin.py) and asks for its permission."""

from __future__ import annotations

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from training import runs, versions
from training.models import AdapterVersion, TrainingRun
from training.overview import changes_since, run_status
from training.status import latest_run

MAX_NOTE_CHARS = 300


def _require(request: HttpRequest, permission: str) -> None:
    if not request.user.has_perm(permission):
        raise PermissionDenied


@require_POST
def train_now(request: HttpRequest) -> HttpResponse:
    _require(request, "training.add_trainingrun")
    preset = request.POST.get("preset", TrainingRun.Preset.NORMAL)
    if preset not in TrainingRun.Preset.values:
        messages.error(request, _("Choose one of the ways to train."))
        return redirect("admin:index")
    try:
        run = runs.queue_run(preset, requested_by=request.user)  # type: ignore[arg-type]
    except runs.RunInProgress as error:
        messages.error(request, str(error))
        return redirect("admin:index")
    return redirect("admin:training_trainingrun_change", run.pk)


@require_POST
def cancel_run(request: HttpRequest, run_pk: int) -> HttpResponse:
    _require(request, "training.change_trainingrun")
    run = get_object_or_404(TrainingRun, pk=run_pk)
    runs.request_cancel(run.pk)
    messages.info(request, _("The training stops after its current step."))
    return redirect("admin:training_trainingrun_change", run.pk)


@require_safe
def status(request: HttpRequest) -> JsonResponse:
    _require(request, "training.view_trainingrun")
    run = latest_run()
    return JsonResponse({"run": run_status(run) if run else None})


@require_http_methods(["GET", "HEAD", "POST"])
def activate(request: HttpRequest, version_pk: int) -> HttpResponse:
    """Show what would change; on POST do it."""
    _require(request, "training.activate_adapterversion")
    version = get_object_or_404(AdapterVersion.objects.select_related("exam"), pk=version_pk)
    if request.method == "POST":
        note = request.POST.get("note", "").strip()[:MAX_NOTE_CHARS]
        try:
            versions.activate(version, activated_by=request.user, note=note)  # type: ignore[arg-type]
        except versions.VersionError as error:
            messages.error(request, str(error))
        else:
            messages.success(request, _("%(version)s is live.") % {"version": version})
        return redirect("admin:index")
    context = {
        "title": _("Make %(version)s live?") % {"version": version},
        "version": version,
        "live": versions.live_version(),
        "changes": changes_since(version) if version.path.is_dir() else None,
        "max_note_chars": MAX_NOTE_CHARS,
        "back_url": reverse("admin:index"),
    }
    return render(request, "admin/training/activate.html", {**_admin_context(request), **context})


@require_POST
def roll_back(request: HttpRequest) -> HttpResponse:
    _require(request, "training.activate_adapterversion")
    try:
        expected = versions.find(request.POST.get("version", ""))
        activation = versions.roll_back(activated_by=request.user, expected=expected)  # type: ignore[arg-type]
    except versions.VersionError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, _("%(version)s is live again.") % {"version": activation.version})
    return redirect("admin:index")


def _admin_context(request: HttpRequest) -> dict[str, object]:
    return admin.site.each_context(request)
