from __future__ import annotations

from channels.auth import AuthMiddlewareStack
from django.urls import path

from training.consumers import PlaygroundConsumer, WatchConsumer

websocket_urlpatterns = [
    path("ws/training/", AuthMiddlewareStack(WatchConsumer.as_asgi())),  # type: ignore[arg-type]
    path("ws/playground/", AuthMiddlewareStack(PlaygroundConsumer.as_asgi())),  # type: ignore[arg-type]
]
