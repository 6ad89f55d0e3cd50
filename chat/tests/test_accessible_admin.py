"""axe-core on whole pages of the admin, the library's own parts included, in a real Chromium."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from chat.tests.test_browser import last_answer
from chat.tests.test_people_browser import ALWAYS, Windows, log_in, say, windows
from chatbot_site.tests.server import Server

__all__ = ["windows"]

pytestmark = pytest.mark.browser

PAGES = [
    *("/admin/", "/admin/chat/conversation/", "/admin/chat/conversation/figures/", "/admin/chat/site/add/"),
    *("/admin/faq/faqentry/", "/admin/training/trainingrun/prepare/", "/admin/training/adapterversion/"),
    "/admin/password_change/",
]


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
