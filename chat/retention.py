"""What is kept how long, and how a conversation is forgotten. Nothing else deletes conversations.

What was said goes for good; that something was said stays, as counts by day (DailyFigures) and by trial
(TrialFigures). Both happen in one transaction, so that every conversation is counted exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.db.models.functions import TruncDate
from django.utils import timezone

from chat import trials
from chat.figures import tally
from chat.frames import publish
from chat.models import Conversation, DailyFigures, Handover, Message
from chat.people import tell_inbox
from chat.replies import ABANDONED_AFTER

BATCH_SIZE = 200
# A worker does other things too: what is left over is forgotten an hour later.
MAX_BATCHES_PER_TASK = 50


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How much was deleted, or would be."""

    num_conversations: int = 0
    num_messages: int = 0

    def __add__(self, other: Forgotten) -> Forgotten:
        return Forgotten(self.num_conversations + other.num_conversations, self.num_messages + other.num_messages)


def expired() -> QuerySet[Conversation]:
    """Conversations whose last message is older than is kept. One in which a reply is being written is not over."""
    now = timezone.now()
    being_written = Message.objects.filter(
        conversation=OuterRef("pk"),
        role=Message.Role.ASSISTANT,
        finish_reason="",
        updated_at__gte=now - ABANDONED_AFTER,
    )
    kept_for = timedelta(days=settings.RETENTION_DAYS["conversations"])
    return Conversation.objects.filter(~Exists(being_written), updated_at__lt=now - kept_for)


def count_expired() -> Forgotten:
    """What `forget_expired` would delete."""
    conversations = expired()
    return Forgotten(conversations.count(), Message.objects.filter(conversation__in=conversations.values("pk")).count())


def forget_expired(*, max_batches: int | None = None) -> Forgotten:
    """Delete what is older than it is kept, in short transactions.

    Args:
        max_batches: end after so many, each of BATCH_SIZE conversations. None: all there is.
    """
    return _forget(expired(), max_batches, skip_locked=True)


def forget(conversations: QuerySet[Conversation]) -> Forgotten:
    """Delete these, whatever their age and also while a reply is being written in them; it stops and leaves nothing."""
    # By key: the query that chose them may have joins, under which rows cannot be locked.
    chosen = Conversation.objects.filter(pk__in=list(conversations.values_list("pk", flat=True)))
    return _forget(chosen, None, skip_locked=False)


def _forget(conversations: QuerySet[Conversation], max_batches: int | None, *, skip_locked: bool) -> Forgotten:
    total, num_batches = Forgotten(), 0
    while max_batches is None or num_batches < max_batches:
        batch = _forget_batch(conversations, skip_locked=skip_locked)
        if not batch.num_conversations:
            break
        total, num_batches = total + batch, num_batches + 1
    return total


@transaction.atomic
def _forget_batch(conversations: QuerySet[Conversation], *, skip_locked: bool) -> Forgotten:
    # A question that is being stored holds its conversation's row, and changes what is found once it lets go.
    locked = conversations.select_for_update(of=("self",), skip_locked=skip_locked).order_by("pk")
    batch = list(locked[:BATCH_SIZE])
    chosen = Conversation.objects.filter(pk__in=[each.pk for each in batch])
    messages = Message.objects.filter(conversation__in=chosen)
    _keep_counts(chosen, messages)
    trials.keep(chosen)
    forgotten = Forgotten(len(batch), messages.count())
    chosen.delete()
    transaction.on_commit(partial(async_to_sync(_tell), batch))
    return forgotten


def _keep_counts(conversations: QuerySet[Conversation], messages: QuerySet[Message]) -> None:
    handovers = Handover.objects.filter(conversation__in=conversations)
    tallied = tally(conversations, messages, handovers, at=TruncDate("created_at"), by_entry=True)
    # In order, so that two that delete at once do not wait for each other in a circle.
    for cell, num in sorted(tallied.items()):
        figures, _ = DailyFigures.objects.get_or_create(
            day=cell.at,
            kind=cell.kind,
            language=cell.language,
            version_number=cell.version_number,
            entry_key=cell.entry_key,
        )
        DailyFigures.objects.filter(pk=figures.pk).update(num=F("num") + num)


async def _tell(conversations: list[Conversation]) -> None:
    """Open pages of a conversation that is gone must not go on showing it, and neither must the inbox."""
    for each in conversations:
        await publish(each.group, {"type": "forgotten", "conversation": str(each.pk)})
    await tell_inbox()
