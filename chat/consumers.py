"""The websocket that carries a session's frames (session.py).

Channels reads the next frame only when the handler returns, so every handler returns at once; replies run elsewhere
(replies.py) and arrive through the conversation's group.
"""

from __future__ import annotations

import json
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from django.utils import translation
from django.utils.translation import gettext as _

from chat import people
from chat.models import Conversation
from chat.session import Session
from training import serving, status_signal
from training.frames import BadFrame, parse
from training.limits import Allowance

CLOSE_POLICY_VIOLATION = 4008
CLOSE_FORBIDDEN = 4003


class ChatConsumer(AsyncWebsocketConsumer):
    groups = [status_signal.GROUP]

    async def connect(self) -> None:
        self.frames = Allowance(capacity=40, per_second=4)
        self.session = Session(_Socket(self), self.scope["origin"], Allowance(capacity=8, per_second=0.5))  # type: ignore[typeddict-item]
        self.group = ""
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.leave()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        with translation.override(self.session.language):
            if not self.frames.take():
                error = BadFrame("too_many_frames", _("Too many messages at once. Please wait a moment."))
                await self.send_frame(error.as_frame())
                await self.close(code=CLOSE_POLICY_VIOLATION)
                return
            try:
                await self.session.handle(parse(text_data))
            except BadFrame as error:
                await self.send_frame(error.as_frame())
                if error.code == "unknown_site":
                    await self.close(code=CLOSE_FORBIDDEN)

    async def join(self, conversation: Conversation) -> None:
        if self.group != conversation.group:
            await self.leave()
        self.group = conversation.group
        await self.channel_layer.group_add(self.group, self.channel_name)

    async def leave(self) -> None:
        if self.group:
            await self.channel_layer.group_discard(self.group, self.channel_name)
            self.group = ""

    async def send_frame(self, frame: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(frame, ensure_ascii=False))

    # Called by the channel layer.

    async def dispatch(self, message: Any) -> None:
        if message["type"] == "conversation.frames":
            # Channels would first have the thread of the database look for connections to close, for each delta.
            await self.conversation_frames(message)
        else:
            await super().dispatch(message)

    async def conversation_frames(self, event: dict[str, Any]) -> None:
        for frame in event["frames"]:
            # What was still on its way when the conversation was deleted.
            if self.session.conversation is None:
                return
            if frame["type"] == "forgotten":
                await self.session.leave()
            await self.send_frame(frame)

    async def conversation_handover(self, event: dict[str, Any]) -> None:
        with translation.override(self.session.language):
            await self.send_frame({"type": "handover", **await people.standing(self.session.conversation)})

    async def layer_resumed(self, event: dict[str, Any]) -> None:
        """Something may have been missed: a version that went live, a delta that another process wrote."""
        serving.warm_up()
        with translation.override(self.session.language):
            if self.session.conversation is not None:
                await self.session.send_history()
            elif self.session.is_admitted:
                await self._send_status()

    async def training_status(self, event: dict[str, Any]) -> None:
        if event["what"] == status_signal.VERSION_LIVE:
            serving.warm_up()
        elif self.session.is_live:
            # Customers of a live version need not hear how the next one is coming along.
            return
        with translation.override(self.session.language):
            await self._send_status()

    async def _send_status(self) -> None:
        await self.send_frame({"type": "status", "status": await self.session.status()})


class _Socket:
    """What the session needs of the consumer, whose own `send` is Channels'."""

    def __init__(self, consumer: ChatConsumer) -> None:
        self.consumer = consumer

    async def send(self, frame: dict[str, Any]) -> None:
        await self.consumer.send_frame(frame)

    async def join(self, conversation: Conversation) -> None:
        await self.consumer.join(conversation)

    async def leave(self) -> None:
        await self.consumer.leave()
