from __future__ import annotations

from channels.auth import AuthMiddlewareStack
from django.urls import path

from chat.consumers import ChatConsumer
from chat.inbox_consumer import InboxConsumer

websocket_urlpatterns = [
    path("ws/chat/", ChatConsumer.as_asgi()),  # type: ignore[arg-type]
    path("ws/inbox/", AuthMiddlewareStack(InboxConsumer.as_asgi())),  # type: ignore[arg-type]
]
