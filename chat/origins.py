"""From which pages the chat may be reached: the site's own, and those of the websites that staff have entered."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from channels.db import database_sync_to_async
from channels.security.websocket import WebsocketDenier
from django.conf import settings
from django.http.request import validate_host

if TYPE_CHECKING:
    from chat.models import Site

CHAT_PATH = "/ws/chat/"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


class OriginError(ValueError):
    """Not the origin of a page."""


class HasPath(OriginError):
    """An origin with more after it; the text is the origin alone."""


def normalised(text: str) -> str:
    """An origin as browsers write it: lower case, without the scheme's own port, other alphabets in punycode.

    Raises:
        OriginError: it is none.
        HasPath: it says more than scheme, host and port.
    """
    try:
        parts = urlsplit(text.strip())
        port = parts.port
        host = _host(parts.hostname or "")
    except ValueError as error:
        raise OriginError(text) from error
    if parts.scheme not in _DEFAULT_PORTS or "@" in parts.netloc:
        raise OriginError(text)
    origin = f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, _DEFAULT_PORTS[parts.scheme]) else "")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise HasPath(origin)
    return origin


def _host(name: str) -> str:
    if ":" in name:
        return f"[{ipaddress.IPv6Address(name).compressed}]"
    # UnicodeError, which is a ValueError, for what cannot be a name.
    host = name.encode("idna").decode("ascii").lower()
    if not _HOST.fullmatch(host):
        raise OriginError(name)
    return host


@database_sync_to_async
def sites_at(origin: str) -> list[Site]:
    from chat.models import Site

    return Site.objects.at(origin)


def is_own(origin: str) -> bool:
    """Whether an origin has one of the site's own names (ALLOWED_HOSTS)."""
    try:
        name = urlsplit(origin).hostname or ""
    except ValueError:
        return False
    return bool(name) and validate_host(f"[{name}]" if ":" in name else name, settings.ALLOWED_HOSTS)


class OriginValidator:
    """Lets websockets of the site's own pages in, and to the chat alone those from where an active site has a page.

    The consumer asks which site it is: the scope carries `origin`.
    """

    def __init__(self, application: Any) -> None:
        self.application = application
        self.deny: Any = WebsocketDenier.as_asgi()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
        if is_own(origin) or (scope["path"] == CHAT_PATH and origin and await sites_at(origin)):
            return await self.application({**scope, "origin": origin}, receive, send)
        return await self.deny(scope, receive, send)
