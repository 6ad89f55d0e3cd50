from __future__ import annotations

import uuid
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import translation
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from chat.models import MAX_FEEDBACK_CHARS, MAX_MESSAGE_CHARS, Feedback, Site
from chat.polling import for_sites
from faq.models import FaqEntry, Language
from training import serving

NUM_STARTERS = 4
CONFIG_SECONDS = 300
# What page.js imports, to be fetched at once.
MODULES = [f"chat/{name}.js" for name in ("connection", "memory", "view", "drawing", "people", "ending")]


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    # A plain form that is sent twice is answered once.
    context = {"config": chat_config(), "modules": MODULES, "client_id": uuid.uuid4().hex}
    return render(request, "chat/page.html", context)


@require_safe
def widget(request: HttpRequest) -> HttpResponse:
    """The script that another website includes."""
    source = (settings.BASE_DIR / "static" / "chat" / "widget.js").read_bytes()
    return HttpResponse(
        source,
        content_type="text/javascript; charset=utf-8",
        headers={
            "Cache-Control": f"public, max-age={CONFIG_SECONDS}",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Access-Control-Allow-Origin": "*",
        },
    )


@for_sites
async def config(request: HttpRequest) -> HttpResponseBase:
    """What the widget says, in the language that it asks for."""
    site = await Site.objects.filter(key=request.GET.get("site", ""), is_active=True).afirst()
    with translation.override(_supported(request.GET.get("language", ""))):
        values = await sync_to_async(chat_config)(site)
    return JsonResponse(values, headers={"Cache-Control": f"public, max-age={CONFIG_SECONDS}"})


def _supported(language: str) -> str:
    """The one of our languages that is nearest to a tag such as es-CO."""
    try:
        return translation.get_supported_language_variant(language)
    except LookupError:
        return str(settings.LANGUAGE_CODE)


def chat_config(site: Site | None = None) -> dict[str, Any]:
    """What the chat is and says, in the active language. The script draws it (static/chat/view.js)."""
    starters = FaqEntry.objects.published().order_by("-is_critical", "pk").values_list("question", flat=True)
    is_free = serving.is_free()
    return {
        "language": translation.get_language(),
        "direction": "rtl" if translation.get_language_bidi() else "ltr",
        "title": (site and site.title) or settings.SITE_NAME or _("Customer service"),
        "subtitle": _("AI assistant · writes its own answers, which may be wrong")
        if is_free
        else _("AI assistant · answers with texts that the business approved"),
        "disclosure": _(
            "Hello! I am an AI assistant. I write my answers myself and can be wrong: check what matters with the "
            "business."
        )
        if is_free
        else _(
            "Hello! I am an AI assistant. I answer with what the business has approved, and when I don't know I say so."
        ),
        "languageNote": _language_note(),
        "greeting": site.greeting if site else "",
        "starters": list(starters[:NUM_STARTERS]),
        "maxChars": MAX_MESSAGE_CHARS,
        "maxFeedbackChars": MAX_FEEDBACK_CHARS,
        "privacyUrl": reverse("privacy"),
        "texts": _texts(),
    }


def _language_note() -> str:
    """Where no approved answer is in the active language, in which they are."""
    languages = set(FaqEntry.objects.published().order_by().values_list("language", flat=True).distinct())
    if not languages or translation.get_language() in languages:
        return ""
    if Language.SPANISH in languages:
        return _("The approved answers are in Spanish: please ask in Spanish.")
    return _("The approved answers are in English: please ask in English.")


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
    """What the chat's script says, in the reader's language."""
    return {
        "you": _("You"),
        "assistant": _("Assistant"),
        "notice": _("Notice"),
        "conversation": _("Conversation"),
        "starters": _("Frequent questions"),
        "newer": _("New messages"),
        "label": _("Your question"),
        "placeholder": _("Write your question…"),
        "send": _("Send"),
        "stop": _("Stop"),
        "open": _("Open the chat"),
        "openUnread": _("Open the chat, new messages: %(num)s"),
        "close": _("Close the chat"),
        "person": _("Talk to a person"),
        "people": _("Conversation with our team"),
        "personAnswers": _("A person is answering: %(name)s"),
        "passedOn": _("Passed on to our team"),
        "emailLabel": _("E-mail address (optional)"),
        "leaveEmail": _("Leave the address"),
        "changeEmail": _("Correct the address"),
        "emailLeft": _("E-mail address left: %(email)s"),
        "leavePeople": _("Back to the assistant"),
        "confirmLeavePeople": _(
            "Go back to the assistant? Our team then no longer has your conversation. You can ask for a person again, "
            "but you would have to wait anew."
        ),
        "writing": _("The assistant is writing"),
        "stopped": _("Stopped"),
        "cut": _("Cut short"),
        "interrupted": _("Interrupted"),
        "retry": _("Try again"),
        "offline": _("No connection. Trying again…"),
        "online": _("Connected again"),
        "learning": _("The assistant is still learning the answers and is %(percent)s %% of the way there."),
        "notYet": _("The assistant is not ready yet. This page comes alive by itself as soon as it is."),
        "live": _("The assistant is ready. Ask away."),
        "sending": _("Sending…"),
        "unsent": _("Will be sent as soon as there is a connection"),
        "suggestions": _("Questions that you may mean"),
        "waiting": _("People before you: %(place)s"),
        "tooLong": _("Your message has %(num)s characters; at most %(max)s fit. Please shorten it."),
        "verified": _("Verified answer"),
        "revised": _("revised %(date)s"),
        "rate": _("Rate this answer"),
        "helpful": _("Helpful"),
        "unhelpful": _("Not helpful"),
        "thanks": _("Thank you."),
        "undone": _("Your rating was taken back."),
        "copy": _("Copy this answer"),
        "copied": _("Copied"),
        "why": _("What was wrong?"),
        "reasons": {reason.value: str(reason.label) for reason in Feedback.Reason},
        "inYourWords": _("In your words (optional)"),
        "sendFeedback": _("Send"),
        "changeFeedback": _("Change what you said"),
        "end": _("End conversation"),
        "ended": _("This conversation has ended. Was it helpful? If you write again, it goes on."),
        "options": _("Options"),
        "wholeAnswers": _("Show whole answers"),
        "privacy": _("Privacy"),
        "anew": _("New conversation"),
        "confirmAnew": _(
            "Begin a new conversation? This one stays stored for its time, but you can no longer see, download or "
            "delete it."
        ),
        "begun": _("A new conversation has begun."),
        "forget": _("Delete conversation"),
        "confirmForget": _("Delete this conversation for good?"),
        "forgotten": _("This conversation has been deleted. What you write next begins a new one."),
    }
