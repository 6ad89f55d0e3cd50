from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User

from faq.models import FaqEntry, OffTopicQuestion, Paraphrase
from training.lm.tests.conftest import make_base
from training.models import AdapterVersion, DatasetSnapshot, Exam, ExamAnswer, TrainingRun
from training.runs import configured_base
from training.tests.shop import SHOP


@pytest.fixture
def shop(db: None) -> None:
    for key, (question, answer, paraphrases) in SHOP.items():
        entry = FaqEntry.objects.create(key=key, question=question, answer=answer, status="published")
        for text in paraphrases:
            Paraphrase.objects.create(entry=entry, text=text)
    for text in ("¿Quién ganó el mundial?", "cuéntame un chiste", "qué tiempo hace", "receta de tortilla"):
        OffTopicQuestion.objects.create(text=text)


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def any_tiny_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / request.param, request.param)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "llama", "llama")


@pytest.fixture
def olga(db: None) -> User:
    """Olga owns the shop."""
    return User.objects.create_superuser("olga")


MakeVersion = Callable[..., AdapterVersion]


@pytest.fixture
def make_version(db: None) -> MakeVersion:
    """Versions with files on disk and an exam, but no real adapter in them."""

    def make(*, has_exam: bool = True) -> AdapterVersion:
        snapshot, _ = DatasetSnapshot.objects.get_or_create(
            sha256="0" * 64, defaults={"num_entries": 1, "num_train": 1, "num_eval": 1, "num_off_topic": 0}
        )
        snapshot.path.mkdir(parents=True, exist_ok=True)
        (snapshot.path / "eval.jsonl").touch()
        run = TrainingRun.objects.create(
            config={}, base_model=configured_base().label, snapshot=snapshot, status=TrainingRun.Status.SUCCEEDED
        )
        version = AdapterVersion(number=run.pk, run=run, snapshot=snapshot, base_model=run.base_model)
        weights = f"weights of {run.pk}".encode()
        version.sha256 = hashlib.sha256(weights).hexdigest()
        (version.path / "adapter").mkdir(parents=True)
        (version.path / "adapter" / "adapter_model.safetensors").write_bytes(weights)
        (version.path / "answers.jsonl").write_text(
            '{"key": "hours", "question": "¿A qué hora cierran?", "answer": "Cerramos a las ocho.", '
            '"wordings": ["¿A qué hora cierran?", "horario de cierre"]}\n',
            encoding="utf-8",
        )
        version.save()
        if has_exam:
            shares = {"accuracy": 0.9, "answered_right": 0.8, "answered_wrong": 0.02, "declined": 0.18}
            Exam.objects.create(version=version, num_in_scope=10, num_off_topic=5, threshold=0.5, **shares)
        return version

    return make


Answers = Callable[..., None]


@pytest.fixture
def answered() -> Answers:
    """What a version said in its exam: question=(expected, answered), with None for "I don't know"."""

    def answer(version: AdapterVersion, **questions: tuple[str | None, str | None]) -> None:
        for question, (expected, said) in questions.items():
            ExamAnswer.objects.create(
                exam=version.exam,
                question=question,
                expected_key=expected or "",
                answered_key=said or "pay",
                is_declined=said is None,
                confidence=0.9,
                coverage=1.0,
            )

    return answer
