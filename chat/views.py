from __future__ import annotations

from typing import Any

from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from chat.models import MAX_MESSAGE_CHARS
from faq.models import FaqEntry
from training import serving

NUM_STARTERS = 4


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    starters = FaqEntry.objects.published().order_by("-is_critical", "pk").values_list("question", flat=True)
    context = {
        "starters": starters[:NUM_STARTERS],
        "max_chars": MAX_MESSAGE_CHARS,
        "texts": _texts(),
        "is_free": serving.is_free(),
    }
    return render(request, "chat/page.html", context)


@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """For load balancers and compose: the process answers, reaches its database, and its engine gets on.

    An engine that has died is made again at once; the process is well again as soon as it is.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    engine = serving.engine_health()
    if engine is None:
        return JsonResponse({"status": "ok", "engine": "not loaded"})
    state = "died" if not engine.is_alive else "stuck" if engine.is_stuck else "ok"
    if not engine.is_alive:
        serving.warm_up()
    is_well = state == "ok"
    report = {
        "status": "ok" if is_well else "unavailable",
        "engine": state,
        "waiting": engine.num_waiting,
        "under_way": engine.num_under_way,
    }
    return JsonResponse(report, status=200 if is_well else 503)


def _texts() -> dict[str, Any]:
    """What the page's script says, in the reader's language."""
    return {
        "you": _("You"),
        "assistant": _("Assistant"),
        "writing": _("The assistant is writing"),
        "stopped": _("Stopped"),
        "cut": _("Cut short"),
        "interrupted": _("Interrupted"),
        "retry": _("Try again"),
        "offline": _("No connection. Trying again…"),
        "online": _("Connected again"),
        "learning": _("The assistant is learning the answers: %(phase)s, %(percent)s %%."),
        "notYet": _("The assistant is not ready yet. This page comes alive by itself as soon as it is."),
        "live": _("The assistant is ready. Ask away."),
        "sending": _("Sending…"),
        "suggestions": _("Questions that you may mean"),
        "waiting": _("People before you: %(place)s"),
        "tooLong": _("Your message has %(num)s characters; at most %(max)s fit. Please shorten it."),
    }
