"""Which pages may have the chat: over the websocket, over plain requests, and what staff may enter."""

from __future__ import annotations

import json
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import AsyncClient, Client

from chat.consumers import CLOSE_FORBIDDEN
from chat.models import Conversation, Message, Site
from chat.origins import OriginError, normalised
from chat.tests.test_consumers import OWN, run
from chatbot_site.asgi import application

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]

SHOP = "https://shop.example"


@pytest.fixture
def site() -> Site:
    return Site.objects.create(
        name="Shop", origins=f"{SHOP}\nhttp://shop.example:8080", title="Zapatos", greeting="¡Hola!"
    )


async def connect(origin: str, path: str = "/ws/chat/") -> tuple[WebsocketCommunicator, bool]:
    headers = [(b"origin", origin.encode()), (b"host", b"localhost")]
    socket = WebsocketCommunicator(application, path, headers=headers)
    return socket, (await socket.connect())[0]


async def exchange(socket: WebsocketCommunicator, frame: dict[str, Any]) -> dict[str, Any]:
    await socket.send_to(text_data=json.dumps(frame))
    answer: dict[str, Any] = json.loads(await socket.receive_from(timeout=10))
    return answer


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("https://Shop.Example", "https://shop.example"),
        ("https://shop.example/", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("http://shop.example:8080", "http://shop.example:8080"),
        ("https://españa.example", "https://xn--espaa-rta.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://127.0.0.1", "http://127.0.0.1"),
    ],
)
def test_an_origin_is_read_as_browsers_write_it(written: str, origin: str) -> None:
    assert normalised(written) == origin


@pytest.mark.parametrize(
    "written",
    [
        *("", "*", "shop.example", "https://", "https://*.shop.example", "https://shop.example/path", "null"),
        *(
            "javascript:alert(1)",
            "ftp://shop.example",
            "https://a@shop.example",
            "https://shop.example?x",
            "https://a:b",
        ),
        *("https://shop..example", "https://-", "http://[::", "https://" + "a" * 300),
    ],
)
def test_what_is_no_origin_is_refused(written: str) -> None:
    with pytest.raises(OriginError):
        normalised(written)


@pytest.mark.parametrize("rest", ["/tienda", "/?x=1", "#a"])
def test_staff_are_told_that_a_path_is_too_much(site: Site, rest: str) -> None:
    site.origins = f"http://shop.example:8080{rest}"
    with pytest.raises(ValidationError) as refused:
        site.full_clean()
    told = f"http://shop.example:8080{rest} has a path or more after the address: write http://shop.example:8080 alone."
    assert told in str(refused.value)


def test_staff_are_told_which_line_is_no_address(site: Site) -> None:
    site.origins = "https://shop.example\nshop.example/path"

    with pytest.raises(ValidationError) as refused:
        site.full_clean()

    assert "shop.example/path is not an address" in str(refused.value)


def test_a_page_of_the_site_is_let_in_with_its_key(site: Site) -> None:
    async def scenario() -> None:
        socket, is_connected = await connect(SHOP)
        assert is_connected
        start = {"type": "start", "language": "es", "site": site.key}
        assert (await exchange(socket, start))["type"] == "ready"
        message = {"type": "message", "client_id": "c1", "text": "hola"}
        assert (await exchange(socket, message))["type"] == "conversation"
        await socket.disconnect()

    run(scenario)
    assert Conversation.objects.get().site == site


@pytest.mark.parametrize("key", ["", "wrong", 5, None, ["x"]])
def test_a_page_of_the_site_is_shown_the_door_without_its_key(site: Site, key: Any) -> None:
    async def scenario() -> None:
        socket, is_connected = await connect(SHOP)
        assert is_connected
        assert (await exchange(socket, {"type": "start", "site": key}))["code"] == "unknown_site"
        closed = await socket.receive_output()
        assert (closed["type"], closed["code"]) == ("websocket.close", CLOSE_FORBIDDEN)

    run(scenario)


@pytest.mark.parametrize("frame", [{"type": "message", "client_id": "c1", "text": "hola"}, {"type": "resume"}])
def test_nothing_is_heard_before_the_page_says_where_it_belongs(site: Site, frame: dict[str, Any]) -> None:
    async def scenario() -> None:
        socket, _ = await connect(SHOP)
        assert (await exchange(socket, frame))["code"] == "not_started"
        await socket.disconnect()

    run(scenario)
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://shop.example",
        "https://shop.example:8443",
        "https://sub.shop.example",
        "null",
        "",
    ],
)
def test_other_pages_stay_outside(site: Site, origin: str) -> None:
    async def scenario() -> None:
        _, is_connected = await connect(origin)
        assert not is_connected

    run(scenario)


def test_a_site_that_is_switched_off_stays_outside(site: Site) -> None:
    Site.objects.update(is_active=False)

    async def scenario() -> None:
        _, is_connected = await connect(SHOP)
        assert not is_connected

    run(scenario)


def test_a_site_reaches_the_chat_and_no_other_socket(site: Site) -> None:
    async def scenario() -> None:
        _, is_connected = await connect(SHOP, "/ws/training/")
        assert not is_connected

    run(scenario)


def test_another_sites_key_opens_nothing(site: Site) -> None:
    other = Site.objects.create(name="Other", origins="https://other.example")
    conversation, token = Conversation.start("es", site=site)

    async def scenario() -> None:
        socket, _ = await connect("https://other.example")
        assert (await exchange(socket, {"type": "start", "site": site.key}))["code"] == "unknown_site"
        socket, _ = await connect("https://other.example")
        start = {"type": "start", "site": other.key, "conversation": str(conversation.id), "token": token}
        assert (await exchange(socket, start))["code"] == "unknown_conversation"
        await socket.disconnect()

    run(scenario)


def test_a_pages_own_token_opens_nothing_of_another_site(site: Site) -> None:
    other = Site.objects.create(name="Other", origins="https://other.example")
    conversation, _ = Conversation.start("es", token=OWN, site=site)
    conversation.messages.create(role="user", text="un secreto", client_id="c1")

    async def scenario() -> None:
        socket, _ = await connect("https://other.example")
        await exchange(socket, {"type": "start", "site": other.key})
        for client_id in ("c1", "c2"):
            message = {"type": "message", "client_id": client_id, "text": "hola", "token": OWN}
            refused = await exchange(socket, message)
            assert (refused["code"], refused["client_id"]) == ("unknown_conversation", client_id)
        refused = await exchange(socket, {"type": "person", "token": OWN})
        assert refused["code"] == "unknown_conversation"
        await socket.disconnect()

    run(scenario)
    assert Message.objects.count() == 1


def test_identify_is_stored_with_the_conversation(site: Site) -> None:
    async def scenario() -> None:
        socket, _ = await connect(SHOP)
        await exchange(socket, {"type": "start", "site": site.key})
        wrong = {"type": "identify", "name": "Ana", "email": "not an address"}
        assert (await exchange(socket, wrong))["code"] == "bad_identity"
        await socket.send_to(
            text_data=json.dumps({"type": "identify", "name": "Ana\0 <b>", "email": "ana@example.com"})
        )
        await exchange(socket, {"type": "message", "client_id": "c1", "text": "hola"})
        await socket.disconnect()

    run(scenario)
    conversation = Conversation.objects.get()
    assert (conversation.customer_name, conversation.customer_email) == ("Ana <b>", "ana@example.com")


def test_the_widgets_texts_are_given_to_the_sites_pages_alone(client: Client, site: Site) -> None:
    url = f"/chat/config.json?site={site.key}&language=es-CO"

    let_in = client.get(url, headers={"origin": SHOP})
    assert let_in.headers["Access-Control-Allow-Origin"] == SHOP
    assert "Origin" in let_in.headers["Vary"]
    values = let_in.json()
    assert (values["language"], values["title"], values["greeting"]) == ("es", "Zapatos", "¡Hola!")
    assert "IA" in values["disclosure"]
    for origin in ("https://evil.example", "null", "https://shop.example.evil.example"):
        refused = client.get(url, headers={"origin": origin})
        assert refused.status_code == 403
        assert "Access-Control-Allow-Origin" not in refused.headers
    wrong = client.get("/chat/config.json?site=wrong", headers={"origin": SHOP})
    assert (wrong.status_code, "Access-Control-Allow-Origin" in wrong.headers) == (403, False)


def test_the_script_may_be_included_anywhere(client: Client) -> None:
    script = client.get("/widget.js")

    assert script.headers["Content-Type"].startswith("text/javascript")
    assert script.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert "Set-Cookie" not in script.headers
    assert b"window.CustomerChat" in script.content


# Plain requests


async def post(client: AsyncClient, site: Site | None, body: Any, **headers: str) -> Any:
    content = body if isinstance(body, str) else json.dumps(body)
    url = f"/chat/frames/?site={site.key if site else ''}&language=es"
    return await client.post(url, content, content_type="application/json", headers={"origin": SHOP, **headers})


def frames_of(response: Any) -> dict[str, Any]:
    return {frame["type"]: frame for frame in response.json()["frames"]}


def test_a_conversation_goes_on_over_plain_requests(site: Site) -> None:
    async def scenario() -> None:
        client = AsyncClient()
        frame = {"type": "message", "client_id": "c1", "text": "hola"}
        first = await post(client, site, {"conversation": "", "frame": frame})
        assert first.status_code == 200
        assert first.headers["Access-Control-Allow-Origin"] == SHOP
        assert "Set-Cookie" not in first.headers
        begun = frames_of(first)["conversation"]
        token = {"authorization": f"Bearer {begun['token']}"}
        again = await post(client, site, {"conversation": begun["conversation"], "frame": frame}, **token)
        assert [each["role"] for each in frames_of(again)["ready"]["messages"]] == ["user", "assistant"]
        url = f"/chat/messages/?site={site.key}&conversation={begun['conversation']}"
        ready = frames_of(await client.get(url, headers={"origin": SHOP, **token}))["ready"]
        assert ready["messages"][0]["text"] == "hola"
        assert len(ready["ids"]) == 2
        for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": begun["token"]}):
            refused = await client.get(url, headers={"origin": SHOP, **wrong})
            assert refused.status_code == 404
            assert "hola" not in refused.content.decode()

    run(scenario)
    assert Message.objects.filter(role="user").count() == 1


def test_a_first_message_that_is_posted_again_is_stored_once(site: Site) -> None:
    """Its answer was lost, so the page does not know its conversation."""

    async def scenario() -> None:
        client = AsyncClient()
        frame = {"type": "message", "client_id": "c1", "text": "hola", "token": OWN}
        lost = await post(client, site, {"conversation": "", "frame": frame})
        again = await post(client, site, {"conversation": "", "frame": frame})
        assert frames_of(again)["conversation"] == frames_of(lost)["conversation"]
        assert [frame["type"] for frame in again.json()["frames"]] == ["conversation", "ready"]
        ready = frames_of(again)["ready"]
        assert "cursor" in ready, "the page goes on asking"
        assert [each["role"] for each in ready["messages"]] == ["user", "assistant"]
        wrong = await post(client, site, {"frame": {**frame, "token": "short"}})
        assert (wrong.status_code, frames_of(wrong)["error"]["code"]) == (400, "bad_token")

    run(scenario)
    assert Conversation.objects.count() == 1
    assert Message.objects.filter(role="user").count() == 1


def test_plain_requests_hear_that_the_conversation_is_gone(site: Site) -> None:
    async def scenario() -> None:
        client = AsyncClient()
        first = await post(client, site, {"frame": {"type": "message", "client_id": "c1", "text": "hola"}})
        begun = frames_of(first)["conversation"]
        token = {"authorization": f"Bearer {begun['token']}"}
        forget = {"conversation": begun["conversation"], "frame": {"type": "forget"}}
        heard = frames_of(await post(client, site, forget, **token))
        assert heard["forgotten"]["conversation"] == begun["conversation"]
        assert (heard["ready"]["conversation"], heard["ready"]["messages"]) == (None, [])
        url = f"/chat/messages/?site={site.key}&conversation={begun['conversation']}"
        after = await client.get(url, headers={"origin": SHOP, **token})
        assert (after.status_code, frames_of(after)["error"]["code"]) == (404, "unknown_conversation")

    run(scenario)
    assert not Conversation.objects.exists()


def test_plain_requests_are_refused_to_other_pages(site: Site) -> None:
    async def scenario() -> None:
        client = AsyncClient()
        body = {"frame": {"type": "message", "client_id": "c1", "text": "hola"}}
        assert (await post(client, site, body, origin="https://evil.example")).status_code == 403
        assert (await post(client, None, body)).status_code == 403
        unnamed = await client.post(f"/chat/frames/?site={site.key}", json.dumps(body), content_type="application/json")
        assert unnamed.status_code == 403
        preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        refused = await client.options(f"/chat/frames/?site={site.key}", headers=preflight)
        assert "Access-Control-Allow-Origin" not in refused.headers
        allowed = await client.options(f"/chat/frames/?site={site.key}", headers={**preflight, "origin": SHOP})
        assert "Authorization" in allowed.headers["Access-Control-Allow-Headers"]

    run(scenario)
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{", "not_json"),
        ("[]", "no_type"),
        ({"frame": 5}, "no_type"),
        ({"frame": {"type": "nonsense"}}, "unknown_type"),
        ("x" * 40_000, "frame_too_long"),
        ({"conversation": "nope", "frame": {"type": "resume"}}, "unknown_conversation"),
        ({"frame": {"type": "message", "client_id": "c", "text": ""}}, "empty"),
    ],
)
def test_a_bad_request_is_answered_in_words(site: Site, body: Any, code: str) -> None:
    async def scenario() -> None:
        response = await post(AsyncClient(), site, body)
        error = frames_of(response)["error"]
        assert 400 <= response.status_code < 500
        assert error["code"] == code
        assert error["text"]

    run(scenario)


def test_the_embedding_lines_are_shown_to_who_manages_sites(client: Client, site: Site) -> None:
    client.force_login(User.objects.create_superuser("olga"))

    page = client.get(f"/admin/chat/site/{site.pk}/change/").content.decode()

    assert f"http://testserver/widget.js&quot; data-site=&quot;{site.key}" in page or f'data-site="{site.key}"' in page
    assert "connect-src http://testserver ws://testserver" in page
