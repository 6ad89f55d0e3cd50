"""A training from what it would learn to its end."""

from __future__ import annotations

import csv
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from faq.spreadsheets import BYTE_ORDER_MARK, no_formula
from training import runs, updates, versions
from training.forms import TrainingForm
from training.models import TrainingRun
from training.overview import queue, training_status
from training.preflight import NotReady, Preflight, in_minutes, preflight, require_ready
from training.retraining import cheapest_preset
from training.views.page import changes_of, entry_links, page_context, require


@require_safe
def prepare(request: HttpRequest) -> HttpResponse:
    """What a training would learn, what is wrong with it and how long it would take, before it is asked for."""
    require(request, "training.add_trainingrun")
    return _prepare_page(request, TrainingForm(initial={"preset": cheapest_preset()}))


def _prepare_page(request: HttpRequest, form: TrainingForm) -> HttpResponse:
    found = preflight()
    context = {
        "title": _("Prepare a training"),
        "preflight": found,
        "changes": changes_of(versions.live_version()),
        "live": versions.live_version(),
        "num_before": len(queue()) + (runs.running() is not None),
        "is_full": runs.is_full(),
        "presets": _presets(found),
        "update": _update(found),
        "form": form,
        "back_url": reverse("admin:index"),
    }
    return render(request, "admin/training/prepare.html", {**page_context(request), **entry_links(request), **context})


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
    require(request, "training.add_trainingrun")
    changes = changes_of(versions.live_version())
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
    require(request, "training.add_trainingrun")
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
    require(request, "training.change_trainingrun")
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
    require(request, "training.add_trainingrun")
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
    require(request, "training.view_trainingrun")
    return JsonResponse(training_status())
