"""What is forgotten when, what stays of it, and that nobody's address is kept."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from django.apps import apps
from django.core.management import call_command
from django.db import connections, models
from django.db.models import Sum
from django.utils import timezone
from pytest_django import Settings
from websockets.sync.client import connect
from websockets.typing import Origin

from chat import replies, retention, tasks
from chat.models import Conversation, DailyFigures, Message
from chat.tests.test_consumers import Client, long_answer, run
from chatbot_site.tests.test_deployment import compose_command, procfile_command
from faq.models import FaqEntry
from training.models import AdapterVersion
from training.tests.conftest import MakeVersion

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]

ROOT = Path(__file__).resolve().parents[2]
Kind = DailyFigures.Kind


def make_conversation(*, days_ago: float = 0, answer: str = "answered", version: AdapterVersion | None = None) -> UUID:
    """A question and how it went; returns the conversation's key."""
    conversation, _ = Conversation.start("es")
    conversation.messages.create(role="user", text="¿a qué hora cierran?", client_id="c1")
    outcomes: dict[str, dict[str, Any]] = {
        "answered": {"finish_reason": "stop", "entry_key": "hours", "text": "Cerramos a las ocho."},
        "suggested": {"finish_reason": "stop", "is_declined": True, "suggestions": ["¿Puedo pagar?"]},
        "declined": {"finish_reason": "stop", "is_declined": True},
        "courtesy": {"finish_reason": "stop", "is_courtesy": True, "text": "De nada."},
        "stopped": {"finish_reason": "cancelled", "entry_key": "hours"},
        "interrupted": {"finish_reason": "error"},
        "under way": {},
    }
    conversation.messages.create(role="assistant", version=version, **outcomes[answer])
    long_ago = timezone.now() - timedelta(days=days_ago)
    Conversation.objects.filter(pk=conversation.pk).update(created_at=long_ago, updated_at=long_ago)
    conversation.messages.update(created_at=long_ago, updated_at=long_ago)
    return conversation.pk


def kept() -> set[UUID]:
    return set(Conversation.objects.values_list("pk", flat=True))


def test_it_forgets_what_is_older_than_is_kept(settings: Settings) -> None:
    settings.RETENTION_DAYS = {"conversations": 30}
    make_conversation(days_ago=30.1)
    young = make_conversation(days_ago=29.9)

    assert retention.forget_expired() == retention.Forgotten(1, 2)

    assert kept() == {young}
    assert not Message.objects.exclude(conversation=young).exists()


def test_it_forgets_nothing_that_is_under_way(settings: Settings) -> None:
    """A reply that is being written keeps its conversation, one whose process was lost long ago does not."""
    settings.RETENTION_DAYS = {"conversations": 1}
    make_conversation(days_ago=3, answer="under way")
    written = make_conversation(days_ago=3, answer="under way")
    Message.objects.filter(conversation=written, role="assistant").update(updated_at=timezone.now())

    retention.forget_expired()

    assert kept() == {written}


def test_it_forgets_in_batches_and_leaves_the_rest_for_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH_SIZE", 2)
    monkeypatch.setattr(retention, "MAX_BATCHES_PER_TASK", 2)
    for _ in range(5):
        make_conversation(days_ago=1000)

    tasks.forget_expired()
    assert Conversation.objects.count() == 1
    tasks.forget_expired()
    assert not Conversation.objects.exists()


def test_only_counts_remain(make_version: MakeVersion) -> None:
    version = make_version()
    for answer in ("answered", "answered", "suggested", "declined", "courtesy", "stopped", "interrupted", "under way"):
        make_conversation(days_ago=1000, answer=answer, version=version if answer != "interrupted" else None)

    retention.forget_expired()

    counts = dict(DailyFigures.objects.values_list("kind").annotate(Sum("num")))
    assert counts == {
        Kind.CONVERSATIONS: 8,
        Kind.QUESTIONS: 8,
        Kind.ANSWERED: 2,
        Kind.SUGGESTED: 1,
        Kind.DECLINED: 1,
        Kind.COURTESY: 1,
        Kind.STOPPED: 1,
        Kind.INTERRUPTED: 1,
    }
    answered = DailyFigures.objects.get(kind=Kind.ANSWERED)
    assert (answered.entry_key, answered.version_number, answered.num) == ("hours", version.number, 2)
    assert answered.day == timezone.localdate(timezone.now() - timedelta(days=1000))
    text = json.dumps(list(DailyFigures.objects.values()), default=str)
    assert "cierran" not in text
    assert "ocho" not in text


def test_counts_of_two_deletions_add_up() -> None:
    make_conversation(days_ago=1000)
    retention.forget_expired()
    make_conversation(days_ago=1000)
    retention.forget_expired()

    assert DailyFigures.objects.get(kind=Kind.QUESTIONS).num == 2


def test_the_command_says_what_it_would_do_and_does_it() -> None:
    make_conversation(days_ago=1000)
    make_conversation()

    def forget(*options: str) -> str:
        out = StringIO()
        call_command("forget", *options, stdout=out)
        return out.getvalue()

    would = json.loads(forget("--dry-run", "--json"))
    assert would == {"dry_run": True, "days": 90, "conversations": 1, "messages": 2}
    assert Conversation.objects.count() == 2
    assert "1 conversations with 2 messages would be deleted" in forget("--dry-run")
    assert json.loads(forget("--json")) == {**would, "dry_run": False}
    assert Conversation.objects.count() == 1


def test_a_deletion_ends_the_reply_and_tells_every_open_page(live: AdapterVersion) -> None:
    """The reply in flight stops, writes nothing back, and the next question begins another conversation."""
    FaqEntry.objects.filter(key="pay").update(answer=long_answer(), updated_at=timezone.now())

    async def scenario() -> None:
        first, second = Client(), Client()
        await first.open()
        await first.ask("formas de pago")
        await first.wait_for("delta")
        await second.open(**first.conversation)
        pk = first.conversation["conversation"]
        await database_sync_to_async(retention.forget)(Conversation.objects.filter(pk=pk))
        for page in (first, second):
            assert (await page.wait_for("forgotten"))["conversation"] == pk
        await first.ask("horario de cierre", "c2")
        _, message = await first.read_answer()
        assert message["text"] == "Cerramos a las ocho."
        assert first.conversation["conversation"] != pk
        assert await second.socket.receive_nothing(timeout=0.3), "a page that was told hears no more of it"
        await first.close()
        await second.close()

    run(scenario)
    assert Conversation.objects.count() == 1
    assert set(Message.objects.values_list("text", flat=True)) == {"horario de cierre", "Cerramos a las ocho."}


def test_a_question_in_a_conversation_that_is_gone_is_not_lost(live: AdapterVersion) -> None:
    """The page was not told, as when Redis was away: the refusal names the question, so that it is sent again."""

    async def scenario() -> None:
        client = Client()
        await client.open()
        await client.ask("formas de pago")
        await client.read_answer()
        await Conversation.objects.all().adelete()
        await client.ask("horario de cierre", "c2")
        error = await client.wait_for("error")
        assert (error["code"], error["client_id"]) == ("unknown_conversation", "c2")
        await client.ask("horario de cierre", "c2")
        _, message = await client.read_answer()
        assert message["text"] == "Cerramos a las ocho."
        await client.close()

    run(scenario)


def test_a_question_comes_before_the_deletion_or_finds_the_conversation_gone() -> None:
    """Whoever comes first, nothing is half deleted, and every question that was stored is counted."""
    conversation, _ = Conversation.start("es")
    gate = threading.Barrier(5)

    def ask(number: int) -> bool:
        gate.wait()
        try:
            async_to_sync(replies.store)(conversation, "hola", f"c{number}")
        except Conversation.DoesNotExist:
            return False
        finally:
            connections.close_all()
        return True

    def delete() -> None:
        gate.wait()
        retention.forget(Conversation.objects.filter(pk=conversation.pk))
        connections.close_all()

    with ThreadPoolExecutor(5) as threads:
        deletion = threads.submit(delete)
        stored = list(threads.map(ask, range(4)))
        deletion.result()

    assert not Conversation.objects.exists()
    assert not Message.objects.exists()
    counted = DailyFigures.objects.filter(kind=Kind.QUESTIONS).aggregate(num=Sum("num", default=0))["num"]
    assert counted == sum(stored)


def test_a_server_that_goes_is_not_held_up_by_a_deleted_reply(live: AdapterVersion) -> None:
    FaqEntry.objects.filter(key="pay").update(answer=long_answer(), updated_at=timezone.now())

    async def scenario() -> None:
        client = Client()
        await client.open()
        await client.ask("formas de pago")
        await client.wait_for("delta")
        await Conversation.objects.all().adelete()
        await replies.interrupt_all()
        await client.close()

    async_to_sync(scenario)()
    assert not Message.objects.exists()


def test_no_table_has_room_for_an_address() -> None:
    names = re.compile(r"(^|_)(ip|addr|address|remote|host|user_?agent|forwarded)(_|$)")
    for model in apps.get_models():
        for field in model._meta.get_fields():
            assert not isinstance(field, models.GenericIPAddressField), f"{model.__name__}.{field.name}"
            assert not names.search(field.name), f"{model.__name__}.{field.name}"


@pytest.mark.parametrize("how", ["compose", "Procfile"])
def test_the_server_writes_no_address_into_its_log(how: str, tmp_path: Path) -> None:
    """Both of a page and of a websocket, with the very options of production."""
    command = compose_command("web") if how == "compose" else procfile_command("web")
    port = str(_free_port())
    values = {"--host": "127.0.0.1", "--port": port}
    options = [values.get(before, each) for before, each in zip(["", *command], command, strict=False)]
    database = {"DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}"}
    environment = {**os.environ, **database, "LOG_LEVEL": "INFO", "ALLOWED_HOSTS": "localhost"}
    log = tmp_path / "log"
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, check=True)
    with log.open("wb") as file:
        server = subprocess.Popen([sys.executable, "-m", *options], cwd=ROOT, env=environment, stdout=file, stderr=file)
        try:
            _visit(port)
        finally:
            server.terminate()
            server.wait(timeout=30)
    written = log.read_text(encoding="utf-8")
    assert "/not-here/" in written, "it does write a log"
    assert "127.0.0.1" not in written


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _visit(port: str) -> None:
    give_up_at = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://localhost:{port}/not-here/", timeout=5)
        except urllib.error.HTTPError:
            # Not found, and said so in the log.
            break
        except OSError:
            assert time.monotonic() < give_up_at, "the server did not start"
            time.sleep(0.1)
    with connect(f"ws://localhost:{port}/ws/chat/", origin=Origin(f"http://localhost:{port}")) as page:
        page.send('{"type": "start"}')
        assert json.loads(page.recv(timeout=20))["type"] == "ready"
