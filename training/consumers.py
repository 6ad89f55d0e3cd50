"""The websocket of staff who watch a training. It only sends, and only to who may see runs.

out  {"run": …} as in `overview.run_status`, or {"run": null}: at once, and whenever a run moves
"""

from __future__ import annotations

import json
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth.models import User
from django.utils import translation

from training import status_signal
from training.overview import run_status
from training.status import latest_run

CLOSE_FORBIDDEN = 4003


class WatchConsumer(AsyncWebsocketConsumer):
    groups = [status_signal.GROUP]

    async def connect(self) -> None:
        # Accepted even if it is closed at once: a browser is told a reason only then.
        await self.accept()
        if not await self._may_watch():
            await self.close(code=CLOSE_FORBIDDEN)
            return
        await self._tell()

    async def training_status(self, event: dict[str, Any]) -> None:
        if await self._may_watch():
            await self._tell()
        else:
            await self.close(code=CLOSE_FORBIDDEN)

    @database_sync_to_async
    def _may_watch(self) -> bool:
        """Asked every time: a right may be taken away while somebody watches."""
        user = User.objects.filter(pk=self.scope["user"].pk, is_active=True, is_staff=True).first()  # type: ignore[union-attr]
        return user is not None and user.has_perm("training.view_trainingrun")

    async def _tell(self) -> None:
        await self.send(json.dumps({"run": await self._status()}))

    @database_sync_to_async
    def _status(self) -> dict[str, Any] | None:
        with translation.override(self._language()):
            run = latest_run()
            return run_status(run) if run else None

    def _language(self) -> str:
        headers = dict(self.scope["headers"])
        accepted = headers.get(b"accept-language", b"").decode("latin-1")[:200]
        codes = [code.split(";")[0].strip()[:2].lower() for code in accepted.split(",")]
        return next((code for code in codes if code in dict(settings.LANGUAGES)), settings.LANGUAGE_CODE)
