"""Another website, on an origin of its own, which carries the chat: strict content policy, hostile style."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The browser looks for it on this machine (chatbot_site/tests/browsers.py).
HOST = "shop.test"

VIEWPORT = '<meta name="viewport" content="width=device-width">'

HOSTILE = """
* { all: unset !important; color: red !important; font: 40px serif !important; pointer-events: none !important; }
html > :not(head, body), body * {
  display: none !important; opacity: 0 !important; position: static !important; z-index: -1 !important;
  transform: translateY(-5000px) !important; visibility: hidden !important; filter: blur(9px) !important;
}
button, textarea, [role=dialog] { display: none !important; }
"""


class Host:
    """What its pages hold may be set before each visit."""

    def __init__(self, chat: str, port: int) -> None:
        self.chat = chat
        self.origin = f"http://{HOST}:{port}"
        self.key = ""
        self.attributes = ""
        self.style = ""
        self.has_policy = True

    def page(self) -> str:
        script = f'<script async src="{self.chat}/widget.js" data-site="{self.key}" {self.attributes}></script>'
        return (
            f'<!doctype html><html lang="es"><head><title>Shop</title>{VIEWPORT}'
            f'<link rel="stylesheet" href="/style.css">{script}'
            "</head><body><main><h1>Shop</h1><a href='/other'>Other page</a></main></body></html>"
        )

    def policy(self) -> str:
        """What the admin page of the site says, and `require-trusted-types-for` with what the README says of it."""
        socket = self.chat.replace("http", "ws", 1)
        return (
            f"default-src 'none'; script-src {self.chat}; style-src 'self' {self.chat}; "
            f"connect-src {self.chat} {socket}; img-src 'self'; "
            "require-trusted-types-for 'script'; trusted-types customer-chat"
        )


@contextmanager
def running_host(chat: str) -> Iterator[Host]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_style = self.path == "/style.css"
            body = (host.style if is_style else host.page()).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/css" if is_style else "text/html; charset=utf-8")
            if host.has_policy:
                self.send_header("Content-Security-Policy", host.policy())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host = Host(chat, server.server_port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
