"""What is published at this moment, as plain data for training and for the chat."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from django.db import connection
from django.db.models import Prefetch

from faq.importing import read_json_lines
from faq.models import FaqEntry, Language, OffTopicQuestion, Paraphrase

GENERAL_OFF_TOPIC_FILE = Path(__file__).parent / "demo" / "off_topic_es.jsonl"


@dataclass(frozen=True, slots=True)
class PublishedEntry:
    key: str
    question: str
    answer: str
    paraphrases: tuple[str, ...]
    is_critical: bool
    revised_at: datetime | None = None
    language: str = Language.SPANISH

    @property
    def wordings(self) -> tuple[str, ...]:
        return (self.question, *self.paraphrases)


@dataclass(frozen=True, slots=True)
class Publication:
    """The published entries, by key, and the questions to decline."""

    entries: tuple[PublishedEntry, ...]
    off_topic: tuple[str, ...]


def current_publication() -> Publication:
    published = FaqEntry.objects.published().order_by("key")
    entries = published.prefetch_related(Prefetch("paraphrases", Paraphrase.objects.order_by("pk")))
    return Publication(
        entries=tuple(
            PublishedEntry(
                key=entry.key,
                question=entry.question,
                answer=entry.answer,
                paraphrases=tuple(each.text for each in entry.paraphrases.all()),
                is_critical=entry.is_critical,
                revised_at=entry.updated_at,
                language=entry.language,
            )
            for entry in entries
        ),
        off_topic=tuple(OffTopicQuestion.objects.values_list("text", flat=True)) or general_off_topic(),
    )


def publication_stamp() -> str:
    """A short text that changes whenever `current_publication` would.

    Asked before every answer, so in one round trip, and one figure a subquery: of a single largest value a database
    reads one end of an index.
    """
    # The history counts edits and deletions even where the clocks of two servers disagree.
    figures = [(FaqEntry.history.model, "MAX(history_id)"), (FaqEntry, "MAX(updated_at)")]
    for table in (Paraphrase, OffTopicQuestion):
        figures += [(table, figure) for figure in ("COUNT(id)", "MAX(id)", "MAX(updated_at)")]
    subqueries = [f"(SELECT {figure} FROM {table._meta.db_table})" for table, figure in figures]  # noqa: S608 - our own
    with connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(subqueries))
        return "|".join(map(str, cursor.fetchone()))


@cache
def general_off_topic() -> tuple[str, ...]:
    """Small talk and other trades, for a business that has listed no off-topic questions of its own yet."""
    return tuple(line["question"] for line in read_json_lines(GENERAL_OFF_TOPIC_FILE))
