"""Whole runs with a tiny random base of each family: everything is real but the size of the model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings
from safetensors.torch import load_file

from faq.models import FaqEntry, OffTopicQuestion
from training import pipeline, runs, serving, status_signal, versions
from training.lm import sft
from training.lm.adapters import AdapterError
from training.lm.config import TrainConfig, TrainProgress, TrainResult
from training.lm.loading import BaseModelError
from training.models import AdapterVersion, DatasetSnapshot, TrainingRun
from training.progress import Progress

pytestmark = pytest.mark.django_db(transaction=True)

FAST = TrainConfig(
    min_steps=8, max_steps=8, num_augmented=0, min_rows_per_answer=1, save_steps=2, lora_r=4, lora_alpha=8
)


@pytest.fixture(autouse=True)
def _fresh_engine() -> Iterator[None]:
    yield
    serving.close()


@pytest.fixture
def on_tiny_llama(settings: Settings, tiny_llama: Path) -> None:
    settings.BASE_MODEL = str(tiny_llama)


def train(**values: object) -> AdapterVersion:
    run = runs.start_in_foreground(config=FAST, **values)  # type: ignore[arg-type]
    version = pipeline.execute(run)
    run.refresh_from_db()
    assert run.status == TrainingRun.Status.SUCCEEDED, run.error + run.traceback
    assert version is not None
    return version


def tell_every_step(patch: pytest.MonkeyPatch) -> None:
    """However slow the machine is."""
    for name, seconds in (("TELL_SECONDS", 0.0), ("WRITE_SECONDS", 0.0), ("SLOW_SECONDS", float("inf"))):
        patch.setattr(f"training.progress.{name}", seconds)


def test_it_makes_a_complete_version_on_any_base(shop: None, settings: Settings, any_tiny_base: Path) -> None:
    settings.BASE_MODEL = str(any_tiny_base)

    version = train(activates_on_success=True)

    assert sorted(path.name for path in version.path.iterdir()) == [
        *("README.md", "adapter", "answers.jsonl", "calibration.json", "exam.json", "run.json"),
    ]
    versions.check_files(version)
    assert versions.live_version() == version
    run = version.run
    assert (run.step, run.max_steps, run.phase, run.percent) == (8, 8, "done", 100)
    assert run.train_loss is not None
    exam = version.exam
    assert (exam.num_in_scope, exam.num_off_topic, exam.is_held_out) == (3, 1, True)
    assert exam.answers.count() == 4
    assert exam.accuracy == sum(a.answered_key == a.expected_key for a in exam.answers.exclude(expected_key="")) / 3
    report = json.loads((version.path / "exam.json").read_text(encoding="utf-8"))
    assert report["metrics"]["accuracy"] == pytest.approx(exam.accuracy, abs=1e-3)
    assert not list((Path(settings.ARTIFACTS_DIR) / "runs").iterdir()), "the work folder is gone"
    servable, future = serving.ask("¿A qué hora cierran?", version)
    decision = future.result()
    assert decision.key in servable.entries


def test_it_serves_what_is_published_now(shop: None, on_tiny_llama: None) -> None:
    version = train()
    servable, _ = serving.ask("horario", version)
    assert {each.key for each in servable.answers.candidates} == {"hours", "pay", "return"}

    entry = FaqEntry.objects.get(key="hours")
    entry.answer = "Cerramos a las nueve."
    entry.save()
    FaqEntry.objects.create(key="new", question="¿Envían a Cuba?", answer="Sí, a Cuba.", status="published")
    retired = FaqEntry.objects.get(key="return")
    retired.status = "retired"
    retired.save()

    servable, _ = serving.ask("horario", version)
    found = {each.key: each for each in servable.answers.candidates}
    assert set(found) == {"hours", "pay", "new"}
    assert servable.entries["hours"].answer == "Cerramos a las nueve."
    assert found["hours"].learned_text == "Cerramos a las ocho.", "what the adapter knows it by"
    assert found["new"].learned_text == "Sí, a Cuba."


def test_it_does_not_take_a_reused_key_for_the_entry_it_learned(shop: None, on_tiny_llama: None) -> None:
    version = train()
    entry = FaqEntry.objects.get(key="hours")
    entry.paraphrases.all().delete()
    entry.question, entry.answer = "¿Tienen parking?", "Sí, gratis."
    entry.save()

    servable, _ = serving.ask("parking", version)

    assert {each.key: each.learned_text for each in servable.answers.candidates}["hours"] == "Sí, gratis."


def test_it_answers_with_nothing_published(shop: None, on_tiny_llama: None) -> None:
    version = train()
    FaqEntry.objects.all().delete()

    servable, future = serving.ask("¿A qué hora cierran?", version)

    assert future.result().is_declined
    assert servable.entry_for(future.result()) is None


def test_it_fails_in_words_when_there_is_nothing_to_learn(on_tiny_llama: None) -> None:
    run = runs.start_in_foreground(config=FAST)

    assert pipeline.execute(run) is None

    run.refresh_from_db()
    assert (run.status, run.error) == ("failed", "At least 2 published answers are needed; there are 0.")


def test_it_fails_in_words_when_the_base_has_no_weights(shop: None, settings: Settings, tmp_path: Path) -> None:
    settings.BASE_MODEL = str(tmp_path)
    run = runs.start_in_foreground(config=FAST)

    pipeline.execute(run)

    run.refresh_from_db()
    assert run.status == "failed"
    assert "base model" in run.error or "tokenizer" in run.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
        BaseModelError("the base model x cannot be loaded: CUDA out of memory."),
        MemoryError(),
    ],
)
def test_it_says_what_to_change_when_memory_runs_out(
    shop: None, on_tiny_llama: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def run_out(*args: object, **kwargs: object) -> TrainResult:
        raise error

    monkeypatch.setattr(sft, "train", run_out)
    run = runs.start_in_foreground(config=FAST)

    pipeline.execute(run)

    run.refresh_from_db()
    assert run.error.startswith("Not enough memory: close other programs and try again.")


def test_it_records_a_failure_nobody_foresaw(shop: None, on_tiny_llama: None) -> None:
    """The snapshot's files vanish after the claim: the run ends, with the trace and without folders of this machine."""
    run = runs.start_in_foreground(config=FAST)
    sizes = {"num_entries": 1, "num_train": 1, "num_eval": 0, "num_off_topic": 0}
    runs.progress(run, snapshot=DatasetSnapshot.objects.create(sha256="f" * 64, **sizes))

    pipeline.execute(run)

    run.refresh_from_db()
    assert run.status == "failed"
    assert run.error.startswith("Something unexpected went wrong")
    assert "Traceback" in run.traceback
    assert str(django_settings.BASE_DIR) + "/" not in run.traceback


def test_it_stops_when_cancelled_and_leaves_no_version(
    shop: None, on_tiny_llama: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.02)
    tell_every_step(monkeypatch)
    run = runs.start_in_foreground(config=replace(FAST, min_steps=400, max_steps=400))
    progress = runs.progress

    def cancel_at_step_three(claimed: TrainingRun, **values: object) -> None:
        progress(claimed, **values)
        if values.get("step") == 3:
            runs.request_cancel(claimed.pk)

    monkeypatch.setattr(runs, "progress", cancel_at_step_three)

    assert pipeline.execute(run) is None

    run.refresh_from_db()
    assert run.status == "cancelled"
    assert 3 <= run.step < 400
    assert not AdapterVersion.objects.exists()


def test_a_failed_run_is_tried_again_from_its_last_checkpoint(
    shop: None, on_tiny_llama: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train()
    run = runs.start_in_foreground(config=FAST)
    progress = runs.progress

    def out_of_memory_at_step_five(claimed: TrainingRun, **values: object) -> None:
        progress(claimed, **values)
        if values.get("step") == 5:
            raise MemoryError

    with monkeypatch.context() as patch:
        tell_every_step(patch)
        patch.setattr(runs, "progress", out_of_memory_at_step_five)
        assert pipeline.execute(run) is None
    run.refresh_from_db()
    assert (run.status, "memory" in run.error) == ("failed", True)
    FaqEntry.objects.filter(key="hours").update(answer="A medianoche.")

    retried = runs.retry(run)

    assert not run.work_dir.exists()
    assert (retried.work_dir / "checkpoint-4").is_dir()
    claimed = runs.claim(retried.pk)
    assert claimed is not None
    version = pipeline.execute(claimed)
    assert version is not None
    assert version.snapshot == whole.snapshot, "the questions are those of the run that failed"
    adapters = [load_file(each.path / versions.WEIGHTS) for each in (whole, version)]
    for name, weights in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], weights, atol=1e-5, rtol=0)
    assert not retried.work_dir.exists()
    with pytest.raises(ValueError, match="has not failed"):
        runs.retry(retried)


def test_it_records_the_curve_in_a_bounded_number_of_writes(
    shop: None, on_tiny_llama: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell_every_step(monkeypatch)
    monkeypatch.setattr("training.progress.MAX_WRITES", 6)
    monkeypatch.setattr("training.progress.MAX_CURVE_POINTS", 8)
    run = runs.start_in_foreground(config=replace(FAST, min_steps=60, max_steps=60, save_steps=60))

    with CaptureQueriesContext(connection) as queries:
        assert pipeline.execute(run) is not None

    steps = [query for query in queries if query["sql"].startswith("UPDATE") and '"curve"' in query["sql"]]
    # The last step is told twice, when it is done and when its error is known.
    assert 5 <= len(steps) <= 8
    run.refresh_from_db()
    assert run.memory_mb is not None
    assert run.memory_mb > 50
    assert len(run.curve) <= 8
    assert [point[0] for point in run.curve] == sorted(point[0] for point in run.curve)
    assert any(point[2] is not None for point in run.curve), "held-out wordings are measured"


def test_it_writes_nothing_once_another_process_has_taken_over(shop: None, on_tiny_llama: None) -> None:
    run = runs.start_in_foreground(config=FAST)
    TrainingRun.objects.filter(pk=run.pk).update(claim="somebody else")

    assert pipeline.execute(run) is None

    run.refresh_from_db()
    assert (run.status, run.claim) == ("running", "somebody else")
    assert not AdapterVersion.objects.exists()


def test_it_refuses_damaged_adapters_and_keeps_answering(shop: None, on_tiny_llama: None) -> None:
    good, bad = train(), train()
    weights = bad.path / versions.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(versions.VersionError, match="damaged"):
        serving.prepare(bad)

    # Even if the digest matched, what cannot be read must not take the engine down.
    with pytest.raises(AdapterError, match="cannot be loaded"):
        serving.engine().load_version("v-999999-deadbeef", bad.path / "adapter")
    with pytest.raises(AdapterError, match="holds no adapter_model"):
        serving.engine().load_version("v-999998-deadbeef", bad.path)
    serving.prepare(good)
    with pytest.raises(AdapterError, match="cannot be loaded"):
        serving.engine().load_version("v-999999-deadbeef", bad.path / "adapter")
    assert serving.ask("horario", good)[1].result().key is not None


def test_it_trains_on_no_other_base_than_it_was_asked_for(shop: None, on_tiny_llama: None, settings: Settings) -> None:
    run = runs.start_in_foreground(config=FAST)
    settings.BASE_MODEL = ""

    pipeline.execute(run)

    run.refresh_from_db()
    assert run.status == "failed"
    assert "base model has been changed" in run.error


def test_it_lives_through_a_moment_without_the_database(
    shop: None, on_tiny_llama: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.02)
    tell_every_step(monkeypatch)
    beats = []
    heartbeat, progress = runs.heartbeat, runs.progress

    def failing_once(claimed: TrainingRun) -> bool:
        beats.append(1)
        if len(beats) == 1:
            raise OperationalError("database is locked")
        return heartbeat(claimed)

    def failing_at_step_two(claimed: TrainingRun, **values: object) -> None:
        if values.get("step") == 2:
            raise OperationalError("database is locked")
        progress(claimed, **values)

    monkeypatch.setattr(runs, "heartbeat", failing_once)
    monkeypatch.setattr(runs, "progress", failing_at_step_two)

    assert train() is not None
    assert len(beats) > 1


def test_it_tells_again_once_its_connection_was_lost(shop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tell_every_step(monkeypatch)
    run = runs.start_in_foreground()
    hear = Progress(run)
    hear(TrainProgress(1, 3))
    connection.connection.close()
    hear(TrainProgress(2, 3))
    hear(TrainProgress(3, 3))
    run.refresh_from_db()
    assert run.step == 3


def test_where_telling_is_slow_the_training_goes_on_in_silence(shop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tell_every_step(monkeypatch)
    # However quick it is, it is too slow.
    monkeypatch.setattr("training.progress.SLOW_SECONDS", 0.0)
    told: list[Any] = []
    for name in ("tell", "progress"):
        monkeypatch.setattr(runs, name, lambda run, **values: told.append(values["step"]))
    hear = Progress(runs.start_in_foreground())
    for step in range(1, 10):
        hear(TrainProgress(step, 9))
    assert told == [1, 9]


def test_it_keeps_checkpoints_only_of_a_last_run_that_failed(
    shop: None, on_tiny_llama: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(settings.ARTIFACTS_DIR) / "runs"
    failing = [runs.start_in_foreground(config=FAST)]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_examine", lambda *args, **values: 1 / 0)
        pipeline.execute(failing[0])
        assert list(folder.iterdir()) == [failing[0].work_dir]
        failing.append(runs.start_in_foreground(config=FAST))
        pipeline.execute(failing[1])
        assert list(folder.iterdir()) == [failing[1].work_dir]

    train()

    assert not list(folder.iterdir())


def test_it_refuses_a_version_of_another_base(shop: None, on_tiny_llama: None, settings: Settings) -> None:
    version = train()
    settings.BASE_MODEL = ""

    with pytest.raises(versions.VersionError, match="another base model"):
        serving.prepare(version)


@pytest.mark.training
def test_it_answers_right_through_the_commands(shop: None) -> None:
    """The stable contracts, with the bundled base and real training."""
    OffTopicQuestion.objects.create(text="¿Cuánto es dos más dos?")

    trained = run_json("train", "--preset", "quick", "--wait", "--activate")
    assert set(trained) == {"run", "version", "status", "seconds", "exam"}
    assert trained["status"] == "succeeded"

    answer = run_json("ask", "a que hora cierran??")
    assert set(answer) == {
        *("answer", "entry", "declined", "suggestions", "confidence", "coverage", "version", "seconds", "forwards"),
    }
    assert (answer["answer"], answer["entry"], answer["declined"]) == ("Cerramos a las ocho.", "hours", False)
    assert answer["version"] == trained["version"]
    assert run_json("ask", "formas de pago", "--version", str(trained["run"]))["entry"] == "pay"

    evaluated = run_json(
        "evaluate", questions({"¿Cómo se paga?": "pay", "quiero devolver": "return", "un chiste": None})
    )
    assert set(evaluated) == {
        *("version", "in_scope", "accuracy", "answered_right", "answered_wrong", "declined", "suggested"),
        *("suggested_right", "off_topic", "off_topic_declined", "off_topic_suggested", "auroc", "seconds"),
    }
    assert (evaluated["in_scope"], evaluated["off_topic"]) == (2, 1)
    assert evaluated["accuracy"] == 1.0


def test_the_commands_say_what_is_wrong(shop: None, on_tiny_llama: None, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no version is live"):
        call_command("ask", "hola")
    with pytest.raises(CommandError, match="There is no version v7"):
        call_command("ask", "hola", "--version", "v7")
    with pytest.raises(CommandError, match="empty"):
        call_command("ask", "  ")
    with pytest.raises(CommandError, match="There is no version"):
        call_command("activate", "v7")
    with pytest.raises(CommandError, match="no earlier version"):
        call_command("rollback")
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("evaluate", str(tmp_path / "nothing.jsonl"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "hola", "expected": null}\n{"q": 1}\n', encoding="utf-8")
    with pytest.raises(CommandError, match=r"bad.jsonl line 2 is not"):
        call_command("evaluate", str(bad))
    version = train()
    with pytest.raises(CommandError, match="tokens"):
        call_command("ask", "x y " * 5000, "--version", version.name)
    for _ in range(runs.MAX_WAITING):
        runs.create_run()
    with pytest.raises(CommandError, match="are waiting already"):
        call_command("train", "--wait")


def test_the_command_carries_out_what_waits_before_it(shop: None, on_tiny_llama: None, settings: Settings) -> None:
    settings.TRAINING_PARAMETERS = {"min_steps": 4, "max_steps": 4, "lora_r": 4}
    before = runs.create_run()
    err = StringIO()

    call_command("train", "--wait", stdout=StringIO(), stderr=err)

    first, second = AdapterVersion.objects.order_by("number")
    assert first.run == before
    assert first.run.ended_at <= second.run.started_at  # type: ignore[operator]
    assert f"training #{before.pk} was asked for before and goes first" in err.getvalue()


def test_the_command_waits_for_a_worker_that_has_taken_its_run(
    shop: None, on_tiny_llama: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is played by what happens while the command sleeps."""
    running = runs.start_in_foreground(config=FAST)
    naps = []

    def work_meanwhile(seconds: float) -> None:
        naps.append(seconds)
        current = runs.running()
        if current == running:
            runs.succeed(running)
            assert runs.claim_next() is not None
        elif current is not None:
            runs.fail(current, "no memory")

    monkeypatch.setattr("training.management.commands.train.time.sleep", work_meanwhile)
    with pytest.raises(CommandError, match="no memory"):
        call_command("train", "--wait", stdout=StringIO(), stderr=StringIO())

    assert len(naps) == 2


def test_ctrl_c_cancels_only_the_commands_own_run(
    shop: None, on_tiny_llama: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = runs.create_run(config=FAST)

    def interrupted(run: TrainingRun, **values: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "progress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call_command("train", "--wait", stdout=StringIO(), stderr=StringIO())

    before.refresh_from_db()
    assert before.status == "queued"
    assert TrainingRun.objects.exclude(pk=before.pk).get().status == "cancelled"


def test_ten_thousand_steps_write_a_thousand_rows_at_most(
    shop: None, on_tiny_llama: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the trainer only what it tells; a step every moment, the worst case for what is written."""
    tell_every_step(monkeypatch)
    run = runs.start_in_foreground(config=FAST)
    num_steps = 10_000

    def tell_all(*args: object, on_progress: Callable[[TrainProgress], None], **kwargs: object) -> TrainResult:
        for step in range(1, num_steps + 1):
            on_progress(TrainProgress(step, num_steps))
            if step % 5 == 0:
                on_progress(TrainProgress(step, num_steps, train_loss=1.0))
                on_progress(TrainProgress(step, num_steps, eval_loss=1.0))
        return TrainResult(num_steps, num_steps, 1.0, 1.0, 1.0, was_stopped=True)

    monkeypatch.setattr(sft, "train", tell_all)
    monkeypatch.setattr(status_signal, "_send", lambda group, event: None)
    with CaptureQueriesContext(connection) as queries:
        pipeline.execute(run)

    writes = [query for query in queries if query["sql"].startswith(("UPDATE", "INSERT", "DELETE"))]
    assert 400 < len(writes) <= 1000
    assert run.events.count() <= runs.MAX_EVENTS
    steps = run.events.filter(code="step")
    assert 30 <= steps.count() <= 41
    assert steps.last().values["step"] > num_steps - 300  # type: ignore[union-attr]


def test_every_step_is_told_however_seldom_the_row_is_written(
    shop: None, on_tiny_llama: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell_every_step(monkeypatch)
    monkeypatch.setattr("training.progress.MAX_WRITES", 3)
    told: list[int] = []
    monkeypatch.setattr(runs, "tell", lambda run, *, step, **values: told.append(step))
    run = runs.start_in_foreground(config=replace(FAST, min_steps=12, max_steps=12))

    with CaptureQueriesContext(connection) as queries:
        pipeline.execute(run)

    num_written = len([query for query in queries if query["sql"].startswith("UPDATE") and '"curve"' in query["sql"]])
    assert num_written <= 5
    assert {1, 2, 3, 5, 6, 7, 9, 10, 11} <= set(told)


def test_a_step_before_a_pause_is_told_at_once(
    shop: None, on_tiny_llama: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To measure or to save may take long, and the next step comes after it."""
    monkeypatch.setattr("training.progress.TELL_SECONDS", 1000.0)
    monkeypatch.setattr("training.progress.WRITE_SECONDS", 0.0)
    told: list[int] = []
    progress = runs.progress

    def note(claimed: TrainingRun, *, step: int = 0, **values: object) -> None:
        told.append(step)
        progress(claimed, **({"step": step} if step else {}), **values)

    monkeypatch.setattr(runs, "progress", note)
    run = runs.start_in_foreground(config=replace(FAST, min_steps=12, max_steps=12, save_steps=5))

    pipeline.execute(run)

    # It measures four times and saves twice.
    assert {3, 5, 6, 9, 10, 12} <= set(told)
    assert not {2, 4, 7, 8, 11} & set(told)


def test_its_log_tells_the_whole_way(shop: None, on_tiny_llama: None) -> None:
    run = train(activates_on_success=False).run

    told = list(run.events.values_list("code", flat=True))
    assert told[:4] == ["asked", "started", "frozen", "phase"]
    assert [event.values["phase"] for event in run.events.filter(code="phase")] == ["training", "exam", "packaging"]
    assert {"step", "measured"} <= set(told)
    assert told[-1] == "succeeded"
    assert run.events.get(code="frozen").values == {"answers": 3, "wordings": 12}


def test_a_waiting_run_learns_what_is_published_when_its_turn_comes(shop: None, on_tiny_llama: None) -> None:
    run = runs.create_run(config=FAST)
    FaqEntry.objects.filter(key="hours").update(answer="A medianoche.")

    claimed = runs.claim_next()
    assert claimed == run
    version = pipeline.execute(claimed)

    assert version is not None
    assert "A medianoche." in (version.path / "answers.jsonl").read_text(encoding="utf-8")


def test_checkpoints_of_a_failed_run_outlive_those_who_wait(
    shop: None, on_tiny_llama: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, waiting = runs.start_in_foreground(config=FAST), runs.create_run(config=FAST)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_examine", lambda *args, **values: 1 / 0)
        pipeline.execute(failing)
    assert failing.work_dir.is_dir()
    retried = runs.retry(failing)

    claimed = runs.claim_next()
    assert claimed == waiting
    assert pipeline.execute(claimed) is not None
    assert retried.work_dir.is_dir(), "it waits for its turn with what it goes on from"


def test_it_activates_and_goes_back_by_command(shop: None, on_tiny_llama: None) -> None:
    first, second = train(), train()
    call_command("activate", first.name, stdout=StringIO())
    call_command("activate", str(second.number), "--note", "new prices", stdout=StringIO())
    assert versions.live_version() == second

    call_command("rollback", stdout=StringIO())

    assert versions.live_version() == first


def run_json(*args: str) -> dict[str, object]:
    out = StringIO()
    call_command(*args, "--json", stdout=out, stderr=StringIO())
    result: dict[str, object] = json.loads(out.getvalue())
    return result


def questions(expected: dict[str, str | None]) -> str:
    path = Path(django_settings.ARTIFACTS_DIR) / "questions.jsonl"
    lines = (json.dumps({"question": text, "expected": key}) for text, key in expected.items())
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.mark.training
def test_it_survives_a_killed_worker(shop: None, settings: Settings, tiny_llama: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle: the run goes back to the queue, resumes from its checkpoint and ends as if undisturbed."""
    database = connection.settings_dict["NAME"]
    if "memory" in str(database):
        pytest.fail("this test needs a database that another process can open")
    config = replace(FAST, min_steps=40, max_steps=40, save_steps=4)
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "chatbot_site.settings",
        "DATABASE_URL": database_url(),
        "BASE_MODEL": str(tiny_llama),
        "ARTIFACTS_DIR": str(settings.ARTIFACTS_DIR),
    }
    settings.BASE_MODEL = str(tiny_llama)
    run = runs.create_run(config=config)
    program = "import django; django.setup(); from training.tasks import run_training; run_training()"
    worker = subprocess.Popen([sys.executable, "-c", program], env=environment)
    checkpoints = Path(settings.ARTIFACTS_DIR) / "runs" / f"run-{run.pk:06d}"
    wait_until(lambda: any(checkpoints.glob("checkpoint-*/trainer_state.json")))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    run.refresh_from_db()
    assert run.status == "running", "nobody has noticed yet"

    TrainingRun.objects.filter(pk=run.pk).update(heartbeat_at="2026-01-01T00:00:00Z")
    assert runs.sweep() is True
    again = runs.claim(run.pk)
    assert again is not None
    resumed = pipeline.execute(again)
    undisturbed_run = runs.start_in_foreground(config=config)
    undisturbed = pipeline.execute(undisturbed_run)

    assert resumed is not None
    assert undisturbed is not None
    ours, theirs = (load_file(version.path / versions.WEIGHTS) for version in (resumed, undisturbed))
    assert all((ours[name] - theirs[name]).abs().max() < 1e-5 for name in theirs)


def database_url() -> str:
    values = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{values['NAME']}"
    return f"postgres://{values['USER']}@{str(values['HOST']).replace('/', '%2F')}/{values['NAME']}"


def wait_until(happens: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen in time")
