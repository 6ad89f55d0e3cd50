"""The websocket. Protocol only: it reads frames, says what is wrong with them, and forwards what happens.

in   {"type": "start", "language", "conversation"?, "token"?}   {"type": "message", "client_id", "text"}
     {"type": "stop"}   {"type": "resume"}   {"type": "ping"}
out  ready   conversation   message   waiting   delta   done   forgotten   status   pong   error

Channels reads the next frame only when the handler returns, so every handler returns at once; replies run elsewhere
(replies.py) and arrive through the conversation's group.
"""

from __future__ import annotations

import json
import re
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.utils import translation
from django.utils.translation import gettext as _

from chat import replies
from chat.limits import Allowance
from chat.models import MAX_MESSAGE_CHARS, Conversation, Message
from training import serving, status_signal
from training.status import public_status

MAX_FRAME_CHARS = 16_384
MAX_HISTORY = 100
CLOSE_POLICY_VIOLATION = 4008


class BadFrame(Exception):
    """A frame that cannot be acted on: a code for programs and a text for people."""

    def __init__(self, code: str, text: str, *, client_id: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.client_id = client_id


class ChatConsumer(AsyncWebsocketConsumer):
    groups = [status_signal.GROUP]

    async def connect(self) -> None:
        self.conversation: Conversation | None = None
        self.language = settings.LANGUAGE_CODE
        self.is_live = False
        self.frames = Allowance(capacity=40, per_second=4)
        self.messages = Allowance(capacity=8, per_second=0.5)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self._leave()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        with translation.override(self.language):
            if not self.frames.take():
                await self._send_error("too_many_frames", _("Too many messages at once. Please wait a moment."))
                await self.close(code=CLOSE_POLICY_VIOLATION)
                return
            try:
                await self._handle(_parse(text_data))
            except BadFrame as error:
                await self._send_error(error.code, str(error), client_id=error.client_id)

    async def _handle(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "start":
                await self._start(frame)
            case "message":
                await self._message(frame)
            case "stop":
                if self.conversation is not None:
                    await replies.stop(self.conversation)
            case "resume":
                await self._send_history()
            case "ping":
                if self.conversation is not None:
                    await replies.end_abandoned(self.conversation)
                await self._send({"type": "pong", "status": await self._status()})
            case _:
                raise BadFrame("unknown_type", _("That kind of message is not known here."))

    async def _start(self, frame: dict[str, Any]) -> None:
        language = frame.get("language")
        if isinstance(language, str) and language in dict(settings.LANGUAGES):
            self.language = language
        if frame.get("conversation"):
            found = await _open(frame["conversation"], frame.get("token"))
            if found is None:
                raise BadFrame("unknown_conversation", _("That conversation is not here any more."))
            await self._join(found)
        await self._send_history()

    async def _message(self, frame: dict[str, Any]) -> None:
        client_id = frame.get("client_id")
        if not isinstance(client_id, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", client_id):
            raise BadFrame("bad_client_id", _("The message has no valid identifier."))
        text = _checked_text(frame.get("text"), client_id)
        if not self.messages.take():
            seconds = self.messages.seconds_left
            raise BadFrame(
                "too_fast",
                _("You are writing very fast. Please wait %(seconds)d seconds.") % {"seconds": seconds},
                client_id=client_id,
            )
        if self.conversation is None:
            conversation, token = await database_sync_to_async(Conversation.start)(self.language)
            await self._join(conversation)
            await self._send({"type": "conversation", "conversation": str(conversation.id), "token": token})
        assert self.conversation is not None
        try:
            asked, answer = await replies.store(self.conversation, text, client_id)
        except IntegrityError:
            # Sent again after a broken connection: it is stored, and its answer is on the way.
            await self._send_history()
            return
        except Conversation.DoesNotExist as error:
            await self._leave()
            raise BadFrame(
                "unknown_conversation", _("That conversation is not here any more."), client_id=client_id
            ) from error
        for message in (asked, answer):
            await replies.publish(self.conversation.group, {"type": "message", "message": replies.as_frame(message)})
        replies.start(self.conversation, answer, text, self.language)

    async def _join(self, conversation: Conversation) -> None:
        if self.conversation is not None and self.conversation != conversation:
            await self.channel_layer.group_discard(self.conversation.group, self.channel_name)
        self.conversation = conversation
        await self.channel_layer.group_add(conversation.group, self.channel_name)

    async def _leave(self) -> None:
        """The conversation is gone. What the customer writes next begins another."""
        if self.conversation is not None:
            await self.channel_layer.group_discard(self.conversation.group, self.channel_name)
            self.conversation = None

    async def _send_history(self) -> None:
        """Everything that is stored. The group was joined before, so that nothing falls between."""
        messages: list[Message] = []
        if self.conversation is not None:
            await replies.end_abandoned(self.conversation)
            newest = self.conversation.messages.order_by("-pk")[:MAX_HISTORY]
            messages = [message async for message in newest][::-1]
        await self._send(
            {
                "type": "ready",
                "conversation": str(self.conversation.id) if self.conversation else None,
                "messages": [replies.as_frame(message) for message in messages],
                "status": await self._status(),
            }
        )

    async def _status(self) -> dict[str, Any]:
        status = await database_sync_to_async(public_status)()
        self.is_live = bool(status["live"])
        return status

    async def _send_error(self, code: str, text: str, *, client_id: str = "") -> None:
        await self._send({"type": "error", "code": code, "text": text, "client_id": client_id})

    async def _send(self, frame: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(frame, ensure_ascii=False))

    # Called by the channel layer.

    async def conversation_frame(self, event: dict[str, Any]) -> None:
        # What was still on its way when the conversation was deleted.
        if self.conversation is None:
            return
        if event["frame"]["type"] == "forgotten":
            await self._leave()
        await self._send(event["frame"])

    async def training_status(self, event: dict[str, Any]) -> None:
        if event["what"] == status_signal.VERSION_LIVE:
            serving.warm_up()
        elif self.is_live:
            # Customers of a live version need not hear how the next one is coming along.
            return
        with translation.override(self.language):
            await self._send({"type": "status", "status": await self._status()})


def _parse(text: str | None) -> dict[str, Any]:
    if text is None:
        raise BadFrame("not_text", _("Only text is understood here."))
    if len(text) > MAX_FRAME_CHARS:
        raise BadFrame("frame_too_long", _("That is too long."))
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFrame("not_json", _("The message is not valid JSON.")) from error
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise BadFrame("no_type", _("The message has no type."))
    return frame


def _checked_text(text: Any, client_id: str) -> str:
    # PostgreSQL stores no NUL, and no lone surrogate can be sent on as UTF-8.
    clean = text.replace("\0", "").encode("utf-8", "ignore").decode().strip() if isinstance(text, str) else ""
    if not clean:
        raise BadFrame("empty", _("Write a question first."), client_id=client_id)
    if len(clean) > MAX_MESSAGE_CHARS:
        raise BadFrame(
            "too_long",
            _("Your message has %(num)d characters; at most %(max)d fit. Please shorten it.")
            % {"num": len(clean), "max": MAX_MESSAGE_CHARS},
            client_id=client_id,
        )
    return clean


async def _open(conversation_id: Any, token: Any) -> Conversation | None:
    if not isinstance(conversation_id, str) or not isinstance(token, str):
        return None
    try:
        conversation = await Conversation.objects.filter(pk=conversation_id).afirst()
    except (ValidationError, ValueError):
        return None
    return conversation if conversation is not None and conversation.opens_with(token) else None
