"""A customer and a person in two real Chromium windows: the chat, and the inbox in the admin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from chat.tests.test_browser import last_answer
from chatbot_site.tests.browsers import PHONE, note_problems, violations
from chatbot_site.tests.server import Server, running_server

pytestmark = pytest.mark.browser

ALWAYS = (
    "from datetime import time; from chat.models import OpeningHours; OpeningHours.objects.all().delete(); "
    "[OpeningHours.objects.create(weekday=day, opens=time(0), closes=time(23, 59, 59)) for day in range(7)]"
)
NEVER = "from chat.models import OpeningHours; OpeningHours.objects.all().delete()"


@pytest.fixture(scope="module")
def server(trained_shop: Path) -> Iterator[Server]:
    with running_server(trained_shop) as server:
        server.run("from django.contrib.auth.models import User; User.objects.update(first_name='Olga')")
        yield server


class Windows:
    """Browser windows in which no script may fail and nothing may break the content policy."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.contexts: list[BrowserContext] = []
        self.problems: list[str] = []

    def open(self, width: int = 900, height: int = 760, **options: Any) -> Page:
        viewport = {"width": width, "height": height}
        context = self.browser.new_context(**{"locale": "en-US", "viewport": viewport, **options})
        self.contexts.append(context)
        page = context.new_page()
        note_problems(page, self.problems)
        return page

    def violations(self, page: Page) -> list[str]:
        num_problems = len(self.problems)
        found = violations(page)
        # Axe itself tries inline styles, which the chat's policy forbids.
        del self.problems[num_problems:]
        return found


@pytest.fixture
def windows(browser: Browser) -> Iterator[Windows]:
    windows = Windows(browser)
    yield windows
    for context in windows.contexts:
        context.close()
    assert windows.problems == []


def log_in(page: Page, server: Server) -> None:
    page.goto(server.url + "/admin/login/?next=/admin/chat/handover/inbox/")
    page.locator("#id_username").fill("olga")
    page.locator("#id_password").fill(server.password)
    page.keyboard.press("Enter")
    expect(page.locator("[data-list=waiting] li")).not_to_have_count(0)


def say(page: Page, text: str) -> None:
    page.get_by_label("Your question").fill(text)
    page.keyboard.press("Enter")


def waiting(staff: Page, customer: Page) -> Locator:
    """The customer's row in the inbox, among those of other customers."""
    expect(customer.locator(".people .note")).to_be_visible()
    reference = customer.locator(".message.system strong").last.inner_text()
    return staff.locator("[data-list=waiting] button", has_text=reference)


def test_a_person_takes_over_and_gives_back(windows: Windows, server: Server) -> None:
    server.run(ALWAYS)
    customer, staff = windows.open(), windows.open(1200, 900)
    log_in(staff, server)
    assert windows.violations(staff) == [], "empty"
    customer.goto(server.url)
    say(customer, "formas de pago")
    assert last_answer(customer) == "Con tarjeta o transferencia."

    customer.locator("#person").focus()
    customer.keyboard.press("Enter")
    notice = customer.locator(".message.system .bubble")
    expect(notice).to_contain_text("No hay nadie antes que usted.")
    expect(customer.get_by_label("Your question")).to_be_focused()
    reference = customer.locator(".message.system strong").inner_text()
    expect(customer.locator(".people .note")).to_contain_text(reference)
    expect(customer.locator("#person")).to_be_hidden()
    assert windows.violations(customer) == [], "waiting"
    say(customer, "necesito ayuda con mi pedido")
    expect(customer.locator(".message.user")).to_have_count(2)
    expect(customer.locator("#announcer")).to_have_text("Passed on to our team")

    row = waiting(staff, customer)
    expect(row).to_contain_text("necesito ayuda con mi pedido")
    expect(row).to_contain_text("here now")
    expect(staff.locator("#inbox-announcer")).to_contain_text(reference)
    row.focus()
    staff.keyboard.press("Enter")
    expect(staff.locator("#inbox-reference")).to_be_focused()
    expect(staff.locator(".inbox-said.assistant .inbox-basis")).to_contain_text(
        re.compile(r"¿Cómo puedo pagar\? · \d+ % sure")
    )
    assert windows.violations(staff) == [], "opened"
    staff.locator("#inbox-take").focus()
    staff.keyboard.press("Enter")
    expect(staff.locator("#inbox-text")).to_be_focused()
    expect(staff.locator("#inbox-text")).to_have_accessible_description("Enter begins a new line; Ctrl+Enter sends.")
    expect(customer.locator(".people .note")).to_contain_text("Olga is with you")
    expect(customer.locator("#subtitle")).to_have_text("A person is answering: Olga")

    attack = "Hola <img src=x onerror=\"document.title='owned'\"> **Ana** https://shop.example/?a=1&b=2"
    staff.keyboard.type(attack)
    staff.keyboard.press("Control+Enter")
    heard = customer.locator(".message.agent")
    expect(heard.locator(".bubble")).to_have_text(attack)
    expect(heard.get_by_role("link")).to_have_attribute("href", "https://shop.example/?a=1&b=2")
    expect(heard.locator(".meta")).to_contain_text("Olga")
    expect(customer.locator("#announcer")).to_have_text(f"Olga {attack}")
    expect(staff.locator("#inbox-text")).to_have_value("")
    assert customer.title() != "owned"
    say(customer, attack)
    expect(staff.locator(".inbox-said.user .inbox-text").last).to_have_text(attack)
    expect(staff.locator("#inbox-announcer")).to_contain_text(attack)
    assert staff.title() != "owned"
    assert windows.violations(customer) == [], "with a person"
    assert windows.violations(staff) == [], "answering"

    customer.reload()
    expect(customer.locator(".message.agent .bubble")).to_have_text(attack)
    expect(customer.locator(".people .note")).to_contain_text("Olga is with you")
    staff.reload()
    staff.locator("[data-list=mine] button").click()
    staff.locator("#inbox-reply summary").click()
    staff.locator("#inbox-find").fill("tarjeta")
    staff.locator("#inbox-found").get_by_role("button", name="¿Cómo puedo pagar?").click()
    expect(staff.locator("#inbox-text")).to_have_value("Con tarjeta o transferencia.")

    staff.locator("#inbox-give-back").click()
    expect(customer.locator(".people")).to_be_hidden()
    expect(customer.locator("#subtitle")).to_contain_text("AI assistant")
    expect(customer.locator(".message.system .bubble").last).to_contain_text(reference)
    expect(staff.locator("[data-list=closed] button").first).to_contain_text("Back with the assistant")
    expect(staff.locator("#inbox-moves")).to_be_hidden()
    say(customer, "horario de cierre")
    expect(customer.locator(".message.assistant")).to_have_count(2)
    assert last_answer(customer) == "Cerramos a las ocho."
    expect(customer.locator("#person")).to_be_visible()

    expect(customer.locator(".ending")).to_be_hidden()
    customer.locator("#person").click()
    waiting(staff, customer).click()
    staff.locator("#inbox-take").click()
    staff.locator("#inbox-close").click()
    expect(customer.locator(".ending")).to_be_visible()
    expect(customer.get_by_label("Your question")).to_be_focused()


def test_what_is_half_written_survives_a_lost_connection(windows: Windows, server: Server) -> None:
    server.run(ALWAYS)
    customer, staff = windows.open(), windows.open(1200, 900)
    log_in(staff, server)
    customer.goto(server.url)
    customer.locator("#person").click()
    waiting(staff, customer).click()
    staff.locator("#inbox-take").click()
    staff.locator("#inbox-text").fill("Un momento")
    server.drop_connections()
    expect(staff.locator("#inbox-offline")).to_be_hidden(timeout=30_000)
    expect(staff.locator("#inbox-text")).to_have_value("Un momento")
    staff.locator("#inbox-text").press("Control+Enter")
    expect(customer.locator(".message.agent .bubble")).to_have_text("Un momento", timeout=30_000)
    staff.locator("#inbox-close").click()
    expect(customer.locator(".people")).to_be_hidden()
    expect(customer.locator(".message.agent")).to_have_count(1)


def test_what_is_read_stays_as_it_is_while_nothing_is_said(windows: Windows, server: Server) -> None:
    _customer, staff = with_a_person(windows, server)
    reference = staff.locator("#inbox-reference").inner_text()
    said = staff.locator("#inbox-messages li").first
    said.evaluate("item => { item.isTheSame = true }")

    staff.locator("[data-list=mine] button", has_text=reference).click()
    expect(staff.locator("#inbox-reference")).to_be_focused()
    expect(staff.locator("#inbox-text")).to_have_value("Un momento")
    # Each tells of the conversation that is open too, after the lists: when the second is announced, the first has.
    for _ in range(2):
        other = windows.open()
        other.goto(server.url)
        other.locator("#person").click()
        expect(staff.locator("#inbox-announcer")).to_contain_text(other.locator(".message.system strong").inner_text())

    assert said.evaluate("item => item.isTheSame")


def with_a_person(windows: Windows, server: Server) -> tuple[Page, Page]:
    """The windows of a customer and of the person who has taken the conversation and has half written an answer."""
    server.run(ALWAYS)
    customer, staff = windows.open(), windows.open(1200, 900)
    log_in(staff, server)
    customer.goto(server.url)
    customer.locator("#person").click()
    waiting(staff, customer).click()
    staff.locator("#inbox-take").click()
    staff.locator("#inbox-text").fill("Un momento")
    return customer, staff


def forget(server: Server, reference: str) -> None:
    server.run(
        "from chat import retention; from chat.models import Conversation; "
        f"retention.forget(Conversation.objects.filter(handovers__reference={reference!r}))"
    )


def test_a_deleted_conversation_leaves_nothing_in_the_inbox(windows: Windows, server: Server) -> None:
    _customer, staff = with_a_person(windows, server)
    reference = staff.locator("#inbox-reference").inner_text()

    forget(server, reference)

    expect(staff.locator("#inbox-problem")).to_have_text("This conversation has been deleted.")
    expect(staff.locator("#inbox-opened")).to_be_hidden()
    expect(staff.locator("#inbox-messages li")).to_have_count(0)
    expect(staff.locator("#inbox-text")).to_have_value("")
    expect(staff.locator("#inbox-reference")).to_have_text("Choose a conversation.")
    expect(staff.locator("#inbox-reference")).to_be_focused()
    expect(staff.get_by_role("button", name=reference)).to_have_count(0)
    assert windows.violations(staff) == []


def test_on_a_phone_a_conversation_stands_in_the_place_of_the_lists(windows: Windows, server: Server) -> None:
    server.run(ALWAYS)
    customer, staff = windows.open(), windows.open(**PHONE)
    customer.goto(server.url)
    customer.locator("#person").click()
    reference = customer.locator(".message.system strong").inner_text()
    log_in(staff, server)
    lists, thread = staff.locator(".inbox-lists"), staff.locator(".inbox-thread")
    expect(thread).to_be_hidden()
    row = staff.get_by_role("button", name=reference)
    row.focus()
    staff.keyboard.press("Enter")
    expect(staff.locator("#inbox-reference")).to_be_focused()
    expect(staff.locator("#inbox-reference")).to_be_in_viewport()
    expect(lists).to_be_hidden()
    assert windows.violations(staff) == [], "opened"
    assert staff.evaluate("() => document.documentElement.scrollWidth") <= PHONE["viewport"]["width"]
    staff.locator("#inbox-take").tap()
    staff.locator("#inbox-text").fill("Un momento")

    back = staff.get_by_role("button", name="Back to the list")
    box = back.bounding_box()
    assert box is not None
    assert box["height"] >= 44
    back.focus()
    staff.keyboard.press("Enter")
    expect(row).to_be_focused()
    expect(row).to_be_in_viewport()
    expect(thread).to_be_hidden()
    assert windows.violations(staff) == [], "back"
    say(customer, "¿sigue ahí?")
    expect(staff.locator("#inbox-announcer")).to_contain_text("¿sigue ahí?")
    expect(lists).to_be_visible()
    row.tap()
    expect(staff.locator("#inbox-text")).to_have_value("Un momento")
    expect(staff.locator(".inbox-said").last).to_contain_text("¿sigue ahí?")
    expect(staff.locator(".inbox-said").last).to_be_in_viewport()
    expect(staff.locator("#inbox-text")).to_be_editable()

    back.tap()
    forget(server, reference)
    expect(row).to_have_count(0)
    expect(lists).to_be_visible()
    expect(thread).to_be_hidden()


def test_who_steps_in_reads_that_conversation_and_finds_its_page_again(windows: Windows, server: Server) -> None:
    server.run(ALWAYS)
    customer, staff = windows.open(), windows.open(1200, 900)
    customer.goto(server.url)
    say(customer, "formas de pago")
    last_answer(customer)
    log_in(staff, server)
    staff.goto(server.url + "/admin/chat/conversation/")
    staff.locator("#result_list tbody a").first.click()
    page = staff.url
    staff.get_by_role("button", name="Answer this customer myself").click()

    reference = staff.locator("[data-list=mine] [aria-current=true] strong").inner_text()
    expect(staff.locator("#inbox-reference")).to_have_text(reference)
    expect(staff.locator("#inbox-reference")).to_be_focused()
    expect(staff.locator("#inbox-messages")).to_contain_text("formas de pago")
    staff.locator("#inbox-close").click()
    staff.locator("[data-list=closed] button", has_text=reference).click()
    staff.reload()
    staff.get_by_role("link", name="The conversation's page").click()
    expect(staff).to_have_url(page)


def test_on_a_wide_screen_lists_and_conversation_are_side_by_side(windows: Windows, server: Server) -> None:
    _customer, staff = with_a_person(windows, server)
    expect(staff.locator(".inbox-lists")).to_be_in_viewport()
    expect(staff.locator(".inbox-thread")).to_be_in_viewport()
    expect(staff.locator("#inbox-back")).to_be_hidden()


def test_what_is_half_written_outlives_the_hand_over(windows: Windows, server: Server) -> None:
    customer, staff = with_a_person(windows, server)

    customer.once("dialog", lambda dialog: dialog.accept())
    customer.get_by_role("button", name="Back to the assistant").click()

    expect(staff.locator("#inbox-hint")).to_contain_text("What you wrote here was not sent")
    expect(staff.locator("#inbox-reference")).to_be_focused()
    box = staff.locator("#inbox-text")
    box.press("Control+Enter")
    expect(box).to_have_value("Un momento")
    expect(staff.get_by_role("button", name="Send")).to_be_hidden()
    assert windows.violations(staff) == []
    expect(customer.locator(".message.agent")).to_have_count(0)


def test_the_reader_stays_at_the_end_whatever_the_bar_takes_of_the_room(windows: Windows, server: Server) -> None:
    server.run(NEVER)
    customer = windows.open(**PHONE)
    customer.goto(server.url)
    customer.locator("#person").tap()
    email = customer.locator("#email")
    expect(email).to_be_visible()
    expect(customer.locator(".message").last).to_be_in_viewport(ratio=0.5)
    expect(customer.locator(".message .meta").last).to_be_in_viewport()

    email.fill("ana@example.com")
    customer.keyboard.press("Enter")
    expect(customer.locator(".message")).to_have_count(2)
    expect(email).to_be_hidden()
    expect(customer.locator(".message .meta").last).to_be_in_viewport()
    expect(customer.locator("#newer")).to_be_hidden()

    customer.reload()
    expect(customer.locator(".message .meta").last).to_be_in_viewport()
    expect(customer.locator("#newer")).to_be_hidden()

    customer.locator("#log").evaluate("log => log.scrollTo(0, 0)")
    expect(customer.locator(".welcome > p").first).to_be_in_viewport()
    server.run(
        "from chat import handovers; from chat.models import Handover; from django.contrib.auth.models import User; "
        "from asgiref.sync import async_to_sync; from chat import people; "
        "change = handovers.take(Handover.objects.latest('pk').pk, User.objects.get()); "
        "async_to_sync(people.tell)(change)"
    )
    expect(customer.locator("#newer")).to_be_visible()
    expect(customer.locator(".welcome > p").first).to_be_in_viewport()


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 900)])
def test_off_hours_an_address_can_be_left(windows: Windows, server: Server, scheme: Any, width: int) -> None:
    server.run(NEVER)
    customer = windows.open(width, color_scheme=scheme)
    customer.goto(server.url)
    customer.locator("#person").click()
    email = customer.locator("#email")
    expect(email).to_be_visible()
    email.fill("nobody")
    customer.keyboard.press("Enter")
    expect(customer.locator("#email-problem")).to_have_text("That is not an e-mail address.")
    expect(email).to_be_focused()
    assert windows.violations(customer) == []
    assert customer.evaluate("() => document.documentElement.scrollWidth") <= width
    email.fill("ana@example.com")
    customer.keyboard.press("Enter")
    expect(email).to_be_hidden()
    expect(customer.locator(".people .note")).to_contain_text("ana@example.com")
    expect(customer.get_by_label("Your question")).to_be_focused()

    change = customer.locator("#change-email")
    change.focus()
    customer.keyboard.press("Enter")
    expect(email).to_be_focused()
    expect(email).to_have_value("ana@example.com")
    assert windows.violations(customer) == [], "correcting"
    email.fill("ana@")
    customer.keyboard.press("Enter")
    expect(customer.locator("#email-problem")).to_have_text("That is not an e-mail address.")
    expect(email).to_be_focused()
    email.fill("ana@example.org")
    customer.keyboard.press("Enter")
    expect(email).to_be_hidden()
    expect(change).to_be_focused()
    expect(customer.locator(".people .note")).to_contain_text("ana@example.org")

    staff = windows.open(width, color_scheme=scheme)
    log_in(staff, server)
    waiting(staff, customer).click()
    expect(staff.locator("#inbox-facts")).to_contain_text("ana@example.org")
    assert windows.violations(staff) == []
    assert staff.evaluate("() => document.documentElement.scrollWidth") <= width

    customer.once("dialog", lambda dialog: dialog.dismiss())
    customer.get_by_role("button", name="Back to the assistant").click()
    expect(customer.locator(".people")).to_be_visible()
    customer.once("dialog", lambda dialog: dialog.accept())
    customer.get_by_role("button", name="Back to the assistant").click()
    expect(customer.locator(".people")).to_be_hidden()
    expect(customer.get_by_label("Your question")).to_be_focused()
    expect(staff.locator("#inbox-facts")).to_contain_text(re.compile("^Back with the assistant"))
