"""The chat for pages without JavaScript: a form, and the conversation in a signed cookie that scripts cannot read."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from chat import people, rights
from chat.frames import html_of, language_note
from chat.models import Conversation, Message, Rating
from chat.polling import for_address
from chat.session import MAX_HISTORY, Session
from chat.views import chat_config
from training.frames import BadFrame

COOKIE = "conversation"
# The page is sent when the answer is there, or after so long without it.
WAIT_SECONDS = 8.0
LOOK_SECONDS = 0.1


class _Started:
    """A carrier that only learns which conversation was begun."""

    def __init__(self) -> None:
        self.frame: dict[str, Any] = {}

    async def send(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "conversation":
            self.frame = frame

    async def join(self, conversation: Conversation) -> None:
        """The page is loaded again instead."""

    async def leave(self) -> None:
        """There is nothing to leave."""


@require_http_methods(["GET", "HEAD", "POST"])
async def plain_chat(request: HttpRequest) -> HttpResponse:
    carrier = _Started()
    session = Session(carrier, request.build_absolute_uri("/"), for_address(request))
    await _open(session, request)
    if request.method != "POST":
        return await _page(request, session)
    if "download" in request.POST:
        return await _download(request, session)
    frame = _frame(request)
    if frame["type"] == "forget" and session.conversation is None:
        # Pressed twice, or its key is no longer good, and then it is not deleted.
        return await _page(request, session, problem=_("That conversation is not here any more."), status=404)
    try:
        await session.handle(frame)
    except BadFrame as error:
        draft = request.POST.get("text", "")
        return await _page(request, session, problem=str(error), draft=draft, status=400)
    if session.conversation is None:
        return _deleted()
    await _wait(session)
    # Where on a long page something is new.
    place = "?rated#rating" if "rate" in request.POST else "#newest"
    response = HttpResponseRedirect(reverse("plain_chat") + place)
    if carrier.frame:
        value = f"{carrier.frame['conversation']} {carrier.frame['token']}"
        response.set_signed_cookie(
            COOKIE,
            value,
            httponly=True,
            samesite="Lax",
            secure=settings.SESSION_COOKIE_SECURE,
            path=reverse("plain_chat"),
        )
    return response


async def _open(session: Session, request: HttpRequest) -> None:
    """With the conversation of the cookie, if it is still there."""
    conversation, _blank, token = str(request.get_signed_cookie(COOKIE, default="")).partition(" ")
    greeting = {"language": get_language(), "conversation": conversation, "token": token}
    try:
        await session.start(greeting)
    except BadFrame:
        await session.start({**greeting, "conversation": None})


def _frame(request: HttpRequest) -> dict[str, Any]:
    for name in ("person", "leave_people", "forget"):
        if name in request.POST:
            return {"type": name}
    if "rate" in request.POST:
        return {"type": "rate", "rating": request.POST["rate"] or None}
    if "email" in request.POST:
        return {"type": "contact", "email": request.POST["email"]}
    text = request.POST.get("question") or request.POST.get("text", "")
    return {"type": "message", "client_id": request.POST.get("client_id", ""), "text": text}


def _deleted() -> HttpResponse:
    """To the page that says so. A reload of it deletes nothing that has begun since."""
    response = HttpResponseRedirect(reverse("plain_chat") + "?deleted")
    response.delete_cookie(COOKIE, path=reverse("plain_chat"), samesite="Lax")
    return response


async def _download(request: HttpRequest, session: Session) -> HttpResponse:
    """The conversation as a file, which the browser keeps beside the page."""
    if session.conversation is None:
        return await _page(request, session, problem=_("That conversation is not here any more."), status=404)
    if seconds := rights.seconds_to_wait(str(session.conversation.pk)):
        return await _page(request, session, problem=rights.too_often(seconds), status=429)
    response = await sync_to_async(rights.as_text_file)(session.conversation)
    response.headers["Cache-Control"] = "no-store"
    return response


async def _wait(session: Session) -> None:
    assert session.conversation is not None, "whoever was not refused, and did not delete it, has one"
    unfinished = session.conversation.messages.filter(role=Message.Role.ASSISTANT, finish_reason="")
    for _look in range(round(WAIT_SECONDS / LOOK_SECONDS)):
        if not await unfinished.aexists():
            return
        await asyncio.sleep(LOOK_SECONDS)


async def _page(request: HttpRequest, session: Session, status: int = 200, **context: Any) -> HttpResponse:
    messages: list[Message] = []
    if session.conversation is not None:
        await session.history()
        newest = session.conversation.messages.order_by("-pk")[:MAX_HISTORY]
        messages = [message async for message in newest][::-1]
    config = await sync_to_async(chat_config)()
    suggestions = messages[-1].suggestions if messages else config["starters"]
    context |= {
        "config": config,
        "said": [(message, html_of(message), language_note(message)) for message in messages],
        "conversation": session.conversation,
        "ratings": Rating.choices,
        "is_rated": "rated" in request.GET,
        "is_deleted": "deleted" in request.GET and session.conversation is None,
        **await people.standing(session.conversation),
        "suggestions": suggestions,
        # A form that is sent twice is answered once.
        "client_id": uuid.uuid4().hex,
        "here": reverse("plain_chat"),
        # Were it always the same address, the browser would go to the place in it and load nothing.
        "look_again": f"{reverse('plain_chat')}?look={uuid.uuid4().hex}#newest",
    }
    response: HttpResponse = await sync_to_async(render)(request, "chat/plain.html", context, status=status)
    response.headers["Cache-Control"] = "no-store"
    return response
