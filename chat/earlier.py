"""What was said before a question, as far as the reply to it needs that: in which language, and about what."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile

from chat.courtesy import courtesy_of
from chat.languages import language_of
from chat.models import Conversation, Message
from faq.models import MAX_QUESTION_CHARS
from training.lm.followups import Rests, rests

FinishReason = Message.FinishReason

# So many messages of the customer are looked at for one that shows its language.
MAX_LINES = 10


async def spoken_language(conversation: Conversation, otherwise: str) -> str:
    """In which the customer wrote last, as far as that shows; else `otherwise`."""
    said = conversation.messages.filter(role=Message.Role.USER).order_by("-pk").values_list("text", flat=True)
    async for text in said[:MAX_LINES]:
        if found := language_of(text):
            return found
    return otherwise


async def mostly_spoken_language(conversation: Conversation, otherwise: str) -> str:
    """In which the customer wrote most of the last messages, as far as that shows; of two alike the last; else
    `otherwise`."""
    said = conversation.messages.filter(role=Message.Role.USER).order_by("-pk").values_list("text", flat=True)
    shown = Counter([found async for text in said[:MAX_LINES] if (found := language_of(text))])
    return max(shown, key=lambda language: shown[language], default=otherwise)


async def spoken_of(reply: Message) -> str:
    """What the answer before a reply was about: the question that it answered, as the customer asked it. Of a follow-up
    the entry's, which stands alone. Where the assistant did not know, what was asked all the same, unless that shows no
    subject either. Thanks and greetings in between change no subject. Empty where somebody else has spoken since."""
    before = Message.objects.filter(conversation=reply.conversation_id, pk__lt=reply.pk).order_by("-pk")
    said = [message async for message in before[:MAX_LINES]]
    for place, answer in enumerate(said):
        if not _is_said(answer):
            continue
        if answer.role != Message.Role.ASSISTANT:
            break
        lines = list(takewhile(lambda message: message.role == Message.Role.USER, said[place + 1 :]))
        asked = " ".join(message.text for message in reversed(lines))
        if courtesy_of(asked) is None:
            return _subject(asked, answer)
    return ""


def _subject(asked: str, answer: Message) -> str:
    is_alone = asked and not answer.context and len(asked) <= MAX_QUESTION_CHARS
    if answer.is_declined:
        return asked if is_alone and rests(asked) is Rests.NOT else answer.context
    return asked if is_alone else answer.entry_question


def _is_said(message: Message) -> bool:
    """Whether it is something that the customer has read and goes on from."""
    if message.role == Message.Role.ASSISTANT:
        return bool(message.text) and message.finish_reason not in ("", FinishReason.ERROR)
    return message.role != Message.Role.USER
