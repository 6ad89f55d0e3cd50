"""What comes over a websocket, or in a plain request instead of one: text that holds one JSON object with a type."""

from __future__ import annotations

import json
from typing import Any

from django.utils.translation import gettext as _

MAX_FRAME_CHARS = 16_384


class BadFrame(Exception):
    """A frame that cannot be acted on: a code for programs and a text for people.

    Args:
        seconds: after which it could be; 0 where time changes nothing.
    """

    def __init__(self, code: str, text: str, *, client_id: str = "", seconds: int = 0) -> None:
        super().__init__(text)
        self.code = code
        self.client_id = client_id
        self.seconds = seconds

    def as_frame(self) -> dict[str, Any]:
        told = {"type": "error", "code": self.code, "text": str(self), "client_id": self.client_id}
        return {**told, "seconds": self.seconds} if self.seconds else told


def parse(text: str | None) -> dict[str, Any]:
    """
    Raises:
        BadFrame: it is no frame.
    """
    if text is None:
        raise BadFrame("not_text", _("Only text is understood here."))
    return checked_frame(parse_json(text))


def parse_json(text: str) -> Any:
    """
    Raises:
        BadFrame: it is too long, or no JSON.
    """
    if len(text) > MAX_FRAME_CHARS:
        raise BadFrame("frame_too_long", _("That is too long."))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFrame("not_json", _("The message is not valid JSON.")) from error


def checked_frame(frame: Any) -> dict[str, Any]:
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise BadFrame("no_type", _("The message has no type."))
    return frame


def clean(text: str) -> str:
    """A text as it can be stored and sent: PostgreSQL stores no NUL, and no lone surrogate is UTF-8."""
    return text.replace("\0", "").encode("utf-8", "ignore").decode().strip()


def checked_text(text: Any, client_id: str = "", *, max_chars: int, if_empty: str = "") -> str:
    """
    Args:
        if_empty: what is said then instead of that a question is to be written.

    Raises:
        BadFrame: nothing was written, or too much.
    """
    cleaned = clean(text) if isinstance(text, str) else ""
    if not cleaned:
        raise BadFrame("empty", if_empty or _("Write a question first."), client_id=client_id)
    if len(cleaned) > max_chars:
        raise BadFrame(
            "too_long",
            _("Your message has %(num)d characters; at most %(max)d fit. Please shorten it.")
            % {"num": len(cleaned), "max": max_chars},
            client_id=client_id,
        )
    return cleaned
