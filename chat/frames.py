"""What customers' pages are told of a message, and telling them."""

from __future__ import annotations

from typing import Any

from django.utils import translation
from django.utils.translation import gettext as _

from chat.languages import language_of
from chat.markdown import render, render_partial, render_without_marks
from chat.models import Feedback, Message
from faq.models import Language
from training.status_signal import signal


def message_frame(message: Message, feedback: Feedback | None = None) -> dict[str, Any]:
    """What a customer may see of a message."""
    return {
        "id": message.pk,
        "role": message.role,
        "author": message.author,
        "text": message.text,
        "language": message.entry_language or message.language or language_of(message.text) or "",
        "html": html_of(message),
        "client_id": message.client_id,
        "seq": message.seq,
        "finish_reason": message.finish_reason,
        "declined": message.is_declined,
        "suggestions": message.suggestions,
        "offers_person": message.offers_person,
        "source": _source(message),
        "note": language_note(message),
        "feedback": _opinion(feedback),
        "at": message.created_at.isoformat(),
    }


def html_of(message: Message) -> str:
    """How a message looks. What people write has no marks, and what customers write is shown as it is."""
    if message.role == Message.Role.USER:
        return ""
    if message.role == Message.Role.AGENT:
        return render_without_marks(message.text)
    return (render if message.finish_reason else render_partial)(message.text)


def _source(message: Message) -> dict[str, str] | None:
    if not message.entry_question:
        return None
    revised = message.entry_revised_at
    return {"question": message.entry_question, "revised": revised.isoformat() if revised else ""}


def language_note(message: Message) -> str:
    """What is said under an answer that was approved in another language than that in which it was asked for."""
    if message.entry_language in ("", message.language):
        return ""
    with translation.override(message.language):
        if message.entry_language == Language.SPANISH:
            return _("This answer was approved in Spanish and is not translated.")
        return _("This answer was approved in English and is not translated.")


def _opinion(feedback: Feedback | None) -> dict[str, Any] | None:
    if feedback is None:
        return None
    return {"rating": feedback.rating, "reasons": feedback.reasons, "text": feedback.text}


async def publish(group: str, *frames: dict[str, Any]) -> None:
    """Give frames to everyone in the conversation."""
    await signal(group, {"type": "conversation.frames", "frames": frames})


def delta_frame(message: Message, seq: int, delta: str, said: str) -> dict[str, Any]:
    """
    Args:
        said: everything up to the end of this delta.
    """
    return {"type": "delta", "message_id": message.pk, "seq": seq, "text": delta, "html": render_partial(said)}
