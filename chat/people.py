"""A customer asks for a person. What is said in reply is what happens: the wish is noted, and a contact is named."""

from __future__ import annotations

from channels.db import database_sync_to_async
from django.conf import settings
from django.db import transaction
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from chat.models import Conversation, Message


@database_sync_to_async
@transaction.atomic
def ask_for_person(conversation: Conversation, language: str) -> Message:
    """Note the wish; the notice that tells the customer what happens now, which is not repeated in a row.

    Raises:
        Conversation.DoesNotExist: the conversation has been deleted.
    """
    conversation.hold()
    Conversation.objects.filter(pk=conversation.pk, wants_person_at=None).update(wants_person_at=timezone.now())
    last = conversation.messages.order_by("-pk").first()
    if last is not None and last.role == Message.Role.SYSTEM:
        return last
    with translation.override(language):
        text = what_happens()
    conversation.save(update_fields=["updated_at"])
    return conversation.messages.create(
        role=Message.Role.SYSTEM, text=text, finish_reason=Message.FinishReason.STOP, seq=1
    )


def what_happens() -> str:
    contact = settings.PERSON_CONTACT
    if contact:
        return _("You asked for a person, and that is noted. This is how you reach one: %(contact)s") % {
            "contact": contact
        }
    return _("You asked for a person, and that is noted. Nobody can answer in this chat yet.")
