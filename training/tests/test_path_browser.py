"""From an edited answer to a version in use and back, by the people of a shop, each with a keyboard alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, expect

from chatbot_site.tests.server import Server, running_server

pytestmark = [pytest.mark.browser, pytest.mark.soak]

# Whoever wants to see the pages names a folder.
PICTURES = os.environ.get("PICTURES")
MAX_TABS = 150
ENTRIES = "/admin/faq/faqentry/"

PEOPLE = """
from django.contrib.auth.models import Group, User
for name, group in (("eva", "Redacción"), ("tomás", "Entrenamiento"), ("pilar", "Publicación")):
    user = User.objects.create_user(name, password={password!r}, is_staff=True)
    user.groups.add(Group.objects.get(name=group))
from django.core.management import call_command
call_command("train", preset="quick", wait=True, activate=True)
"""
PARAMETERS = {"min_steps": 12, "max_steps": 12, "min_rows_per_answer": 1}


@pytest.fixture(scope="module")
def server(empty_shop: Path) -> Iterator[Server]:
    """A shop with a version in use."""
    with running_server(empty_shop, has_worker=True, TRAINING_PARAMETERS=json.dumps(PARAMETERS)) as server:
        server.run(PEOPLE.format(password=server.password))
        yield server


class Person:
    """Somebody at a keyboard."""

    def __init__(self, context: BrowserContext, server: Server, name: str) -> None:
        self.page = context.new_page()
        self.server = server
        self.name = name
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.open("/admin/")
        self.reach(self.page.locator("#id_username"))
        self.page.keyboard.type(name)
        self.reach(self.page.locator("#id_password"))
        self.page.keyboard.type(server.password)
        self.page.keyboard.press("Enter")
        expect(self.page.locator("#id_username")).to_have_count(0)

    def open(self, path: str) -> None:
        self.page.goto(self.server.url + path)

    def reach(self, target: Locator) -> None:
        """With the tabulator, as somebody without a mouse."""
        expect(target).to_be_visible(timeout=60_000)
        for _ in range(MAX_TABS):
            if target.evaluate("element => element === document.activeElement"):
                return
            self.page.keyboard.press("Tab")
        pytest.fail(f"the tabulator does not come to {target}")

    def press(self, target: Locator, key: str = "Enter") -> None:
        self.reach(target)
        self.page.keyboard.press(key)

    def picture(self, title: str) -> None:
        """At a laptop's and at a phone's width; neither may be too narrow for what is shown."""
        self.page.wait_for_load_state()
        for width, height in ((1366, 768), (360, 740)):
            self.page.set_viewport_size({"width": width, "height": height})
            if PICTURES:
                self.page.screenshot(path=Path(PICTURES) / f"{title}-{width}.png", full_page=True)
            assert self.page.evaluate("document.documentElement.scrollWidth") <= width, f"{title} at {width} px"
        self.page.set_viewport_size({"width": 1366, "height": 768})


@pytest.mark.parametrize("language", ["es", "en"])
def test_an_edit_goes_all_the_way_and_back(browser: Browser, server: Server, language: str) -> None:
    def context() -> BrowserContext:
        return browser.new_context(locale=f"{language}-GB", viewport={"width": 1366, "height": 768})

    is_spanish = language == "es"
    answer = f"Con tarjeta, transferencia o {'Bizum' if is_spanish else 'PayPal'}."

    eva = Person(context(), server, "eva")
    eva.open(ENTRIES)
    eva.press(eva.page.get_by_role("link", name="¿Cómo puedo pagar?"))
    eva.reach(eva.page.locator("#id_answer"))
    eva.page.keyboard.press("Control+A")
    eva.page.keyboard.type(answer)
    eva.picture(f"{language}-1-edit")
    eva.press(eva.page.locator("button[name=_save], input[name=_save]").first)
    expect(eva.page).to_have_url(re.compile(f"{ENTRIES}$"))
    eva.open("/admin/")
    said_already = "que ya se dice" if is_spanish else "which is said already"
    expect(eva.page.locator(".room-truth")).to_contain_text(said_already)
    eva.picture(f"{language}-2-advice")

    tomas = Person(context(), server, "tomás")
    tomas.press(tomas.page.locator("a[href$='/prepare/']"))
    update = tomas.page.locator("input[value=update]")
    expect(update).to_be_checked()
    tomas.picture(f"{language}-3-before")
    tomas.press(tomas.page.get_by_role("button", name="Entrenar ahora" if is_spanish else "Train now"))
    expect(tomas.page).to_have_url(re.compile(r"/trainingrun/\d+/change/$"))
    tomas.picture(f"{language}-4-run")
    # The page says by itself when it is done.
    made = tomas.page.locator(".room-lead a[href*='/adapterversion/']")
    expect(made).to_be_visible(timeout=180_000)
    version = made.inner_text()
    tomas.picture(f"{language}-5-done")
    tomas.press(made)
    tomas.page.wait_for_url("**/adapterversion/*/change/")
    tomas.picture(f"{language}-6-exam")
    expect(tomas.page.locator("a[href*='/activate/']")).to_have_count(0)

    pilar = Person(context(), server, "pilar")
    pilar.press(pilar.page.get_by_role("link", name=version, exact=True))
    pilar.press(pilar.page.locator("a[href*='/compare/']"))
    pilar.page.wait_for_url("**/compare/")
    pilar.picture(f"{language}-7-compare")
    pilar.open("/admin/")
    row = pilar.page.get_by_role("row", name=re.compile(f"^{version} "))
    pilar.press(row.locator("a[href*='/activate/']"))
    pilar.page.wait_for_url("**/activate/")
    pilar.picture(f"{language}-8-activate")
    pilar.reach(pilar.page.locator("#note"))
    pilar.page.keyboard.type("Bizum")
    pilar.page.keyboard.press("Enter")
    live = pilar.page.locator(".room-truth strong").first
    expect(live).to_have_text(version, timeout=120_000)
    pilar.picture(f"{language}-9-live")
    pilar.press(pilar.page.get_by_role("button", name=re.compile("^Deshacer" if is_spanish else "^Undo")))
    expect(live).not_to_have_text(version, timeout=120_000)
    pilar.picture(f"{language}-10-undone")

    for person in (eva, tomas, pilar):
        assert person.problems == []
        person.page.context.close()
