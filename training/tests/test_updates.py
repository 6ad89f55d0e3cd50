"""Trainings that go on from the live version, with a tiny real base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from pytest_django import Settings
from safetensors.torch import load_file

from faq.models import FaqEntry, Paraphrase
from training import pipeline, runs, serving, snapshots, updates, versions
from training.lm.sft import read_rows
from training.models import AdapterVersion, TrainingRun
from training.tests.conftest import Answers, MakeVersion
from training.tests.test_pipeline import FAST

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _fresh_engine(settings: Settings, tiny_llama: Path) -> Iterator[None]:
    settings.BASE_MODEL = str(tiny_llama)
    settings.SMOKE_TEST_QUESTIONS = 0
    settings.TRAINING_PARAMETERS = {"lora_r": FAST.lora_r, "lora_alpha": FAST.lora_alpha}
    yield
    serving.close()


def train(preset: str = "normal", *, learning_rate: float = 2e-3) -> AdapterVersion:
    run = runs.start_in_foreground(preset, config=replace(FAST, learning_rate=learning_rate))
    version = pipeline.execute(run)
    run.refresh_from_db()
    assert version is not None, run.error + run.traceback
    versions.activate(version)
    return version


def weights(version: AdapterVersion) -> dict[str, object]:
    return dict(load_file(version.path / "adapter" / "adapter_model.safetensors"))


def edit(key: str = "hours") -> None:
    FaqEntry.objects.filter(key=key).update(answer="Cerramos a las nueve.")


def test_an_update_goes_on_from_the_live_adapter(shop: None) -> None:
    first = train()
    edit()

    second = train("update", learning_rate=1e-9)

    assert second.run.warm_start_from == first
    before, after = weights(first), weights(second)
    assert before.keys() == after.keys()
    assert all(before[name].allclose(after[name], atol=1e-5) for name in before)  # type: ignore[attr-defined]
    assert {entry.answer for entry in versions.read_learned(second).values()} >= {"Cerramos a las nueve."}
    assert json.loads((second.path / "run.json").read_text())["warm_start_from"] == first.name


def test_a_whole_training_begins_anew(shop: None) -> None:
    first = train()
    edit()

    second = train(learning_rate=1e-9)

    assert second.run.warm_start_from is None
    before, after = weights(first), weights(second)
    assert not all(before[name].allclose(after[name], atol=1e-3) for name in before)  # type: ignore[attr-defined]


def test_the_exam_never_asks_what_an_earlier_version_has_learned(shop: None) -> None:
    """More wordings move others to the exam; those may be old acquaintances."""
    first = train()
    entry = FaqEntry.objects.get(key="hours")
    late = [f"manera {number} de preguntar la hora" for number in range(300)]
    for text in sorted(late, key=snapshots._chance)[-12:]:
        Paraphrase.objects.create(entry=entry, text=text)
    second = train("update")

    learned = {row["question"] for row in read_rows(first.snapshot.path / "train.jsonl")}
    held_out = {row["question"] for row in read_rows(second.snapshot.path / "eval.jsonl")}
    asked = set(second.exam.answers.values_list("question", flat=True))
    assert learned & held_out, "otherwise this shows nothing"
    assert not asked & learned
    assert asked == held_out - learned


def test_it_says_why_there_is_nothing_to_go_on_from(shop: None, settings: Settings, tiny_llama: Path) -> None:
    def reason() -> str:
        with pytest.raises(updates.CannotUpdate) as error:
            updates.version_to_update()
        return str(error.value)

    assert reason() == "No version is live yet."
    version = train()
    assert reason() == "Nothing has changed since: there is no need to train."
    edit()
    assert updates.version_to_update() == version
    edit("pay")
    assert "2 of 3 answers have changed" in reason()
    FaqEntry.objects.filter(key="pay").update(answer="Con tarjeta o transferencia.")
    settings.ANSWER_POLICY = "free"
    assert "in another way" in reason()
    settings.ANSWER_POLICY = "approved"
    settings.TRAINING_PARAMETERS = {}
    assert "in another way" in reason()
    settings.TRAINING_PARAMETERS = {"lora_r": FAST.lora_r, "lora_alpha": FAST.lora_alpha}
    (version.snapshot.path / "train.jsonl").rename(version.snapshot.path / "gone")
    assert "not kept any more" in reason()
    (version.snapshot.path / "gone").rename(version.snapshot.path / "train.jsonl")
    settings.BASE_MODEL = ""
    assert "another base model" in reason()


def test_after_many_updates_it_wants_a_whole_training(shop: None, make_version: MakeVersion) -> None:
    line = [make_version() for _ in range(updates.MAX_UPDATES_IN_A_ROW + 1)]
    for older, newer in pairwise(line):
        TrainingRun.objects.filter(pk=newer.run.pk).update(warm_start_from=older)
        (older.snapshot.path / "train.jsonl").touch()
    newest = AdapterVersion.objects.get(pk=line[-1].pk)
    versions.activate(newest)

    with pytest.raises(updates.CannotUpdate, match="time for a whole training"):
        updates.version_to_update()


def test_a_run_that_can_no_longer_update_fails_in_words(shop: None) -> None:
    train()
    edit()
    run = runs.start_in_foreground("update", config=FAST)
    edit("pay")

    assert pipeline.execute(run) is None

    run.refresh_from_db()
    assert (run.status, run.traceback, run.snapshot) == ("failed", "", None)
    assert run.error == "2 of 3 answers have changed: that is learned better from the beginning."
    assert not run.can_be_retried


def test_an_adapter_keeps_its_form(shop: None, client: Client, olga: User) -> None:
    client.force_login(olga)
    train()
    edit()

    answer = client.post("/admin/training/trainingrun/train-now/", {"preset": "update", "lora_r": "16"})

    assert "in another way" in answer.content.decode()
    assert not TrainingRun.objects.filter(status="queued").exists()


def test_what_the_timetable_made_goes_live_only_if_it_breaks_nothing(shop: None, answered: Answers) -> None:
    first = train()
    # Held out for the exam, and nearer to another entry; the first version is said to have known it all the same.
    odd = min((f"a que hora cierran {number}" for number in range(300)), key=snapshots._chance)
    Paraphrase.objects.create(entry=FaqEntry.objects.get(key="pay"), text=odd)
    answered(first, **{odd: ("pay", "pay")})

    worse = execute_scheduled()

    assert not worse.exam.answers.get(question=odd).is_right, "otherwise this shows nothing"
    assert versions.live_version() == first
    Paraphrase.objects.get(text=odd).delete()
    better = execute_scheduled()
    assert versions.live_version() == better


def execute_scheduled() -> AdapterVersion:
    run = runs.claim(runs.create_run(config=FAST, activates_on_success=True, is_scheduled=True).pk)
    assert run is not None
    version = pipeline.execute(run)
    assert version is not None
    return version


def test_the_command_and_the_page_offer_it_only_where_it_can_be(shop: None, client: Client, olga: User) -> None:
    client.force_login(olga)
    train()
    prepare = "/admin/training/trainingrun/prepare/"

    page = client.get(prepare).content.decode()
    assert "Nothing has changed since" in page
    assert 'value="update" disabled' in page
    with pytest.raises(CommandError, match="Nothing has changed since"):
        call_command("train", "--preset", "update", "--wait", stdout=StringIO())
    answer = client.post("/admin/training/trainingrun/train-now/", {"preset": "update"}, follow=True)
    assert "Nothing has changed since" in answer.content.decode()
    assert not TrainingRun.objects.filter(status="queued").exists()

    edit()
    assert 'value="update" checked' in client.get(prepare).content.decode()
