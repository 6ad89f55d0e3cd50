"""Scripts smuggled into everything that people write, shown in a real Chromium: none runs, and no page breaks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Dialog, Page, expect

from chat.tests.host import Host, running_host
from chat.tests.scripts import PAYLOADS, RUN, STRANGER
from chat.tests.test_browser import ask, log_in
from chatbot_site.tests.server import ROOT, Server

pytestmark = [pytest.mark.browser, pytest.mark.soak]

A_CONVERSATION = 45
SCRIPT = f"<script>{RUN}</script>"

# Every text that a customer, a website or staff may write. Prints where each conversation is and what opens it.
FILL = f"""
import json; import django; django.setup()
from django.utils import timezone
from chat.models import Conversation, Feedback, Site
from chat.tests.scripts import PAYLOADS
from faq.models import FaqEntry, Paraphrase
site = Site.objects.create(name=PAYLOADS[0], key="shop-key", origins="ORIGIN", title=PAYLOADS[0], greeting=PAYLOADS[1])
opened = {{"": [], "shop-key": []}}
for key, of in (("", None), ("shop-key", site)):
    for start in range(0, len(PAYLOADS), {A_CONVERSATION}):
        some = PAYLOADS[start:start + {A_CONVERSATION}]
        conversation, token = Conversation.start("es", site=of, customer_name=some[0][:100])
        for payload in some:
            conversation.messages.create(role="user", text=payload, finish_reason="")
            message = conversation.messages.create(
                role="assistant", text=payload, seq=1, finish_reason="stop", entry_key="x", entry_question=payload,
                entry_revised_at=timezone.now(), suggestions=[payload], offers_person=True)
            Feedback.objects.create(message=message, rating="down", reasons=["other"], text=payload)
        opened[key].append({{"conversation": str(conversation.pk), "token": token, "number": 2 * len(some)}})
for number, payload in enumerate(PAYLOADS):
    entry = FaqEntry.objects.create(
        key=f"payload-{{number}}", question=payload, answer=payload, category=payload[:100], status="published",
        is_critical=number < 4)
    Paraphrase.objects.create(entry=entry, text=payload)
print(json.dumps(opened))
"""


@dataclass
class Filled:
    host: Host
    conversations: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def filled(server: Server) -> Iterator[Filled]:
    with running_host(server.url) as host:
        host.key = "shop-key"
        command = [sys.executable, "-c", FILL.replace("ORIGIN", host.origin)]
        out = subprocess.run(command, cwd=ROOT, env=server.environment, check=True, capture_output=True, text=True)
        yield Filled(host, json.loads(out.stdout.splitlines()[-1]))


@dataclass
class Watched:
    page: Page
    problems: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Nothing has run, nothing was asked of a stranger, and no link leads to a script."""
        assert self.page.evaluate("() => window.ran") is None
        unsafe = self.page.evaluate(
            "() => [document, ...[...document.querySelectorAll('customer-chat')].map((chat) => chat.shadowRoot)]"
            ".flatMap((root) => [...root.querySelectorAll('a[href], [src], [action], [formaction]')])"
            ".map((each) => each.href || each.src || each.formAction || each.action)"
            ".filter((url) => !/^(https?:|mailto:|tel:)/.test(url))"
        )
        assert unsafe == []
        assert self.problems == []


@pytest.fixture
def watched(context: BrowserContext, server: Server, filled: Filled) -> Watched:
    page = context.new_page()
    watched = Watched(page)
    ours = {urlsplit(address).netloc for address in (server.url, filled.host.origin)}

    def asked(url: str) -> None:
        if url.startswith(("http", "ws")) and urlsplit(url).netloc not in ours:
            watched.problems.append(f"asked {url}")

    def dismissed(dialog: Dialog) -> None:
        watched.problems.append(f"dialog {dialog.message}")
        dialog.dismiss()

    page.on("dialog", dismissed)
    page.on("pageerror", lambda error: watched.problems.append(str(error)))
    page.on("popup", lambda popup: watched.problems.append(f"popup {popup.url}"))
    context.on("request", lambda request: asked(request.url))
    page.add_init_script(
        "document.addEventListener('securitypolicyviolation', (event) =>"
        " console.error('violation', event.violatedDirective, event.blockedURI))"
    )
    page.on("console", lambda line: watched.problems.append(line.text) if line.text.startswith("violation") else None)
    return watched


def open_conversation(page: Page, address: str, prefix: str, conversation: dict[str, Any]) -> None:
    page.goto(address)
    value = json.dumps({name: conversation[name] for name in ("conversation", "token")})
    page.evaluate("([name, value]) => localStorage.setItem(name, value)", [f"{prefix}conversation", value])
    page.reload()


def check_messages(watched: Watched, conversation: dict[str, Any]) -> None:
    page = watched.page
    expect(page.locator(".message")).to_have_count(conversation["number"], timeout=30_000)
    expect(page.locator(".message.user .bubble")).to_have_count(conversation["number"] // 2)
    page.wait_for_timeout(300)
    watched.check()
    expect(page.get_by_label("Su pregunta")).to_be_editable()


def test_there_are_two_hundred() -> None:
    assert len(set(PAYLOADS)) >= 200
    assert any(STRANGER in payload for payload in PAYLOADS)


def test_one_that_runs_is_noticed(watched: Watched, server: Server) -> None:
    watched.page.goto(server.url + "/admin/login/")
    watched.page.evaluate("(html) => { document.body.innerHTML = html }", f"<img src=x onerror={RUN}>")
    watched.page.wait_for_function("() => window.ran")
    with pytest.raises(AssertionError):
        watched.check()


def test_none_runs_in_the_chats_own_page(watched: Watched, filled: Filled, server: Server) -> None:
    for conversation in filled.conversations[""]:
        open_conversation(watched.page, server.url, "chat.", conversation)
        check_messages(watched, conversation)
    expect(watched.page.locator(".starter").filter(has_text=SCRIPT).first).to_be_attached()


def test_none_runs_in_the_page_of_a_website(watched: Watched, filled: Filled) -> None:
    for number, conversation in enumerate(filled.conversations["shop-key"]):
        open_conversation(watched.page, filled.host.origin, "customer-chat.shop-key.", conversation)
        if number == 0:
            watched.page.locator(".launcher").click(timeout=20_000)
        check_messages(watched, conversation)
    expect(watched.page.get_by_role("dialog", name=SCRIPT)).to_be_visible()


def test_none_runs_while_it_is_written(watched: Watched, server: Server, filled: Filled) -> None:
    for key, third in (("hours", PAYLOADS[::3]), ("pay", PAYLOADS[1::3]), ("return", PAYLOADS[2::3])):
        server.set_answer(key, "\n".join(third))
    watched.page.goto(server.url)
    for number, question in enumerate(["horario de cierre", "formas de pago", "plazo de devolución", *PAYLOADS[:3]]):
        ask(watched.page, question)
        expect(watched.page.locator(".message.writing, .message.waiting")).to_have_count(0, timeout=60_000)
        expect(watched.page.locator(".message.user .bubble").nth(number)).to_have_text(question)
        watched.check()


def test_none_runs_in_the_plain_page(watched: Watched, server: Server, filled: Filled) -> None:
    page = watched.page
    page.goto(server.url + "/plain/")
    for payload in PAYLOADS[:4]:
        page.get_by_label("Su pregunta").fill(payload)
        page.locator("button.main").click()
        expect(page.locator(".message.user .text").last).to_have_text(payload)
        watched.check()


def test_none_runs_in_the_pages_of_staff(watched: Watched, server: Server, filled: Filled) -> None:
    page = watched.page
    log_in(page, server)
    addresses = [f"chat/conversation/{each['conversation']}/change/" for each in filled.conversations[""]]
    addresses += ["", "chat/conversation/", "chat/conversation/?q=%3Cscript%3E", "chat/site/", "faq/faqentry/"]
    for address in addresses:
        answer = page.goto(f"{server.url}/admin/{address}")
        assert answer is not None
        assert answer.status == 200
        watched.check()
    expect(page.get_by_text(SCRIPT).first).to_be_attached()
    links = page.locator("#result_list tbody a[href*='/change/']").evaluate_all(
        "(links) => links.map((link) => link.href)"
    )
    for link in links[::20]:
        page.goto(link)
        expect(page.locator("#id_answer")).to_be_visible()
        watched.check()
        page.goto(link.replace("/change/", "/history/"))
        watched.check()
