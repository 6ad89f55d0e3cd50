"""The chat on another website, and what is new around its answers, in a real Chromium."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, expect

from chat.tests.host import HOSTILE, Host
from chat.tests.test_browser import ask, last_answer
from chatbot_site.tests.browsers import PHONE, running_chromium
from chatbot_site.tests.server import ROOT, Server, running_server

pytestmark = pytest.mark.browser

MAX_BYTES = 40 * 1024
WIDGET_FILES = ["widget", "embed", "connection", "memory", "view", "drawing", "people", "ending"]
LONG = " ".join(f"palabra{n}" for n in range(300))
MARKED = (
    "Con **tarjeta**.\n\n| Plazo | Precio |\n|---|---|\n| 24 h | 5 € |\n\nMire [la tienda](https://tienda.example/x)."
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Third-party cookies are blocked, as browsers do more and more.
    with running_chromium("--test-third-party-cookie-phaseout") as browser:
        yield browser


@pytest.fixture(scope="module")
def server(trained_shop: Path) -> Iterator[Server]:
    with running_server(trained_shop, PERSON_CONTACT="Llame al 900 123 456.") as server:
        yield server


def launcher(page: Page) -> Locator:
    return page.locator(".launcher")


@pytest.fixture(params=["page", "widget"])
def chat(request: pytest.FixtureRequest, page: Page, server: Server, host: Host) -> Page:
    """The chat, open, on its own page and on another website."""
    if request.param == "page":
        page.goto(server.url)
    else:
        page.goto(host.origin)
        launcher(page).click()
    expect(page.get_by_label("Su pregunta")).to_be_focused(timeout=20_000)
    return page


def test_all_files_of_the_widget_together_are_small() -> None:
    folder = ROOT / "static" / "chat"
    files: list[Path] = [folder / f"{name}.js" for name in WIDGET_FILES] + [folder / "chat.css"]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) <= MAX_BYTES


def test_it_works_on_a_hostile_page_under_a_strict_policy(page: Page, host: Host, server: Server) -> None:
    host.style = HOSTILE
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(host.origin)
    expect(launcher(page)).to_be_visible(timeout=20_000)
    launcher(page).click()
    expect(page.get_by_role("dialog", name="Zapatos")).to_be_visible()
    box = page.locator(".panel").bounding_box()
    assert box is not None
    assert (round(box["x"] + box["width"]), round(box["width"])) == (900 - 16, 384), "it stands where it should"
    assert page.get_by_label("Su pregunta").evaluate("element => getComputedStyle(element).fontSize") == "16px"
    ask(page, "formas de pago")
    assert last_answer(page) == "Con tarjeta o transferencia."

    page.goto(host.origin + "/other")

    expect(page.get_by_role("dialog", name="Zapatos")).to_be_visible(timeout=20_000)
    expect(page.locator(".message .bubble")).to_have_text(["formas de pago", "Con tarjeta o transferencia."])
    page.locator("button.close").click()
    page.reload()
    expect(launcher(page)).to_be_visible(timeout=20_000)
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.context.cookies() == [], "it needs no cookie"
    assert {url.split("/")[2] for url in asked} <= {host.origin.split("/")[2], server.url.split("/")[2]}
    assert not [url for url in asked if "token" in url]


def test_the_page_speaks_to_it(page: Page, host: Host) -> None:
    page.goto(host.origin)
    # Called at once, before it is there.
    page.evaluate(
        "() => { window.heard = []; for (const name of ['open', 'close', 'message', 'person'])"
        " CustomerChat.on(name, (detail) => window.heard.push([name, detail.text ?? '']));"
        " CustomerChat.identify({name: 'Ana', email: 'ana@example.com'}); CustomerChat.send('formas de pago'); }"
    )
    expect(page.locator(".message.assistant")).to_have_count(1, timeout=30_000)
    assert last_answer(page) == "Con tarjeta o transferencia."
    page.evaluate("() => CustomerChat.setLocale('en')")
    expect(page.get_by_label("Your question")).to_be_visible()
    expect(page.locator(".message .bubble")).to_have_text(["formas de pago", "Con tarjeta o transferencia."])
    page.evaluate("() => CustomerChat.open()")
    page.evaluate("() => CustomerChat.close()")
    expect(page.get_by_role("dialog")).to_be_hidden()
    heard = page.evaluate("() => window.heard")
    assert [name for name, _ in heard if name != "message"] == ["open", "close"]
    assert ["message", "Con tarjeta o transferencia."] in heard


def test_another_language_leaves_the_reader_where_she_is(page: Page, host: Host, server: Server) -> None:
    server.set_answer("pay", LONG)
    page.goto(host.origin)
    launcher(page).click()
    ask(page, "formas de pago")
    last_answer(page)
    end = page.locator(".message .rating")
    expect(end).to_be_in_viewport()

    page.evaluate("() => CustomerChat.setLocale('en')")

    expect(page.get_by_label("Your question")).to_be_focused()
    # The server has told everything again.
    page.evaluate("() => CustomerChat.send('horario de cierre')")
    expect(page.locator(".message.assistant")).to_have_count(2, timeout=30_000)
    last_answer(page)
    expect(page.locator(".message .rating").last).to_be_in_viewport()
    page.locator("#log").evaluate("log => log.scrollTo(0, log.scrollHeight / 2)")
    expect(page.locator(".message .rating").last).not_to_be_in_viewport()

    page.evaluate("() => CustomerChat.setLocale('es')")

    expect(page.get_by_label("Su pregunta")).to_be_focused()
    page.get_by_label("Su pregunta").press("F6")
    expect(page.locator(".message .rating").last).not_to_be_in_viewport()
    expect(page.locator("#newer")).to_be_hidden()


def test_the_dialog_is_used_with_the_keyboard(page: Page, host: Host) -> None:
    page.goto(host.origin)
    # What is hidden until its style is there takes no focus.
    expect(launcher(page)).to_be_visible(timeout=20_000)
    expect(launcher(page)).to_have_attribute("aria-expanded", "false")
    launcher(page).focus()
    page.keyboard.press("Enter")
    expect(launcher(page)).to_have_attribute("aria-expanded", "true")
    expect(launcher(page)).to_have_accessible_name("Cerrar el chat")
    expect(page.get_by_label("Su pregunta")).to_be_focused()
    page.keyboard.press("F6")
    expect(page.locator("#log")).to_be_focused()
    page.keyboard.press("F6")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(launcher(page)).to_be_focused()
    expect(launcher(page)).to_have_accessible_name("Abrir el chat")


def test_escape_stops_what_is_written_before_it_closes(page: Page, host: Host, server: Server) -> None:
    server.set_answer("pay", LONG)
    page.goto(host.origin)
    launcher(page).click()
    ask(page, "formas de pago")
    expect(page.locator(".message.writing")).to_have_count(1, timeout=30_000)
    page.keyboard.press("Escape")
    expect(page.locator(".message.assistant .meta")).to_contain_text("Detenido")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_escape_closes_the_options_before_it_closes_the_chat(page: Page, host: Host, server: Server) -> None:
    server.set_answer("pay", LONG)
    page.goto(host.origin)
    launcher(page).click()
    ask(page, "formas de pago")
    expect(page.locator(".message.writing")).to_have_count(1, timeout=30_000)
    page.locator("#options").press("Enter")
    page.locator("#whole").focus()
    page.keyboard.press("Escape")
    expect(page.locator(".message.assistant .meta")).to_contain_text("Detenido")
    expect(page.locator("#whole")).to_be_visible()
    page.locator("#whole").focus()
    page.keyboard.press("Escape")
    expect(page.locator("#whole")).to_be_hidden()
    expect(page.locator("#options")).to_be_focused()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_who_writes_too_fast_is_told_to_wait_only_so_long(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.locator("#person").click()
    expect(page.locator(".people")).to_be_visible()
    page.evaluate("() => { for (let n = 0; n < 12; n++) document.querySelector('customer-chat').ask(`hola ${n}`); }")
    expect(page.locator("#problem")).to_contain_text("Espere")
    expect(page.locator("#problem")).to_be_empty(timeout=10_000)

    page.get_by_label("Su pregunta").fill("a" * 1001)
    page.keyboard.press("Enter")
    page.evaluate("() => document.querySelector('customer-chat').connection.ask('hola')")
    expect(page.locator(".message.user .bubble").last).to_have_text("hola")
    expect(page.locator("#problem")).not_to_be_empty()


def test_what_was_stopped_is_asked_again_once(page: Page, server: Server) -> None:
    server.set_answer("pay", LONG)
    page.goto(server.url)
    ask(page, "formas de pago")
    expect(page.locator(".message.writing")).to_have_count(1, timeout=30_000)
    page.keyboard.press("Escape")
    again = page.get_by_role("button", name="Intentar de nuevo")
    expect(again).to_be_visible()
    server.set_answer("pay", "Con tarjeta o transferencia.")
    second = page.context.new_page()
    second.goto(server.url)
    late = second.locator(".again").element_handle()
    assert late is not None

    again.dblclick()

    expect(page.locator(".message.assistant")).to_have_count(2, timeout=30_000)
    assert last_answer(page) == "Con tarjeta o transferencia."
    expect(again).to_have_count(0)
    late.evaluate("button => button.click()")
    expect(second.locator("[data-client]")).to_have_count(0)
    ask(second, "horario de cierre")
    last_answer(second)
    said = ["formas de pago", "formas de pago", "horario de cierre"]
    for each in (page, second):
        expect(each.locator(".message.user .bubble")).to_have_text(said)
    page.reload()
    expect(page.locator(".message.user .bubble")).to_have_text(said)
    expect(again).to_have_count(0)
    second.close()


def test_people_are_not_asked_again(page: Page, server: Server) -> None:
    server.set_answer("pay", LONG)
    page.goto(server.url)
    ask(page, "formas de pago")
    expect(page.locator(".message.writing")).to_have_count(1, timeout=30_000)
    page.locator("#person").click()
    expect(page.locator(".people")).to_be_visible()
    expect(page.locator(".message.assistant .meta")).to_contain_text("Detenido")
    expect(page.locator(".again")).to_be_hidden()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Volver al asistente").click()
    expect(page.locator(".again")).to_be_visible()


def test_the_website_sets_its_colours(page: Page, host: Host) -> None:
    host.style = ":root { --chat-accent: rgb(120, 0, 60); }"
    page.goto(host.origin)
    expect(launcher(page)).to_have_css("background-color", "rgb(120, 0, 60)", timeout=20_000)


@pytest.mark.parametrize("is_other_origin", [False, True], ids=["key", "origin"])
def test_a_website_that_was_not_entered_goes_on_without_it(
    context: BrowserContext, host: Host, is_other_origin: bool
) -> None:
    key = "shop-key" if is_other_origin else "another"
    origin = host.origin.replace("shop.test", "other.test") if is_other_origin else host.origin
    host.key, host.has_policy = key, False
    page = context.new_page()
    errors: list[str] = []
    warnings: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: warnings.append(message.text) if message.type == "warning" else None)
    page.goto(origin)
    page.evaluate("() => { CustomerChat.open(); CustomerChat.send('hola'); return CustomerChat.setLocale('en'); }")
    assert page.locator("customer-chat").count() == 0
    assert errors == []
    [warning] = [text for text in warnings if "customer chat" in text]
    assert f'no active site has the key data-site="{key}"' in warning
    assert f"{origin}, is not among the addresses of that site in the admin" in warning


def test_a_kiosk_has_no_way_out_and_forgets(page: Page, host: Host, server: Server) -> None:
    server.set_answer("pay", MARKED)
    host.attributes = 'data-kiosk="3"'
    page.goto(host.origin)
    expect(page.get_by_label("Su pregunta")).to_be_visible(timeout=20_000)
    box = page.locator(".panel").bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (900, 760)
    ask(page, "formas de pago")
    expect(page.locator(".bubble").get_by_text("la tienda")).to_be_visible(timeout=30_000)
    assert page.locator(".bubble a").count() == 0
    expect(page.locator(".message")).to_have_count(0, timeout=30_000)
    ask(page, "formas de pago")
    page.locator(".end").click()
    page.locator(".ending").get_by_role("button", name="Nueva conversación").click()
    expect(page.locator(".message")).to_have_count(0, timeout=1_000)
    assert page.evaluate("() => Object.keys(localStorage)") == []


def test_a_kiosk_is_left_empty_by_who_ends_while_people_have_the_conversation(
    page: Page, host: Host, server: Server
) -> None:
    host.attributes = 'data-kiosk="600"'
    page.goto(host.origin)
    page.locator("#person").click()
    page.locator("#email").fill("ana@example.com")
    page.keyboard.press("Enter")
    expect(page.locator(".people .note")).to_contain_text("ana@example.com")
    page.locator(".end").click()
    ending = page.locator(".ending")
    expect(ending).to_be_visible()
    server.run(
        "from asgiref.sync import async_to_sync; from django.contrib.auth.models import User; "
        "from chat import handovers, people; from chat.models import Handover; "
        "async_to_sync(people.tell)(handovers.take(Handover.objects.latest('pk').pk, User.objects.get()))"
    )
    expect(page.locator("#subtitle")).to_contain_text("Le atiende una persona")
    expect(ending).to_be_visible()
    ending.get_by_role("button", name="Nueva conversación").click()
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator(".people")).to_be_hidden()
    expect(page.locator(".end")).to_be_hidden()
    expect(page.locator("#email")).to_have_value("")
    assert page.evaluate("() => Object.keys(localStorage)") == []


def test_a_kiosk_forgets_without_a_network_too(page: Page, host: Host, server: Server) -> None:
    server.set_answer("pay", LONG)
    host.attributes = 'data-kiosk="3"'
    page.goto(host.origin)
    ask(page, "formas de pago")
    page.context.set_offline(True)
    expect(page.locator(".message")).to_have_count(0, timeout=20_000)


def test_it_fills_a_phone(browser: Browser, host: Host) -> None:
    context = browser.new_context(**PHONE, locale="es-CO")
    page = context.new_page()
    page.goto(host.origin)
    launcher(page).tap()
    box = page.locator(".panel").bounding_box()
    assert box == {"x": 0, "y": 0, "width": 360, "height": 640}
    page.get_by_role("button", name="¿Cómo puedo pagar?").tap()
    assert last_answer(page) == "Con tarjeta o transferencia."
    for button in page.locator(".panel button:visible").all():
        size = button.bounding_box()
        assert size is not None
        assert min(size["width"], size["height"]) >= 44, button.inner_text()
    context.close()


# In both places


def test_the_question_has_the_focus_when_there_is_nothing_left_to_stop(chat: Page, server: Server) -> None:
    server.set_answer("pay", LONG)
    ask(chat, "formas de pago")
    expect(chat.locator(".message.writing")).to_have_count(1, timeout=30_000)
    chat.locator("#stop").press("Enter")
    expect(chat.locator("#stop")).to_be_hidden()
    expect(chat.get_by_label("Su pregunta")).to_be_focused()

    server.set_answer("pay", " ".join(LONG.split()[:60]))
    ask(chat, "formas de pago")
    expect(chat.locator(".message.writing")).to_have_count(1, timeout=30_000)
    chat.locator("#stop").focus()
    expect(chat.locator("#stop")).to_be_focused()
    last_answer(chat)
    expect(chat.get_by_label("Su pregunta")).to_be_focused()

    chat.keyboard.type("horario de cierre")
    chat.locator("#send").click()
    expect(chat.locator("#send")).to_be_hidden()
    expect(chat.get_by_label("Su pregunta")).to_be_focused()


def test_days_are_told_apart_and_not_announced(chat: Page, server: Server) -> None:
    for question in ("formas de pago", "horario de cierre"):
        ask(chat, question)
        last_answer(chat)
    expect(chat.locator(".day")).to_have_count(0)
    server.run(
        "from datetime import datetime, UTC; from chat.models import Message; "
        "first, *others = Message.objects.order_by('-pk')[:4][::-1]; "
        "Message.objects.filter(pk=first.pk).update(created_at=datetime(2025, 11, 26, 12, tzinfo=UTC)); "
        "Message.objects.filter(pk=others[0].pk).update(created_at=datetime(2025, 11, 27, 12, tzinfo=UTC))"
    )

    chat.reload()

    lines = chat.locator(".messages").get_by_role("listitem")
    expect(lines.nth(0)).to_have_text("miércoles, 26 de noviembre de 2025", timeout=20_000)
    expect(lines.nth(1)).to_contain_text("formas de pago")
    expect(lines.nth(2)).to_have_text("jueves, 27 de noviembre de 2025")
    today = chat.evaluate("() => new Date().toLocaleDateString('es', {weekday: 'long', day: 'numeric', month: 'long'})")
    expect(chat.locator(".day").nth(2)).to_have_text(today)
    expect(lines.nth(5)).to_contain_text("horario de cierre")
    expect(chat.locator("#announcer")).to_be_empty()


CLIPBOARD = (
    "() => { window.copied = []; const writeText = async (text) => { if (window.isForbidden) throw new Error();"
    " window.copied.push(text); }; Object.defineProperty(navigator, 'clipboard', { value: { writeText } }); }"
)


def test_an_answer_is_copied_as_it_reads(chat: Page, server: Server) -> None:
    server.set_answer("pay", MARKED)
    # On a website without TLS there is no clipboard.
    chat.add_init_script(f"({CLIPBOARD})()")
    chat.reload()
    ask(chat, "formas de pago")
    expect(chat.locator(".message.writing .copy")).to_have_count(0)
    last_answer(chat)
    copy = chat.locator(".message.assistant .copy")
    box = copy.bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) >= 44

    chat.evaluate("() => (window.isForbidden = true)")
    copy.press("Enter")
    expect(chat.locator(".copied")).to_be_hidden()
    chat.evaluate("() => (window.isForbidden = false)")
    copy.press("Enter")

    expect(chat.locator(".copied")).to_be_visible()
    spoken = chat.locator(".copied").text_content()
    assert spoken
    expect(chat.locator("#announcer")).to_have_text(spoken)
    [text] = chat.evaluate("() => window.copied")
    assert re.sub(r"\s+", " ", text) == "Con tarjeta. Plazo Precio 24 h 5 € Mire la tienda."
    expect(copy).to_be_focused()
    expect(chat.locator(".copied")).to_be_hidden()


def test_where_there_is_no_clipboard_nothing_is_offered(page: Page, host: Host) -> None:
    page.goto(host.origin)
    launcher(page).click()
    ask(page, "formas de pago")
    last_answer(page)
    expect(page.locator(".actions .rating")).to_be_visible()
    expect(page.locator(".copy")).to_have_count(0)


def test_whole_answers_are_shown_at_once_to_who_wants_them(chat: Page, server: Server) -> None:
    server.set_answer("pay", LONG)
    box = chat.locator("#whole")
    expect(box).to_be_hidden()
    chat.locator("#options").press("Enter")
    expect(box).not_to_be_checked()
    row = chat.locator(".below label").bounding_box()
    assert row is not None
    assert row["height"] >= 44
    ask(chat, "formas de pago")
    expect(chat.locator(".message.writing")).to_have_count(1, timeout=30_000)

    box.press("Space")

    bubble = chat.locator(".message.assistant .bubble").last
    expect(chat.locator(".message.waiting")).to_have_count(1)
    expect(bubble).to_be_empty()
    expect(chat.locator(".message.assistant .meta")).to_have_text("El asistente está escribiendo")
    expect(chat.locator("#announcer")).to_have_text("El asistente está escribiendo")
    assert last_answer(chat) == LONG
    expect(chat.locator("#announcer")).to_have_text(LONG)

    chat.reload()
    expect(chat.locator(".message")).to_have_count(2, timeout=20_000)
    chat.evaluate(
        "() => { window.lengths = new Set(); const log = document.querySelector('customer-chat').shadowRoot"
        ".querySelector('.messages'); new MutationObserver(() => { const bubbles = log.querySelectorAll("
        "'.message.assistant .bubble'); if (bubbles.length > 1) window.lengths.add(bubbles[1].textContent.length); })"
        ".observe(log, {childList: true, subtree: true}); }"
    )
    ask(chat, "¿cómo puedo pagar?")
    expect(chat.locator(".message.waiting")).to_have_count(0, timeout=60_000)
    assert last_answer(chat) == LONG
    assert chat.evaluate("() => [...window.lengths]") == [0, len(LONG)]
    expect(chat.locator("#whole")).to_be_checked()
    expect(chat.locator(".below details")).not_to_have_attribute("open", "")


def test_a_new_conversation_begins_on_every_page_and_the_old_one_is_kept(chat: Page, server: Server) -> None:
    anew = chat.locator(".anew")
    chat.locator("#options").press("Enter")
    expect(chat.locator("#whole")).to_be_visible()
    expect(anew).to_be_hidden()
    ask(chat, "formas de pago")
    last_answer(chat)
    second = chat.context.new_page()
    second.goto(chat.url)
    expect(second.locator(".message")).to_have_count(2, timeout=20_000)
    server.run("from chat.models import Conversation; known = list(Conversation.objects.all())")
    chat.once("dialog", lambda dialog: dialog.dismiss())
    anew.click()
    expect(chat.locator(".message")).to_have_count(2)

    chat.once("dialog", lambda dialog: dialog.accept())
    anew.press("Enter")

    for each in (chat, second):
        expect(each.locator(".message")).to_have_count(0)
        expect(each.locator(".forget")).to_be_hidden()
    expect(chat.get_by_label("Su pregunta")).to_be_focused()
    expect(chat.locator("#announcer")).not_to_be_empty()
    expect(second.locator("#announcer")).to_be_empty()
    chat.keyboard.type("horario de cierre")
    chat.keyboard.press("Enter")
    expect(chat.locator(".message.assistant")).to_have_count(1, timeout=30_000)
    assert last_answer(chat) == "Cerramos a las ocho."
    expect(second.locator(".message.user")).to_have_text(re.compile("horario de cierre"))
    chat.reload()
    said = ["horario de cierre", "Cerramos a las ocho."]
    expect(chat.locator(".message .bubble")).to_have_text(said, timeout=20_000)
    server.run(
        "assert Conversation.objects.count() == len(known) + 1; assert all(each.messages.exists() for each in known)"
    )
    second.close()


def test_one_tap_says_how_it_was_when_a_conversation_ends(chat: Page, server: Server) -> None:
    ending, helpful, unhelpful = (
        chat.locator(".ending"),
        chat.locator(".ending").get_by_role("button", name="Útil", exact=True),
        chat.locator(".ending").get_by_role("button", name="No es útil"),
    )
    chat.locator("#options").press("Enter")
    expect(chat.locator(".end")).to_be_hidden()
    ask(chat, "formas de pago")
    last_answer(chat)
    expect(ending).to_be_hidden()
    chat.locator(".end").press("Enter")
    expect(helpful).to_be_focused()
    helpful.press("Enter")
    expect(helpful).to_have_attribute("aria-pressed", "true")
    expect(chat.locator("#announcer")).to_have_text("Gracias.")
    unhelpful.click()
    expect(unhelpful).to_have_attribute("aria-pressed", "true")
    expect(helpful).to_have_attribute("aria-pressed", "false")
    server.run("from chat.models import Conversation; assert Conversation.objects.filter(rating='down').count() == 1")

    ask(chat, "horario de cierre")
    last_answer(chat)
    expect(ending).to_be_hidden()
    chat.reload()
    expect(chat.locator(".message")).to_have_count(4, timeout=20_000)
    chat.locator("#options").click()
    chat.locator(".end").click()
    expect(unhelpful).to_have_attribute("aria-pressed", "true")
    unhelpful.click()
    expect(unhelpful).to_have_attribute("aria-pressed", "false")
    chat.once("dialog", lambda dialog: dialog.accept())
    ending.get_by_role("button", name="Nueva conversación").click()
    expect(chat.locator(".message")).to_have_count(0)
    expect(ending).to_be_hidden()
    server.run("assert not Conversation.objects.exclude(rating='').exists()")


def test_who_has_passed_on_a_conversation_begins_no_new_one_meanwhile(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.locator("#options").click()
    ask(page, "formas de pago")
    last_answer(page)
    expect(page.locator(".anew")).to_be_visible()
    page.locator("#person").click()
    expect(page.locator(".people")).to_be_visible()
    expect(page.locator(".anew")).to_be_hidden()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Volver al asistente").click()
    expect(page.locator(".anew")).to_be_visible()


# On the chat's own page


def test_it_goes_on_without_websockets(page: Page, server: Server) -> None:
    page.route_web_socket(re.compile("/ws/chat/"), lambda socket: socket.close())
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))
    page.goto(server.url)
    ask(page, "formas de pago")
    assert last_answer(page) == "Con tarjeta o transferencia."
    expect(page.locator("#banner")).to_be_hidden()
    posted = [request for request in requests if request.method == "POST"]
    assert [request.url.split("?")[0] for request in posted] == [server.url + "/chat/frames/"]
    page.reload()
    expect(page.locator(".message .bubble")).to_have_text(
        ["formas de pago", "Con tarjeta o transferencia."], timeout=30_000
    )


def test_marks_become_elements_and_links_are_safe(page: Page, server: Server) -> None:
    server.set_answer("pay", MARKED)
    page.goto(server.url)
    ask(page, "formas de pago")
    last_answer(page)
    bubble = page.locator(".message.assistant .bubble")
    expect(bubble.locator("strong")).to_have_text("tarjeta")
    expect(bubble.locator("td")).to_have_text(["24 h", "5 €"])
    link = bubble.get_by_role("link", name="la tienda")
    expect(link).to_have_attribute("rel", re.compile("noopener"))
    expect(page.locator(".source")).to_contain_text("¿Cómo puedo pagar?")


def test_an_answer_is_rated_and_the_rating_survives(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask(page, "formas de pago")
    last_answer(page)
    down = page.locator(".rating .down")
    down.click()
    expect(down).to_have_attribute("aria-pressed", "true")
    page.locator(".reasons [value=outdated]").check()
    page.locator(".reasons textarea").fill("<b>Ya no</b>")
    page.locator(".reasons [type=submit]").click()
    expect(page.locator(".reasons form")).to_be_hidden()
    expect(page.locator(".reasons").get_by_text("Gracias.")).to_be_visible()
    expect(page.locator("#announcer")).to_have_text("Gracias.")
    expect(page.locator(".said button")).to_be_focused()
    page.reload()
    expect(page.locator(".reasons").get_by_text("Gracias.")).to_be_visible()
    expect(page.locator(".reasons form")).to_be_hidden()
    page.locator(".said button").click()
    expect(page.locator(".said")).to_be_hidden()
    expect(page.locator(".reasons input").first).to_be_focused()
    expect(page.locator(".reasons [value=outdated]")).to_be_checked()
    expect(page.locator(".reasons textarea")).to_have_value("<b>Ya no</b>")
    page.locator(".rating .down").click()
    expect(page.locator(".reasons")).to_have_count(0)
    page.reload()
    expect(page.locator(".rating .down")).to_have_attribute("aria-pressed", "false")


def test_a_conversation_goes_on_from_what_was_said(page: Page, server: Server) -> None:
    """Alone, "¿y hasta cuándo?" is about nothing in this shop."""
    page.goto(server.url)
    ask(page, "hola")
    assert last_answer(page) == "¡Hola! ¿En qué puedo ayudarle?"
    ask(page, "¿y hasta cuándo?")
    assert last_answer(page) != "Tiene treinta días."

    ask(page, "quiero devolver algo")
    assert last_answer(page) == "Tiene treinta días."
    ask(page, "muchas gracias")
    assert last_answer(page).startswith("De nada.")
    ask(page, "¿y hasta cuándo?")

    assert last_answer(page) == "Tiene treinta días."
    expect(page.locator(".message.assistant").last.locator(".source")).to_be_visible()


def test_a_person_is_one_click_away(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.locator("#person").click()
    notice = page.locator(".message.system .bubble")
    expect(notice).to_contain_text("900 123 456")
    expect(notice.get_by_role("link")).to_have_attribute("href", "tel:900123456")


def test_an_answer_is_announced_once_and_no_history_is(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.evaluate(
        "() => { window.said = []; const region = document.querySelector('customer-chat').shadowRoot"
        ".getElementById('announcer'); new MutationObserver(() => window.said.push(region.textContent))"
        ".observe(region, {childList: true, characterData: true, subtree: true}); }"
    )
    ask(page, "horario de cierre")
    answer = last_answer(page)
    expect(page.locator("#announcer")).to_have_text(answer)
    page.evaluate("() => window.dispatchEvent(new Event('pageshow'))")
    page.wait_for_timeout(300)
    assert page.evaluate("() => window.said") == ["El asistente está escribiendo", answer]
    page.reload()
    expect(page.locator(".message")).to_have_count(2)
    assert page.locator("#announcer").inner_text() == ""


def test_two_tabs_and_the_way_back(page: Page, server: Server) -> None:
    second = page.context.new_page()
    second.goto(server.url)
    page.goto(server.url)
    ask(page, "horario de cierre")
    answer = last_answer(page)
    expect(second.locator(".message .bubble")).to_have_text(["horario de cierre", answer], timeout=20_000)
    page.goto("about:blank")
    ask(second, "formas de pago")
    other = last_answer(second)
    page.go_back()
    expect(page.locator(".message .bubble")).to_have_text(
        ["horario de cierre", answer, "formas de pago", other], timeout=30_000
    )


def test_the_page_works_without_javascript(browser: Browser, server: Server) -> None:
    context = browser.new_context(locale="es-ES", java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url)
    page.get_by_label("Su pregunta").fill("formas de pago")
    page.get_by_role("button", name="Enviar").click()
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator(".message").last).to_contain_text("Con tarjeta o transferencia.")
    page.reload()
    expect(page.locator(".message")).to_have_count(2)
    context.close()
