"""Connections that break, as a browser sees it: nothing is lost, nothing comes twice, and the customer is told."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from chat.tests.test_browser import ask, last_answer
from chatbot_site.tests.server import Server

pytestmark = pytest.mark.browser

NO_WEBSOCKETS = (
    "window.WebSocket = class { static OPEN = 1; readyState = 3;"
    " constructor() { setTimeout(() => this.onclose?.(), 0); } close() {} send() {} };"
)


@pytest.mark.parametrize("way", ["websocket", "requests"])
def test_it_says_at_once_that_the_network_is_gone_and_goes_on_with_it(page: Page, server: Server, way: str) -> None:
    if way == "requests":
        page.add_init_script(NO_WEBSOCKETS)
    page.goto(server.url)
    ask(page, "horario de cierre")
    last_answer(page)
    tried: list[str] = []
    page.on("websocket", lambda socket: tried.append(socket.url))
    page.on("request", lambda request: tried.append(request.url))

    page.context.set_offline(True)
    page.wait_for_timeout(1_000)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#banner")).to_contain_text("Sin conexión", timeout=5_000)
    tried.clear()
    page.wait_for_timeout(6_000)
    assert tried == [], "nothing is tried that cannot succeed"
    page.get_by_label("Su pregunta").fill("formas de pago")
    page.keyboard.press("Enter")
    page.get_by_label("Su pregunta").fill("un borrador")
    expect(page.locator(".message.user .bubble")).to_have_text(["horario de cierre", "formas de pago"])

    page.context.set_offline(False)
    expect(page.locator(".message.assistant")).to_have_count(2, timeout=10_000)
    assert last_answer(page) == "Con tarjeta o transferencia."
    expect(page.locator("#banner")).to_be_hidden(timeout=10_000)
    expect(page.locator(".message.user .bubble")).to_have_text(["horario de cierre", "formas de pago"])
    expect(page.get_by_label("Su pregunta")).to_have_value("un borrador")


def test_a_network_that_is_back_in_a_moment_is_not_spoken_of(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask(page, "horario de cierre")
    last_answer(page)
    page.locator("#banner").evaluate(
        "(banner) => new MutationObserver(() => (window.isSpokenOf = true)).observe(banner, { attributes: true })"
    )
    page.context.set_offline(True)
    page.wait_for_timeout(500)
    page.context.set_offline(False)
    page.wait_for_timeout(3_000)
    assert page.evaluate("() => window.isSpokenOf") is None
    ask(page, "formas de pago")
    assert last_answer(page) == "Con tarjeta o transferencia."
