"""The page and the admin in a real Chromium, against a real server process with Redis, a worker and real training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from chatbot_site.tests.browsers import PHONE
from chatbot_site.tests.server import Server, running_server

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(empty_shop: Path) -> Iterator[Server]:
    # Half of what the quick preset has: enough for three entries. training/tests/test_pipeline.py tries all of it.
    with running_server(empty_shop, has_worker=True, TRAINING_PARAMETERS='{"min_steps": 20}') as server:
        yield server


def ask(page: Page, text: str) -> None:
    """Ask, and wait until the reply has begun."""
    num_answers = page.locator(".message.assistant").count()
    page.get_by_label("Su pregunta").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant")).to_have_count(num_answers + 1, timeout=30_000)


def last_answer(page: Page) -> str:
    bubble = page.locator(".message.assistant:not(.writing):not(.waiting) .bubble").last
    expect(bubble).not_to_be_empty(timeout=60_000)
    expect(page.locator(".message.writing, .message.waiting")).to_have_count(0, timeout=60_000)
    return bubble.inner_text()


def log_in(page: Page, server: Server) -> None:
    page.goto(server.url + "/admin/")
    page.locator("#id_username").fill("olga")
    page.locator("#id_password").fill(server.password)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Entrenar").first).to_be_visible()


def test_the_whole_way_from_an_empty_shop_to_a_new_answer_and_back(page: Page, server: Server) -> None:
    """A customer waits for the first version; staff train, edit, train again, activate and go back."""
    page.goto(server.url)
    expect(page.locator("#learning")).to_be_visible()
    ask(page, "hola")
    assert "todavía está aprendiendo" in last_answer(page)
    early = page.locator(".message.assistant .meta")
    expect(early.get_by_role("button", name="Intentar de nuevo")).to_be_visible()
    expect(early).not_to_contain_text("Interrumpido")
    server.run("from chat.models import Message; Message.objects.filter(role='assistant').update(text='')")
    page.reload()
    # Where nothing was said at all.
    expect(early).to_contain_text("Interrumpido")

    staff = page.context.new_page()
    log_in(staff, server)
    staff.get_by_role("link", name="Preparar un entrenamiento").click()
    staff.get_by_label(re.compile("Rápido")).check()
    staff.get_by_role("button", name="Entrenar ahora").click()
    expect(staff.locator("progress")).to_be_visible()
    staff.reload()
    expect(page.locator("#learning-text")).to_contain_text("%", timeout=60_000)
    expect(staff.get_by_role("link", name="Poner en uso")).to_be_visible(timeout=240_000)
    staff.get_by_role("link", name="Poner en uso").click()
    staff.get_by_role("button", name=re.compile("en uso")).click()
    expect(staff.get_by_text(re.compile(r"v1.* en uso")).first).to_be_visible()

    expect(page.locator("#learning")).to_be_hidden(timeout=30_000)
    ask(page, "a que hora cierran??")
    assert last_answer(page) == "Cerramos a las ocho."

    staff.goto(server.url + "/admin/faq/faqentry/")
    staff.get_by_role("link", name="¿A qué hora cierran?").click()
    staff.locator("#id_answer").fill("Desde hoy cerramos a las nueve.")
    staff.get_by_role("button", name=re.compile("^(Save|Guardar|Grabar)$")).click()
    ask(page, "¿a qué hora cierran hoy?")
    assert last_answer(page) == "Desde hoy cerramos a las nueve.", "an edited answer is said at once"

    staff.goto(server.url + "/admin/")
    expect(staff.get_by_text("1 modificada desde entonces")).to_be_visible()
    staff.get_by_role("link", name="Preparar un entrenamiento").click()
    staff.get_by_label(re.compile("Rápido")).check()
    staff.get_by_role("button", name="Entrenar ahora").click()
    expect(staff.get_by_role("link", name="Poner en uso")).to_be_visible(timeout=240_000)
    staff.get_by_role("link", name="Poner en uso").click()
    staff.get_by_role("button", name=re.compile("en uso")).click()
    expect(staff.get_by_text(re.compile(r"v2.* en uso")).first).to_be_visible()
    ask(page, "hasta qué hora abren")
    assert last_answer(page) == "Desde hoy cerramos a las nueve."

    staff.get_by_role("button", name="Volver a v1").click()
    expect(staff.get_by_text(re.compile(r"v1.* en uso")).first).to_be_visible()
    ask(page, "formas de pago")
    assert last_answer(page) == "Con tarjeta o transferencia."
    staff.goto(server.url + "/admin/chat/conversation/")
    expect(staff.locator("#result_list tbody tr")).to_have_count(1)


def test_an_answer_streams_and_is_there_after_a_reload(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask(page, "horario de cierre")
    expect(page.locator(".message.user .bubble")).to_have_text("horario de cierre")
    answer = last_answer(page)
    expect(page.locator("#announcer")).to_have_text(answer)

    page.reload()

    expect(page.locator(".message .bubble")).to_have_text(["horario de cierre", answer])


def test_stop_works_every_time_by_button_and_by_escape(page: Page, server: Server) -> None:
    server.set_answer("pay", " ".join(f"palabra{n}" for n in range(400)))
    page.goto(server.url)
    for number, key in enumerate(("button", "Escape", "button")):
        ask(page, "formas de pago")
        expect(page.locator(".message.assistant").nth(number)).to_have_class(re.compile("writing"), timeout=30_000)
        if key == "button":
            page.get_by_role("button", name="Detener").click()
        else:
            page.keyboard.press(key)
        expect(page.locator(".message.assistant .meta").nth(number)).to_contain_text("Detenido")
        text = page.locator(".message.assistant .bubble").nth(number).inner_text()
        assert text.startswith("palabra0")
        assert "palabra399" not in text


def test_lines_typed_one_after_the_other_get_one_answer(page: Page, server: Server) -> None:
    """Each takes longer to type than lines have to be one turn."""
    page.goto(server.url)
    field = page.get_by_label("Su pregunta")
    for line in ("Muy buenas tardes a todos", "tengo una pregunta rápida", "formas de pago"):
        field.press_sequentially(line, delay=90)
        field.press("Enter")
        expect(page.locator(".message.user .bubble").last).to_have_text(line)
    assert last_answer(page) == "Con tarjeta o transferencia."
    expect(page.locator(".message.assistant")).to_have_count(1)


def test_a_reload_in_the_middle_loses_nothing(page: Page, server: Server) -> None:
    whole = " ".join(f"palabra{n}" for n in range(300))
    server.set_answer("pay", whole)
    page.goto(server.url)
    ask(page, "formas de pago")
    expect(page.locator(".message.writing")).to_have_count(1, timeout=30_000)
    page.reload()
    assert last_answer(page) == whole
    expect(page.locator(".message")).to_have_count(2)


def test_it_survives_a_lost_connection_and_keeps_the_draft(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask(page, "horario de cierre")
    last_answer(page)
    page.context.set_offline(True)
    page.evaluate("() => window.dispatchEvent(new Event('offline'))")
    server.drop_connections()
    expect(page.locator("#banner")).to_be_visible(timeout=15_000)
    page.get_by_label("Su pregunta").fill("formas de pago")
    page.context.set_offline(False)
    page.evaluate("() => window.dispatchEvent(new Event('online'))")
    expect(page.locator("#banner")).to_be_hidden(timeout=40_000)
    assert page.get_by_label("Su pregunta").input_value() == "formas de pago"
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant")).to_have_count(2, timeout=30_000)
    assert last_answer(page) == "Con tarjeta o transferencia."


def test_a_message_that_is_too_long_stays_where_it_can_be_mended(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.get_by_label("Su pregunta").fill("a" * 1500)
    page.keyboard.press("Enter")

    expect(page.locator("#problem")).to_contain_text("1500")
    assert len(page.get_by_label("Su pregunta").input_value()) == 1500


def test_what_is_said_is_never_run(page: Page, server: Server) -> None:
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    server.set_answer("hours", attack)
    page.goto(server.url)
    ask(page, "horario de cierre " + attack)
    last_answer(page)
    ask(page, "horario de cierre")
    assert last_answer(page) == attack
    page.wait_for_timeout(200)
    assert page.title() != "owned"
    assert page.locator(".message img").count() == 0


def test_it_works_on_a_phone_by_touch(browser: Browser, server: Server) -> None:
    context = browser.new_context(**PHONE, locale="es-CO")
    page = context.new_page()
    page.goto(server.url)
    page.get_by_role("button", name="¿Cómo puedo pagar?").tap()
    expect(page.locator(".message.assistant")).to_have_count(1)
    assert last_answer(page) == "Con tarjeta o transferencia."
    width = page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= 360, "nothing sticks out"
    for name in ("Enviar",):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44
    size = page.get_by_label("Su pregunta").evaluate("element => parseFloat(getComputedStyle(element).fontSize)")
    assert size >= 16, "a smaller one makes phones zoom in"
    context.close()


def test_it_can_be_used_with_the_keyboard_alone(page: Page, server: Server) -> None:
    page.goto(server.url)
    expect(page.get_by_label("Su pregunta")).to_be_focused()
    page.keyboard.type("horario de cierre")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("gracias")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant")).to_have_count(1)
    last_answer(page)
    expect(page.locator(".message.user .bubble")).to_have_text("horario de cierre\ngracias")


def test_it_speaks_english_when_asked(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.get_by_role("button", name="Inglés").click()
    expect(page.get_by_label("Your question")).to_be_visible()
    page.get_by_label("Your question").fill("zzz qqq")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant")).to_have_count(1)
    assert last_answer(page).startswith("I'm sorry")


def test_it_offers_the_questions_that_may_be_meant(page: Page, server: Server) -> None:
    """Last, since the version knows nothing for sure afterwards."""
    server.make_unsure()
    page.goto(server.url)
    ask(page, "quiero devolver algo")
    assert last_answer(page).startswith("No estoy seguro")
    offered = page.get_by_role("list", name="Preguntas que quizá quiere hacer").get_by_role("button")
    expect(offered.filter(has_text="¿Puedo devolver un producto?")).to_be_visible()
    expect(page.locator("#announcer")).to_contain_text("¿Puedo devolver un producto?")

    page.reload()
    offered.filter(has_text="¿Puedo devolver un producto?").focus()
    page.keyboard.press("Enter")

    expect(page.locator(".message.user .bubble").last).to_have_text("¿Puedo devolver un producto?")
    expect(page.get_by_label("Su pregunta")).to_be_focused()
    expect(page.locator(".suggestions").first).to_be_hidden()
    # Or the next line would take back what waits for it.
    expect(page.locator(".message.assistant")).to_have_count(2)
    last_answer(page)
    ask(page, "quiero devolver algo ya")
    last_answer(page)
    page.locator(".message:last-child .suggestions button").first.click()
    expect(page.locator("#log")).to_be_focused()


def test_a_deleted_conversation_is_gone_on_every_page_and_the_next_question_begins_another(
    page: Page, server: Server
) -> None:
    page.goto(server.url)
    expect(page.locator(".forget")).to_be_hidden()
    ask(page, "formas de pago")
    last_answer(page)
    second = page.context.new_page()
    second.goto(server.url)
    expect(second.locator(".message.assistant")).to_have_count(1)
    stored = page.evaluate("localStorage.getItem('chat.conversation')")

    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator(".forget").click()
    expect(page.locator(".message.assistant")).to_have_count(1)
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator(".forget").click()

    for each in (page, second):
        expect(each.locator(".message .bubble")).to_have_count(1)
        expect(each.locator(".message.system .bubble")).not_to_be_empty()
        expect(each.locator(".forget")).to_be_hidden()
    assert page.evaluate("localStorage.getItem('chat.conversation')") is None
    page.locator("#text").fill("horario de cierre")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant")).to_have_count(1, timeout=30_000)
    assert page.evaluate("localStorage.getItem('chat.conversation')") not in (None, stored)
    expect(second.locator(".message.user")).to_have_text(re.compile("horario de cierre"))
    second.close()


def test_a_conversation_that_went_while_the_page_slept_keeps_what_was_just_asked(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask(page, "formas de pago")
    last_answer(page)
    server.run("from chat.models import Conversation; Conversation.objects.all().delete()")

    page.locator("#text").fill("horario de cierre")
    page.keyboard.press("Enter")

    expect(page.locator(".message.system .bubble")).not_to_be_empty(timeout=20_000)
    expect(page.locator(".message.user .bubble")).to_have_text(["horario de cierre"], timeout=20_000)
    expect(page.locator(".message.assistant")).to_have_count(1, timeout=30_000)


@pytest.mark.soak
def test_trainings_wait_in_a_queue_and_tell_what_happens(page: Page, server: Server) -> None:
    log_in(page, server)
    page.goto(server.url + "/admin/training/trainingrun/prepare/")
    page.locator(".room-advanced summary").click()
    page.get_by_label("lora_r").fill("0")
    page.get_by_label("max_steps").fill("2000")
    page.get_by_label("min_steps").fill("2000")
    submit = page.locator(".room-form button[type=submit]")
    submit.click()
    expect(page.get_by_label("lora_r")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("min_steps")).to_have_value("2000")
    page.get_by_label("lora_r").fill("8")
    submit.click()
    lines = page.locator("#log li")
    first = page.url

    waiting = page.context.new_page()
    waiting.goto(server.url + "/admin/training/trainingrun/prepare/")
    waiting.locator(".room-form button[type=submit]").click()
    expect(waiting.locator(".room-queue li[aria-current]")).to_contain_text("olga")

    expect(page.locator(".room-queue li")).to_have_count(1, timeout=30_000)
    page.evaluate("window.sameDocument = true")
    expect(lines.filter(has_text="2000")).not_to_have_count(0, timeout=60_000)
    assert page.evaluate("window.sameDocument"), "lines are added without a reload"
    told = lines.all_inner_texts()
    page.reload()
    assert lines.all_inner_texts()[: len(told)] == told, "complete after a reload"

    page.locator(f'form[action$="/{first.split("/")[-3]}/cancel/"] button').click()
    expect(waiting.locator(".room-curve")).to_be_visible(timeout=60_000)
    expect(waiting.locator(".room-queue")).to_have_count(0)
    waiting.locator('form[action$="/cancel/"] button').click()
    expect(waiting.locator("progress")).to_have_count(0, timeout=60_000)
    waiting.close()
