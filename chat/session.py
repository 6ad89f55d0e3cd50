"""What a customer's page and the server say to each other, whatever carries it: a websocket (consumers.py) or plain
requests (polling.py).

in   {"type": "start", "language", "site"?, "conversation"?, "token"?}
     {"type": "message", "client_id", "text", "token"?, "is_late"?}
     {"type": "stop"}   {"type": "resume"}   {"type": "ping"}   {"type": "typing"}
     {"type": "person", "token"?}   {"type": "contact", "email"}   {"type": "leave_people"}
     {"type": "identify", "name", "email"}
     {"type": "forget"}
     {"type": "feedback", "message_id", "rating": "up" | "down" | null, "reasons": […], "text"}
     {"type": "rate", "rating": "up" | "down" | null}: of the whole conversation
out  ready   conversation   message   withdrawn   waiting   delta   done   rated   forgotten   status   pong
     handover   ack   error

Any frame may have a client_id; all but messages are then acknowledged with it, and an error names it.

The page must say where it belongs before anything else is heard: with a site's key where it is a page of that site.

The token of a message or of a wish for a person is the page's own for the conversation that it begins with this: 32
random bytes in base64url. So what is sent again on another connection, since the first was lost before it answered,
goes into the conversation that it began. Without one the server makes it; `conversation` tells it either way.

A message that had to wait for a connection is late.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from channels.db import database_sync_to_async
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator, validate_email
from django.db import IntegrityError
from django.utils import translation
from django.utils.translation import gettext as _

from chat import people, ratings, replies
from chat.earlier import mostly_spoken_language
from chat.frames import message_frame, publish
from chat.handovers import CannotDo
from chat.models import MAX_MESSAGE_CHARS, Conversation, Feedback, Message, Site
from chat.origins import is_own, sites_at
from chat.retention import forget
from training.frames import BadFrame, checked_text, clean
from training.limits import Allowance, too_fast
from training.status import public_status

MAX_HISTORY = 100
MAX_NAME_CHARS = 100
MAX_EMAIL_CHARS = 254

validate_email_length = MaxLengthValidator(MAX_EMAIL_CHARS)


class Carrier(Protocol):
    async def send(self, frame: dict[str, Any]) -> None:
        """Give a frame to this customer alone."""

    async def join(self, conversation: Conversation) -> None:
        """Hear from now on what is published to the conversation."""

    async def leave(self) -> None:
        """Hear no more of it."""


class Session:
    """One page's side of a conversation."""

    def __init__(self, carrier: Carrier, origin: str, messages: Allowance) -> None:
        self.carrier = carrier
        self.origin = origin
        self.messages = messages
        self.language = settings.LANGUAGE_CODE
        self.is_live = False
        self.site: Site | None = None
        self.conversation: Conversation | None = None
        self.is_admitted = False
        self.identity: dict[str, str] = {}

    async def handle(self, frame: dict[str, Any]) -> None:
        """
        Raises:
            BadFrame: the frame cannot be acted on.
        """
        if frame["type"] != "start" and not self.is_admitted:
            raise BadFrame("not_started", _("This page has not said to which website it belongs."))
        client_id = _client_id(frame)
        try:
            await self._act_on(frame)
        except Conversation.DoesNotExist as error:
            await self.leave()
            raise _unknown_conversation(client_id) from error
        except BadFrame as error:
            error.client_id = client_id
            raise
        # A message shows itself that it has arrived.
        if client_id and frame["type"] != "message":
            await self.carrier.send({"type": "ack", "client_id": client_id})

    async def _act_on(self, frame: dict[str, Any]) -> None:
        """
        Raises:
            BadFrame: the frame cannot be acted on.
            Conversation.DoesNotExist: the conversation has been deleted meanwhile.
        """
        match frame["type"]:
            case "start":
                await self.start(frame)
                # Only now it is known which language is wanted.
                with translation.override(self.language):
                    await self.send_history()
            case "message":
                await self._message(frame)
            case "stop":
                if self.conversation is not None:
                    await replies.stop(self.conversation)
            case "typing":
                if self.conversation is not None:
                    replies.hear_typing(self.conversation)
            case "resume":
                await self.send_history()
            case "ping":
                if self.conversation is not None:
                    await replies.end_abandoned(self.conversation)
                    await people.look(self.conversation)
                standing = await people.standing(self.conversation)
                await self.carrier.send({"type": "pong", "status": await self.status(), **standing})
            case "feedback":
                await self._feedback(frame)
            case "rate":
                await self._rate(frame)
            case "person":
                await self._person(frame)
            case "forget":
                await self._forget()
            case "contact":
                await self._contact(frame)
            case "leave_people":
                await self._leave_people()
            case "identify":
                await self._identify(frame)
            case _:
                raise BadFrame("unknown_type", _("That kind of message is not known here."))

    async def start(self, frame: dict[str, Any]) -> None:
        """Find out who speaks: the language, the website, and the conversation if there is one already.

        Raises:
            BadFrame: the page is none of the site's, or its conversation is not there.
        """
        language = frame.get("language")
        if isinstance(language, str) and language in dict(settings.LANGUAGES):
            self.language = language
        self.site = await self._site(frame.get("site") or "")
        self.is_admitted = True
        if frame.get("conversation"):
            found = await self._open(frame["conversation"], frame.get("token"))
            if found is None:
                raise _unknown_conversation()
            await self._join(found)

    async def _site(self, key: Any) -> Site | None:
        if key == "" and is_own(self.origin):
            return None
        found = [site for site in await sites_at(self.origin) if site.key == key]
        if not found:
            self.is_admitted = False
            raise BadFrame("unknown_site", _("The chat is not set up for this website."))
        return found[0]

    async def _open(self, conversation_id: Any, token: Any) -> Conversation | None:
        """A conversation that the token opens and that began on the same website."""
        if not isinstance(conversation_id, str) or not isinstance(token, str):
            return None
        try:
            conversation = await Conversation.objects.filter(pk=conversation_id, site=self.site).afirst()
        except (ValidationError, ValueError):
            return None
        return conversation if conversation is not None and conversation.opens_with(token) else None

    async def _message(self, frame: dict[str, Any]) -> None:
        client_id = _client_id(frame)
        if not client_id:
            raise BadFrame("bad_client_id", _("The message has no valid identifier."))
        text = checked_text(frame.get("text"), client_id, max_chars=MAX_MESSAGE_CHARS)
        self._take_turn()
        conversation, is_resumed = await self._ensured(frame)
        try:
            turn = await replies.store(conversation, text, client_id, is_late=frame.get("is_late") is True)
        except IntegrityError:
            # Sent again after a broken connection: it is stored, and its answer is on the way.
            await self.send_history()
            return
        await replies.begin(conversation, turn, self.language)
        if turn.answer is None:
            await people.look(conversation)
            await people.tell_inbox()
        if is_resumed:
            await self.send_history()

    async def _feedback(self, frame: dict[str, Any]) -> None:
        message = await self._rateable(frame.get("message_id"))
        try:
            opinion = ratings.checked(frame)
        except ratings.BadOpinion as error:
            raise BadFrame("bad_feedback", str(error)) from error
        feedback = await ratings.store(message, opinion)
        frame = {"type": "message", "message": message_frame(message, feedback)}
        await publish(f"conversation.{message.conversation_id}", frame)

    async def _rate(self, frame: dict[str, Any]) -> None:
        conversation = self._begun()
        try:
            rating = ratings.checked_rating(frame)
        except ratings.BadOpinion as error:
            raise BadFrame("bad_feedback", str(error)) from error
        await ratings.store_for_all(conversation, rating)
        await publish(conversation.group, {"type": "rated", "rating": rating or None})

    async def _rateable(self, message_id: Any) -> Message:
        """A finished reply of this conversation."""
        message = None
        if self.conversation is not None and isinstance(message_id, int) and 0 < message_id < 2**63:
            found = self.conversation.messages.filter(pk=message_id, role=Message.Role.ASSISTANT)
            message = await found.exclude(finish_reason__in=["", Message.FinishReason.ERROR]).afirst()
        if message is None:
            raise BadFrame("unknown_message", _("That answer is not here any more."))
        return message

    async def _person(self, frame: dict[str, Any]) -> None:
        self._take_turn()
        conversation, is_resumed = await self._ensured(frame)
        language = await mostly_spoken_language(conversation, self.language)
        await people.ask(conversation, language)
        if is_resumed:
            await self.send_history()

    async def _contact(self, frame: dict[str, Any]) -> None:
        email = frame.get("email")
        try:
            validate_email(email.strip() if isinstance(email, str) else "")
        except ValidationError as error:
            raise BadFrame("bad_email", _("That is not an e-mail address.")) from error
        self._take_turn()
        try:
            await people.leave_email(self._begun(), str(email).strip())
        except CannotDo as error:
            raise BadFrame("not_handed_over", str(error)) from error

    async def _leave_people(self) -> None:
        try:
            await people.leave(self._begun())
        except CannotDo as error:
            raise BadFrame("not_handed_over", str(error)) from error

    def _begun(self) -> Conversation:
        if self.conversation is None:
            raise BadFrame("unknown_conversation", _("That conversation is not here any more."))
        return self.conversation

    def _take_turn(self) -> None:
        if not self.messages.take():
            seconds = self.messages.seconds_left
            raise BadFrame("too_fast", too_fast(seconds), seconds=seconds)

    async def _forget(self) -> None:
        """Delete the conversation. All its pages are told, this one at once."""
        forgotten = self.conversation
        if forgotten is not None:
            await self.leave()
            await database_sync_to_async(forget)(Conversation.objects.filter(pk=forgotten.pk))
            await self.carrier.send({"type": "forgotten", "conversation": str(forgotten.pk)})

    async def _identify(self, frame: dict[str, Any]) -> None:
        name, email = frame.get("name") or "", frame.get("email") or ""
        if not isinstance(name, str) or not isinstance(email, str):
            raise BadFrame("bad_identity", _("Name and e-mail address are texts."))
        name, email = clean(name), clean(email)
        try:
            if email:
                validate_email(email)
                validate_email_length(email)
        except ValidationError as error:
            raise BadFrame("bad_identity", _("That is not an e-mail address.")) from error
        self.identity = {"customer_name": name[:MAX_NAME_CHARS], "customer_email": email}
        if self.conversation is not None:
            await Conversation.objects.filter(pk=self.conversation.pk).aupdate(**self.identity)

    async def _ensured(self, frame: dict[str, Any]) -> tuple[Conversation, bool]:
        """The conversation, begun now if there is none yet; and whether it was begun on another connection, so that the
        page may not know all of it.

        Raises:
            BadFrame: the frame's token cannot be one.
            Conversation.DoesNotExist: the token has begun one on another website.
        """
        if self.conversation is not None:
            return self.conversation, False
        begin = database_sync_to_async(Conversation.start)
        token, is_resumed = _own_token(frame), False
        try:
            conversation, token = await begin(self.language, token=token, site=self.site, **self.identity)
        except IntegrityError:
            conversation, is_resumed = await Conversation.begun_with(token, self.site), True
        await self._join(conversation)
        await self.carrier.send({"type": "conversation", "conversation": str(conversation.id), "token": token})
        return conversation, is_resumed

    async def _join(self, conversation: Conversation) -> None:
        self.conversation = conversation
        await self.carrier.join(conversation)

    async def leave(self) -> None:
        """The conversation is gone. What the customer writes next begins another."""
        self.conversation = None
        await self.carrier.leave()

    async def send_history(self) -> None:
        """Everything that is stored. The carrier joined before, so that nothing falls between."""
        messages = await self.history()
        await self.carrier.send(await self.ready(messages, ids=[message["id"] for message in messages]))

    async def history(self, **changed: Any) -> list[dict[str, Any]]:
        """The newest messages, oldest first; only those that match `changed`."""
        if self.conversation is None:
            return []
        await replies.end_abandoned(self.conversation)
        await people.look(self.conversation)
        newest = self.conversation.messages.filter(**changed).order_by("-pk")[:MAX_HISTORY]
        messages = [message async for message in newest][::-1]
        ratings_given = Feedback.objects.filter(message__conversation=self.conversation)
        feedback = {each.message_id: each async for each in ratings_given}
        return [message_frame(message, feedback.get(message.pk)) for message in messages]

    async def ready(self, messages: list[dict[str, Any]], *, ids: list[int], **more: Any) -> dict[str, Any]:
        return {
            "type": "ready",
            "conversation": str(self.conversation.id) if self.conversation else None,
            "messages": messages,
            "ids": ids,
            "status": await self.status(),
            **await people.standing(self.conversation),
            "rating": await self._rating(),
            **more,
        }

    async def _rating(self) -> str | None:
        """What the customer said of the whole conversation, on whatever page."""
        if self.conversation is None:
            return None
        rated = Conversation.objects.filter(pk=self.conversation.pk).values_list("rating", flat=True)
        return await rated.afirst() or None

    async def status(self) -> dict[str, Any]:
        status = await database_sync_to_async(public_status)()
        self.is_live = bool(status["live"])
        return status


def _own_token(frame: dict[str, Any]) -> str:
    """The page's own for a conversation that it begins; empty where it leaves that to the server.

    Raises:
        BadFrame: it does not look like one.
    """
    token = frame.get("token")
    if token is None:
        return ""
    if not isinstance(token, str) or not re.fullmatch(r"[A-Za-z0-9_-]{43}", token):
        text = _("The key that this page has made for the conversation is not a valid one.")
        raise BadFrame("bad_token", text, client_id=_client_id(frame))
    return token


def _client_id(frame: dict[str, Any]) -> str:
    """The page's own name for a frame; empty where it has none that is valid."""
    client_id = frame.get("client_id")
    is_valid = isinstance(client_id, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", client_id)
    return str(client_id) if is_valid else ""


def _unknown_conversation(client_id: str = "") -> BadFrame:
    return BadFrame("unknown_conversation", _("That conversation is not here any more."), client_id=client_id)
