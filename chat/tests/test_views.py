from __future__ import annotations

import time
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from chat import views
from chat.models import Conversation, Message
from faq.models import FaqEntry
from training import serving
from training.models import AdapterVersion

pytestmark = pytest.mark.django_db


def test_the_page_says_that_it_is_an_ai_before_the_first_message(client: Client) -> None:
    page = client.get("/", headers={"accept-language": "es"}).content.decode()

    assert '<html lang="es">' in page
    assert "asistente de IA" in page or "Asistente de IA" in page


def test_the_page_offers_published_questions_escaped(client: Client) -> None:
    FaqEntry.objects.create(question="<script>alert(1)</script> ¿sí?", answer="x", status="published")
    FaqEntry.objects.create(question="¿Secreta?", answer="x", status="draft")

    page = client.get("/").content.decode()

    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "¿Secreta?" not in page


@pytest.mark.parametrize(("language", "is_said"), [("es", False), ("en", True)])
def test_who_reads_in_another_language_is_told_in_which_the_answers_are(
    client: Client, language: str, is_said: bool
) -> None:
    note = "The approved answers are in Spanish: please ask in Spanish."
    headers = {"accept-language": language}
    assert note not in client.get("/", headers=headers).content.decode(), "there are none yet"
    FaqEntry.objects.create(question="¿Sí?", answer="Sí.", status="published")
    FaqEntry.objects.create(question="Yes?", answer="Yes.", status="draft", language="en")

    assert (note in client.get("/", headers=headers).content.decode()) == is_said
    FaqEntry.objects.update(status="published")
    assert note not in client.get("/", headers=headers).content.decode()


def test_the_page_has_a_strict_policy_and_the_admin_its_own(client: Client) -> None:
    page = client.get("/").headers["Content-Security-Policy"]
    admin = client.get("/admin/login/").headers["Content-Security-Policy"]

    assert "default-src 'none'" in page
    assert "script-src 'self'" in page
    assert "unsafe" not in page
    assert "'unsafe-eval'" in admin
    assert "default-src 'none'" in admin


def test_the_page_speaks_the_language_that_is_chosen(client: Client) -> None:
    client.post("/language/", {"language": "en", "next": "/"})

    assert "Write your question" in client.get("/").content.decode()


def test_the_page_promises_approved_texts_only_where_they_are_said(client: Client, settings: Settings) -> None:
    spanish = {"accept-language": "es"}
    assert "textos aprobados" in client.get("/", headers=spanish).content.decode()

    settings.ANSWER_POLICY = "free"

    page = client.get("/", headers=spanish).content.decode()
    assert "aprob" not in page
    assert "pueden ser incorrectas" in page


def test_it_reports_health(client: Client) -> None:
    assert client.get("/health/").json() == {"status": "ok", "engine": "not loaded"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_died_is_reported_and_made_again(client: Client, live: AdapterVersion) -> None:
    def exit_thread() -> None:
        raise SystemExit

    died = serving.engine()
    assert client.get("/health/").json() == {"status": "ok", "engine": "ok", "waiting": 0, "under_way": 0}
    died._schedule.add_errand(exit_thread)
    died._thread.join()

    response = client.get("/health/")

    assert (response.status_code, response.json()["engine"]) == (503, "died")
    give_up_at = time.monotonic() + 20
    while client.get("/health/").status_code != 200 and time.monotonic() < give_up_at:
        time.sleep(0.05)
    with serving._warming:
        reborn = serving._engine
    assert reborn is not None
    assert reborn is not died
    assert reborn.is_resident(live.name)


def test_it_has_the_name_of_the_business(client: Client, settings: Settings) -> None:
    settings.SITE_NAME = "Bicis & Ruedas"
    for path in ("/", "/plain/"):
        page = client.get(path).content.decode()
        assert "<title>Bicis &amp; Ruedas</title>" in page
        assert "<h1>Bicis &amp; Ruedas</h1>" in page


def check_problem(response: Any, status: int, title: str, *, way_back: str = "/") -> None:
    """It says in the reader's language, which is English, what is wrong, and leads back."""
    page = response.content.decode()
    assert response.status_code == status
    assert '<html lang="en">' in page
    assert f"<h1>{title}</h1>" in page
    assert f'href="{way_back}"' in page


def test_an_unknown_address_leads_back_to_the_chat_in_the_readers_language(client: Client) -> None:
    response = client.get("/nowhere/", headers={"accept-language": "en"})

    check_problem(response, 404, "There is no such page")
    assert "/admin/" not in response.content.decode()
    assert "default-src 'none'" in response["Content-Security-Policy"]
    assert '<html lang="es">' in client.get("/nowhere/", headers={"accept-language": "es"}).content.decode()


def test_staff_who_may_not_see_a_page_are_told_so_and_find_back(client: Client) -> None:
    client.force_login(User.objects.create_user("clara", is_staff=True))

    response = client.get("/admin/chat/handover/inbox/", headers={"accept-language": "en"})

    check_problem(response, 403, "You may not see this page", way_back="/admin/")


def test_a_form_that_another_website_sends_is_refused_in_words() -> None:
    response = Client(enforce_csrf_checks=True).post("/language/", headers={"accept-language": "en"})

    check_problem(response, 403, "Your browser did not show that this comes from our page")


def test_a_fault_of_the_server_is_told_without_asking_the_database(
    client: Client, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    def fail() -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(views, "chat_config", fail)
    client.raise_request_exception = False
    with django_assert_num_queries(0):
        response = client.get("/", headers={"accept-language": "en"})

    check_problem(response, 500, "Something went wrong on our side")


def test_a_host_that_is_not_ours_is_refused_in_words(client: Client) -> None:
    response = client.get("/", headers={"host": "elsewhere.test"})

    assert response.status_code == 400
    assert 'href="/"' in response.content.decode()


def test_staff_read_conversations_and_strangers_do_not(client: Client) -> None:
    conversation, token = Conversation.start("es")
    Message.objects.create(conversation=conversation, role="user", text="<img src=x onerror=alert(1)>")
    url = f"/admin/chat/conversation/{conversation.pk}/change/"

    assert client.get(url).status_code == 302
    client.force_login(User.objects.create_user("clara", is_staff=True))
    assert client.get(url).status_code == 403
    client.force_login(User.objects.create_superuser("olga"))
    page = client.get(url).content.decode()
    assert "&lt;img src=x" in page
    assert "<img src=x" not in page
    assert token not in page
    assert client.get("/admin/chat/conversation/").status_code == 200
