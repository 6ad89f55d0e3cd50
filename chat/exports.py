"""Conversations as a file, one message a row, read from the database as the file goes out."""

from __future__ import annotations

import csv
import json
from collections.abc import AsyncIterator
from io import StringIO
from typing import Any

from django.db.models import QuerySet

from chat.models import Conversation, Message
from faq.spreadsheets import BYTE_ORDER_MARK, no_formula

CHUNK_SIZE = 500
PIECE_CHARS = 50_000
COLUMNS = (
    *("conversation", "started_at", "language", "message", "at", "role", "text", "entry", "declined", "suggestions"),
    *("confidence", "version", "how_it_ended", "first_delta_ms", "rating", "reasons", "feedback"),
    *("website", "asked_for_person_at", "context", "rating_of_the_whole", "courtesy"),
)


def messages_of(conversations: QuerySet[Conversation]) -> QuerySet[Message]:
    """What was said in these, a conversation after the other."""
    return (
        Message.objects.filter(conversation__in=conversations.order_by().values("pk"))
        .select_related("conversation__site", "version", "feedback")
        .order_by("conversation__created_at", "conversation_id", "pk")
    )


async def as_csv(messages: QuerySet[Message]) -> AsyncIterator[str]:
    """Pieces of a table for spreadsheets."""
    page = StringIO()
    writer = csv.writer(page)
    page.write(BYTE_ORDER_MARK)
    writer.writerow(COLUMNS)
    async for message in messages.aiterator(chunk_size=CHUNK_SIZE):
        writer.writerow(no_formula(_cell(value)) for value in _row(message))
        if page.tell() > PIECE_CHARS:
            yield _taken(page)
    yield _taken(page)


async def as_json_lines(messages: QuerySet[Message]) -> AsyncIterator[str]:
    """Pieces of a file with one JSON object a line."""
    page = StringIO()
    async for message in messages.aiterator(chunk_size=CHUNK_SIZE):
        page.write(json.dumps(dict(zip(COLUMNS, _row(message), strict=True)), ensure_ascii=False) + "\n")
        if page.tell() > PIECE_CHARS:
            yield _taken(page)
    yield _taken(page)


def _row(message: Message) -> tuple[Any, ...]:
    """In the order of COLUMNS."""
    conversation, opinion = message.conversation, message.opinion
    asked_at = conversation.wants_person_at
    return (
        *(str(conversation.pk), conversation.created_at.isoformat(), conversation.language),
        *(message.pk, message.created_at.isoformat(), message.role, message.text),
        *(message.entry_key, message.is_declined, message.suggestions, message.confidence),
        *(message.version.number if message.version else None, message.finish_reason, message.first_delta_ms),
        *((opinion.rating, opinion.reasons, opinion.text) if opinion else (None, [], "")),
        *(conversation.site.name if conversation.site else None, asked_at.isoformat() if asked_at else None),
        *(message.context, conversation.rating or None, message.is_courtesy),
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return " · ".join(value) if isinstance(value, list) else str(value)


def _taken(page: StringIO) -> str:
    text = page.getvalue()
    page.seek(0)
    page.truncate()
    return text
