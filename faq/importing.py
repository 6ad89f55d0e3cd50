"""Entries from JSON lines. A bad line is rejected with its number and its reason; the others are taken."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from faq.models import FaqEntry, Language, OffTopicQuestion, Paraphrase, free_key

_TEXTS = ("question", "answer", "key", "category", "language")


@dataclass(frozen=True, slots=True)
class Rejection:
    line: int
    reason: str


@dataclass(slots=True)
class ImportReport:
    created: int = 0
    updated: int = 0
    rejected: list[Rejection] = field(default_factory=list)


class BadLine(ValueError):
    """A line that cannot become an entry; its text is the reason, for the person who wrote the file."""


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def import_lines(lines: Iterable[str]) -> ImportReport:
    """Publish an entry per line, `{"key", "question", "answer", "variants"}`; the same key updates its entry.

    `variants`, `category`, `language` and `critical` are left as they are when not given. Without a key the question
    serves as one: an entry with the same question is updated.
    """
    report = ImportReport()
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = _parse(line)
            with transaction.atomic():
                entry, is_new = _save(values)
                if entry.key in seen:
                    raise BadLine(_("line %(line)d has the same key") % {"line": seen[entry.key]})
        except BadLine as error:
            report.rejected.append(Rejection(number, str(error)))
            continue
        seen[entry.key] = number
        report.created += is_new
        report.updated += not is_new
    return report


def import_off_topic(questions: Iterable[str]) -> int:
    """Add questions to decline; returns how many are new."""
    known = set(OffTopicQuestion.objects.values_list("text", flat=True))
    new = [text for text in dict.fromkeys(questions) if text not in known]
    OffTopicQuestion.objects.bulk_create([OffTopicQuestion(text=text) for text in new])
    return len(new)


def _parse(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadLine(_("not valid JSON from character %(place)d on") % {"place": error.pos + 1}) from error
    except (ValueError, RecursionError) as error:
        raise BadLine(_("not valid JSON")) from error
    if not isinstance(values, dict):
        raise BadLine(_("not a JSON object"))
    for name in _TEXTS[:2]:
        if not isinstance(values.get(name), str) or not values[name].strip():
            raise BadLine(_("“%(name)s” is missing or empty") % {"name": name})
    for name in _TEXTS[2:]:
        if not isinstance(values.get(name, ""), str):
            raise BadLine(_("“%(name)s” must be text") % {"name": name})
    if not isinstance(values.get("critical", False), bool):
        raise BadLine(_("“critical” must be true or false"))
    variants = values.get("variants", [])
    if not isinstance(variants, list) or not all(isinstance(each, str) for each in variants):
        raise BadLine(_("“variants” must be a list of texts"))
    if any(not _is_storable(text) for text in [*(values.get(name, "") for name in _TEXTS), *variants]):
        raise BadLine(_("it holds characters that no text can have"))
    if values.get("language", "es") not in Language.values:
        raise BadLine(_("“language” must be one of %(languages)s") % {"languages": ", ".join(Language.values)})
    return values


def _is_storable(text: str) -> bool:
    """PostgreSQL stores no NUL, and a lone surrogate, which JSON can escape, is no character."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _save(values: dict[str, Any]) -> tuple[FaqEntry, bool]:
    question = " ".join(values["question"].split())
    key = values.get("key", "").strip()
    entry = FaqEntry.objects.filter(key=key).first() if key else FaqEntry.objects.filter(question=question).first()
    is_new = entry is None
    entry = entry or FaqEntry(key=key or free_key(question))
    entry.question = question
    entry.answer = values["answer"].strip()
    entry.status = FaqEntry.Status.PUBLISHED
    entry.category = values.get("category", entry.category)
    entry.language = values.get("language", entry.language)
    entry.is_critical = bool(values.get("critical", entry.is_critical))
    _clean(entry)
    entry.save()
    if "variants" in values:
        wordings = dict.fromkeys(" ".join(each.split()) for each in values["variants"])
        wordings.pop(entry.question, None)
        replace_paraphrases(entry, list(wordings))
    return entry, is_new


def replace_paraphrases(entry: FaqEntry, wordings: list[str]) -> None:
    entry.paraphrases.exclude(text__in=wordings).delete()
    kept = set(entry.paraphrases.values_list("text", flat=True))
    new = [Paraphrase(entry=entry, text=text) for text in wordings if text not in kept]
    for paraphrase in new:
        _clean(paraphrase)
    Paraphrase.objects.bulk_create(new)


def _clean(row: FaqEntry | Paraphrase) -> None:
    try:
        row.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        problems = (f"{name}: {' '.join(messages)}" for name, messages in error.message_dict.items())
        raise BadLine("; ".join(problems)) from error
