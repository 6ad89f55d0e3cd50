"""The Spanish catalogue says everything that the source says, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import polib  # type: ignore[import-untyped]
import pytest
from django.test import Client
from django.utils import translation
from django.utils.translation import gettext

from training.differences import Changes, Difference, Kind

BASE_DIR = Path(__file__).resolve().parents[2]
CATALOGUE = BASE_DIR / "chatbot_site" / "locale" / "es" / "LC_MESSAGES" / "django.po"
SOURCES = ("faq", "training", "chat", "chatbot_site", "templates", "static")
PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%%|\{\w*\}")
TAG = re.compile(r"<[^>]+>")


def entries(path: Path) -> list[polib.POEntry]:
    return list(polib.pofile(str(path)))


def named(entry: polib.POEntry) -> tuple[str, str, str]:
    return entry.msgctxt or "", entry.msgid, entry.msgid_plural or ""


def texts(entry: polib.POEntry) -> list[str]:
    """What stands for it in Spanish: one text, or one for each plural form."""
    return [text for _, text in sorted(entry.msgstr_plural.items())] if entry.msgid_plural else [entry.msgstr]


def parts(pattern: re.Pattern[str], text: str) -> Counter[str]:
    return Counter(pattern.findall(text))


def test_it_translates_every_string() -> None:
    found = entries(CATALOGUE)
    assert len(found) > 200
    assert [entry.msgid for entry in found if not all(text.strip() for text in texts(entry))] == []
    assert [entry.msgid for entry in found if entry.fuzzy or entry.obsolete] == []


@pytest.mark.parametrize("pattern", [PLACEHOLDER, TAG], ids=["placeholders", "tags"])
def test_it_keeps_what_a_program_fills_in(pattern: re.Pattern[str]) -> None:
    for entry in entries(CATALOGUE):
        for text in texts(entry):
            originals = (entry.msgid, entry.msgid_plural or entry.msgid)
            assert parts(pattern, text) in [parts(pattern, original) for original in originals], entry.msgid


def test_it_has_as_many_plural_forms_as_its_header_says() -> None:
    header = polib.pofile(str(CATALOGUE)).metadata["Plural-Forms"]
    num_forms = int(header.split("nplurals=")[1].split(";")[0])
    plurals = [entry for entry in entries(CATALOGUE) if entry.msgid_plural]
    assert plurals
    assert {len(texts(entry)) for entry in plurals} == {num_forms}


def test_it_is_compiled() -> None:
    compiled = {named(entry): texts(entry) for entry in polib.mofile(str(CATALOGUE.with_suffix(".mo")))}
    assert compiled == {named(entry): texts(entry) for entry in entries(CATALOGUE)}, "run `make messages`"


def test_it_holds_the_strings_of_the_source(tmp_path: Path) -> None:
    assert shutil.which("xgettext"), "gettext is needed: apt install gettext"
    left_out = shutil.ignore_patterns("*.safetensors", "__pycache__", "tests", "locale")
    for name in SOURCES:
        shutil.copytree(BASE_DIR / name, tmp_path / name, ignore=left_out)
    shutil.copy(BASE_DIR / "manage.py", tmp_path)
    extract = "manage.py makemessages --locale es --no-obsolete --no-wrap --add-location file"
    subprocess.run(
        [sys.executable, *extract.split()],
        cwd=tmp_path,
        env={**os.environ, "SECRET_KEY": "unused"},
        check=True,
        timeout=300,
    )
    in_source = {named(entry) for entry in entries(tmp_path / CATALOGUE.relative_to(BASE_DIR))}
    in_catalogue = {named(entry) for entry in entries(CATALOGUE)}
    assert in_source - in_catalogue == set(), "not translated: run `make messages`, then translate"
    assert in_catalogue - in_source == set(), "not in the source any more: run `make messages`"


# As a parameter, so that makemessages does not find the strings here.
@pytest.mark.parametrize(
    ("english", "spanish"),
    [
        ("training run", "entrenamiento"),
        ("Roll back to %(version)s", "Volver a %(version)s"),
        ("off-topic question", "pregunta fuera de tema"),
        ("exam", "examen"),
        ("Draft", "Borrador"),
        ("Published", "Publicada"),
        ("Retired", "Retirada"),
        ("I'm sorry, I don't know that. Could you ask it in another way?", None),
        ("The assistant is still learning. Please try again in a few minutes.", None),
    ],
)
def test_it_speaks_spanish(english: str, spanish: str | None) -> None:
    with translation.override("en"):
        assert gettext(english) == english
    with translation.override("es"):
        assert gettext(english) != english
        assert spanish is None or gettext(english) == spanish


def test_it_counts_in_spanish() -> None:
    def changes(num_learned: int, **nums: int) -> str:
        kinds = [Kind(kind) for kind, num in nums.items() for _ in range(num)]
        return Changes(num_learned, tuple(Difference("", "", kind, "", "", (), ()) for kind in kinds)).in_words()

    with translation.override("es"):
        assert changes(1, answer=1, new=1, gone=1) == (
            "1 respuesta aprendida · 1 modificada desde entonces · 1 nueva · 1 retirada"
        )
        assert changes(20, answer=1, wordings=1, gone=3) == (
            "20 respuestas aprendidas · 2 modificadas desde entonces · 3 retiradas"
        )


@pytest.mark.django_db
def test_it_greets_customers_in_their_language(client: Client) -> None:
    english, spanish = (client.get("/", headers={"accept-language": code}).content.decode() for code in ("en", "es"))
    assert '<html lang="en">' in english
    assert "Your question" in english
    assert '<html lang="es">' in spanish
    assert "Su pregunta" in spanish
    assert "Your question" not in spanish
