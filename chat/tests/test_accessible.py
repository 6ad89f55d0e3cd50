"""For everybody: axe-core on whole pages of the admin and in every state of the chat, zoomed in, without motion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, WebSocketRoute, expect

from chat.tests.host import Host
from chat.tests.test_browser import ask, last_answer
from chat.tests.test_people_browser import ALWAYS, NEVER, Windows, log_in, say, windows
from chat.tests.test_widget import LONG, MARKED, launcher
from chatbot_site.tests.browsers import violations
from chatbot_site.tests.server import Server, running_server

__all__ = ["windows"]

pytestmark = pytest.mark.browser

PAGES = [
    *("/admin/", "/admin/chat/conversation/", "/admin/chat/dailyfigures/", "/admin/chat/site/add/"),
    *("/admin/faq/faqentry/", "/admin/faq/faqentry/import/", "/admin/faq/faqentry/export/"),
    *("/admin/training/trainingrun/prepare/", "/admin/training/adapterversion/"),
    "/admin/password_change/",
]


@pytest.fixture(scope="module")
def server(trained_shop: Path) -> Iterator[Server]:
    with running_server(trained_shop, PERSON_CONTACT="Llame al 900 123 456.") as server:
        yield server


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.soak)])
def test_axe_finds_nothing_in_whole_pages_of_the_admin(windows: Windows, server: Server, scheme: Any) -> None:
    server.run(ALWAYS)
    customer, staff = windows.open(), windows.open(1200, 900, color_scheme=scheme)
    customer.goto(server.url)
    say(customer, "formas de pago")
    last_answer(customer)
    customer.locator("#person").click()
    expect(customer.locator(".message.system")).to_be_visible()
    staff.goto(server.url + "/admin/login/")
    assert windows.violations(staff) == [], "login"
    log_in(staff, server)
    assert windows.violations(staff) == [], "inbox"
    staff.locator("[data-list=waiting] button").first.click()
    expect(staff.locator("#inbox-take")).to_be_visible()
    assert windows.violations(staff) == [], "opened"
    staff.locator("#inbox-take").click()
    expect(staff.locator("#inbox-text")).to_be_visible()
    assert windows.violations(staff) == [], "taken"
    for path in PAGES:
        staff.goto(server.url + path)
        assert windows.violations(staff) == [], path
    staff.goto(server.url + "/admin/chat/conversation/")
    staff.locator("#result_list tbody a").first.click()
    expect(staff.locator(".records-transcript")).to_be_visible()
    assert windows.violations(staff) == [], "transcript"
    staff.goto(server.url + "/admin/chat/handover/inbox/")
    staff.locator("[data-list=mine] button").first.click()
    staff.locator("#inbox-close").click()
    expect(customer.locator(".people")).to_be_hidden()


@pytest.mark.parametrize("width", [360, 1366])
def test_the_figures_are_no_wider_than_the_window(windows: Windows, server: Server, width: int) -> None:
    server.run(
        "from chat.models import Conversation; conversation, _token = Conversation.start('es'); "
        "conversation.messages.create(role='user', text='palabra' * 60, client_id='long'); "
        "conversation.messages.create(role='assistant', finish_reason='stop', is_declined=True)"
    )
    staff = windows.open(width, 760)
    log_in(staff, server)
    staff.goto(server.url + "/admin/chat/dailyfigures/")
    for summary in staff.locator(".room summary").all():
        summary.click()

    table = staff.get_by_role("group", name="How replies ended, over time")
    expect(table).to_be_visible()
    assert table.evaluate("each => each.scrollWidth > each.clientWidth"), "it scrolls by itself"
    assert staff.evaluate("document.documentElement.scrollWidth") == width
    not_in_it = staff.locator(".room *:not(.room-scroll *)")
    assert max(not_in_it.evaluate_all("all => all.map(each => each.getBoundingClientRect().right)")) <= width
    assert windows.violations(staff) == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.soak)])
@pytest.mark.parametrize("place", ["page", "widget"])
def test_axe_finds_nothing_in_any_state(browser: Browser, server: Server, host: Host, place: str, scheme: Any) -> None:
    server.run(NEVER)
    server.set_answer("pay", f"{MARKED}\n\n{LONG}")
    context = browser.new_context(locale="es-ES", color_scheme=scheme, viewport={"width": 900, "height": 760})
    page = context.new_page()
    sockets: list[WebSocketRoute] = []
    page.route_web_socket(re.compile("/ws/chat/"), lambda socket: sockets.append(socket.connect_to_server()))
    host.has_policy = False
    page.goto(server.url if place == "page" else host.origin)
    if place == "widget":
        expect(launcher(page)).to_be_visible(timeout=20_000)
        assert violations(page) == [], "closed"
        launcher(page).click()
    expect(page.get_by_label("Su pregunta")).to_be_visible()
    assert violations(page) == [], "empty"
    ask(page, "formas de pago")
    expect(page.locator(".message.writing")).to_have_count(1, timeout=30_000)
    assert violations(page) == [], "streaming"
    last_answer(page)
    page.locator(".rating .down").click()
    expect(page.locator(".reasons")).to_be_visible()
    assert violations(page) == [], "rated"
    page.locator("#options").click()
    page.locator(".end").click()
    expect(page.locator(".ending .starter").first).to_be_focused()
    assert violations(page) == [], "ended"
    page.locator("#person").click()
    expect(page.locator(".message.system")).to_be_visible()
    assert violations(page) == [], "handed over"
    page.get_by_label("Su pregunta").fill("a" * 1500)
    page.keyboard.press("Enter")
    expect(page.locator("#problem")).to_contain_text("1500")
    assert violations(page) == [], "error"
    context.set_offline(True)
    sockets[-1].close()
    expect(page.locator("#banner")).to_be_visible(timeout=20_000)
    assert violations(page) == [], "offline"
    context.close()


@pytest.mark.parametrize("size", [(320, 640), (320, 256)], ids=["narrow", "400%"])
def test_it_stays_usable_when_zoomed_in(browser: Browser, server: Server, size: tuple[int, int]) -> None:
    context = browser.new_context(locale="es-ES", viewport={"width": size[0], "height": size[1]})
    page = context.new_page()
    page.goto(server.url)
    ask(page, "formas de pago")
    assert last_answer(page) == "Con tarjeta o transferencia."
    assert page.evaluate("() => document.documentElement.scrollWidth") <= size[0]
    page.get_by_label("Su pregunta").scroll_into_view_if_needed()
    expect(page.get_by_label("Su pregunta")).to_be_in_viewport()
    page.locator("#person").scroll_into_view_if_needed()
    expect(page.locator("#person")).to_be_in_viewport()
    context.close()


def test_it_respects_reduced_motion_and_forced_colours(browser: Browser, server: Server) -> None:
    server.set_answer("pay", LONG)
    context = browser.new_context(locale="es-ES", reduced_motion="reduce", forced_colors="active")
    page = context.new_page()
    page.goto(server.url)
    ask(page, "formas de pago")
    expect(page.locator(".message.writing")).to_have_count(1, timeout=30_000)
    motion = page.evaluate(
        "() => getComputedStyle(document.querySelector('customer-chat').shadowRoot"
        ".querySelector('.message.assistant .bubble :last-child'), '::after').animationName"
    )
    assert motion == "none"
    expect(page.locator("#stop")).not_to_have_css("border-top-width", "0px")
    context.close()
