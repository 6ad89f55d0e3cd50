from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from faq.models import FaqEntry, Paraphrase
from training import preflight as looked
from training.models import DatasetSnapshot, TrainingRun
from training.preflight import Finding, NotReady, Severity, preflight, require_ready
from training.runs import configured_base

pytestmark = pytest.mark.django_db


def publish(key: str, question: str, answer: str, *paraphrases: str) -> FaqEntry:
    entry = FaqEntry.objects.create(key=key, question=question, answer=answer, status="published")
    for text in paraphrases:
        Paraphrase.objects.create(entry=entry, text=text)
    return entry


def finding(words: str) -> Finding:
    [found] = [each for each in preflight().findings if words in each.text]
    return found


def test_a_shop_in_order(shop: None) -> None:
    found = preflight()

    assert (found.num_entries, found.num_wordings, found.num_examined, found.num_off_topic) == (3, 12, 3, 4)
    assert found.findings == ()
    require_ready()


def test_one_question_with_two_answers_is_the_first_advice(shop: None) -> None:
    publish("night", "¿Abren de noche?", "No.", "A QUE HORA CIERRAN")

    found = finding("different answers. Leave")
    assert preflight().findings[0] == found
    assert {(each.key, each.detail) for each in found.concerns} == {
        ("hours", "¿A qué hora cierran?"),
        ("night", "A QUE HORA CIERRAN"),
    }


def test_what_blocks_is_not_trained(shop: None) -> None:
    FaqEntry.objects.exclude(key="hours").delete()

    assert preflight().is_blocked
    with pytest.raises(NotReady, match="At least 2 published answers"):
        require_ready()


def test_one_question_twice_with_one_answer_does_not(shop: None) -> None:
    publish("again", "¿A qué hora cierran?", "Cerramos a las ocho.", "cierre", "cuándo cierran")

    assert not preflight().is_blocked
    assert {each.key for each in finding("same answer").concerns} == {"hours", "again"}


def test_nearly_equal_questions_are_shown_together(shop: None) -> None:
    publish("pay-card", "¿Cómo puedo pagar ya?", "En caja.", "pagar en la tienda misma", "abonar en persona")

    [concern] = finding("nearly the same").concerns
    assert {"¿Cómo puedo pagar?", "¿Cómo puedo pagar ya?"} <= set(concern.detail.replace("«", "»").split("»"))


@pytest.mark.parametrize(("policy", "severity"), [("mask", Severity.WARNS), ("block", Severity.BLOCKS)])
def test_personal_data_in_wordings(shop: None, settings: Any, policy: str, severity: Severity) -> None:
    settings.PERSONAL_DATA = policy
    Paraphrase.objects.create(entry=FaqEntry.objects.get(key="pay"), text="soy ana@ejemplo.com, cómo pago")

    found = finding("personal data")
    assert (found.severity, [each.key for each in found.concerns]) == (severity, ["pay"])


def test_a_telephone_in_an_answer_is_the_shops_own(shop: None) -> None:
    publish("call", "¿Cuál es su teléfono?", "El +34 612 34 56 78.", "número para llamar", "a dónde llamo")

    assert preflight().findings == ()


def test_single_wordings_are_named(shop: None) -> None:
    publish("park", "¿Hay parqueadero?", "Sí.", "HAY PARQUEADERO")

    assert [each.key for each in finding("fewer than three wordings").concerns] == ["park"]


def test_long_answers_that_begin_alike_block(shop: None) -> None:
    beginning = "Lea con calma las condiciones de la tienda. " * 120
    for key, end in (("one", "Son treinta días."), ("other", "Son quince días.")):
        publish(key, f"¿Condiciones {key}?", beginning + end, f"plazo {key}", f"reglas de {key}")

    found = finding("begin with the same words")
    assert (found.severity, {each.key for each in found.concerns}) == (Severity.BLOCKS, {"one", "other"})


def test_long_answers_that_are_equal_block_nothing(shop: None) -> None:
    for letter in "ab":
        for number in "12":
            answer = f"Condiciones {letter}. " * 200
            publish(
                letter + number, f"¿{letter}{number}?", answer, f"plazo {letter}{number}", f"reglas {letter}{number}"
            )

    assert not preflight().is_blocked


def test_a_wording_longer_than_a_prompt_is_named(shop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.lm.prompts.MAX_PROMPT_TOKENS", 40)
    entry = publish("long", "¿Envían?", "Sí.", "envíos", "¿mandan a otras ciudades?")
    Paraphrase.objects.create(entry=entry, text="envían " + "a todo el país " * 20)

    assert [each.key for each in finding("too long").concerns] == ["long"]


def test_scarce_memory_and_disk_are_said(shop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looked, "MEMORY_BESIDE", 1 << 60)
    monkeypatch.setattr(looked, "DISK_BESIDE", 1 << 60)

    texts = [each.text for each in preflight().findings]
    assert [text.split(":")[0] for text in texts] == [
        "This machine is short of memory",
        "This machine is short of disk space",
    ]


def test_the_time_follows_earlier_runs_and_the_number_of_wordings(shop: None) -> None:
    assert preflight().expected_seconds == {"quick": None, "normal": None, "thorough": None, "update": None}
    snapshot = DatasetSnapshot.objects.create(sha256="1" * 64, num_entries=3, num_train=5, num_eval=1, num_off_topic=0)
    now = timezone.now()
    for seconds in (100, 300, 120):
        TrainingRun.objects.create(
            status="succeeded",
            preset="normal",
            config={},
            base_model=configured_base().label,
            snapshot=snapshot,
            max_steps=100,
            started_at=now - timedelta(seconds=seconds),
            ended_at=now,
        )

    # Twelve wordings now, six then: twice the steps.
    assert preflight().expected_seconds["normal"] == pytest.approx(240)
    assert preflight().expected_seconds["quick"] is None


def test_the_command_lists_what_it_found_and_refuses(shop: None, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("preflight")
    assert "3 answers in 12 wordings, 3 of them for the exam" in capsys.readouterr().out
    FaqEntry.objects.exclude(key="hours").delete()

    with pytest.raises(CommandError):
        call_command("preflight", json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["blocked"], report["findings"][0]["severity"]) == (True, "blocks")
    with pytest.raises(CommandError, match="At least 2"):
        call_command("train", wait=True)
    assert not TrainingRun.objects.exists()
