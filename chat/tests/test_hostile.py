"""What no page of ours would send: each frame or request is told what is wrong, and the next good one is answered."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chat import plain, polling
from chat.consumers import CLOSE_FORBIDDEN
from chat.limits import Allowances
from chat.models import Conversation, Message
from chat.tests.test_consumers import Client, run
from chat.tests.test_turns import Browser, serve
from training import serving
from training.models import AdapterVersion

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]

NUM_FRAMES = 2_000
# A socket may send forty at once; one is its greeting, and one asks whether it still lives.
FRAMES_A_SOCKET = 38
GOOD = {"type": "message", "client_id": "good", "text": "formas de pago"}
ANSWER = "Con tarjeta o transferencia."

STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 0.5, 1e308, 2**63, -(2**70), 10**400, float("nan"), float("inf")),
    *(
        "",
        " ",
        "\0",
        "\ud800",
        "\udfff\ud800",
        "‮",
        "a" * 70,
        "é" * 20,
        "../..",
        "' OR 1=1 --",
        "{{7*7}}",
        "%s%n",
        "\r\n",
    ),
    *([], {}, [[]], [{}], {"": None}, {"type": "ping"}, ["message"], [None] * 50, {"a": {"b": {"c": []}}}),
]
# Whatever else a frame with one of these says, it is none.
UNREAL_TEXTS: list[Any] = ["", "\0", " \t\n", "\ud800", "\udfff\0 ", None, 5, [], {}, True, "a" * 1_001, "🎉" * 1_001]
UNREAL_IDS: list[Any] = ["", " ", "a b", "é", "a" * 65, "\0", "\ud800", "c1\n", None, 5, 2**70, [], {}, True]
UNREAL_TYPES: list[Any] = [each for each in STRANGE if each is not None] + [
    "Message",
    "message ",
    "__init__",
    "done",
    "ready",
]


def bad_frames(rng: random.Random) -> Iterator[str | bytes]:
    """Texts, and bytes for binary frames, without end."""
    kinds: list[Callable[[random.Random], str | bytes]]
    kinds = [_noise, _binary, _truncated, _nested, _huge, _no_frame, _no_type, _message, _feedback, _identity, _start]
    while True:
        yield rng.choice(kinds)(rng)


def _noise(rng: random.Random) -> str:
    return (
        "".join(chr(rng.choice([rng.randrange(128), rng.randrange(0xD7FF)])) for _ in range(rng.randint(1, 300))) + "}"
    )


def _binary(rng: random.Random) -> bytes:
    return rng.choice([rng.randbytes(rng.randint(0, 300)), json.dumps(GOOD).encode(), b"\0"])


def _truncated(rng: random.Random) -> str:
    text = json.dumps(GOOD)
    return text[: rng.randrange(len(text))]


def _nested(rng: random.Random) -> str:
    depth = rng.choice([500, 5_000, 8_000])
    return rng.choice(
        ["[" * depth, "[" * depth + "]" * depth, '{"a":' * (depth // 3), '{"type":' + "[" * depth + "]" * depth + "}"]
    )


def _huge(rng: random.Random) -> str:
    digits = "9" * rng.choice([400, 4_400, 16_000])
    return rng.choice(
        [digits, f'{{"type": {digits}}}', f'{{"type": "feedback", "message_id": {digits}}}', '"' + "a" * 20_000]
    )


def _no_frame(rng: random.Random) -> str:
    return json.dumps(rng.choice([each for each in STRANGE if not isinstance(each, dict)]))


def _no_type(rng: random.Random) -> str:
    frame = {str(rng.choice(STRANGE)): rng.choice(STRANGE), "type": rng.choice(UNREAL_TYPES)}
    return json.dumps(frame, ensure_ascii=True)


def _message(rng: random.Random) -> str:
    frame = GOOD | rng.choice([{"text": rng.choice(UNREAL_TEXTS)}, {"client_id": rng.choice(UNREAL_IDS)}])
    return json.dumps(frame | {"language": rng.choice(STRANGE)})


def _feedback(rng: random.Random) -> str:
    frame = {"type": "feedback", "message_id": rng.choice([each for each in STRANGE if each is not True])}
    return json.dumps(
        frame | {"rating": rng.choice(STRANGE), "reasons": rng.choice(STRANGE), "text": rng.choice(STRANGE)}
    )


def _identity(rng: random.Random) -> str:
    name = rng.choice([each for each in STRANGE if each])
    email = rng.choice(
        ["a@", "@b.example", "a@b", "a b@c.example", "\ud800@b.example", "a@\ud800.example", 5, [1], {"a": 1}]
    )
    # Valid as an address, and longer than can be stored.
    long = ".".join(["a" * 60] * 4) + "@" + ".".join(["b" * 60] * 1) + ".example"
    return json.dumps({"type": "identify", "name": name, "email": rng.choice([email, long])})


def _start(rng: random.Random) -> str:
    known = [each for each in STRANGE if each]
    return json.dumps(
        {
            "type": "start",
            "language": rng.choice(STRANGE),
            "conversation": rng.choice(known),
            "token": rng.choice(STRANGE),
        }
    )


async def sent(client: Client, frame: str | bytes) -> dict[str, Any]:
    """The answer to a frame."""
    kind = "bytes" if isinstance(frame, bytes) else "text"
    await client.socket.send_input({"type": "websocket.receive", kind: frame})
    answer: dict[str, Any] = json.loads(await client.socket.receive_from(timeout=10))
    return answer


def test_each_bad_frame_is_answered_and_good_ones_still_are(live: AdapterVersion) -> None:
    serving.prepare(live)
    frames = bad_frames(random.Random(6))

    async def scenario() -> None:
        for number in range(-(-NUM_FRAMES // FRAMES_A_SOCKET)):
            client = Client()
            assert (await client.open())["type"] == "ready"
            for _ in range(FRAMES_A_SOCKET):
                frame = next(frames)
                answer = await sent(client, frame)
                assert answer["type"] == "error", frame
                assert answer["code"], frame
                assert answer["text"], frame
            if number % 10:
                assert (await sent(client, '{"type": "ping"}'))["type"] == "pong"
            else:
                await client.send(GOOD)
                _, message = await client.read_answer()
                assert message["text"] == ANSWER
            await client.close()

    run(scenario)
    assert set(Message.objects.filter(role="user").values_list("text", flat=True)) == {GOOD["text"]}
    assert not Conversation.objects.exclude(customer_name="", customer_email="").exists()


@pytest.mark.parametrize("site", [each for each in STRANGE if each])
def test_a_page_of_no_site_is_told_and_shown_the_door(db: None, site: Any) -> None:
    async def scenario() -> None:
        client = Client()
        await client.socket.connect()
        assert (await sent(client, json.dumps({"type": "start", "site": site})))["code"] == "unknown_site"
        closed = await client.socket.receive_output()
        assert (closed["type"], closed["code"]) == ("websocket.close", CLOSE_FORBIDDEN)

    run(scenario)


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """One address may ask as often as it wants."""
    monkeypatch.setattr(polling, "_addresses", Allowances(capacity=10_000, per_second=1))


async def posted(body: str | bytes) -> tuple[int, dict[str, Any]]:
    headers = {"origin": "http://localhost"}
    answer = await Browser().post("/chat/frames/?language=en", body, "application/json", headers=headers)
    return answer.status_code, answer.json()["frames"][-1]


def test_each_bad_request_is_answered_and_good_ones_still_are(live: AdapterVersion, unlimited: None) -> None:
    serving.prepare(live)
    rng = random.Random(7)
    frames = bad_frames(rng)

    async def scenario() -> None:
        for _ in range(400):
            frame = next(frames)
            if isinstance(frame, str) and rng.random() < 0.7:
                frame = f'{{"conversation": null, "frame": {frame}}}'
            status, answer = await posted(frame)
            assert status in (400, 403, 404), frame
            assert answer["type"] == "error", frame
        for conversation in STRANGE:
            body = json.dumps({"conversation": conversation, "frame": {"type": "resume"}})
            status, answer = await posted(body)
            assert (status, answer["type"]) == ((404, "error") if conversation else (200, "ready"))
        status, answer = await posted(json.dumps({"frame": GOOD}))
        assert (status, answer["type"]) == (200, "ready")

    serve(scenario)
    assert Message.objects.get(role="assistant").text == ANSWER


@pytest.mark.parametrize(
    "since",
    [
        *(
            "0001-01-01T00:00:00+00:00",
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59-23:59",
            "2026-02-31T00:00:00Z",
        ),
        *(
            "",
            "x",
            "0",
            "-1",
            "1e9",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "' OR 1=1",
            "9" * 3_000,
            "٢٠٢٦-٠١-٠١T٠٠:٠٠:٠٠Z",
        ),
    ],
)
def test_a_moment_that_is_none_gets_the_whole(db: None, since: str) -> None:
    conversation, token = Conversation.start("es")
    conversation.messages.create(role="user", text="hola")

    async def scenario() -> None:
        answer = await Browser().get(
            "/chat/messages/",
            {"conversation": str(conversation.pk), "since": since},
            headers={"authorization": f"Bearer {token}"},
        )
        assert answer.status_code == 200
        assert [each["text"] for each in answer.json()["frames"][0]["messages"]] == ["hola"]

    serve(scenario)


def test_the_plain_form_says_what_is_wrong_and_goes_on(live: AdapterVersion, unlimited: None) -> None:
    serving.prepare(live)

    async def scenario() -> None:
        browser = Browser()
        for text in ("", "\0", " \t\n", "a" * 1_001, "🎉" * 1_001):
            answer = await browser.post("/plain/", {"text": text, "client_id": "c1"})
            assert answer.status_code == 400
            assert 'role="alert"' in answer.content.decode()
        for client_id in ("", " ", "a b", "é", "a" * 65, "\0", "c1\n", "<script>"):
            answer = await browser.post("/plain/", {"text": "hola", "client_id": client_id})
            assert answer.status_code == 400
            assert 'role="alert"' in answer.content.decode()
        form = "application/x-www-form-urlencoded"
        for body, kind in ((b"\xff\xfe\0" * 50, form), (b"--x\r\n", "multipart/form-data; boundary=x")):
            answer = await browser.generic("POST", "/plain/", body, content_type=kind)
            assert answer.status_code == 400
        browser.cookies[plain.COOKIE] = "forged:x:y"
        answer = await browser.post("/plain/", {"text": GOOD["text"], "client_id": "good"})
        assert answer.status_code == 302
        assert ANSWER in (await browser.get("/plain/")).content.decode()

    serve(scenario)
