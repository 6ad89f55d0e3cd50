"""The way back through the browser's history: a page that the browser kept whole goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from chat.tests.host import Host
from chat.tests.test_browser import ask, last_answer
from chatbot_site.tests.browsers import running_chromium
from chatbot_site.tests.server import Server

pytestmark = pytest.mark.browser

LONG = " ".join(f"palabra{n}" for n in range(300))
# What a page says when it is shown; one that was kept still has what was noted on it before.
NOTE = "window.shown = []; addEventListener('pageshow', (event) => window.shown.push(event.persisted));"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    switch = "--disable-back-forward-cache"
    with running_chromium("--enable-features=BackForwardCache", ignore_default_args=[switch]) as browser:
        yield browser


@pytest.fixture
def context(context: BrowserContext) -> BrowserContext:
    # As often as a document is made, and not when a kept one comes back.
    context.add_init_script(NOTE)
    return context


def come_back(page: Page) -> None:
    """By the browser's button, and be sure that the browser had kept the page."""
    page.evaluate("() => { setTimeout(() => history.back(), 50); }")
    page.wait_for_function("() => window.shown?.length === 2", timeout=15_000)
    assert page.evaluate("() => window.shown") == [False, True], "the page was kept, not loaded again"


@pytest.mark.parametrize("place", ["page", "widget"])
def test_a_kept_page_goes_on_without_loss_or_doubles(page: Page, server: Server, host: Host, place: str) -> None:
    server.set_answer("pay", LONG)
    page.goto(server.url if place == "page" else host.origin)
    if place == "widget":
        page.locator(".launcher").click()
    ask(page, "formas de pago")
    expect(page.locator(".message.writing")).to_have_count(1, timeout=30_000)
    page.get_by_label("Su pregunta").fill("horario de cierre")
    page.goto(f"{server.url}/privacy/" if place == "page" else f"{host.origin}/other")

    come_back(page)

    assert last_answer(page) == LONG, "what was said meanwhile is there, once"
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.get_by_label("Su pregunta")).to_have_value("horario de cierre")
    page.keyboard.press("Control+End")
    page.get_by_label("Su pregunta").press("Enter")
    expect(page.locator(".message.assistant")).to_have_count(2, timeout=30_000)
    assert last_answer(page) == "Cerramos a las ocho."
    expect(page.locator(".message.user .bubble")).to_have_text(["formas de pago", "horario de cierre"])


def test_what_another_tab_said_meanwhile_is_there(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask(page, "horario de cierre")
    last_answer(page)
    page.goto(f"{server.url}/privacy/")
    second = page.context.new_page()
    second.goto(server.url)
    expect(second.locator(".message.assistant")).to_have_count(1, timeout=30_000)
    ask(second, "formas de pago")
    last_answer(second)

    come_back(page)

    expect(page.locator(".message .bubble")).to_have_text(
        ["horario de cierre", "Cerramos a las ocho.", "formas de pago", "Con tarjeta o transferencia."], timeout=20_000
    )


def test_a_rating_given_at_once_after_the_way_back_arrives(page: Page, server: Server) -> None:
    """Before the connection is there again."""
    page.goto(server.url)
    ask(page, "horario de cierre")
    last_answer(page)
    page.goto(f"{server.url}/privacy/")
    page.evaluate("() => { setTimeout(() => history.back(), 50); }")
    page.wait_for_function("() => window.shown?.length === 2", timeout=15_000)
    page.evaluate("() => document.querySelector('customer-chat').shadowRoot.querySelector('.rating .up').click()")
    expect(page.locator(".rating .up")).to_have_attribute("aria-pressed", "true", timeout=20_000)


def test_a_kept_page_goes_on_without_websockets_too(page: Page, server: Server) -> None:
    page.add_init_script(
        "window.WebSocket = class { static OPEN = 1; readyState = 3;"
        " constructor() { setTimeout(() => this.onclose?.(), 0); } close() {} send() {} };"
    )
    page.goto(server.url)
    ask(page, "horario de cierre")
    last_answer(page)
    page.goto(f"{server.url}/privacy/")

    come_back(page)

    ask(page, "formas de pago")
    assert last_answer(page) == "Con tarjeta o transferencia."
    expect(page.locator(".message")).to_have_count(4)
