"""The way back through the browser's history: a page that the browser kept whole goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from chat.tests.host import RESOLVES, Host, running_host
from chat.tests.server import Server, running_server
from chat.tests.test_browser import CHROMIUM, SWITCHES, ask, last_answer

pytestmark = pytest.mark.browser

LONG = " ".join(f"palabra{n}" for n in range(300))
# What a page says when it is shown; one that was kept still has what was noted on it before.
NOTE = "window.shown = []; addEventListener('pageshow', (event) => window.shown.push(event.persisted));"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*SWITCHES, RESOLVES, "--enable-features=BackForwardCache"],
            ignore_default_args=["--disable-back-forward-cache"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("site")) as server:
        server.train()
        yield server


@pytest.fixture(scope="module")
def host(server: Server) -> Iterator[Host]:
    with running_host(server.url) as host:
        server.run(
            f"from chat.models import Site; Site.objects.create(name='Shop', key='shop-key', origins={host.origin!r})"
        )
        host.key = "shop-key"
        yield host


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(locale="es-ES", viewport={"width": 900, "height": 760})
    # As often as a document is made, and not when a kept one comes back.
    context.add_init_script(NOTE)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    assert problems == []
    context.close()


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
    server.set_answer("pay", "Con tarjeta o transferencia.")


def test_what_another_tab_said_meanwhile_is_there(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask(page, "horario de cierre")
    last_answer(page)
    page.goto(f"{server.url}/privacy/")
    second = page.context.new_page()
    second.goto(server.url)
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
