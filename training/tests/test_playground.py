"""Staff who try versions, over a real websocket, with real adapters of a tiny random base."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import Permission, User
from django.test import Client
from pytest_django import Settings

from faq.models import FaqEntry, Paraphrase
from training import pipeline, runs, serving, versions
from training.consumers import CLOSE_FORBIDDEN, CLOSE_POLICY_VIOLATION, MAX_FRAMES_A_MINUTE, MAX_QUESTIONS_A_MINUTE
from training.models import AdapterVersion
from training.tests.conftest import MakeVersion
from training.tests.test_admin import clerk
from training.tests.test_consumers import socket
from training.tests.test_pipeline import FAST, on_tiny_llama, train

__all__ = ["on_tiny_llama"]

pytestmark = pytest.mark.django_db(transaction=True)

ASKING = pytest.mark.usefixtures("shop", "on_tiny_llama")
# With a random base the prior does the understanding.
SURE = '{"prior_weight": 40.0, "decline_credit": 0.3, "threshold": 0.5}'


@pytest.fixture(autouse=True)
def _fresh_engine() -> Iterator[None]:
    yield
    serving.close()


def trained(calibration: str = SURE) -> AdapterVersion:
    version = train()
    (version.path / "calibration.json").write_text(calibration, encoding="utf-8")
    return version


Scenario = Callable[[WebsocketCommunicator], Awaitable[None]]


def play(user: User | None, scenario: Scenario) -> None:
    communicator = socket(user, path="/ws/playground/")

    async def whole() -> None:
        connected, _subprotocol = await communicator.connect()
        assert connected
        await scenario(communicator)
        await communicator.disconnect()

    async_to_sync(whole)()


async def ask(communicator: WebsocketCommunicator, question: object, *versions: object) -> None:
    names = [version.name if isinstance(version, AdapterVersion) else version for version in versions]
    await communicator.send_to(json.dumps({"type": "ask", "question": question, "versions": names}))


async def hear(communicator: WebsocketCommunicator) -> dict[str, Any]:
    frame: dict[str, Any] = json.loads(await communicator.receive_from(timeout=60))
    return frame


async def hear_ends(communicator: WebsocketCommunicator, num: int) -> dict[str, dict[str, Any]]:
    """How it ended for each version, by its name."""
    ends: dict[str, dict[str, Any]] = {}
    while len(ends) < num:
        frame = await hear(communicator)
        assert frame["type"] in ("done", "delta"), frame
        if frame["type"] == "done":
            ends[frame["version"]] = frame
    return ends


@ASKING
def test_two_versions_answer_side_by_side_and_say_what_it_rests_on(olga: User) -> None:
    sure, unsure = trained(), trained(SURE.replace('"threshold": 0.5', '"threshold": 1.1'))
    deaf = trained('{"threshold": 1.1, "suggestion_threshold": 1.1}')
    hours = FaqEntry.objects.get(key="hours")

    async def scenario(communicator: WebsocketCommunicator) -> None:
        await ask(communicator, "horario de cierre", sure, unsure)
        ends = await hear_ends(communicator, 2)
        said, suggested = ends[sure.name], ends[unsure.name]
        assert (said["outcome"], said["text"], said["threshold"]) == ("said", "Cerramos a las ocho.", 0.5)
        basis = said["near"][0]
        assert (basis["question"], basis["id"]) == ("¿A qué hora cierran?", hours.pk)
        assert basis["url"] == f"/admin/faq/faqentry/{hours.pk}/change/"
        assert 0.5 <= basis["probability"] <= 1
        assert suggested["outcome"] == "suggested"
        assert suggested["near"][0]["question"] == "¿A qué hora cierran?"
        assert "Did you mean" in suggested["text"]

        await ask(communicator, "horario de cierre", deaf)
        declined = (await hear_ends(communicator, 1))[deaf.name]
        assert (declined["outcome"], declined["text"][:9]) == ("declined", "I'm sorry")

    play(olga, scenario)


@ASKING
def test_it_answers_as_customers_are_answered(olga: User) -> None:
    version = trained()
    servable, future = serving.ask("como se paga", version)
    decision = future.result(timeout=60)

    async def scenario(communicator: WebsocketCommunicator) -> None:
        await ask(communicator, "como se paga", version)
        told = (await hear_ends(communicator, 1))[version.name]
        assert told["text"] == servable.text_for(decision) == "Con tarjeta o transferencia."
        assert told["near"][0]["probability"] == pytest.approx(decision.confidence, abs=0.02)

    play(olga, scenario)


@ASKING
def test_versions_that_cannot_be_loaded_say_so_in_their_column(olga: User) -> None:
    good, foreign, damaged, torn = trained(), trained(), trained(), trained()
    AdapterVersion.objects.filter(pk=foreign.pk).update(base_model="old-base@11111111")
    (damaged.path / "adapter" / "adapter_model.safetensors").write_bytes(b"something else")
    (torn.path / "calibration.json").write_text("{", encoding="utf-8")

    async def scenario(communicator: WebsocketCommunicator) -> None:
        for bad, why in ((foreign, "another base model"), (damaged, "are damaged"), (torn, "are damaged")):
            await ask(communicator, "horario de cierre", good, bad)
            ends = await hear_ends(communicator, 2)
            assert ends[good.name]["outcome"] == "said"
            assert ends[bad.name]["outcome"] == "failed"
            assert why in ends[bad.name]["text"]

    play(olga, scenario)


@ASKING
def test_free_text_streams_and_stops(olga: User, settings: Settings) -> None:
    settings.ANSWER_POLICY = "free"
    settings.GENERATION_PARAMETERS = {"max_new_tokens": 200}
    version = pipeline.execute(runs.start_in_foreground(config=replace(FAST, cut_completions=False)))
    cut = train()
    assert version is not None

    async def scenario(communicator: WebsocketCommunicator) -> None:
        await ask(communicator, "horario de cierre", version, cut)
        frames = [await hear(communicator) for _ in range(2)]
        while sum(frame["type"] == "done" for frame in frames) < 2:
            frames.append(await hear(communicator))
        ends = {frame["version"]: frame for frame in frames if frame["type"] == "done"}
        deltas = [frame["text"] for frame in frames if frame["type"] == "delta"]
        assert (ends[version.name]["outcome"], ends[version.name]["near"]) == ("written", [])
        assert len(deltas) > 1
        assert ends[version.name]["text"].startswith("".join(deltas))
        assert "cannot write freely" in ends[cut.name]["text"]

        await ask(communicator, "horario de cierre", version)
        assert (await hear(communicator))["type"] == "delta"
        await communicator.send_to('{"type": "stop"}')
        assert (await hear_ends(communicator, 1))[version.name]["outcome"] == "stopped"
        await ask(communicator, "horario de cierre", cut)
        assert (await hear_ends(communicator, 1))[cut.name]["outcome"] == "failed", "after a stop one may go on"

    play(olga, scenario)


@ASKING
def test_one_question_at_a_time_and_stop_does_not_wait_for_loading(olga: User) -> None:
    version = trained()

    async def scenario(communicator: WebsocketCommunicator) -> None:
        await ask(communicator, "horario de cierre", version)
        await ask(communicator, "formas de pago", version)
        assert (await hear(communicator))["text"] == "Wait for the answer, or stop it."
        await communicator.send_to('{"type": "stop"}')
        assert (await hear_ends(communicator, 1))[version.name]["outcome"] == "stopped"
        await ask(communicator, "formas de pago", version)
        assert (await hear_ends(communicator, 1))[version.name]["text"] == "Con tarjeta o transferencia."

    play(olga, scenario)


@ASKING
def test_only_who_may_see_entries_is_given_links_to_them() -> None:
    version = trained()

    async def scenario(communicator: WebsocketCommunicator) -> None:
        await ask(communicator, "horario de cierre", version)
        assert (await hear_ends(communicator, 1))[version.name]["near"][0]["url"] == ""

    play(clerk("view_adapterversion"), scenario)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ('{"type": "ask", "question": "  ", "versions": ["v1"]}', "Write a question first."),
        ('{"type": "ask", "question": 5, "versions": ["v1"]}', "Write a question first."),
        (json.dumps({"type": "ask", "question": "a" * 1001, "versions": ["v1"]}), "has 1001 characters; at most 1000"),
        ('{"type": "ask", "question": "\\ud800", "versions": ["v1"]}', "Write a question first."),
        ('{"type": "ask", "question": "a", "versions": ["v999"]}', "There is no version v999."),
        ('{"type": "ask", "question": "a", "versions": []}', "Choose one version or two."),
        ('{"type": "ask", "question": "a", "versions": ["v1", "v2", "v3"]}', "Choose one version or two."),
        ('{"type": "ask", "question": "a", "versions": [1]}', "Choose one version or two."),
        (json.dumps({"type": "ask", "question": "a", "versions": ["9" * 5000]}), "Choose one version or two."),
        ('{"type": "ask", "question": "a", "versions": "v1"}', "Choose one version or two."),
        ('{"type": "dance"}', "not known here"),
        ("{", "not valid JSON"),
        ("[" * 9_000, "not valid JSON"),
        ("5", "has no type"),
        ('"' + "a" * 20_000 + '"', "too long"),
    ],
)
def test_bad_frames_are_answered_in_words(olga: User, frame: str, why: str) -> None:
    async def scenario(communicator: WebsocketCommunicator) -> None:
        await communicator.send_to(frame)
        told = await hear(communicator)
        assert told["type"] == "error"
        assert why in told["text"]

    play(olga, scenario)


def test_bytes_are_not_understood(olga: User) -> None:
    async def scenario(communicator: WebsocketCommunicator) -> None:
        await communicator.send_to(bytes_data=b"{}")
        assert (await hear(communicator))["text"] == "Only text is understood here."

    play(olga, scenario)


def test_it_may_be_asked_so_often_and_no_more(olga: User, make_version: MakeVersion) -> None:
    """A version without an adapter answers at once that it is damaged."""
    version = make_version()

    async def scenario(communicator: WebsocketCommunicator) -> None:
        for _ in range(MAX_QUESTIONS_A_MINUTE):
            await ask(communicator, "horario", version)
            assert (await hear_ends(communicator, 1))[version.name]["outcome"] == "failed"
        # Another one every three seconds.
        for _ in range(MAX_QUESTIONS_A_MINUTE):
            await ask(communicator, "horario", version)
            frame = await hear(communicator)
            if frame["type"] == "error":
                break
        assert "Please wait" in frame["text"]

    play(olga, scenario)


def test_a_flood_of_frames_ends_the_connection(olga: User) -> None:
    async def scenario(communicator: WebsocketCommunicator) -> None:
        for _ in range(MAX_FRAMES_A_MINUTE + 1):
            await communicator.send_to('{"type": "stop"}')
        assert "Too many messages" in (await hear(communicator))["text"]
        closed = await communicator.receive_output(timeout=2)
        assert (closed["type"], closed["code"]) == ("websocket.close", CLOSE_POLICY_VIOLATION)

    play(olga, scenario)


async def is_shut_out(communicator: WebsocketCommunicator) -> None:
    closed = await communicator.receive_output(timeout=5)
    assert (closed["type"], closed["code"]) == ("websocket.close", CLOSE_FORBIDDEN)
    await ask(communicator, "horario", "v1")
    assert await communicator.receive_nothing()


@pytest.mark.parametrize("who", ["stranger", "customer", "clerk without the right", "somebody who left"])
def test_others_are_shut_out(who: str) -> None:
    user = None
    if who == "customer":
        user = User.objects.create_user("carla")
        user.user_permissions.add(Permission.objects.get(codename="view_adapterversion"))
    elif who == "clerk without the right":
        user = clerk("view_trainingrun", "view_faqentry", "view_conversation")
    elif who == "somebody who left":
        user = clerk("view_adapterversion")
        User.objects.update(is_active=False)
    play(user, is_shut_out)


@ASKING
def test_who_teaches_tries_the_live_version_and_no_other() -> None:
    live, other = trained(), trained()
    versions.activate(live)

    async def scenario(communicator: WebsocketCommunicator) -> None:
        for names in ([other], [live, other], [other, live]):
            await ask(communicator, "formas de pago", *names)
            assert "Only the version in use" in (await hear(communicator))["text"]
        await ask(communicator, "formas de pago", live)
        assert (await hear_ends(communicator, 1))[live.name]["text"] == "Con tarjeta o transferencia."

    play(clerk("add_paraphrase"), scenario)


def test_a_right_taken_away_ends_it() -> None:
    user = clerk("view_adapterversion")

    async def scenario(communicator: WebsocketCommunicator) -> None:
        await communicator.send_to('{"type": "dance"}')
        assert (await hear(communicator))["type"] == "error"
        await database_sync_to_async(user.user_permissions.clear)()
        await ask(communicator, "horario", "v1")
        await is_shut_out(communicator)

    play(user, scenario)


def test_another_site_cannot_ask_with_a_clerks_cookie() -> None:
    communicator = socket(clerk("view_adapterversion"), origin=b"https://elsewhere.example", path="/ws/playground/")

    async def whole() -> bool:
        connected, _code = await communicator.connect()
        await communicator.disconnect()
        return connected

    assert not async_to_sync(whole)()


PAGE = "/admin/training/adapterversion/playground/"
ADD = PAGE + "add-wording/"


def chosen(page: str, select: str) -> str:
    options = page.split(f'id="{select}"')[1].split("</select>")[0]
    found = re.search(r'value="([^"]*)" selected', options)
    return found[1] if found else ""


def test_the_page_offers_the_live_version_and_the_newest_other(
    client: Client, olga: User, make_version: MakeVersion
) -> None:
    client.force_login(olga)
    assert "makes the first version" in client.get(PAGE).content.decode()
    first, second, third = make_version(), make_version(), make_version()
    page = client.get(PAGE).content.decode()
    assert (chosen(page, "first"), chosen(page, "second")) == (third.name, second.name), "nothing is live"

    versions.activate(first)
    page = client.get(PAGE).content.decode()
    assert (chosen(page, "first"), chosen(page, "second")) == (first.name, third.name)
    page = client.get(PAGE, {"version": str(second)}).content.decode()
    assert (chosen(page, "first"), chosen(page, "second")) == (first.name, second.name)
    page = client.get(PAGE, {"version": str(second), "with": str(third)}).content.decode()
    assert (chosen(page, "first"), chosen(page, "second")) == (third.name, second.name)
    page = client.get(PAGE, {"version": str(first), "with": "<nonsense>"}).content.decode()
    assert (chosen(page, "first"), chosen(page, "second")) == (first.name, third.name)


def test_a_single_version_stands_alone(client: Client, olga: User, make_version: MakeVersion) -> None:
    client.force_login(olga)
    only = make_version()

    page = client.get(PAGE).content.decode()

    assert (chosen(page, "first"), chosen(page, "second")) == (only.name, "")


def test_what_was_asked_becomes_another_wording(client: Client, shop: None) -> None:
    client.force_login(clerk("add_paraphrase"))
    entry = FaqEntry.objects.get(key="hours")

    response = client.post(ADD, {"entry": entry.pk, "text": "  ¿cuándo   <b>echan</b> el cierre? "})

    assert response.json()["is_added"]
    assert "“¿A qué hora cierran?”" in response.json()["text"]
    assert Paraphrase.objects.last().text == "¿cuándo <b>echan</b> el cierre?"  # type: ignore[union-attr]
    record = entry.history.first()
    assert (record.history_user.username, record.history_change_reason) == ("clara", "A wording was added.")


@pytest.mark.parametrize(
    ("key", "text", "why"),
    [
        ("hours", "HORARIO DE CIERRE!", "This is a wording of “¿A qué hora cierran?” already."),
        ("hours", "a que hora cierran", "This is a wording of “¿A qué hora cierran?” already."),
        ("pay", "horario de cierre", "This is a wording of “¿A qué hora cierran?”. Take it out there"),
        ("pay", "¿?", "Write at least one word."),
        ("pay", "", "cannot be blank"),
        ("pay", "a" * 501, "at most 500 characters"),
        ("retired", "a qué hora abren", "Choose a published answer."),
        ("", "a qué hora abren", "Choose a published answer."),
    ],
)
def test_what_cannot_be_a_wording_is_refused_in_words(
    client: Client, shop: None, olga: User, key: str, text: str, why: str
) -> None:
    client.force_login(olga)
    FaqEntry.objects.create(key="retired", question="¿Venden zapatos?", answer="No.", status="retired")
    num_wordings = Paraphrase.objects.count()
    entry = FaqEntry.objects.filter(key=key).first()

    response = client.post(ADD, {"entry": entry.pk if entry else "9" * 30, "text": text})

    assert not response.json()["is_added"]
    assert why in response.json()["text"]
    assert Paraphrase.objects.count() == num_wordings


def test_only_who_may_add_wordings_teaches(client: Client, shop: None, make_version: MakeVersion) -> None:
    make_version()
    entry = FaqEntry.objects.get(key="hours")
    client.force_login(clerk("view_adapterversion", "view_faqentry"))

    assert client.post(ADD, {"entry": entry.pk, "text": "cuándo echan el cierre"}).status_code == 403
    assert "add-wording" not in client.get(PAGE).content.decode()
    assert entry.paraphrases.count() == 3
    assert client.get(ADD).status_code == 405
