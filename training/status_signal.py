"""Tell whoever watches that a run moved or another version went live. The rows are the truth; this only wakes."""

from __future__ import annotations

from functools import partial
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

GROUP = "training.status"
# Staff who watch runs, and they alone: more than the rows tell.
STAFF = "training.staff"

RUN_MOVED = "run moved"
VERSION_LIVE = "version live"


def send(what: str) -> None:
    """Signal once the surrounding transaction is committed. Without Redis nobody watches, which is no error."""
    transaction.on_commit(partial(_send, GROUP, {"type": "training.status", "what": what}))


def send_progress(run_pk: int, claim: str, values: dict[str, Any]) -> None:
    """Tell staff where a run is, as columns of its row, when the row itself is not written."""
    event = {"type": "training.progress", "run": run_pk, "claim": claim, "values": values}
    transaction.on_commit(partial(_send, STAFF, event))


async def signal(group: str, event: dict[str, Any]) -> None:
    """Tell a group at once. Who cannot be told finds it all in the rows."""
    layer = get_channel_layer()
    assert layer is not None, "settings configure one"
    await layer.group_send(group, event)


def _send(group: str, event: dict[str, Any]) -> None:
    async_to_sync(signal)(group, event)
