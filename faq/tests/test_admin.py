from __future__ import annotations

import re
from importlib import import_module

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.test import Client
from simple_history.utils import update_change_reason

from faq.models import FaqEntry

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("olga"))
    return client


def form(**values: object) -> dict[str, object]:
    """What the entry form sends."""
    inline = {
        "paraphrases-TOTAL_FORMS": 1,
        "paraphrases-INITIAL_FORMS": 0,
        "paraphrases-0-text": "¿hasta qué hora abren?",
    }
    entry = {"question": "¿A qué hora cierran?", "answer": "A las 8.", "status": "published", "language": "es"}
    return {**inline, **entry, **values}


def test_it_saves_an_entry_with_its_other_wordings(owner: Client) -> None:
    response = owner.post("/admin/faq/faqentry/add/", form())

    assert response.status_code == 302
    entry = FaqEntry.objects.get()
    assert entry.key == "a-que-hora-cierran"
    assert entry.paraphrases.get().text == "¿hasta qué hora abren?"


@pytest.mark.parametrize(
    "values",
    [{"question": ""}, {"answer": ""}, {"question": "¿?"}, {"answer": "palabra " * 2000}, {"paraphrases-0-text": "🎉"}],
)
def test_it_says_what_is_wrong_and_keeps_what_was_typed(owner: Client, values: dict[str, object]) -> None:
    response = owner.post("/admin/faq/faqentry/add/", form(category="Horarios", **values))

    assert response.status_code == 200
    assert "Horarios" in response.content.decode()
    assert "errorlist" in response.content.decode() or "error" in response.content.decode()
    assert not FaqEntry.objects.exists()


@pytest.mark.parametrize(
    ("values", "is_told"),
    [
        ({}, True),
        ({"question": "Horario", "paraphrases-0-text": "¿A qué hora cierran?"}, True),
        ({"question": "Horario", "paraphrases-0-text": "¿cierran los domingos?"}, False),
        ({"status": "draft"}, False),
        ({"answer": "A las nueve."}, False),
    ],
)
def test_it_tells_who_publishes_another_answer_to_the_same_words(
    owner: Client, values: dict[str, object], is_told: bool
) -> None:
    FaqEntry.objects.create(question="¿a qué hora cierran?", answer="A las nueve.", status="published")
    FaqEntry.objects.create(question="¿A qué hora cierran?", answer="Nunca.", status="retired")

    response = owner.post("/admin/faq/faqentry/add/", form(**values), follow=True, headers={"accept-language": "es"})

    assert FaqEntry.objects.count() == 3, "it is saved all the same"
    text = "«¿a qué hora cierran?» también tiene esa forma de preguntar"
    assert (text in response.content.decode()) == is_told


def test_the_list_of_staff_says_in_spanish_who_belongs_to_it(owner: Client) -> None:
    page = owner.get("/admin/auth/user/", headers={"accept-language": "es"}).content.decode()

    assert "es del personal" in page.lower()
    assert "es staff" not in page.lower()


def test_it_publishes_and_retires_the_chosen_ones_with_history(owner: Client) -> None:
    entry = FaqEntry.objects.create(key="a", question="¿a?", answer="a.")
    before = entry.updated_at

    owner.post("/admin/faq/faqentry/", {"action": "publish", "_selected_action": [entry.pk]})

    entry.refresh_from_db()
    assert entry.status == "published"
    assert entry.updated_at > before
    assert entry.history.first().status == "published"
    owner.post("/admin/faq/faqentry/", {"action": "retire", "_selected_action": [entry.pk]})
    entry.refresh_from_db()
    assert entry.status == "retired"


def test_the_history_says_a_reason_only_where_there_is_one(owner: Client) -> None:
    owner.post("/admin/faq/faqentry/add/", form(**{"paraphrases-0-text": ""}))
    entry = FaqEntry.objects.get()
    entry.save()
    entry.save()
    update_change_reason(entry, "A wording was added.")

    page = owner.get(f"/admin/faq/faqentry/{entry.pk}/history/", headers={"accept-language": "en"}).content.decode()

    reasons = re.findall(r'data-label="Change reason">\s*(.*?)\s*</td>', page)
    assert reasons == ["A wording was added.", "", ""]


def test_the_reasons_that_were_missing_in_the_history_are_emptied() -> None:
    entry = FaqEntry.objects.create(question="¿a?", answer="a.")
    entry.save()
    old, new = entry.history.order_by("pk")
    entry.history.filter(pk=old.pk).update(history_change_reason=None)
    entry.history.filter(pk=new.pk).update(history_change_reason="Because.")

    import_module("faq.migrations.0002_empty_reasons").empty_missing_reasons(apps, None)

    assert list(entry.history.order_by("pk").values_list("history_change_reason", flat=True)) == ["", "Because."]


def test_it_never_lets_a_key_change(owner: Client) -> None:
    entry = FaqEntry.objects.create(key="a", question="¿a?", answer="a.")

    owner.post(f"/admin/faq/faqentry/{entry.pk}/change/", form(key="b"))

    entry.refresh_from_db()
    assert entry.key == "a"


def test_it_finds_an_entry_by_its_other_wordings(owner: Client) -> None:
    owner.post("/admin/faq/faqentry/add/", form())

    assert "¿A qué hora cierran?" in owner.get("/admin/faq/faqentry/", {"q": "hasta qué"}).content.decode()
    assert "¿A qué hora cierran?" not in owner.get("/admin/faq/faqentry/", {"q": "mayorista"}).content.decode()


def test_it_escapes_what_staff_write(owner: Client) -> None:
    FaqEntry.objects.create(key="a", question="<script>alert(1)</script>", answer="a.")

    assert "<script>alert(1)" not in owner.get("/admin/faq/faqentry/").content.decode()


def test_it_shows_nothing_to_strangers_or_to_staff_without_permission(client: Client) -> None:
    assert client.get("/admin/faq/faqentry/").status_code == 302
    clerk = User.objects.create_user("clara", is_staff=True)
    client.force_login(clerk)
    assert client.get("/admin/faq/faqentry/").status_code == 403
    clerk.user_permissions.add(Permission.objects.get(codename="view_faqentry"))
    assert client.get("/admin/faq/faqentry/").status_code == 200
    assert client.post("/admin/faq/faqentry/add/", form()).status_code == 403
