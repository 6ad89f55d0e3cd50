"""Customers and their own conversation: by its token alone, over HTTP."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.http import HttpResponse
from django.test import AsyncClient, Client

from chat import limits, rights
from chat.models import Conversation, DailyFigures, Feedback, Message
from chat.tests import test_consumers
from chat.tests.test_consumers import run
from training.models import AdapterVersion

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture(autouse=True)
def _nobody_has_asked_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_per_conversation", "_altogether"):
        known = getattr(rights, name)
        monkeypatch.setattr(rights, name, limits.Allowances(capacity=known._capacity, per_second=known._per_second))


@pytest.fixture
def owned() -> tuple[Conversation, str]:
    conversation, token = Conversation.start("es")
    conversation.messages.create(role="user", text="¿Cómo puedo pagar? <b>& más</b>", client_id="c1")
    conversation.messages.create(
        role="assistant", text="No estoy seguro.", finish_reason="stop", is_declined=True, suggestions=["¿Con tarjeta?"]
    )
    return conversation, token


def ask(client: Client, method: str, conversation: object, what: str = "", **headers: str) -> HttpResponse:
    response: Any = client.generic(method, f"/conversation/{conversation}/{what}", headers=headers)
    return response


def test_an_export_holds_all_that_was_said(client: Client, owned: tuple[Conversation, str]) -> None:
    conversation, token = owned

    response = ask(client, "GET", conversation.pk, "export.json", authorization=f"Bearer {token}")

    said = response.json()  # type: ignore[attr-defined]
    assert said["conversation"] == str(conversation.pk)
    assert [(each["role"], each["text"]) for each in said["messages"]] == [
        ("user", "¿Cómo puedo pagar? <b>& más</b>"),
        ("assistant", "No estoy seguro."),
    ]
    assert said["messages"][1]["suggested_questions"] == ["¿Con tarjeta?"]
    assert token not in response.content.decode()
    assert conversation.token_sha256 not in response.content.decode()
    assert "attachment" in response["Content-Disposition"]
    assert "no-store" in response["Cache-Control"]


def test_an_export_can_be_read(client: Client, owned: tuple[Conversation, str]) -> None:
    conversation, token = owned

    response = ask(
        client, "GET", conversation.pk, "export.txt", **{"x-conversation-token": token, "accept-language": "en"}
    )

    text = response.content.decode()
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert "You\n¿Cómo puedo pagar? <b>& más</b>\n" in text
    assert "AI assistant\nNo estoy seguro.\n  · ¿Con tarjeta?\n" in text


def test_an_export_to_be_read_has_no_marks_but_those_that_people_typed(
    client: Client, owned: tuple[Conversation, str]
) -> None:
    conversation, token = owned
    for role, text in (("system", "Su número es **C-2061**."), ("assistant", "- *Sí*"), ("user", "2 **3** 4")):
        conversation.messages.create(role=role, text=text, finish_reason="stop")

    text = ask(client, "GET", conversation.pk, "export.txt", authorization=f"Bearer {token}").content.decode()

    assert "\nSu número es C-2061.\n" in text
    assert "\n- Sí\n" in text
    assert "\n2 **3** 4\n" in text


def test_an_export_holds_who_wrote_and_what_they_thought(client: Client, owned: tuple[Conversation, str]) -> None:
    conversation, token = owned
    Conversation.objects.filter(pk=conversation.pk).update(customer_name="Ana", customer_email="ana@example.com")
    answer = conversation.messages.get(role="assistant")
    Feedback.objects.create(message=answer, rating="down", reasons=["outdated"], text="era antes")

    headers = {"authorization": f"Bearer {token}", "accept-language": "en"}
    data = ask(client, "GET", conversation.pk, "export.json", **headers).json()  # type: ignore[attr-defined]
    text = ask(client, "GET", conversation.pk, "export.txt", **headers).content.decode()

    assert (data["name"], data["email"]) == ("Ana", "ana@example.com")
    assert data["messages"][0]["your_rating"] is None
    assert data["messages"][1]["your_rating"] == {"rating": "down", "reasons": ["outdated"], "text": "era antes"}
    assert "Ana\nana@example.com\n" in text
    assert "Your rating: Not helpful · Outdated · era antes\n" in text


def test_a_deleted_conversation_leaves_counts_alone(client: Client, owned: tuple[Conversation, str]) -> None:
    conversation, token = owned
    other, _ = Conversation.start("es")
    Feedback.objects.create(message=conversation.messages.get(role="assistant"), rating="down", text="secreto")

    response = ask(client, "DELETE", conversation.pk, authorization=f"Bearer {token}")

    assert (response.status_code, response.content) == (204, b"")
    assert list(Conversation.objects.all()) == [other]
    assert not Message.objects.exists()
    assert not Feedback.objects.exists()
    assert DailyFigures.objects.get(kind=DailyFigures.Kind.SUGGESTED).num == 1
    again = ask(client, "DELETE", conversation.pk, authorization=f"Bearer {token}")
    assert again.status_code == 404


@pytest.mark.parametrize(("method", "what"), [("GET", "export.json"), ("GET", "export.txt"), ("DELETE", "")])
def test_a_wrong_token_and_an_unknown_conversation_look_alike(
    client: Client, owned: tuple[Conversation, str], method: str, what: str
) -> None:
    conversation, token = owned
    _, others = Conversation.start("es")

    seen = {
        (response.status_code, response.content)
        for response in (
            ask(client, method, conversation.pk, what),
            ask(client, method, conversation.pk, what, authorization=f"Bearer {others}"),
            ask(client, method, conversation.pk, what, authorization=f"Basic {token}"),
            ask(client, method, conversation.pk, f"{what}?token={token}"),
            ask(client, method, uuid4(), what, authorization=f"Bearer {token}"),
            ask(client, method, "not-a-uuid", what, authorization=f"Bearer {token}"),
        )
    }

    assert len(seen) == 1
    assert next(iter(seen))[0] == 404
    assert Conversation.objects.filter(pk=conversation.pk).exists()


def test_it_deletes_without_a_forgery_token_but_never_by_a_link(owned: tuple[Conversation, str]) -> None:
    conversation, token = owned
    strict = Client(enforce_csrf_checks=True)

    for method in ("GET", "POST", "PUT"):
        assert ask(strict, method, conversation.pk, authorization=f"Bearer {token}").status_code == 405
    assert ask(strict, "DELETE", conversation.pk, authorization=f"Bearer {token}").status_code == 204


def test_who_asks_too_often_is_told_to_wait(client: Client, owned: tuple[Conversation, str]) -> None:
    conversation, token = owned

    codes = [
        ask(client, "GET", conversation.pk, "export.json", authorization=f"Bearer {token}").status_code
        for _ in range(11)
    ]

    assert codes == [200] * 10 + [429]
    refused = ask(client, "DELETE", conversation.pk, authorization=f"Bearer {token}")
    assert 1 <= int(refused["Retry-After"]) <= 10
    assert Conversation.objects.exists()
    other, others = Conversation.start("es")
    assert ask(client, "GET", other.pk, "export.json", authorization=f"Bearer {others}").status_code == 200


def test_allowances_remember_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.Allowances, "MAX_KEYS", 2)
    allowances = limits.Allowances(capacity=1, per_second=0.01)

    assert [allowances.take(key) for key in ("a", "b", "c", "a")] == [0, 0, 0, 0]
    assert allowances.take("a") > 0


@pytest.mark.django_db(transaction=True)
def test_open_pages_hear_of_a_deletion(live: AdapterVersion) -> None:
    async def scenario() -> None:
        page = test_consumers.Client()
        await page.open()
        await page.ask("formas de pago")
        await page.read_answer()
        response = await AsyncClient().delete(
            f"/conversation/{page.conversation['conversation']}/",
            headers={"authorization": f"Bearer {page.conversation['token']}"},
        )
        assert response.status_code == 204
        assert (await page.wait_for("forgotten"))["conversation"] == page.conversation["conversation"]
        await page.close()

    run(scenario)
    assert not Conversation.objects.exists()
