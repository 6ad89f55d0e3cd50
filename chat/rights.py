"""What customers may do with their own conversation, without an account: take it out, and delete it.

Whoever has the conversation's token has the conversation. It comes in a header, never in a URL, where logs, histories
and referrers would keep it. That also settles forgery: no cookie opens anything here, and a page of another site can
neither read the token nor send such a header without being allowed to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from chat.limits import Allowances
from chat.markdown import without_marks
from chat.models import Conversation, Message
from chat.retention import forget

# Counted by conversation, since nobody's address is looked at; and altogether, for those who try many.
_per_conversation = Allowances(capacity=10, per_second=0.1)
_altogether = Allowances(capacity=200, per_second=20)


def _opened(view: Callable[[Conversation], HttpResponse]) -> Callable[[HttpRequest, str], HttpResponse]:
    """A view of a conversation, for whoever has its token.

    One that does not exist and one whose token is another look alike. Whoever asks too often is told how long to wait.
    """

    @wraps(view)
    def open_first(request: HttpRequest, pk: str) -> HttpResponse:
        seconds = seconds_to_wait(pk[:36])
        if seconds:
            return JsonResponse({"error": too_often(seconds)}, status=429, headers={"Retry-After": str(seconds)})
        conversation = Conversation.opened_by(pk, _token(request))
        if conversation is None:
            return JsonResponse({"error": _("That conversation is not here any more.")}, status=404)
        return view(conversation)

    return open_first


def seconds_to_wait(pk: str) -> int:
    """Until a conversation may be taken out or deleted; 0, and counted, where it may now."""
    return _altogether.take("") or _per_conversation.take(pk)


def too_often(seconds: int) -> str:
    """What whoever asks too often reads, in their language."""
    text = ngettext(
        "Too many requests. Please wait %(seconds)d second.",
        "Too many requests. Please wait %(seconds)d seconds.",
        seconds,
    )
    return text % {"seconds": seconds}


# Without a cookie there is nothing to forge (see above), and other sites with the widget have no CSRF token.
@csrf_exempt
@never_cache
@require_http_methods(["DELETE"])
@_opened
def delete(conversation: Conversation) -> HttpResponse:
    """Delete it, with everything in it. Its open pages are told."""
    forget(Conversation.objects.filter(pk=conversation.pk))
    return HttpResponse(status=204)


@never_cache
@require_safe
@_opened
def export_json(conversation: Conversation) -> HttpResponse:
    """Everything that is kept of it, for programs."""
    response = JsonResponse(_as_data(conversation), json_dumps_params={"ensure_ascii": False, "indent": 2})
    response["Content-Disposition"] = f'attachment; filename="conversation-{conversation}.json"'
    return response


@never_cache
@require_safe
@_opened
def export_text(conversation: Conversation) -> HttpResponse:
    """What was said, for people, in the language in which they ask."""
    return as_text_file(conversation)


def as_text_file(conversation: Conversation) -> HttpResponse:
    """The same, once it is known who asks."""
    response = HttpResponse(_as_text(conversation), content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="conversation-{conversation}.txt"'
    return response


def _token(request: HttpRequest) -> str:
    scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return request.headers.get("X-Conversation-Token", "")


def _as_data(conversation: Conversation) -> dict[str, Any]:
    asked_at = conversation.wants_person_at
    return {
        "conversation": str(conversation.pk),
        "language": conversation.language,
        "started_at": conversation.created_at.isoformat(),
        "website": str(conversation.site) if conversation.site else None,
        "name": conversation.customer_name,
        "email": conversation.customer_email,
        "asked_for_a_person_at": asked_at.isoformat() if asked_at else None,
        "your_rating": conversation.rating or None,
        "with_people": [
            {"number": each.reference, "asked_at": each.asked_at.isoformat(), "state": each.state, "email": each.email}
            for each in conversation.handovers.all()
        ],
        "messages": [
            {
                "at": message.created_at.isoformat(),
                "role": message.role,
                "language": message.language,
                "name": message.author,
                "text": message.text,
                "how_it_ended": message.finish_reason,
                "declined": message.is_declined,
                "suggested_questions": message.suggestions,
                "version": str(message.version) if message.version else None,
                "answer": message.entry_key,
                "answer_to": message.entry_question,
                "answer_revised_at": message.entry_revised_at.isoformat() if message.entry_revised_at else None,
                "answer_language": message.entry_language,
                "understood_together_with": message.context,
                "confidence": message.confidence,
                "your_rating": _opinion(message),
            }
            for message in conversation.messages.select_related("version", "feedback")
        ],
    }


def _opinion(message: Message) -> dict[str, Any] | None:
    opinion = message.opinion
    return {"rating": opinion.rating, "reasons": opinion.reasons, "text": opinion.text} if opinion else None


def _said(message: Message) -> str:
    """As the chat shows it: marks are only in what assistants and notices say."""
    has_marks = message.role in (Message.Role.ASSISTANT, Message.Role.SYSTEM)
    return without_marks(message.text) if has_marks else message.text


def _as_text(conversation: Conversation) -> str:
    names = {Message.Role.USER.value: _("You"), Message.Role.ASSISTANT.value: _("AI assistant")}
    who = [conversation.customer_name, conversation.customer_email]
    for each in conversation.handovers.all():
        who += [_("Your number: %(reference)s") % {"reference": each.reference}, each.email]
    if conversation.rating:
        who.append(_("Your rating: %(rating)s") % {"rating": conversation.get_rating_display()})
    lines = [_("Conversation %(reference)s") % {"reference": conversation}, *filter(None, who), ""]
    for message in conversation.messages.select_related("feedback"):
        at = date_format(timezone.localtime(message.created_at), "SHORT_DATETIME_FORMAT")
        lines.append(f"{at} · {message.author or names.get(message.role, message.get_role_display())}")
        lines += [_said(message), *(f"  · {question}" for question in message.suggestions)]
        if message.finish_reason in (Message.FinishReason.CANCELLED, Message.FinishReason.ERROR):
            lines.append(f"({message.get_finish_reason_display()})")
        if opinion := message.opinion:
            said = [opinion.get_rating_display(), ", ".join(opinion.reason_labels), opinion.text]
            lines.append(_("Your rating: %(rating)s") % {"rating": " · ".join(filter(None, said))})
        lines.append("")
    return "\n".join(lines)
