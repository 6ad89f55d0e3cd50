"""Phone keyboards, and texts that run from right to left, in a real Chromium."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from chat.tests.host import Host
from chat.tests.test_browser import ask, last_answer
from chatbot_site.tests.browsers import PHONE
from chatbot_site.tests.server import Server

pytestmark = pytest.mark.browser

ARABIC = "هل يمكنني الدفع ببطاقة Visa؟"
HEBREW = "איך אפשר לשלם?"
# A keyboard that covers the lower part, as iOS shows it: the page keeps its size, only what is seen becomes smaller.
KEYBOARD = """
  () => {
    const seen = { height: innerHeight - 300, scale: 1, offsetTop: 40 };
    for (const [name, value] of Object.entries(seen)) Object.defineProperty(visualViewport, name, { get: () => value });
    visualViewport.dispatchEvent(new Event("resize"));
  }
"""
MAGNIFIED = """
  () => {
    const seen = { height: innerHeight / 3, scale: 3, offsetTop: 40 };
    for (const [name, value] of Object.entries(seen)) Object.defineProperty(visualViewport, name, { get: () => value });
    visualViewport.dispatchEvent(new Event("resize"));
  }
"""
# How much of the screen the conversation has, what would have to be scrolled besides it, and how low targets are.
ROOM = """
  () => {
    const { shadowRoot } = document.querySelector("customer-chat");
    const panel = shadowRoot.querySelector(".panel");
    const beyond = (part) => [part.scrollWidth - part.clientWidth, part.scrollHeight - part.clientHeight];
    const targets = [...shadowRoot.querySelectorAll("button, summary, textarea, input:not([type=checkbox])")];
    return {
      log: shadowRoot.querySelector("#log").clientHeight,
      beyond: [...beyond(document.scrollingElement), ...beyond(panel)],
      low: targets.map((target) => target.getBoundingClientRect().height).filter((height) => height && height < 44),
    };
  }
"""
# With the least that the conversation has of them, while the assistant answers and while people do.
SCREENS = {
    (360, 640): (0.45, 0.3),
    (320, 480): (0.45, 0.3),
    (360, 380): (0.45, 0.3),
    (740, 330): (0.45, 0.3),
    (320, 320): (90 / 320, 90 / 320),
}


@pytest.fixture
def window() -> dict[str, Any]:
    return {**PHONE, "locale": "es-ES"}


def open_chat(page: Page, server: Server, host: Host, place: str) -> None:
    page.goto(server.url if place == "page" else host.origin)
    if place == "widget":
        page.locator(".launcher").tap()
    expect(page.get_by_label("Su pregunta")).to_be_visible(timeout=20_000)


@pytest.mark.parametrize("place", ["page", "widget"])
def test_the_field_stays_above_the_keyboard(page: Page, server: Server, host: Host, place: str) -> None:
    open_chat(page, server, host, place)
    ask(page, "formas de pago")
    last_answer(page)

    page.evaluate(KEYBOARD)

    field, panel = page.get_by_label("Su pregunta").bounding_box(), page.locator(".panel").bounding_box()
    assert field is not None
    assert panel is not None
    assert (panel["y"], panel["height"]) == (40, 340)
    assert field["y"] >= 40
    assert field["y"] + field["height"] <= 40 + 340
    expect(page.locator(".message").last).to_be_in_viewport()
    assert page.evaluate(ROOM)["log"] >= 0.45 * 340


@pytest.mark.parametrize("place", ["page", "widget"])
def test_magnifying_the_page_does_not_shrink_the_chat(page: Page, server: Server, host: Host, place: str) -> None:
    open_chat(page, server, host, place)
    before = page.locator(".panel").bounding_box()
    page.evaluate(MAGNIFIED)
    assert page.locator(".panel").bounding_box() == before


def test_fields_tell_the_phone_which_keyboard_to_show(page: Page, server: Server) -> None:
    page.goto(server.url)
    field = page.get_by_label("Su pregunta")
    for name, value in (("enterkeyhint", "send"), ("inputmode", "text"), ("autocapitalize", "sentences")):
        expect(field).to_have_attribute(name, value)
    page.locator("#person").tap()
    email = page.locator("#email")
    expect(email).to_be_visible()
    for name, value in (("inputmode", "email"), ("autocapitalize", "none"), ("autocomplete", "email")):
        expect(email).to_have_attribute(name, value)


@pytest.mark.parametrize("path", ["/", "/plain/"])
def test_no_field_is_so_small_that_phones_zoom_in(page: Page, server: Server, path: str) -> None:
    page.goto(server.url + path)
    if path == "/":
        ask(page, "formas de pago")
        last_answer(page)
        page.locator(".rating .down").tap()
        expect(page.locator(".reasons textarea")).to_be_visible()
        page.locator("#person").tap()
    else:
        page.locator("[name=person]").tap()
    expect(page.locator("input[type=email]")).to_be_visible()
    fields = page.locator("textarea:visible, input:visible:not([type=checkbox], [type=hidden])")
    assert fields.count() >= 2
    for field in fields.all():
        assert field.evaluate("element => parseFloat(getComputedStyle(element).fontSize)") >= 16


@pytest.mark.parametrize("place", ["page", "widget"])
def test_each_text_runs_in_its_own_direction(page: Page, server: Server, host: Host, place: str) -> None:
    open_chat(page, server, host, place)
    field = page.get_by_label("Su pregunta")
    for text in (ARABIC, HEBREW):
        field.fill(text)
        expect(field).to_have_css("direction", "rtl")
        ask(page, text)
        last_answer(page)
    field.fill("formas de pago")
    expect(field).to_have_css("direction", "ltr")
    ask(page, "formas de pago")
    last_answer(page)
    for bubble, direction in zip(page.locator(".message.user .bubble").all(), ("rtl", "rtl", "ltr"), strict=True):
        expect(bubble).to_have_css("direction", direction)
    for bubble in page.locator(".message.assistant .bubble").all():
        expect(bubble).to_have_css("direction", "ltr")


@pytest.mark.parametrize("place", ["page", "widget"])
def test_the_whole_is_mirrored_where_its_language_runs_from_right_to_left(
    page: Page, server: Server, host: Host, place: str
) -> None:
    open_chat(page, server, host, place)
    ask(page, "formas de pago")
    last_answer(page)

    page.evaluate("() => (document.querySelector('customer-chat').shadowRoot.querySelector('.root').dir = 'rtl')")

    places = {}
    for name in (".message.user .bubble", ".message.assistant .bubble", ".mark", "#send", "#text"):
        box = page.locator(name).first.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360, f"{name} sticks out"
        places[name] = box["x"] + box["width"] / 2
    assert places[".message.user .bubble"] < 180 < places[".message.assistant .bubble"]
    assert places[".mark"] > 180
    assert places["#send"] < places["#text"]
    expect(page.locator("#send svg")).to_have_css("scale", "-1 1")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("size", [(320, 568), (360, 640)], ids=["small", "usual"])
@pytest.mark.parametrize("place", ["page", "widget"])
def test_while_somebody_waits_for_a_person_the_conversation_can_be_read(
    page: Page, server: Server, host: Host, place: str, size: tuple[int, int]
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    open_chat(page, server, host, place)
    page.locator("#person").tap()
    expect(page.locator("#email")).to_be_visible()

    log = page.locator("#log").bounding_box()
    assert log is not None
    assert log["height"] >= 150
    expect(page.locator(".message .meta").last).to_be_in_viewport()
    expect(page.locator("#text")).to_be_in_viewport(ratio=0.5)
    page.locator("#options").tap()
    for name in ("#text", "#email", ".forget", "#title"):
        page.locator(name).scroll_into_view_if_needed()
        expect(page.locator(name)).to_be_in_viewport()


def fits(page: Page, size: tuple[int, int], share: float) -> None:
    """On a screen of that size nothing but the conversation is to be scrolled, which has that share of the height."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    expect(page.locator(".message .meta").last).to_be_in_viewport()
    room = page.evaluate(ROOM)
    assert room["log"] >= share * size[1], size
    assert room["beyond"] == [0, 0, 0, 0], size
    assert room["low"] == [], size
    for name in ("#title", "#text", "#send"):
        expect(page.locator(name)).to_be_in_viewport(ratio=0.95)


@pytest.mark.parametrize("place", ["page", "widget"])
def test_on_small_screens_the_conversation_can_be_read(page: Page, server: Server, host: Host, place: str) -> None:
    open_chat(page, server, host, place)
    ask(page, "formas de pago")
    last_answer(page)
    for size, (share, _) in SCREENS.items():
        fits(page, size, share)
        expect(page.locator(".message.assistant .bubble")).to_be_in_viewport()
        expect(page.locator("#person")).to_be_in_viewport(ratio=0.95)
    expect(page.locator(".header")).to_match_aria_snapshot("- paragraph: /Asistente de IA/")
    page.locator("#options").tap()
    for name in (".below a", ".forget"):
        page.locator(name).scroll_into_view_if_needed()
        expect(page.locator(name)).to_be_in_viewport(ratio=0.95)
    page.locator("#options").tap()

    page.locator("#person").tap()
    expect(page.locator("#email")).to_be_visible()
    for size, (_, share) in SCREENS.items():
        fits(page, size, share)
        expect(page.locator(".people .note")).to_be_in_viewport(ratio=0.7)
        if size != (320, 320):
            expect(page.locator("#email")).to_be_in_viewport(ratio=0.95)

    fits(page, (360, 380), 0.3)
    page.locator("#email").fill("nobody")
    page.keyboard.press("Enter")
    for name in ("#email-problem", "#email", "#text"):
        expect(page.locator(name)).to_be_in_viewport(ratio=0.95)


def test_the_widget_can_be_scrolled_to_its_end_when_zoomed_in(page: Page, server: Server, host: Host) -> None:
    page.set_viewport_size({"width": 320, "height": 256})
    open_chat(page, server, host, "widget")
    ask(page, "formas de pago")
    last_answer(page)
    expect(page.locator("#panel")).to_have_css("overflow-y", "auto")
    for name in ("#person", "#text", "#title"):
        page.locator(name).scroll_into_view_if_needed()
        expect(page.locator(name)).to_be_in_viewport()
