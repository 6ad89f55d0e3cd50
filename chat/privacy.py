"""The page that says what is kept, for how long, and what is stored on a customer's device."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from chat import plain


@dataclass(frozen=True, slots=True)
class Stored:
    """Something that the chat puts on a customer's device."""

    name: str
    place: str
    purpose: str


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    context = {
        "retention_days": settings.RETENTION_DAYS,
        "contact": settings.PRIVACY_CONTACT,
        "stored": _stored(),
        "texts": {
            "none": _("There is no conversation in this browser."),
            "confirm": _("Delete this conversation for good?"),
            "working": _("One moment…"),
            "deleted": _("Your conversation is deleted."),
            "downloaded": _("Your conversation is in your downloads."),
            "failed": _("That did not work. Please try again in a moment."),
        },
    }
    return render(request, "chat/privacy.html", context)


def _stored() -> list[Stored]:
    """Whoever stores something more adds it here; a test looks through the scripts."""
    cookie, device, tab = _("cookie"), _("the browser's storage"), _("the tab's storage, until you close it")
    return [
        Stored(settings.LANGUAGE_COOKIE_NAME, cookie, _("the language that you have chosen")),
        Stored(
            settings.CSRF_COOKIE_NAME, cookie, _("protects the language buttons from being pressed by other websites")
        ),
        Stored(
            "chat.conversation", device, _("the number and the key of your conversation, so that you find it again")
        ),
        Stored(plain.COOKIE, cookie, _("the same, on the page without JavaScript")),
        Stored("chat.draft", tab, _("what you have begun to write")),
        Stored("chat.unsent", tab, _("what you have sent and has not arrived yet")),
        Stored("chat.token", tab, _("until then, the key of the conversation that you begin with it")),
        Stored("chat.isOpen", device, _("on other websites, whether the chat is open")),
        Stored("chat.wholeAnswers", device, _("whether answers are shown only when they are whole")),
    ]
