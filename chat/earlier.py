"""What was said before a question, as far as the reply to it needs that: in which language, and about what."""

from __future__ import annotations

from chat.languages import language_of
from chat.models import Conversation, Message

# So many messages of the customer are looked at for one that shows its language.
MAX_LINES = 10


async def spoken_language(conversation: Conversation, otherwise: str) -> str:
    """In which the customer wrote last, as far as that shows; else `otherwise`."""
    said = conversation.messages.filter(role=Message.Role.USER).order_by("-pk").values_list("text", flat=True)
    async for text in said[:MAX_LINES]:
        if found := language_of(text):
            return found
    return otherwise
