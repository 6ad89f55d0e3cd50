"""The websockets of staff, each for those alone who have its permission.

training     out  {"run": … or null, "queue": […]} as in `overview.training_status`: at once, and whenever a run moves,
             within a second of each step
playground   in   {"type": "ask", "question", "versions": [name, …]}   {"type": "stop"}
             out  {"type": "delta", "version", "text"}   {"type": "done", "version", …}
                  {"type": "error", "code", "text"}
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import translation
from django.utils.translation import gettext as _

from faq.models import FaqEntry
from training import status_signal, versions
from training.frames import BadFrame, checked_text, parse
from training.limits import Allowance, too_fast
from training.lm.decisions import Stopped
from training.models import AdapterVersion
from training.overview import training_status
from training.playground import MAX_QUESTION_CHARS, CannotTry, Tried, may_choose, may_try, try_out

CLOSE_FORBIDDEN = 4003
CLOSE_POLICY_VIOLATION = 4008

MAX_FRAMES_A_MINUTE = 60
MAX_QUESTIONS_A_MINUTE = 20
MAX_VERSIONS = 2
MAX_NAME_CHARS = 30


class StaffConsumer(AsyncWebsocketConsumer):
    """A websocket for staff who have `permission`, and nobody else."""

    permission: str

    def lets_in(self, user: User) -> bool:
        return user.has_perm(self.permission)

    async def connect(self) -> None:
        # Accepted even if it is closed at once: a browser is told a reason only then.
        await self.accept()
        self.user: User | None = None
        user = await self._let_in()
        if user is not None:
            await self.begin(user)

    async def begin(self, user: User) -> None:
        """Called once somebody was let in."""

    async def _let_in(self) -> User | None:
        """Who is here, asked every time: a right may be taken away meanwhile. The socket is closed if it was."""
        self.user = await self._permitted()
        if self.user is None:
            await self.close(code=CLOSE_FORBIDDEN)
        return self.user

    @database_sync_to_async
    def _permitted(self) -> User | None:
        user = User.objects.filter(pk=self.scope["user"].pk, is_active=True, is_staff=True).first()  # type: ignore[union-attr]
        return user if user is not None and self.lets_in(user) else None

    def _language(self) -> str:
        headers = dict(self.scope["headers"])
        accepted = headers.get(b"accept-language", b"").decode("latin-1")[:200]
        codes = [code.split(";")[0].strip()[:2].lower() for code in accepted.split(",")]
        return next((code for code in codes if code in dict(settings.LANGUAGES)), settings.LANGUAGE_CODE)


class WatchConsumer(StaffConsumer):
    groups = [status_signal.GROUP, status_signal.STAFF]
    permission = "training.view_trainingrun"

    async def connect(self) -> None:
        self.told: dict[str, Any] | None = None
        await super().connect()

    async def begin(self, user: User) -> None:
        await self._tell()

    async def training_status(self, event: dict[str, Any]) -> None:
        if await self._let_in():
            await self._tell()

    async def training_progress(self, event: dict[str, Any]) -> None:
        self.told = event
        await self.training_status(event)

    async def layer_resumed(self, event: dict[str, Any]) -> None:
        await self.training_status(event)

    async def _tell(self) -> None:
        await self.send(json.dumps(await self._status()))

    @database_sync_to_async
    def _status(self) -> dict[str, Any]:
        with translation.override(self._language()):
            return training_status(self.told)


class PlaygroundConsumer(StaffConsumer):
    """Staff put one question at a time to one version or two.

    Each version answers in a task of its own, since Channels reads the next frame, which may say stop, only when the
    handler of this one has returned.
    """

    def lets_in(self, user: User) -> bool:
        return may_try(user)

    async def connect(self) -> None:
        self.stop = threading.Event()
        self.trials: dict[str, asyncio.Task[None]] = {}
        self.frames = Allowance(capacity=MAX_FRAMES_A_MINUTE, per_second=MAX_FRAMES_A_MINUTE / 60)
        self.questions = Allowance(capacity=MAX_QUESTIONS_A_MINUTE, per_second=MAX_QUESTIONS_A_MINUTE / 60)
        self.is_open = False
        await super().connect()

    async def begin(self, user: User) -> None:
        self.is_open = True

    async def disconnect(self, code: int) -> None:
        self._leave()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if not self.is_open:
            return
        with translation.override(self._language()):
            if await self._let_in() is None:
                self._leave()
            elif not self.frames.take():
                error = BadFrame("too_many_frames", _("Too many messages at once. Please wait a moment."))
                await self._send(error.as_frame())
                self._leave()
                await self.close(code=CLOSE_POLICY_VIOLATION)
            else:
                try:
                    await self._handle(parse(text_data))
                except BadFrame as error:
                    await self._send(error.as_frame())

    async def _handle(self, frame: dict[str, Any]) -> None:
        match frame.get("type"):
            case "ask":
                await self._ask(frame)
            case "stop":
                self._stop()
            case _:
                raise BadFrame("unknown_type", _("That kind of message is not known here."))

    async def _ask(self, frame: dict[str, Any]) -> None:
        if self.trials:
            raise BadFrame("busy", _("Wait for the answer, or stop it."))
        question = checked_text(frame.get("question"), max_chars=MAX_QUESTION_CHARS)
        found = await self._find(frame.get("versions"))
        if not self.questions.take():
            raise BadFrame("too_fast", too_fast(self.questions.seconds_left))
        self.stop = threading.Event()
        for version in found:
            self.trials[version.name] = asyncio.create_task(self._try(question, version, self.stop))

    def _leave(self) -> None:
        self.is_open = False
        self._stop()

    def _stop(self) -> None:
        """Whatever a version is doing: its thread is told by the event, and nobody waits for it to hear."""
        self.stop.set()
        for task in self.trials.values():
            task.cancel()

    async def _try(self, question: str, version: AdapterVersion, stop: threading.Event) -> None:
        async def say(delta: str) -> None:
            await self._send({"type": "delta", "version": version.name, "text": delta})

        # What is said if something goes wrong that nobody foresaw: no column waits for ever.
        end: dict[str, Any] = {"outcome": "failed", "text": _("Something went wrong on our side. Please try again.")}
        try:
            end = await self._described(await try_out(question, version, stop=stop, on_delta=say))
        except CannotTry as error:
            end = {"outcome": "failed", "text": str(error)}
        except (Stopped, asyncio.CancelledError):
            end = {"outcome": "stopped", "text": ""}
        finally:
            del self.trials[version.name]
            await self._send({"type": "done", "version": version.name, **end})

    @database_sync_to_async
    def _find(self, names: Any) -> list[AdapterVersion]:
        """The versions named, each once."""
        is_list = isinstance(names, list) and all(
            isinstance(name, str) and len(name) <= MAX_NAME_CHARS for name in names
        )
        if not is_list or not 1 <= len(names) <= MAX_VERSIONS:
            raise BadFrame("bad_versions", _("Choose one version or two."))
        try:
            found = list(dict.fromkeys(versions.find(name) for name in names))
        except versions.VersionError as error:
            raise BadFrame("bad_versions", str(error)) from error
        assert self.user is not None, "only who was let in asks"
        if not may_choose(self.user) and found != [versions.live_version()]:
            raise BadFrame("not_live", _("Only the version in use is yours to try. Load the page again."))
        return found

    @database_sync_to_async
    def _described(self, tried: Tried) -> dict[str, Any]:
        """What the page shows of it, with links to entries for those who may see them."""
        assert self.user is not None, "only who was let in asks"
        may_look = self.user.has_perm("faq.view_faqentry") or self.user.has_perm("faq.change_faqentry")
        pks = dict(FaqEntry.objects.filter(key__in=[each.key for each in tried.near]).values_list("key", "pk"))
        near = [
            {
                "id": pks.get(each.key),
                "question": each.question,
                "probability": each.probability,
                "url": reverse("admin:faq_faqentry_change", args=[pks[each.key]])
                if may_look and each.key in pks
                else "",
            }
            for each in tried.near
        ]
        return {"outcome": tried.outcome, "text": tried.text, "near": near, "threshold": tried.threshold}

    async def _send(self, frame: dict[str, Any]) -> None:
        if self.is_open:
            await self.send(text_data=json.dumps(frame, ensure_ascii=False))
