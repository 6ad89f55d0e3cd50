"""A version is tried with a part of the customers."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from training import trials, versions
from training.comparison import compare
from training.going_live import try_out
from training.models import AdapterVersion, Trial
from training.views.page import entry_links, page_context, require


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
    require(request, "training.activate_adapterversion")
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
    return render(request, "admin/training/try.html", {**page_context(request), **entry_links(request), **context})


@require_POST
def stop_trial(request: HttpRequest, trial_pk: int) -> HttpResponse:
    require(request, "training.activate_adapterversion")
    trial = get_object_or_404(Trial.objects.select_related("challenger"), pk=trial_pk)
    if trials.end(trial, Trial.Outcome.STOPPED, by=request.user, reason=""):  # type: ignore[arg-type]
        messages.success(request, _("The trial of %(version)s is stopped.") % {"version": trial.challenger})
    else:
        messages.error(request, _("The trial of %(version)s has ended already.") % {"version": trial.challenger})
    return redirect("admin:index")
