"""HTTP to Django, websockets to Channels; the live version is loaded in the background once the server is up."""

from __future__ import annotations

import asyncio
import os
import warnings
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatbot_site.settings")
# Before anything that imports models.
django_application = get_asgi_application()

from asgiref.sync import ThreadSensitiveContext, sync_to_async  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.db import connections  # noqa: E402

from chat.origins import OriginValidator  # noqa: E402
from chat.replies import interrupt_all  # noqa: E402
from chat.routing import websocket_urlpatterns as chat_patterns  # noqa: E402
from training import serving  # noqa: E402
from training.routing import websocket_urlpatterns as training_patterns  # noqa: E402

# WhiteNoise serves files with plain iterators, which Django reads whole before it sends them: fine for small files.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")


async def http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Django gives each request a thread of its own; the thread's database connection ends with it."""
    async with ThreadSensitiveContext():
        try:
            await django_application(scope, receive, send)
        finally:
            await sync_to_async(connections.close_all)()


async def lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    while True:
        event = await receive()
        if event["type"] == "lifespan.startup":
            serving.warm_up()
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            await interrupt_all()
            layer: Any = get_channel_layer()
            await layer.drain()
            await asyncio.to_thread(serving.close)
            await send({"type": "lifespan.shutdown.complete"})
            return


application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": OriginValidator(URLRouter([*chat_patterns, *training_patterns])),  # type: ignore[list-item]
        "lifespan": lifespan,
    }
)
