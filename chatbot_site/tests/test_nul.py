"""NUL, which PostgreSQL refuses in texts, in addresses, forms and frames: a clear refusal, never a fault of ours."""

from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import User
from django.test import Client

from chat.models import Conversation, Handover, OpeningHours, Site
from faq.models import FaqEntry
from training import versions
from training.tests.conftest import MakeVersion, make_version, olga, shop

__all__ = ["make_version", "olga", "shop"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]

LISTS = [
    *("chat/conversation", "chat/handover", "chat/site", "faq/faqentry", "faq/offtopicquestion"),
    *("training/trainingrun", "training/adapterversion", "training/activation", "auth/user"),
]


@pytest.mark.parametrize(
    "path",
    [
        "/chat/config.json?site=%00",
        "/chat/config.json?language=%00",
        "/chat/config.json?site=a%00b&language=es",
        "/chat/messages/?site=%00",
        "/chat/messages/?conversation=%00",
        "/chat/messages/?since=%00",
        "/?%00",
        "/%00",
        "/plain/?x=%00",
        "/chat/%00/export/",
        "/admin/login/?next=%00",
    ],
)
def test_an_address_with_a_nul_is_refused(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code in (400, 404)
    assert "Traceback" not in response.content.decode()


@pytest.mark.parametrize("model", LISTS)
@pytest.mark.parametrize("query", ["q=%00", "q=a%00b", "o=%00", "p=%00", "e=%00", "key=%00", "pk__in=%00", "all=%00"])
def test_a_search_in_the_admin_with_a_nul_is_refused(client: Client, olga: User, model: str, query: str) -> None:
    client.force_login(olga)
    assert client.get(f"/admin/{model}/?{query}").status_code == 400


@pytest.mark.parametrize("model", LISTS)
def test_what_has_a_nul_for_a_name_is_not_found(client: Client, olga: User, model: str) -> None:
    client.force_login(olga)
    for name in ("change", "history", "delete"):
        assert client.get(f"/admin/{model}/%00/{name}/").status_code in (400, 404)


@pytest.mark.parametrize("path", ["/", "/admin/", "/chat/config.json"])
def test_a_cookie_with_a_nul_is_refused(client: Client, path: str) -> None:
    # As it is sent: Django reads it as one character.
    assert client.get(path, headers={"Cookie": r'sessionid="\000aaaa"'}).status_code == 400
    assert client.get("/no/such/page/", headers={"Cookie": r'sessionid="\000aaaa"'}).status_code in (400, 404)


def test_a_good_address_is_answered_still(client: Client, shop: None) -> None:
    assert client.get("/chat/config.json?site=&language=es").status_code == 200
    assert client.get("/chat/config.json?site=%25%30%30&language=es").status_code == 200, "a percent sign is a text"


def test_forms_in_the_admin_say_what_is_wrong(client: Client, olga: User) -> None:
    client.force_login(olga)
    fields = {"paraphrases-TOTAL_FORMS": 0, "paraphrases-INITIAL_FORMS": 0, "status": "published", "language": "es"}
    page = client.post("/admin/faq/faqentry/add/", {**fields, "question": "¿A qué\0 hora?", "answer": "A las ocho."})
    assert (page.status_code, FaqEntry.objects.count()) == (200, 0)
    assert "ull characters are not allowed" in page.content.decode()
    for path, form in (
        ("/admin/chat/site/add/", {"name": "a\0", "origins": "https://a.example", "is_active": "on"}),
        ("/admin/chat/site/add/", {"name": "a", "origins": "https://a\0.example", "is_active": "on"}),
        ("/admin/faq/offtopicquestion/add/", {"text": "un\0 chiste"}),
        ("/admin/chat/openinghours/add/", {"weekday": "\0", "opens": "\0", "closes": "\0"}),
    ):
        assert client.post(path, form).status_code == 200, path
    assert not Site.objects.exists()
    assert not OpeningHours.objects.exists()


def test_the_login_says_what_is_wrong(client: Client, db: None) -> None:
    page = client.post("/admin/login/", {"username": "olga\0", "password": "x\0"})
    assert page.status_code == 200
    assert "ull characters are not allowed" in page.content.decode()


def test_a_reason_loses_its_nul(make_version: MakeVersion) -> None:
    assert versions.activate(make_version(), note="porque\0 sí").note == "porque sí"


def test_plain_requests_are_answered(client: Client, shop: None) -> None:
    for frame in (
        {"type": "message", "client_id": "c\0", "text": "hola"},
        {"type": "message", "client_id": "c1", "text": "\0"},
        {"type": "contact", "email": "a\0@example.com"},
        {"type": "identify", "name": "a", "email": "\0"},
        {"type": "\0"},
        "\0",
    ):
        body = json.dumps({"conversation": "\0", "frame": frame})
        response = client.post(
            "/chat/frames/", body, content_type="application/json", headers={"Origin": "http://testserver"}
        )
        assert 400 <= response.status_code < 500, frame
    response = client.post("/plain/", {"text": "\0", "client_id": "\0"})
    assert response.status_code == 400
    assert not Conversation.objects.exists()
    assert not Handover.objects.exists()
