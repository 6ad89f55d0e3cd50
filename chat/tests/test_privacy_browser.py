"""A customer takes out and deletes the conversation in a real Chromium, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from chatbot_site.tests.browsers import note_problems, violations
from chatbot_site.tests.server import Server, running_server

pytestmark = pytest.mark.browser

IS_STORED = "() => localStorage.getItem('chat.conversation') !== null"


@pytest.fixture(scope="module")
def server(empty_shop: Path) -> Iterator[Server]:
    with running_server(empty_shop) as server:
        yield server


@pytest.fixture
def window() -> dict[str, Any]:
    return {"locale": "es-ES", "viewport": {"width": 320, "height": 700}}


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that also loses no connection."""
    page = context.new_page()
    problems: list[str] = []
    note_problems(page, problems, may_lose_connection=False)
    yield page
    assert problems == []


def test_a_customer_takes_the_conversation_out_and_deletes_it(page: Page, server: Server, tmp_path: Path) -> None:
    page.goto(server.url)
    page.locator("#text").fill("¿Cómo puedo <b>pagar</b>?")
    page.keyboard.press("Enter")
    page.wait_for_function(IS_STORED)

    page.goto(server.url + "/privacy/")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for what, name in (("export", "own.json"), ("text", "own.txt")):
        with page.expect_download() as download:
            page.locator(f"[data-do={what}]").click()
        download.value.save_as(tmp_path / name)
    data = json.loads((tmp_path / "own.json").read_text(encoding="utf-8"))
    assert data["messages"][0]["text"] == "¿Cómo puedo <b>pagar</b>?"
    assert "¿Cómo puedo <b>pagar</b>?" in (tmp_path / "own.txt").read_text(encoding="utf-8")

    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("[data-do=delete]").click()
    assert page.evaluate(IS_STORED), "not without being asked"
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("[data-do=delete]").click()

    expect(page.locator("#own")).to_be_hidden()
    expect(page.locator("#outcome")).not_to_be_empty()
    assert not page.evaluate(IS_STORED)
    server.run("from chat.models import Conversation; assert not Conversation.objects.exists()")


def test_what_is_stored_is_read_whole_on_a_narrow_screen(page: Page, server: Server) -> None:
    page.goto(server.url + "/privacy/")
    cells = page.locator("#device + table").locator("tbody th > code, tbody td")
    assert cells.count() > 9
    is_whole = "element => element.scrollWidth <= innerWidth && element.getBoundingClientRect().right <= innerWidth"
    assert [cell.inner_text() for cell in cells.all() if not cell.evaluate(is_whole)] == []
    is_broken = "all => all.filter((code) => code.getClientRects().length > 1).length"
    assert page.locator("table code").evaluate_all(is_broken) == 0
    assert page.get_by_role("table", name="Qué se guarda en su dispositivo").get_by_role("row").count() > 5
    assert violations(page) == []


def test_without_a_conversation_there_is_nothing_to_press(page: Page, server: Server) -> None:
    page.goto(server.url + "/privacy/")

    expect(page.locator("#own")).to_be_hidden()
    expect(page.locator("#outcome")).not_to_be_empty()
    page.evaluate("localStorage.setItem('chat.conversation', '{broken')")
    page.reload()
    expect(page.locator("#own")).to_be_hidden()


def test_it_is_deleted_without_scripts_and_by_keyboard(
    browser: Browser, window: dict[str, Any], server: Server
) -> None:
    context = browser.new_context(**window, java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url + "/privacy/")
    page.locator("noscript a").click()
    page.locator("#plain-text").fill("¿Cómo puedo pagar?")
    page.locator("button.main").click()
    expect(page.locator(".message.user")).to_have_count(1)
    newest = page.locator("#newest")
    expect(newest).to_have_class("message assistant")
    expect(newest).to_be_in_viewport()
    with page.expect_download() as download:
        page.locator("[name=download]").click()
    assert download.value.suggested_filename.endswith(".txt")
    delete = page.locator("[name=forget]")
    expect(delete).to_be_hidden()
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(delete).to_be_visible()
    for target in (page.locator("summary"), delete):
        box = target.bounding_box()
        assert box is not None
        assert box["height"] >= 44
    # What looks for violations is a script.
    looked_at = browser.new_context(**window, storage_state=context.storage_state()).new_page()
    looked_at.goto(server.url + "/plain/")
    looked_at.locator("summary").click()
    assert looked_at.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(looked_at) == []
    looked_at.context.close()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Su conversación está borrada.")
    expect(page.locator(".message, summary")).to_have_count(0)
    context.close()
    server.run("from chat.models import Conversation; assert not Conversation.objects.exists()")
