"""What customers think of an answer, and of the whole conversation: checked, stored, taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from channels.db import database_sync_to_async
from django.db import transaction
from django.utils.translation import gettext as _

from chat.models import MAX_FEEDBACK_CHARS, Conversation, Feedback, Message, Rating
from training.frames import clean


class BadOpinion(ValueError):
    """Nothing that can be stored; the text says why, in the customer's language."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """
    Attributes:
        rating: of Rating; empty to take back what was said.
        reasons: of Feedback.Reason, in its order; none for a good answer.
    """

    rating: str
    reasons: tuple[str, ...]
    text: str


def checked(frame: dict[str, Any]) -> Opinion:
    """
    Raises:
        BadOpinion: the frame says nothing that is known here.
    """
    rating, reasons, text = checked_rating(frame), frame.get("reasons") or [], frame.get("text") or ""
    if not rating:
        return Opinion("", (), "")
    if not isinstance(reasons, list) or not all(reason in Feedback.Reason.values for reason in reasons):
        raise BadOpinion(_("That reason is not known here."))
    if not isinstance(text, str):
        raise BadOpinion(_("Only text is understood here."))
    text = clean(text)
    if len(text) > MAX_FEEDBACK_CHARS:
        raise BadOpinion(
            _("Your message has %(num)d characters; at most %(max)d fit. Please shorten it.")
            % {"num": len(text), "max": MAX_FEEDBACK_CHARS}
        )
    is_bad = rating == Rating.DOWN
    given = tuple(reason for reason in Feedback.Reason.values if reason in reasons)
    return Opinion(rating, given if is_bad else (), text if is_bad else "")


def checked_rating(frame: dict[str, Any]) -> str:
    """The frame's rating; empty to take back what was said.

    Raises:
        BadOpinion: it is none.
    """
    rating = frame.get("rating")
    if rating is not None and rating not in Rating.values:
        raise BadOpinion(_("That rating is not known here."))
    return rating or ""


@database_sync_to_async
@transaction.atomic
def store(message: Message, opinion: Opinion) -> Feedback | None:
    """What is stored of it now; None where it was taken back.

    Raises:
        Conversation.DoesNotExist: the message's conversation has been deleted.
    """
    _lock(message.conversation_id)
    if not opinion.rating:
        Feedback.objects.filter(message=message).delete()
        return None
    values = {"rating": opinion.rating, "reasons": list(opinion.reasons), "text": opinion.text}
    return Feedback.objects.update_or_create(message=message, defaults=values)[0]


@database_sync_to_async
@transaction.atomic
def store_for_all(conversation: Conversation, rating: str) -> None:
    """What the customer thinks of the whole conversation.

    Raises:
        Conversation.DoesNotExist: it has been deleted.
    """
    _lock(conversation.pk)
    Conversation.objects.filter(pk=conversation.pk).update(rating=rating)


def _lock(conversation_pk: UUID) -> None:
    """Nobody deletes it for the rest of the transaction. Unlike `hold`: a rating is nothing that is said.

    Raises:
        Conversation.DoesNotExist: it has been deleted.
    """
    Conversation.objects.select_for_update().get(pk=conversation_pk)
