"""The way to the pointer with real adapters of a tiny random base."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pytest_django import Settings

from faq.models import FaqEntry
from training import serving, versions
from training.going_live import go_back, go_live, smoke_test, try_out, undo
from training.lm.decisions import Heeded
from training.models import AdapterVersion, ExamAnswer, Trial
from training.tests.test_pipeline import on_tiny_llama, train
from training.versions import VersionError

__all__ = ["on_tiny_llama"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("shop", "on_tiny_llama")]


@pytest.fixture(autouse=True)
def _fresh_engine() -> Iterator[None]:
    yield
    serving.close()


@pytest.fixture
def version() -> AdapterVersion:
    """Its exam is what it answers, however little it has learned."""
    version = train()
    ExamAnswer.objects.filter(exam__version=version).delete()
    for question in ("¿A qué hora cierran?", "¿Cómo puedo pagar?"):
        _servable, future = serving.ask(question, version, heeded=Heeded.NONE)
        decision = future.result(timeout=60)
        assert decision.key is not None
        remember(version, question, decision.key, is_declined=decision.is_declined)
    serving.close()
    assert ExamAnswer.objects.filter(exam__version=version, is_declined=False).exists()
    return version


def remember(version: AdapterVersion, question: str, key: str, *, is_declined: bool = False) -> None:
    ExamAnswer.objects.create(
        exam=version.exam,
        question=question,
        expected_key=key,
        answered_key=key,
        is_declined=is_declined,
        confidence=1.0,
        coverage=1.0,
    )


def test_a_version_that_answers_as_in_its_exam_goes_live(version: AdapterVersion) -> None:
    assert go_live(version).version == version
    assert versions.live_version() == version


@pytest.fixture
def unlike() -> AdapterVersion:
    """It answers otherwise than its exam says."""
    other = train()
    ExamAnswer.objects.filter(exam__version=other).delete()
    # A model of random weights, left to itself, takes one question for another.
    (other.path / "calibration.json").write_text('{"model_weight": 1.0, "prior_weight": 0.0}', encoding="utf-8")
    for entry in FaqEntry.objects.all():
        if serving.ask(entry.question, other, heeded=Heeded.NONE)[1].result(timeout=60).key != entry.key:
            remember(other, entry.question, entry.key)
    return other


def test_one_that_answers_otherwise_leaves_the_live_one_where_it_is(
    version: AdapterVersion, unlike: AdapterVersion
) -> None:
    go_live(version)

    with pytest.raises(VersionError, match="as in its exam, so nothing was changed"):
        go_live(unlike)

    assert versions.live_version() == version


def test_one_that_answers_otherwise_is_not_tried_with_customers_either(
    version: AdapterVersion, unlike: AdapterVersion
) -> None:
    go_live(version)

    with pytest.raises(VersionError, match="as in its exam, so nothing was changed"):
        try_out(unlike, share=10, note="x")
    assert not Trial.objects.exists()

    assert try_out(train(), share=10, note="x").is_running


def test_one_that_cannot_be_loaded_does_not_go_live(version: AdapterVersion) -> None:
    remember(version, "horario de cierre", "hours")
    (version.path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")

    with pytest.raises(VersionError):
        go_live(version)

    assert versions.live_version() is None


def test_going_back_tries_the_earlier_version_first(version: AdapterVersion) -> None:
    go_live(version)
    later = train()
    versions.activate(later)
    kept = version.path.with_name("kept")
    version.path.rename(kept)

    with pytest.raises(VersionError, match="missing"):
        go_back()
    assert versions.live_version() == later

    shutil.move(kept, version.path)
    assert go_back().version == version


def test_what_is_no_longer_published_is_not_asked(version: AdapterVersion) -> None:
    remember(version, "¿Venden zapatos?", "shoes")

    smoke_test(version)


def test_as_many_questions_as_the_setting_says(version: AdapterVersion, settings: Settings) -> None:
    remember(version, "¿A qué hora cierran?", "return")
    settings.SMOKE_TEST_QUESTIONS = 0

    smoke_test(version)


def test_a_chosen_threshold_counts_from_the_next_question(version: AdapterVersion) -> None:
    fitted = serving.prepare(version).calibration
    AdapterVersion.objects.filter(pk=version.pk).update(threshold=0.97)
    version.refresh_from_db()

    assert fitted.threshold != 0.97
    assert serving.prepare(version).calibration == replace(fitted, threshold=0.97)


def test_a_switch_keeps_the_earlier_version_loaded_for_the_way_back(version: AdapterVersion) -> None:
    go_live(version)
    later = train()
    ExamAnswer.objects.filter(exam__version=later).delete()
    remember(later, "¿Cómo puedo pagar?", "pay")
    (later.path / "calibration.json").write_text('{"prior_weight": 40.0, "threshold": 0.1}', encoding="utf-8")
    activation = go_live(later)

    assert serving.engine().is_resident(version.name)
    assert serving.engine().is_resident(later.name)
    assert undo(activation.pk).version == version
    assert serving.engine().is_resident(later.name), "should the undoing have been the mistake"
