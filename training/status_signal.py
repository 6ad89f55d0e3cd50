"""Tell whoever watches that a run moved or another version went live. The rows are the truth; this only wakes."""

from __future__ import annotations

import logging

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

GROUP = "training.status"


def send() -> None:
    """Signal once the surrounding transaction is committed. Without Redis nobody watches, which is no error."""
    transaction.on_commit(_send)


def _send() -> None:
    try:
        layer = get_channel_layer()
        assert layer is not None, "settings configure one"
        async_to_sync(layer.group_send)(GROUP, {"type": "training.status"})
    except (RedisError, OSError) as error:
        logger.debug("nobody was told of the new status: %s", error)
