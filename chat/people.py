"""Hand-overs over the wire: what was stored (handovers.py) is told to the customer's pages and to the inbox."""

from __future__ import annotations

from typing import Any

from channels.db import database_sync_to_async
from django.utils.translation import gettext as _

from chat import alerts, handovers, opening, replies
from chat.frames import message_frame, publish
from chat.handovers import Change
from chat.models import Conversation, Handover
from training.status_signal import signal

INBOX = "inbox"


async def ask(conversation: Conversation, language: str) -> None:
    """Let a customer wait for a person; the assistant stops speaking."""
    change = await database_sync_to_async(handovers.ask)(conversation, language)
    await silence(conversation, change)
    if change.said:
        await database_sync_to_async(alerts.request)(change.handover)


async def silence(conversation: Conversation, change: Change) -> None:
    """Stop what the assistant is writing, since people have the conversation, and signal what was stored."""
    await replies.stop(conversation)
    await tell(change)


async def leave_email(conversation: Conversation, email: str) -> None:
    await tell(await database_sync_to_async(handovers.leave_email)(conversation, email))


async def leave(conversation: Conversation) -> None:
    await tell(await database_sync_to_async(handovers.leave)(conversation))


async def look(conversation: Conversation) -> None:
    """A customer's page is there: where people have the conversation, note it and do what is due for everybody."""
    if await database_sync_to_async(handovers.see_customer)(conversation):
        await do_what_is_due()


async def do_what_is_due() -> None:
    for change in await database_sync_to_async(handovers.look)():
        await tell(change)


async def tell(change: Change) -> None:
    """Signal what was stored to everybody whom it concerns."""
    group = change.handover.conversation.group
    for message in change.said:
        await publish(group, {"type": "message", "message": message_frame(message)})
    await signal(group, {"type": "conversation.handover"})
    await tell_inbox()


async def tell_inbox() -> None:
    await signal(INBOX, {"type": "inbox.changed"})


@database_sync_to_async
def standing(conversation: Conversation | None) -> dict[str, Any]:
    """How a conversation stands with people: what the customer sees of the open hand-over, in the active language, or
    None where the assistant answers; and whether people have closed it and nothing was said since."""
    latest = handovers.latest_of(conversation) if conversation is not None else None
    handover = _as_frame(latest) if latest is not None and latest.is_open else None
    return {"handover": handover, "has_ended": handovers.has_ended(latest)}


def _as_frame(handover: Handover) -> dict[str, Any]:
    is_taken = handover.state == Handover.State.TAKEN
    name = handovers.name_of(handover.taken_by) if is_taken and handover.taken_by else ""
    return {
        "reference": handover.reference,
        "state": handover.state,
        "agent": name,
        "note": _("%(name)s is with you.") % {"name": name} if is_taken else _waiting_in_words(handover),
        "email": handover.email,
        "asks_for_email": not is_taken and not handover.email and handover.told_to_wait_at is not None,
    }


def _waiting_in_words(handover: Handover) -> str:
    if opening.is_open():
        return _("Waiting for a person.") + " " + handovers.place_in_words(handovers.place_of(handover))
    back = opening.next_opening()
    if back is None:
        return _("Waiting for a person.")
    return _("Nobody is here now. We are back %(moment)s.") % {"moment": opening.moment_in_words(back)}
