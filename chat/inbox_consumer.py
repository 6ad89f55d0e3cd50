"""The websocket of staff who answer customers, for those alone who have the permission.

in   {"type": "ping"}   {"type": "open", "handover": id or null}   {"type": "find", "text"}
     {"type": "take" | "give_back" | "close", "handover": id}
     {"type": "reply", "handover": id, "client_id", "text"}
out  {"type": "inbox", "waiting", "mine", "others", "closed"}   {"type": "thread", …} as in `inbox.thread`
     {"type": "stored", "client_id"}   {"type": "found", "answers"}   {"type": "error", "code", "text", "client_id"}
"""

from __future__ import annotations

import json
import re
from typing import Any

from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.utils import translation
from django.utils.translation import gettext as _

from chat import handovers, inbox, people
from chat.handovers import MAX_REPLY_CHARS, CannotDo
from training.consumers import CLOSE_POLICY_VIOLATION, StaffConsumer
from training.frames import BadFrame, checked_text, clean, parse
from training.limits import Allowance

MOVES = {"take": handovers.take, "give_back": handovers.give_back, "close": handovers.close}


class InboxConsumer(StaffConsumer):
    groups = [people.INBOX]
    permission = inbox.PERMISSION

    async def connect(self) -> None:
        self.frames = Allowance(capacity=40, per_second=4)
        self.opened: int | None = None
        await super().connect()

    async def begin(self, user: User) -> None:
        with translation.override(self._language()):
            await people.do_what_is_due()
            await self._tell(user)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        with translation.override(self._language()):
            user = await self._let_in()
            if user is None:
                return
            if not self.frames.take():
                error = BadFrame("too_many_frames", _("Too many messages at once. Please wait a moment."))
                await self._send(error.as_frame())
                await self.close(code=CLOSE_POLICY_VIOLATION)
                return
            try:
                await self._handle(parse(text_data), user)
            except BadFrame as error:
                await self._send(error.as_frame())

    # Called by the channel layer.

    async def inbox_changed(self, event: dict[str, Any]) -> None:
        with translation.override(self._language()):
            user = await self._let_in()
            if user is not None:
                await self._tell(user)

    async def layer_resumed(self, event: dict[str, Any]) -> None:
        await self.inbox_changed(event)

    async def _handle(self, frame: dict[str, Any], user: User) -> None:
        await database_sync_to_async(handovers.see_agent)(user)
        kind = frame["type"]
        if kind == "ping":
            await people.do_what_is_due()
            await self._tell(user)
        elif kind == "open":
            self.opened = None if frame.get("handover") is None else _number(frame)
            await self._tell(user)
        elif kind == "find":
            text = frame.get("text")
            found = await database_sync_to_async(inbox.answers)(clean(text) if isinstance(text, str) else "")
            await self._send({"type": "found", "answers": found})
        elif kind == "reply":
            await self._reply(frame, user)
        elif isinstance(kind, str) and kind in MOVES:
            await self._change(MOVES[kind], _number(frame), user)
        else:
            raise BadFrame("unknown_type", _("That kind of message is not known here."))

    async def _reply(self, frame: dict[str, Any], user: User) -> None:
        client_id = frame.get("client_id")
        if not isinstance(client_id, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,58}", client_id):
            raise BadFrame("bad_client_id", _("The message has no valid identifier."))
        text = checked_text(
            frame.get("text"), client_id, max_chars=MAX_REPLY_CHARS, if_empty=_("Write an answer first.")
        )
        await self._change(handovers.reply, _number(frame), user, text, client_id)
        await self._send({"type": "stored", "client_id": client_id})

    async def _change(self, move: Any, pk: int, user: User, text: str = "", client_id: str = "") -> None:
        """Do what was asked for, and tell everybody; who is refused sees how things stand."""
        said = (text, f"agent-{client_id}") if client_id else ()
        try:
            change = await database_sync_to_async(move)(pk, user, *said)
        except CannotDo as error:
            await self._tell(user)
            raise BadFrame("cannot", str(error), client_id=client_id) from error
        await people.tell(change)

    async def _tell(self, user: User) -> None:
        await self._send({"type": "inbox", **await database_sync_to_async(inbox.lists)(user)})
        if self.opened is None:
            return
        try:
            await self._send({"type": "thread", **await database_sync_to_async(inbox.thread)(self.opened, user)})
        except CannotDo as error:
            gone, self.opened = self.opened, None
            await self._send({**BadFrame("gone", str(error)).as_frame(), "handover": gone})

    async def _send(self, frame: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(frame, ensure_ascii=False))


def _number(frame: dict[str, Any]) -> int:
    number = frame.get("handover")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**63:
        raise BadFrame("unknown_handover", _("That conversation is not here any more."))
    return number
