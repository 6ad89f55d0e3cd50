"""Who may do what: a stranger, a customer with an account, each role, and the owner."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from pytest_django import Settings

from chat import handovers
from chat.models import Conversation, Site
from faq.models import FaqEntry, OffTopicQuestion
from training import trials, versions
from training.lm.config import TrainConfig
from training.models import AdapterVersion, RetrainingSchedule, TrainingRun
from training.tests.conftest import MakeVersion, make_version, shop

pytestmark = [pytest.mark.django_db, pytest.mark.database]

__all__ = ["make_version", "shop"]

# As a Spanish business finds them.
EDITOR, TRAINER, PUBLISHER, AGENT = ROLES = ("Redacción", "Entrenamiento", "Publicación", "Atención")
EVERYBODY = {*ROLES, "owner"}
ENTRY = "/admin/faq/faqentry/{entry}/"
RUN = "/admin/training/trainingrun/"
VERSION = "/admin/training/adapterversion/"
TRIAL = "/admin/training/trial/"
CONVERSATION = "/admin/chat/conversation/"


@dataclass(frozen=True)
class Door:
    """A page or an action, and who gets through."""

    url: str
    lets_in: set[str]
    is_post: bool = False


DOORS = [
    Door("/admin/", EVERYBODY),
    Door("/admin/faq/faqentry/", EVERYBODY),
    Door(ENTRY + "change/", EVERYBODY),
    Door(ENTRY + "change/", {EDITOR, "owner"}, is_post=True),
    Door(ENTRY + "history/", EVERYBODY),
    Door(ENTRY + "delete/", {"owner"}, is_post=True),
    Door("/admin/faq/faqentry/add/", {EDITOR, "owner"}),
    Door("/admin/faq/faqentry/add/", {EDITOR, "owner"}, is_post=True),
    Door("/admin/faq/offtopicquestion/", EVERYBODY - {AGENT}),
    Door("/admin/faq/offtopicquestion/add/", {EDITOR, "owner"}),
    Door("/admin/faq/offtopicquestion/{off_topic}/delete/", {EDITOR, "owner"}, is_post=True),
    Door(RUN, EVERYBODY - {AGENT}),
    Door(RUN + "{run}/change/", EVERYBODY - {AGENT}),
    Door(RUN + "status.json", EVERYBODY - {AGENT}),
    Door(RUN + "prepare/", {TRAINER, "owner"}),
    Door(RUN + "differences.csv", {TRAINER, "owner"}),
    Door(RUN + "train-now/", {TRAINER, "owner"}, is_post=True),
    Door(RUN + "{run}/cancel/", {TRAINER, "owner"}, is_post=True),
    Door(RUN + "{failed}/retry/", {TRAINER, "owner"}, is_post=True),
    Door(VERSION, {TRAINER, PUBLISHER, "owner"}),
    Door(VERSION + "{version}/change/", {TRAINER, PUBLISHER, "owner"}),
    Door(VERSION + "{version}/compare/", {TRAINER, PUBLISHER, "owner"}),
    Door(VERSION + "{version}/activate/", {PUBLISHER, "owner"}),
    Door(VERSION + "{version}/activate/", {PUBLISHER, "owner"}, is_post=True),
    Door(VERSION + "{version}/export/", {PUBLISHER, "owner"}, is_post=True),
    Door(VERSION + "import/", {PUBLISHER, "owner"}),
    Door(VERSION + "import/", {PUBLISHER, "owner"}, is_post=True),
    Door(VERSION + "{version}/threshold/", {PUBLISHER, "owner"}, is_post=True),
    Door(VERSION + "{other}/try/", {PUBLISHER, "owner"}),
    Door(VERSION + "{other}/try/", {PUBLISHER, "owner"}, is_post=True),
    Door(TRIAL, {TRAINER, PUBLISHER, "owner"}),
    Door(TRIAL + "{trial}/change/", {TRAINER, PUBLISHER, "owner"}),
    Door(TRIAL + "{trial}/stop/", {PUBLISHER, "owner"}, is_post=True),
    Door(VERSION + "roll-back/", {PUBLISHER, "owner"}, is_post=True),
    Door(VERSION + "undo/", {PUBLISHER, "owner"}, is_post=True),
    # Those who teach try what is live.
    Door(VERSION + "playground/", EVERYBODY),
    Door(VERSION + "playground/add-wording/", {EDITOR, AGENT, "owner"}, is_post=True),
    Door("/admin/training/activation/", {TRAINER, PUBLISHER, "owner"}),
    Door("/admin/training/activation/?at=2025-05-03T17:20", {TRAINER, PUBLISHER, "owner"}),
    Door("/admin/training/scheduledactivation/", {TRAINER, PUBLISHER, "owner"}),
    Door("/admin/training/scheduledactivation/add/", {PUBLISHER, "owner"}),
    Door("/admin/training/retrainingschedule/1/change/", EVERYBODY - {AGENT}),
    Door("/admin/training/retrainingschedule/1/change/", {TRAINER, "owner"}, is_post=True),
    Door(CONVERSATION, {AGENT, "owner"}),
    Door(CONVERSATION + "wording/{question}/", {AGENT, "owner"}),
    Door(CONVERSATION + "wording/{question}/", {AGENT, "owner"}, is_post=True),
    Door(CONVERSATION + "{conversation}/step-in/", {AGENT, "owner"}, is_post=True),
    Door(CONVERSATION + "{conversation}/change/", {AGENT, "owner"}),
    Door(CONVERSATION + "{conversation}/delete/", {"owner"}),
    Door(CONVERSATION + "{conversation}/delete/", {"owner"}, is_post=True),
    Door("/admin/chat/dailyfigures/", {AGENT, "owner"}),
    Door(CONVERSATION + "export.csv", {AGENT, "owner"}),
    Door(CONVERSATION + "export.jsonl?outcome=answered", {AGENT, "owner"}),
    Door("/admin/chat/handover/inbox/", {AGENT, "owner"}),
    Door("/admin/chat/handover/inbox/name/", {AGENT, "owner"}, is_post=True),
    Door("/admin/chat/handover/", {AGENT, "owner"}),
    Door("/admin/chat/handover/{handover}/change/", {AGENT, "owner"}),
    Door("/admin/chat/handover/add/", set()),
    # With its conversation alone.
    Door("/admin/chat/handover/{handover}/delete/", set(), is_post=True),
    Door("/admin/chat/openinghours/", {AGENT, "owner"}),
    Door("/admin/chat/openinghours/add/", {AGENT, "owner"}, is_post=True),
    Door("/admin/chat/closedday/", {AGENT, "owner"}),
    Door("/admin/chat/closedday/add/", {AGENT, "owner"}, is_post=True),
    Door("/admin/chat/site/", {"owner"}),
    Door("/admin/chat/site/add/", {"owner"}),
    Door("/admin/chat/site/{site}/change/", {"owner"}),
    Door("/admin/chat/site/{site}/change/", {"owner"}, is_post=True),
    Door("/admin/chat/site/{site}/delete/", {"owner"}, is_post=True),
    Door("/admin/auth/user/", {"owner"}),
    Door("/admin/auth/user/add/", {"owner"}),
    Door("/admin/auth/group/", {"owner"}),
]


@pytest.fixture
def numbers(shop: None, make_version: MakeVersion) -> dict[str, object]:
    version = make_version()
    versions.activate(version)
    other = make_version()
    failed = TrainingRun.objects.create(config=TrainConfig().to_dict(), status="failed")
    failed.work_dir.mkdir(parents=True)
    RetrainingSchedule.objects.create(pk=1)
    conversation, _ = Conversation.start("es")
    question = conversation.messages.create(role="user", text="hola", client_id="c1")
    return {
        "handover": handovers.ask(conversation, "es").handover.pk,
        "entry": FaqEntry.objects.get(key="pay").pk,
        "off_topic": OffTopicQuestion.objects.first().pk,  # type: ignore[union-attr]
        "run": version.run.pk,
        "version": version.pk,
        "other": other.pk,
        "trial": trials.start(other, version, share=10, note="warmer words", started_by=None).pk,
        "failed": failed.pk,
        "conversation": conversation.pk,
        "question": question.pk,
        "site": Site.objects.create(name="Shop", origins="https://shop.example").pk,
    }


@pytest.fixture(autouse=True)
def _roles(db: None, settings: Settings) -> None:
    """As the migrations make them for a Spanish business; tests that empty all tables take them away."""
    settings.LANGUAGE_CODE = "es"
    import_module("chat.migrations.0004_roles").create_roles(apps, None)
    import_module("chat.migrations.0005_bundle_rights").grant_rights(apps, None)
    import_module("chat.migrations.0007_records").let_agents_export(apps, None)
    import_module("chat.migrations.0009_people").let_agents_answer(apps, None)
    import_module("chat.migrations.0010_rooms").let_agents_teach(apps, None)


def log_in(client: Client, who: str) -> None:
    if who == "stranger":
        return
    user = User.objects.create_user("somebody", is_staff=who != "customer", is_superuser=who == "owner")
    if who in ROLES:
        user.groups.add(Group.objects.get(name=who))
    client.force_login(user)


@pytest.mark.parametrize("who", ["stranger", "customer", *ROLES, "owner"])
def test_every_door(client: Client, numbers: dict[str, object], who: str) -> None:
    log_in(client, who)
    wrong = []
    for door in DOORS:
        url = door.url.format(**numbers)
        response = client.post(url, {"preset": "quick"}) if door.is_post else client.get(url)
        to_login = response.status_code == 302 and "/login/" in response.headers["Location"]
        is_in = not to_login and response.status_code not in (403, 404, 405)
        if is_in != (who in door.lets_in):
            wrong.append((url, "POST" if door.is_post else "GET", response.status_code))
    assert wrong == []


def test_the_menu_shows_only_doors_that_open(client: Client, numbers: dict[str, object]) -> None:
    log_in(client, AGENT)

    page = client.get("/admin/chat/conversation/").content.decode()

    assert 'href="/admin/faq/faqentry/"' in page
    for closed in (
        "/admin/faq/offtopicquestion/",
        "/admin/training/trainingrun/",
        "/admin/auth/user/",
        "/admin/chat/site/",
    ):
        assert f'href="{closed}"' not in page


@pytest.mark.parametrize("who", [EDITOR, AGENT])
def test_those_who_teach_find_the_playground_and_only_the_live_version_there(
    client: Client, numbers: dict[str, int], who: str
) -> None:
    log_in(client, who)
    live, other = (AdapterVersion.objects.get(pk=numbers[name]) for name in ("version", "other"))

    page = client.get(VERSION + "playground/", {"version": str(other)}).content.decode()

    assert f'value="{live.name}"' in page
    assert other.name not in page
    assert "add-wording" in page
    assert f'href="{VERSION}playground/"' in client.get("/admin/faq/faqentry/").content.decode(), "in the menu"


def test_an_agent_adds_wordings_and_changes_nothing_else_of_an_entry(client: Client, numbers: dict[str, int]) -> None:
    log_in(client, AGENT)
    entry = FaqEntry.objects.get(key="pay")

    client.post(f"{CONVERSATION}wording/{numbers['question']}/", {"entry": entry.pk, "text": "¿aceptan bizum?"})

    assert entry.paraphrases.filter(text="¿aceptan bizum?").exists()
    page = client.get(f"/admin/faq/faqentry/{entry.pk}/change/").content.decode()
    assert 'name="_save"' not in page


def test_who_edited_entries_goes_on_teaching(client: Client, numbers: dict[str, int]) -> None:
    """To make a question a wording took the right to change entries once."""
    edits = Permission.objects.get(codename="change_faqentry")
    group, user = Group.objects.create(name="Contenido"), User.objects.create_user("ana", is_staff=True)
    group.permissions.add(edits)
    user.user_permissions.add(edits)
    other = Group.objects.create(name="Otros")

    import_module("chat.migrations.0010_rooms").let_agents_teach(apps, None)

    assert group.permissions.filter(codename="add_paraphrase").exists()
    assert user.has_perm("faq.add_paraphrase")
    assert not other.permissions.exists()


def test_who_may_not_stop_a_trial_does_not(client: Client, numbers: dict[str, int]) -> None:
    log_in(client, TRAINER)

    client.post(f"{TRIAL}{numbers['trial']}/stop/")

    assert trials.running_trial() is not None
    assert "/stop/" not in client.get("/admin/").content.decode()


def test_a_refused_training_leaves_nothing_behind(client: Client, numbers: dict[str, object]) -> None:
    log_in(client, EDITOR)

    client.post("/admin/training/trainingrun/train-now/", {"preset": "quick"})

    assert not TrainingRun.objects.filter(status="queued").exists()
