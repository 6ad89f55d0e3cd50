"""A session over plain requests, for where websockets do not come through.

    POST /chat/frames/?site=&language=                            {"conversation", "frame"} -> {"frames": […]}
    GET  /chat/messages/?site=&language=&conversation=&since=     -> {"frames": [ready]}, what changed since

The conversation's token comes as `Authorization: Bearer …`. Pages of a website that staff have entered may read the
answers (CORS), and nobody else's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils import timezone, translation
from django.utils.cache import patch_vary_headers
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt

from chat.limits import Allowances
from chat.models import Conversation
from chat.origins import is_own, sites_at
from chat.session import Session
from training.frames import BadFrame, checked_frame, parse_json
from training.limits import Allowance

# What was committed late is told twice rather than never; a page drops what it has.
OVERLAP = timedelta(seconds=5)

# By network address, in memory alone: several customers may share one.
_addresses = Allowances(capacity=40, per_second=2)
_conversations = Allowances(capacity=8, per_second=0.5)

View = Callable[..., Awaitable[HttpResponseBase]]


def for_sites(view: View) -> Any:
    """Let the pages of the site named in `?site=` call a view and read what it says, and the chat's own pages."""

    @wraps(view)
    async def checked(request: HttpRequest) -> HttpResponseBase:
        origin = request.headers.get("Origin", "")
        key = request.GET.get("site", "")
        is_site = bool(origin) and any(site.key == key for site in await sites_at(origin))
        # Browsers name no origin where a page reads from its own.
        is_ours = is_own(origin) if origin else request.method in ("GET", "HEAD")
        if not is_site and not (is_ours and (not key or not origin)):
            return JsonResponse({"error": "unknown_site"}, status=403)
        response = HttpResponse(status=204) if request.method == "OPTIONS" else await view(request)
        if is_site:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
            response.headers["Access-Control-Allow-Methods"] = "GET, POST"
            response.headers["Access-Control-Max-Age"] = "600"
        patch_vary_headers(response, ["Origin"])
        return response

    # Nothing here is done in the name of a cookie.
    return csrf_exempt(checked)


class _Answer:
    """A carrier that keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []

    async def send(self, frame: dict[str, Any]) -> None:
        # What is stored comes at the end in any case, with the moment from which to ask on.
        if frame["type"] != "ready":
            self.frames.append(frame)

    async def join(self, conversation: Conversation) -> None:
        """Published frames do not come this way: the page asks for them."""

    async def leave(self) -> None:
        """There is nothing to leave."""


@for_sites
async def frames(request: HttpRequest) -> HttpResponseBase:
    if request.method != "POST":
        return HttpResponse(status=405, headers={"Allow": "POST"})
    answer = _Answer()
    session = _session(request, answer)
    with translation.override(_language(request)):
        try:
            body = _body(request)
            await session.start(_greeting(request, body.get("conversation")))
            await session.handle(checked_frame(body.get("frame")))
            answer.frames.append(await _changes(session, since=None, is_answer=True))
        except BadFrame as error:
            return _refused(error, answer)
    return _json(answer.frames)


@for_sites
async def messages(request: HttpRequest) -> HttpResponseBase:
    if request.method not in ("GET", "HEAD"):
        return HttpResponse(status=405, headers={"Allow": "GET"})
    answer = _Answer()
    session = _session(request, answer)
    with translation.override(_language(request)):
        try:
            await session.start(_greeting(request, request.GET.get("conversation")))
            answer.frames.append(await _changes(session, since=request.GET.get("since")))
        except BadFrame as error:
            return _refused(error, answer)
    return _json(answer.frames)


def _session(request: HttpRequest, answer: _Answer) -> Session:
    # A page that names no origin was let in because it reads from its own.
    origin = request.headers.get("Origin") or request.build_absolute_uri("/")
    return Session(answer, origin, _conversations.of(_token(request) or _address(request)))


def _body(request: HttpRequest) -> dict[str, Any]:
    if not _addresses.of(_address(request)).take():
        raise BadFrame("too_many_frames", _("Too many messages at once. Please wait a moment."))
    body = parse_json(_text(request.body))
    return body if isinstance(body, dict) else {}


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise BadFrame("not_text", _("Only text is understood here.")) from error


def _greeting(request: HttpRequest, conversation: Any) -> dict[str, Any]:
    return {
        "language": _language(request),
        "site": request.GET.get("site", ""),
        "conversation": conversation,
        "token": _token(request),
    }


def _language(request: HttpRequest) -> str:
    wanted = request.GET.get("language", "")
    return wanted if translation.check_for_language(wanted) else translation.get_language() or "es"


def _token(request: HttpRequest) -> str:
    scheme, _blank, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme == "Bearer" else ""


def for_address(request: HttpRequest) -> Allowance:
    """How many messages may still come from where a request comes from."""
    return _addresses.of(_address(request))


def _address(request: HttpRequest) -> str:
    return str(request.META.get("REMOTE_ADDR", ""))


async def _changes(session: Session, *, since: str | None, **more: Any) -> dict[str, Any]:
    cursor = timezone.now().isoformat()
    moment = _moment(since)
    changed = await session.history(**({"updated_at__gte": moment} if moment else {}))
    ids = []
    if session.conversation is not None:
        ids = [pk async for pk in session.conversation.messages.values_list("pk", flat=True).order_by("-pk")[:100]]
    return await session.ready(changed, ids=ids, cursor=cursor, **more)


def _moment(since: str | None) -> datetime | None:
    """From when on changes are told; None for everything, also where the page says nothing that makes sense."""
    try:
        moment = parse_datetime(since or "")
        # At the calendar's ends there is no moment before, or none in our time zone.
        return (moment - OVERLAP).astimezone(UTC) if moment is not None and timezone.is_aware(moment) else None
    except (ValueError, OverflowError):
        return None


def _refused(error: BadFrame, answer: _Answer) -> JsonResponse:
    statuses = {"too_fast": 429, "too_many_frames": 429, "unknown_site": 403, "unknown_conversation": 404}
    return _json([*answer.frames, error.as_frame()], status=statuses.get(error.code, 400))


def _json(answered: list[dict[str, Any]], status: int = 200) -> JsonResponse:
    return JsonResponse({"frames": answered}, status=status, headers={"Cache-Control": "no-store"})
