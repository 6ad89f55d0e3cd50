"""Who may open which websocket of staff: a stranger, a customer with an account, each role, and the owner."""

from __future__ import annotations

from importlib import import_module

import pytest
from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.apps import apps
from django.contrib.auth.models import Group, User
from pytest_django import Settings

from chat.tests.test_roles import AGENT, EVERYBODY, ROLES
from training.consumers import CLOSE_FORBIDDEN
from training.tests.test_consumers import socket

pytestmark = pytest.mark.django_db(transaction=True)

SOCKETS = {
    "/ws/training/": EVERYBODY - {AGENT},
    "/ws/playground/": EVERYBODY,
    "/ws/inbox/": {AGENT, "owner"},
}


def somebody(who: str, settings: Settings) -> User | None:
    if who == "stranger":
        return None
    user = User.objects.create_user("somebody", is_staff=who != "customer", is_superuser=who == "owner")
    if who in ROLES:
        settings.LANGUAGE_CODE = "es"
        import_module("chat.migrations.0004_roles").create_roles(apps, None)
        import_module("chat.migrations.0009_people").let_agents_answer(apps, None)
        import_module("chat.migrations.0010_rooms").let_agents_teach(apps, None)
        user.groups.add(Group.objects.get(name=who))
    return user


async def is_let_in(communicator: WebsocketCommunicator) -> bool:
    await communicator.connect()
    # One that says nothing by itself says what is wrong with this.
    await communicator.send_to(text_data="{}")
    heard = await communicator.receive_output(timeout=5)
    await communicator.disconnect()
    assert heard["type"] == "websocket.send" or heard["code"] == CLOSE_FORBIDDEN
    return bool(heard["type"] == "websocket.send")


@pytest.mark.parametrize("who", ["stranger", "customer", *ROLES, "owner"])
@pytest.mark.parametrize("path", SOCKETS)
def test_every_socket(path: str, who: str, settings: Settings) -> None:
    communicator = socket(somebody(who, settings), path=path)

    assert async_to_sync(is_let_in)(communicator) == (who in SOCKETS[path])
