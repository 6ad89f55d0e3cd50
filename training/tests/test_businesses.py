"""The businesses of bench/businesses and bench/businesses_apart are what their READMEs say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command

from faq.models import FaqEntry
from training.management.commands.evaluate import read_questions

FOLDERS = sorted(path.parent for path in Path(settings.BASE_DIR, "bench").glob("businesses*/*/faq.jsonl"))


@pytest.mark.parametrize(("place", "number"), [("businesses", 8), ("businesses_apart", 4)])
def test_there_are_as_many_small_ones_as_large_ones(place: str, number: int) -> None:
    files = [folder / "faq.jsonl" for folder in FOLDERS if folder.parent.name == place]
    sizes = Counter(len(file.read_text(encoding="utf-8").splitlines()) for file in files)

    assert sizes == {12: number, 40: number}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_entry_is_asked_four_times_in_words_that_nobody_entered(folder: Path) -> None:
    entries = [json.loads(line) for line in (folder / "faq.jsonl").read_text(encoding="utf-8").splitlines()]
    questions = read_questions(folder / "questions.jsonl")

    assert {len(entry["variants"]) for entry in entries} == {3}
    assert Counter(key for _, key in questions) == Counter({entry["key"]: 4 for entry in entries}) + Counter({None: 30})
    entered = {text.casefold() for entry in entries for text in (entry["question"], *entry["variants"])}
    asked = [text.casefold() for text, _ in questions]
    assert len(set(asked)) == len(asked)
    assert not entered & set(asked)


@pytest.mark.django_db
def test_staff_can_import_them() -> None:
    call_command("import_faq", str(FOLDERS[0] / "faq.jsonl"), verbosity=0)

    assert FaqEntry.objects.count() in (12, 40)
