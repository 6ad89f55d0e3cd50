from __future__ import annotations

import pytest

from faq.models import FaqEntry, Paraphrase
from training.differences import Kind, changes_since
from training.models import AdapterVersion
from training.tests.conftest import MakeVersion

pytestmark = pytest.mark.django_db


@pytest.fixture
def version(shop: None, make_version: MakeVersion) -> AdapterVersion:
    """A version that has learned one of the shop's three entries, of which one wording was kept for the exam."""
    version = make_version()
    (version.snapshot.path / "eval.jsonl").write_text(
        '{"key": "hours", "question": "hasta qué hora abren", "answer": "Cerramos a las ocho."}\n'
        '{"key": "hours", "question": "a que hora cierran hoy", "answer": "Cerramos a las ocho."}\n'
        '{"key": null, "question": "cuéntame un chiste", "answer": "No lo sé."}\n',
        encoding="utf-8",
    )
    FaqEntry.objects.exclude(key="hours").delete()
    return version


def test_nothing_changed(version: AdapterVersion) -> None:
    changes = changes_since(version)

    assert (changes.num_learned, changes.differences, changes.is_worth_training) == (1, (), False)


def test_an_edited_answer_shows_both_texts(version: AdapterVersion) -> None:
    FaqEntry.objects.filter(key="hours").update(answer="A las diez.")

    [difference] = changes_since(version).differences
    assert (difference.kind, difference.answer_before, difference.answer_now) == (
        *(Kind.ANSWER, "Cerramos a las ocho.", "A las diez."),
    )


def test_added_and_removed_wordings_are_named(version: AdapterVersion) -> None:
    entry = FaqEntry.objects.get(key="hours")
    Paraphrase.objects.create(entry=entry, text="a qué hora bajan la persiana")
    entry.paraphrases.get(text="horario de cierre").delete()

    changes = changes_since(version)
    [difference] = changes.differences
    assert difference.kind == Kind.WORDINGS
    assert difference.wordings_added == ("a qué hora bajan la persiana",)
    assert difference.wordings_gone == ("horario de cierre",)
    assert changes.is_worth_training


def test_an_entry_taken_out_needs_no_training(version: AdapterVersion) -> None:
    FaqEntry.objects.filter(key="hours").update(status="retired")

    changes = changes_since(version)
    assert [each.kind for each in changes.differences] == [Kind.GONE]
    assert (changes.num_learned, changes.is_worth_training, changes.in_words()) == (0, False, "1 taken out")


def test_a_new_entry(version: AdapterVersion) -> None:
    FaqEntry.objects.create(key="park", question="¿Hay parqueadero?", answer="Sí.", status="published")

    [difference] = changes_since(version).differences
    assert (difference.kind, difference.answer_now, difference.wordings_added) == (
        *(Kind.NEW, "Sí.", ("¿Hay parqueadero?",)),
    )


def test_masked_personal_data_is_no_change(version: AdapterVersion) -> None:
    Paraphrase.objects.create(entry=FaqEntry.objects.get(key="hours"), text="avísenme a ana@ejemplo.com si abren")
    with (version.snapshot.path / "eval.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"key": "hours", "question": "avísenme a [correo] si abren", "answer": "Cerramos a las ocho."}\n')

    assert changes_since(version).differences == ()


def test_a_wording_written_otherwise_is_no_change(version: AdapterVersion) -> None:
    Paraphrase.objects.create(entry=FaqEntry.objects.get(key="hours"), text="a que hora CIERRAN")

    assert changes_since(version).differences == ()
