"""The application as it is shipped, but that an abandoned reply is noticed after five seconds instead of a minute."""

from __future__ import annotations

from datetime import timedelta

from chatbot_site.asgi import application

__all__ = ["application"]

# Models are there only once the application is.
from chat import replies

replies.ABANDONED_AFTER = timedelta(seconds=5)
