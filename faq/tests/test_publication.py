from __future__ import annotations

import pytest
from django.utils import timezone

from faq.models import FaqEntry, OffTopicQuestion, Paraphrase, free_key
from faq.publication import current_publication, publication_stamp

pytestmark = pytest.mark.django_db


def published(key: str, **values: object) -> FaqEntry:
    fields = {"question": f"¿{key}?", "answer": f"{key}.", "status": "published", **values}
    return FaqEntry.objects.create(key=key, **fields)


def test_it_holds_what_is_published_and_nothing_else() -> None:
    published("b")
    entry = published("a", is_critical=True)
    Paraphrase.objects.create(entry=entry, text="otra forma")
    published("draft", status="draft")
    published("retired", status="retired")

    publication = current_publication()

    assert [each.key for each in publication.entries] == ["a", "b"]
    assert publication.entries[0].wordings == ("¿a?", "otra forma")
    assert publication.entries[0].is_critical


def test_it_declines_small_talk_before_staff_list_any() -> None:
    assert len(current_publication().off_topic) >= 80

    OffTopicQuestion.objects.create(text="¿Quién ganó?")
    assert current_publication().off_topic == ("¿Quién ganó?",)


def test_its_stamp_changes_with_everything_that_is_published() -> None:
    entry = published("a")
    paraphrase = Paraphrase.objects.create(entry=entry, text="otra")
    stamps = [publication_stamp()]

    def changed() -> bool:
        stamps.append(publication_stamp())
        return stamps[-1] != stamps[-2]

    assert not changed()
    entry.answer = "Otra respuesta."
    entry.save()
    assert changed()
    paraphrase.text = "distinta"
    paraphrase.save()
    assert changed()
    paraphrase.delete()
    assert changed()
    OffTopicQuestion.objects.create(text="un chiste")
    assert changed()
    later = published("b")
    assert changed()
    FaqEntry.objects.filter(pk=entry.pk).update(status="retired", updated_at=timezone.now())
    assert changed()
    entry.delete()
    assert changed()
    FaqEntry.objects.filter(pk=later.pk).delete()
    assert changed()
    FaqEntry.objects.bulk_create([FaqEntry(key="c", question="¿c?", answer="c.", status="published")])
    assert changed()


def test_it_makes_keys_that_are_free() -> None:
    assert free_key("¿Hacen envíos?") == "hacen-envios"
    published("hacen-envios")
    assert free_key("¿Hacen envíos?") == "hacen-envios-2"
    assert free_key("日本語") == "entry"
