"""The privacy page says what is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from django.test import Client
from pytest_django import Settings

from chat import plain

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.django_db


def privacy(client: Client, language: str = "en") -> str:
    return client.get("/privacy/", headers={"accept-language": language}).content.decode()


def test_it_says_how_long_things_are_kept(client: Client, settings: Settings) -> None:
    settings.RETENTION_DAYS = {"conversations": 17}
    assert "17 days after the last message" in privacy(client)
    settings.RETENTION_DAYS = {"conversations": 1}
    assert "1 day after the last message" in privacy(client)


def test_it_says_whom_to_ask(client: Client, settings: Settings) -> None:
    settings.PRIVACY_CONTACT = ""
    assert "whose website you are on" in privacy(client)
    settings.PRIVACY_CONTACT = "privacidad@example.com <script>"
    page = privacy(client)
    assert '<a href="mailto:privacidad@example.com">' in page
    assert "<script>" not in page.replace("<script src", "")


def test_it_names_the_address_that_is_left_with_people(client: Client) -> None:
    assert "the e-mail address that you may leave" in privacy(client)


def test_it_says_how_to_take_out_and_delete_a_conversation_without_scripts(client: Client) -> None:
    page = privacy(client)
    without_scripts = page[page.index("<noscript>") : page.index("</noscript>")]
    assert "Download as text" in without_scripts
    assert "Delete my conversation" in without_scripts
    assert 'href="/plain/"' in without_scripts


def test_it_names_everything_that_is_stored_on_a_device(client: Client, settings: Settings) -> None:
    """The names that the scripts use, and the cookies that the pages really set."""
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "static" / "chat").glob("*.js"))
    used = set(re.findall(r'"(chat\.[\w.]+)"', scripts)) - {"chat.css"}
    used |= {f"chat.{name}" for name in re.findall(r'remember\("(\w+)"', scripts)}
    client.get("/")
    client.post("/language/", {"language": "es", "next": "/"})
    used.add(plain.COOKIE)
    used |= set(client.cookies)
    assert {"chat.conversation", "chat.unsent", settings.CSRF_COOKIE_NAME, settings.LANGUAGE_COOKIE_NAME} <= used

    page = privacy(client)

    assert {name for name in used if f"<code>{name}</code>" not in page} == set()
    assert settings.SESSION_COOKIE_NAME not in used


@pytest.mark.parametrize("language", ["es", "en"])
def test_it_speaks_both_languages_under_the_strict_policy(client: Client, language: str) -> None:
    response = client.get("/privacy/", headers={"accept-language": language})

    page = response.content.decode()
    assert f'<html lang="{language}">' in page
    assert "unsafe" not in response["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*(src=|application/json))|<style| style=| on\w+=", page)


def test_the_chat_leads_to_it(client: Client) -> None:
    config = json.loads(re.findall(r'<script id="config" type="application/json">(.*?)</script>', page_of(client))[0])
    assert config["privacyUrl"] == "/privacy/"
    assert 'href="/privacy/"' in page_of(client)[page_of(client).index("<noscript>") :]


def page_of(client: Client) -> str:
    return client.get("/", headers={"accept-language": "en"}).content.decode()
