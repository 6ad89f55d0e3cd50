"""No text has a NUL, and PostgreSQL refuses to look for one: what holds it in its address or cookies is refused."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.utils.deprecation import MiddlewareMixin
from django.utils.translation import gettext as _


class NulMiddleware(MiddlewareMixin):
    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        query = unquote(request.META.get("QUERY_STRING", ""))
        if any("\0" in text for text in (request.path_info, query, *request.COOKIES.values())):
            text = _("This request holds a character that no text has.")
            return HttpResponseBadRequest(text, content_type="text/plain; charset=utf-8")
        return None
