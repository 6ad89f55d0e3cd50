"""Tell whoever watches that a run moved or another version went live. The rows are the truth; this only wakes."""

from __future__ import annotations

import logging
from functools import partial

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

GROUP = "training.status"


RUN_MOVED = "run moved"
VERSION_LIVE = "version live"


def send(what: str) -> None:
    """Signal once the surrounding transaction is committed. Without Redis nobody watches, which is no error."""
    transaction.on_commit(partial(_send, what))


def _send(what: str) -> None:
    try:
        layer = get_channel_layer()
        assert layer is not None, "settings configure one"
        async_to_sync(layer.group_send)(GROUP, {"type": "training.status", "what": what})
    except (RedisError, OSError) as error:
        logger.debug("nobody was told of the new status: %s", error)
