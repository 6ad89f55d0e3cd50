"""A version is compared, put in use, and taken back."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from training import versions
from training.comparison import compare
from training.going_live import go_back, go_live
from training.going_live import undo as undo_activation
from training.insights import THRESHOLDS, apply_threshold, critical_lost
from training.models import AdapterVersion
from training.views.page import changes_of, entry_links, page_context, require

MAX_NOTE_CHARS = 300


@require_http_methods(["GET", "HEAD", "POST"])
def activate(request: HttpRequest, version_pk: int) -> HttpResponse:
    """Show what would change; on POST do it."""
    require(request, "training.activate_adapterversion")
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
        "changes": changes_of(version),
        "comparison": compare(version, live) if live and live != version else None,
        "may_break": may_break,
        "max_note_chars": MAX_NOTE_CHARS,
        "back_url": reverse("admin:index"),
    }
    return render(request, "admin/training/activate.html", {**page_context(request), **entry_links(request), **context})


@require_POST
def set_threshold(request: HttpRequest, version_pk: int) -> HttpResponse:
    """Choose how confident a version must be; an empty value goes back to what its exam fitted."""
    require(request, "training.activate_adapterversion")
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
    require(request, "training.view_adapterversion")
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
    return render(request, "admin/training/compare.html", {**page_context(request), **entry_links(request), **context})


@require_POST
def roll_back(request: HttpRequest) -> HttpResponse:
    require(request, "training.activate_adapterversion")
    try:
        expected = versions.find(request.POST.get("version", ""))
        activation = go_back(activated_by=request.user, expected=expected)  # type: ignore[arg-type]
    except versions.VersionError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, _("%(version)s is live again.") % {"version": activation.version})
    return redirect("admin:index")


@require_POST
def undo(request: HttpRequest) -> HttpResponse:
    """Take back the activation that the button was shown for."""
    require(request, "training.activate_adapterversion")
    given = request.POST.get("activation", "")
    try:
        activation = undo_activation(int(given) if given.isdecimal() else 0, activated_by=request.user)  # type: ignore[arg-type]
    except versions.VersionError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, _("%(version)s is live again.") % {"version": activation.version})
    return redirect("admin:index")
