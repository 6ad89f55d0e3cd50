"""Questions are put to versions, and what was asked is taught."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from faq.models import FaqEntry
from training import versions
from training.models import AdapterVersion
from training.playground import may_choose, may_try
from training.teaching import add_wording as teach_wording
from training.views.page import page_context, require


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
    return render(request, "admin/training/playground.html", {**page_context(request), **context})


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
    require(request, "faq.add_paraphrase")
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
