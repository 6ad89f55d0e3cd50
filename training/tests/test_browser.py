"""The playground and the way back in a real Chromium, with versions of the bundled base."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from chatbot_site.tests.server import Server, running_server

pytestmark = pytest.mark.browser

TRAIN = "from django.core.management import call_command; call_command('train', preset='quick', wait=True)"
PARAMETERS = {"min_steps": 4, "max_steps": 4, "num_augmented": 0, "min_rows_per_answer": 1}
PLAYGROUND = "/admin/training/adapterversion/playground/"


@pytest.fixture(scope="module")
def server(trained_shop: Path) -> Iterator[Server]:
    """Two versions, the first of them live."""
    with running_server(trained_shop, TRAINING_PARAMETERS=json.dumps(PARAMETERS)) as server:
        server.run(TRAIN)
        yield server


@pytest.fixture
def window() -> dict[str, Any]:
    return {"locale": "en-GB", "viewport": {"width": 1100, "height": 900}}


def log_in(page: Page, server: Server) -> None:
    page.goto(server.url + "/admin/")
    page.locator("#id_username").fill("olga")
    page.locator("#id_password").fill(server.password)
    page.keyboard.press("Enter")
    expect(page.get_by_text("is live since")).to_be_visible()


@pytest.fixture
def playground(page: Page, server: Server) -> Page:
    log_in(page, server)
    page.locator(".room").get_by_role("link", name="Try it out", exact=True).click()
    expect(page.get_by_label("Question", exact=True)).to_be_focused()
    return page


def column(page: Page, version: str) -> Locator:
    return page.get_by_role("region", name=re.compile(f"^{version} "))


def test_two_versions_answer_one_question_side_by_side(playground: Page) -> None:
    page = playground
    page.keyboard.type("a que hora cierran??")
    page.keyboard.press("Enter")

    for version in ("v1", "v2"):
        answer = column(page, version)
        expect(answer).to_contain_text("Cerramos a las ocho.", timeout=60_000)
        expect(answer).to_contain_text("This would be said")
        expect(answer).to_contain_text(re.compile(r"\d+(\.\d)?% sure"))
        expect(answer.get_by_role("link", name="¿A qué hora cierran?")).to_have_attribute(
            "href", re.compile(r"^/admin/faq/faqentry/\d+/change/$")
        )
    expect(page.get_by_role("heading", name=re.compile(r"^v1 \(Live\)"))).to_be_visible()

    page.get_by_label("Beside it").select_option("")
    page.get_by_label("Question", exact=True).fill("¿Quién ganó el mundial?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(column(page, "v1")).to_contain_text(re.compile("It would say that|it would ask"), timeout=60_000)
    expect(column(page, "v2")).to_have_count(0)


def test_what_was_asked_is_taught_and_known_at_once(playground: Page) -> None:
    page = playground
    page.get_by_label("Question", exact=True).fill("<b>¿aceptan bizum?</b>")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_label("Add as another wording of").select_option(label="¿Cómo puedo pagar?")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text(re.compile("Added to “¿Cómo puedo pagar\\?”"))).to_be_visible()
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text(re.compile("This is a wording of “.*” already"))).to_be_visible()

    page.get_by_role("button", name="Ask", exact=True).click()

    expect(column(page, "v1")).to_contain_text("Con tarjeta o transferencia.", timeout=60_000)
    assert page.locator("#columns b, #teach b").count() == 0, "what was typed is not run"


def test_what_cannot_be_asked_is_said_and_stays_where_it_can_be_mended(playground: Page) -> None:
    page = playground
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("Write a question first.")
    page.get_by_label("Question", exact=True).fill("a" * 1_001)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("1001")
    assert len(page.get_by_label("Question", exact=True).input_value()) == 1_001
    expect(page.locator("#columns section")).to_have_count(0)


def test_stop_ends_it_while_a_version_is_being_loaded(page: Page, server: Server) -> None:
    server.drop_connections()
    log_in(page, server)
    page.goto(server.url + PLAYGROUND)
    page.get_by_label("Question", exact=True).fill("formas de pago")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop").click()
    for version in ("v1", "v2"):
        expect(column(page, version)).to_contain_text(re.compile("Stopped|This would be said"))
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()


def test_a_lost_connection_is_said_and_the_next_question_connects_again(playground: Page, server: Server) -> None:
    page = playground
    server.drop_connections()
    page.get_by_label("Question", exact=True).fill("formas de pago")
    page.keyboard.press("Enter")
    expect(column(page, "v1")).to_contain_text("Con tarjeta o transferencia.", timeout=60_000)


def test_it_fits_a_phone(browser: Browser, server: Server) -> None:
    context = browser.new_context(locale="en-GB", viewport={"width": 320, "height": 640}, has_touch=True)
    page = context.new_page()
    log_in(page, server)
    page.goto(server.url + PLAYGROUND)
    page.get_by_label("Question", exact=True).fill("formas de pago")
    page.get_by_role("button", name="Ask", exact=True).tap()
    expect(column(page, "v2")).to_contain_text("Con tarjeta o transferencia.", timeout=60_000)
    assert page.locator(".room").evaluate("room => room.scrollWidth <= document.documentElement.clientWidth")
    context.close()


def test_a_change_is_undone_and_the_log_tells_of_it(page: Page, server: Server) -> None:
    log_in(page, server)
    expect(page.get_by_role("button", name="Undo")).to_have_count(0)
    page.get_by_role("link", name="Activate").click()
    page.get_by_role("button", name=re.compile("^Make v2 live")).click()
    expect(page.get_by_text(re.compile(r"v2 is live since")).first).to_be_visible(timeout=60_000)
    undo = page.get_by_role("button", name="Undo: back to v1")
    expect(undo).to_be_visible()
    expect(page.locator("[data-time]")).to_have_text(re.compile(r"^(9:[0-5]\d|10:00)$"))
    expect(page.get_by_role("button", name="Roll back to v1", exact=True)).to_have_count(0)

    undo.click()

    expect(page.get_by_text(re.compile(r"v1 is live since")).first).to_be_visible(timeout=60_000)
    page.goto(server.url + "/admin/training/activation/")
    expect(page.locator("#result_list tbody tr")).to_have_count(3)
    page.get_by_label("Which version spoke at…").fill("2020-05-03T17:20")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("no version was live yet")).to_be_visible()


def test_when_the_time_is_over_the_ordinary_way_back_takes_its_place(page: Page, server: Server) -> None:
    log_in(page, server)
    page.clock.install()
    page.get_by_role("link", name="Activate").click()
    page.get_by_role("button", name=re.compile("^Make v2 live")).click()
    expect(page.get_by_role("button", name="Undo: back to v1")).to_be_visible(timeout=60_000)

    page.clock.fast_forward("10:01")

    expect(page.get_by_role("button", name="Undo")).to_have_count(0)
    expect(page.get_by_role("button", name="Roll back to v1", exact=True)).to_be_visible()
