"""No text has a NUL, and PostgreSQL refuses to look for one: an address that holds it is refused at the door."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.utils.deprecation import MiddlewareMixin
from django.utils.translation import gettext as _


class NulMiddleware(MiddlewareMixin):
    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        if "\0" in request.path_info or "\0" in unquote(request.META.get("QUERY_STRING", "")):
            text = _("This address holds a character that no text has.")
            return HttpResponseBadRequest(text, content_type="text/plain; charset=utf-8")
        return None
