"""Connections that break, as a browser sees it: nothing is lost, nothing comes twice, and the customer is told."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, Route, WebSocketRoute, expect

from chat.tests.test_browser import ask, last_answer
from chatbot_site.tests.server import Server

pytestmark = pytest.mark.browser

NO_WEBSOCKETS = (
    "window.WebSocket = class { static OPEN = 1; readyState = 3;"
    " constructor() { setTimeout(() => this.onclose?.(), 0); } close() {} send() {} };"
)
# How many messages and conversations hold what was asked.
COUNT = """
from chat.models import Message
asked = Message.objects.filter(role="user", text={text!r})
assert (asked.count(), asked.values("conversation").distinct().count()) == (1, 1), list(asked.values())
"""

# Staff take and close what waits.
CLOSE = """
from django.contrib.auth.models import User
from chat import handovers
from chat.models import Handover
handover, user = Handover.objects.filter(state="waiting").latest("pk"), User.objects.first()
handovers.take(handover.pk, user)
handovers.close(handover.pk, user)
"""


@pytest.mark.parametrize("way", ["websocket", "requests"])
def test_it_says_at_once_that_the_network_is_gone_and_goes_on_with_it(page: Page, server: Server, way: str) -> None:
    if way == "requests":
        page.add_init_script(NO_WEBSOCKETS)
    page.goto(server.url)
    ask(page, "horario de cierre")
    last_answer(page)
    tried: list[str] = []
    page.on("websocket", lambda socket: tried.append(socket.url))
    page.on("request", lambda request: tried.append(request.url))

    page.context.set_offline(True)
    page.wait_for_timeout(1_000)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#banner")).to_contain_text("Sin conexión", timeout=5_000)
    tried.clear()
    page.wait_for_timeout(6_000)
    assert tried == [], "nothing is tried that cannot succeed"
    page.get_by_label("Su pregunta").fill("formas de pago")
    page.keyboard.press("Enter")
    page.get_by_label("Su pregunta").fill("un borrador")
    expect(page.locator(".message.user .bubble")).to_have_text(["horario de cierre", "formas de pago"])

    page.context.set_offline(False)
    expect(page.locator(".message.assistant")).to_have_count(2, timeout=10_000)
    assert last_answer(page) == "Con tarjeta o transferencia."
    expect(page.locator("#banner")).to_be_hidden(timeout=10_000)
    expect(page.locator(".message.user .bubble")).to_have_text(["horario de cierre", "formas de pago"])
    expect(page.get_by_label("Su pregunta")).to_have_value("un borrador")


def test_questions_asked_without_a_network_are_answered_each_by_itself(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask(page, "horario de cierre")
    last_answer(page)
    page.context.set_offline(True)
    for text in ("formas de pago", "¿Puedo devolver un producto?"):
        page.get_by_label("Su pregunta").fill(text)
        page.keyboard.press("Enter")
    expect(page.locator("[data-client] .meta")).to_have_text(["Se enviará en cuanto haya conexión"] * 2, timeout=10_000)
    page.context.set_offline(False)
    expect(page.locator(".message.assistant")).to_have_count(3, timeout=20_000)
    last_answer(page)
    expect(page.locator(".message.assistant .source")).to_have_count(3)


def test_a_network_that_is_back_in_a_moment_is_not_spoken_of(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask(page, "horario de cierre")
    last_answer(page)
    page.locator("#banner").evaluate(
        "(banner) => new MutationObserver(() => (window.isSpokenOf = true)).observe(banner, { attributes: true })"
    )
    page.context.set_offline(True)
    page.wait_for_timeout(500)
    page.context.set_offline(False)
    page.wait_for_timeout(3_000)
    assert page.evaluate("() => window.isSpokenOf") is None
    ask(page, "formas de pago")
    assert last_answer(page) == "Con tarjeta o transferencia."


@pytest.mark.parametrize("is_reloaded", [False, True], ids=["connected again", "loaded again"])
def test_a_first_message_whose_answer_is_lost_comes_once(page: Page, server: Server, is_reloaded: bool) -> None:
    text = f"formas de pago, {is_reloaded}"
    sockets: list[WebSocketRoute] = []
    stored: list[str] = []

    def pass_on_until_it_is_stored(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        upstream = socket.connect_to_server()
        if len(sockets) > 1:
            return

        def hear(frame: str | bytes) -> None:
            kind = json.loads(frame)["type"]
            if kind == "message":
                stored.append(kind)
                upstream.close()
                socket.close()
            elif kind != "conversation" and not stored:
                socket.send(frame)

        upstream.on_message(hear)

    page.route_web_socket(re.compile("/ws/chat/"), pass_on_until_it_is_stored)
    page.goto(server.url)
    page.get_by_label("Su pregunta").fill(text)
    page.keyboard.press("Enter")
    if is_reloaded:
        expect(page.locator(".message.user .bubble")).to_have_text(text)
        while not stored:
            page.wait_for_timeout(10)
        page.reload()

    expect(page.locator(".message.assistant")).to_have_count(1, timeout=30_000)
    last_answer(page)
    expect(page.locator(".message.user .bubble")).to_have_text([text])
    assert len(sockets) > 1
    server.run(COUNT.format(text=text))
    assert page.evaluate("() => sessionStorage.getItem('chat.token')") is None, "only as long as it is needed"
    page.reload()
    expect(page.locator(".message.user .bubble")).to_have_text([text])


def test_a_wish_that_is_lost_on_its_way_is_sent_again(page: Page, server: Server) -> None:
    """The browser takes a frame and the network loses it: nobody tells the page."""
    sockets: list[WebSocketRoute] = []

    def lose_what_is_surely_sent(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        upstream = socket.connect_to_server()
        num = len(sockets)

        def pass_on(frame: str | bytes) -> None:
            if num > 1 or json.loads(frame)["type"] not in ("person", "feedback", "rate"):
                upstream.send(frame)

        socket.on_message(pass_on)

    page.route_web_socket(re.compile("/ws/chat/"), lose_what_is_surely_sent)
    page.goto(server.url)
    ask(page, "formas de pago")
    last_answer(page)
    page.locator(".rating .up").click()
    page.locator("#options").click()
    page.locator(".end").click()
    page.locator(".ending .starter").first.click()
    page.locator("#person").click()
    page.wait_for_timeout(500)
    expect(page.locator(".people")).to_be_hidden()
    sockets[0].close()
    expect(page.locator(".people")).to_be_visible(timeout=20_000)
    expect(page.locator(".message.system")).to_have_count(1)
    expect(page.locator(".rating .up")).to_have_attribute("aria-pressed", "true")
    server.run("from chat.models import Feedback; assert Feedback.objects.filter(rating='up').count() == 1")
    server.run("from chat.models import Conversation; assert Conversation.objects.filter(rating='up').count() == 1")
    assert page.evaluate("() => document.querySelector('customer-chat').connection.outbox.size") == 0


def test_what_was_said_of_an_answer_without_a_network_arrives(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask(page, "formas de pago")
    last_answer(page)
    page.locator(".rating .down").click()
    expect(page.locator(".reasons")).to_be_visible()
    page.context.set_offline(True)
    page.locator("[value=outdated]").check()
    page.locator(".reasons textarea").fill("ya no es así")
    page.get_by_role("button", name="Enviar", exact=True).first.click()
    page.context.set_offline(False)
    expect(page.locator("#banner")).to_be_hidden(timeout=10_000)
    page.wait_for_function("() => !document.querySelector('customer-chat').connection.outbox.size")
    server.run(
        "from chat.models import Feedback; said = Feedback.objects.get(text='ya no es así');"
        " assert (said.rating, said.reasons) == ('down', ['outdated'])"
    )


def test_a_person_who_came_and_went_meanwhile_is_not_asked_for_again(page: Page, server: Server) -> None:
    """The wish arrived; what the server said to it did not."""
    sockets: list[WebSocketRoute] = []

    def lose_what_is_answered(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if len(sockets) > 1:
            server.run(CLOSE)
            socket.connect_to_server()
            return
        upstream = socket.connect_to_server()
        wished: list[bool] = []

        def pass_on(frame: str | bytes) -> None:
            if json.loads(frame)["type"] == "person":
                wished.append(True)
            upstream.send(frame)

        socket.on_message(pass_on)
        upstream.on_message(lambda frame: None if wished else socket.send(frame))

    page.route_web_socket(re.compile("/ws/chat/"), lose_what_is_answered)
    page.goto(server.url)
    ask(page, "formas de pago")
    last_answer(page)
    page.locator("#person").click()
    page.wait_for_timeout(500)
    sockets[0].close()
    expect(page.locator(".ending")).to_be_visible(timeout=20_000)
    page.wait_for_timeout(500)
    expect(page.locator(".people")).to_be_hidden()
    server.run("assert Handover.objects.filter(conversation=handover.conversation).count() == 1")


def test_a_first_message_whose_answer_is_lost_comes_once_without_websockets(page: Page, server: Server) -> None:
    posted: list[str] = []

    def lose_first(route: Route) -> None:
        posted.append(route.request.url)
        if len(posted) > 1:
            route.continue_()
            return
        route.fetch()
        route.abort()

    page.add_init_script(NO_WEBSOCKETS)
    page.route(re.compile("/chat/frames/"), lose_first)
    page.goto(server.url)
    page.get_by_label("Su pregunta").fill("formas de pago, por favor")
    page.keyboard.press("Enter")

    expect(page.locator(".message.assistant")).to_have_count(1, timeout=30_000)
    last_answer(page)
    expect(page.locator(".message.user .bubble")).to_have_text(["formas de pago, por favor"])
    assert len(posted) > 1
    assert not any("token" in url for url in posted)
    server.run(COUNT.format(text="formas de pago, por favor"))
