from __future__ import annotations

import json

import pytest

from faq.models import FaqEntry
from faq.publication import Publication, PublishedEntry, current_publication
from training.models import DatasetSnapshot
from training.snapshots import NothingToLearn, build_snapshot, num_held_out, split


def entry(key: str, num_paraphrases: int) -> PublishedEntry:
    wordings = tuple(f"{key} wording {n}" for n in range(num_paraphrases))
    return PublishedEntry(key, f"¿{key}?", f"{key}.", wordings, False)


def publication(*sizes: int, num_off_topic: int = 40) -> Publication:
    entries = tuple(entry(f"e{n}", size) for n, size in enumerate(sizes))
    return Publication(entries, tuple(f"off {n}" for n in range(num_off_topic)))


def test_it_holds_out_wordings_and_never_facts() -> None:
    published = publication(0, 1, 2, 7, 30)
    train, evaluation = split(published)

    for each in published.entries:
        learned = {row["question"] for row in train if row["key"] == each.key}
        held_out = {row["question"] for row in evaluation if row["key"] == each.key}
        assert each.question in learned
        assert len(held_out) == num_held_out(len(each.wordings))
        assert learned | held_out == set(each.wordings)
        assert not learned & held_out
    assert [num_held_out(n) for n in (1, 2, 3, 8, 12, 31)] == [0, 0, 1, 1, 2, 3]


def test_it_takes_a_wording_that_repeats_the_question_for_the_question() -> None:
    repeated = PublishedEntry(
        "a", "¿Envían a Perú?", "Sí.", ("envian a peru", "¿envían a Perú?", "otra", "una más"), False
    )

    train, evaluation = split(Publication((repeated,), ()))

    assert [row["question"] for row in train + evaluation].count("¿Envían a Perú?") == 1
    assert {row["question"] for row in train + evaluation} == {"¿Envían a Perú?", "otra", "una más"}
    assert all(row["question"] != "¿Envían a Perú?" for row in evaluation)


def test_it_learns_nobodys_personal_data() -> None:
    told = PublishedEntry(
        "a", "¿Me avisan?", "Sí.", ("escríbanme a ana@ejemplo.com", "a luz@ejemplo.com también"), False
    )
    alike = PublishedEntry("b", "¿Llaman?", "No.", ("llámenme al 310 555 1234", "llámenme al 310 555 9876"), False)

    train, evaluation = split(Publication((told, alike), ("soy ana@ejemplo.com, cuéntame un chiste",)))

    learned = [row["question"] for row in [*train, *evaluation]]
    assert not any("ejemplo" in text or "555" in text for text in learned)
    assert "escríbanme a [correo]" in learned
    assert learned.count("llámenme al [teléfono]") == 1


def test_it_holds_out_off_topic_questions_too() -> None:
    train, evaluation = split(publication(7, 7, num_off_topic=40))

    learned = {row["question"] for row in train if row["key"] is None}
    held_out = {row["question"] for row in evaluation if row["key"] is None}
    assert (len(learned), len(held_out)) == (30, 10)
    assert not learned & held_out


def test_it_moves_no_wording_when_an_entry_is_added() -> None:
    small, large = publication(7, 7, num_off_topic=0), publication(7, 7, 7, num_off_topic=0)

    held_out = [{row["question"] for row in split(each)[1]} for each in (small, large)]
    assert held_out[0] < held_out[1]


@pytest.mark.django_db
def test_it_is_named_by_its_content(shop: None) -> None:
    first = build_snapshot(current_publication())

    assert build_snapshot(current_publication()) == first
    assert DatasetSnapshot.objects.count() == 1
    FaqEntry.objects.filter(key="pay").update(answer="Solo en efectivo.")
    second = build_snapshot(current_publication())
    assert second.sha256 != first.sha256
    rows = [json.loads(line) for line in (first.path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["answer"] for row in rows if row["key"] == "pay"} == {"Con tarjeta o transferencia."}, "frozen"
    assert first.num_entries == 3


@pytest.mark.django_db
def test_it_leaves_no_half_written_snapshot(shop: None) -> None:
    snapshot = build_snapshot(current_publication())

    assert [path.name for path in snapshot.path.parent.iterdir()] == [snapshot.sha256]


@pytest.mark.django_db
def test_it_says_what_is_missing() -> None:
    with pytest.raises(NothingToLearn, match="there are 0"):
        build_snapshot(current_publication())
    FaqEntry.objects.create(key="a", question="¿a?", answer="a.", status="published")
    with pytest.raises(NothingToLearn, match="there are 1"):
        build_snapshot(current_publication())
