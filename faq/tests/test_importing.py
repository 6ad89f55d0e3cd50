from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import translation

from faq.importing import import_lines, import_off_topic
from faq.models import MAX_ANSWER_CHARS, FaqEntry, OffTopicQuestion

pytestmark = pytest.mark.django_db


def line(**values: object) -> str:
    return json.dumps({"key": "hours", "question": "¿A qué hora cierran?", "answer": "A las 8.", **values})


def test_it_publishes_an_entry_per_line() -> None:
    report = import_lines(
        [line(variants=["¿hasta qué hora abren?", "horario"]), "", line(key="pay", question="¿Cómo pago?")]
    )

    assert (report.created, report.updated, report.rejected) == (2, 0, [])
    entry = FaqEntry.objects.get(key="hours")
    assert (entry.answer, entry.status, entry.is_critical) == ("A las 8.", "published", False)
    assert [each.text for each in entry.paraphrases.all()] == ["¿hasta qué hora abren?", "horario"]


def test_it_updates_by_key_when_imported_again() -> None:
    import_lines([line(variants=["uno que se va", "uno que queda"], critical=True, category="Tienda")])

    report = import_lines([line(answer="A las 9.", variants=["uno que queda", "uno nuevo"])])

    assert (report.created, report.updated) == (0, 1)
    entry = FaqEntry.objects.get()
    assert (entry.answer, entry.is_critical, entry.category) == ("A las 9.", True, "Tienda")
    assert {each.text for each in entry.paraphrases.all()} == {"uno que queda", "uno nuevo"}
    assert entry.history.count() == 2


def test_it_keeps_wordings_that_a_line_does_not_mention() -> None:
    import_lines([line(variants=["horario", "hasta qué hora"])])
    import_lines([line(answer="A las 9.")])
    assert FaqEntry.objects.get().paraphrases.count() == 2
    import_lines([line(answer="A las 9.", variants=[])])
    assert FaqEntry.objects.get().paraphrases.count() == 0


def test_it_takes_the_question_for_a_key_when_there_is_none() -> None:
    without = json.dumps({"question": "¿Hacen envíos?", "answer": "Sí."})
    import_lines([without])

    assert import_lines([without]).updated == 1
    assert FaqEntry.objects.get().key == "hacen-envios"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        (line(question=""), "“question” is missing or empty"),
        (line(question=7), "“question” is missing or empty"),
        (line(answer="  "), "“answer” is missing or empty"),
        (line(question="🤷‍♀️"), "question: Write at least one word."),
        (line(question="x" * 501), "question: "),
        (line(answer="palabra " * 2000), f"answer: Ensure this value has at most {MAX_ANSWER_CHARS} characters"),
        (line(variants="hola"), "“variants” must be a list of texts"),
        (line(variants=["¿?"]), "text: Write at least one word."),
        (line(language="fr"), "“language” must be one of es, en"),
        (line(key=3), "“key” must be text"),
        (line(answer="nul\0o"), "it holds characters that no text can have"),
        (line(key="\0"), "it holds characters that no text can have"),
        (line(variants=["\ud800"]), "it holds characters that no text can have"),
        ("1" * 5000, "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (line(critical="no"), "“critical” must be true or false"),
    ],
)
def test_it_rejects_a_bad_line_and_takes_the_others(bad: str, reason: str) -> None:
    good = line(key="pay", question="¿Cómo pago?")

    with translation.override("en"):
        report = import_lines([good, bad, line(key="last", question="¿Dónde están?")])

    assert report.created == 2
    (rejection,) = report.rejected
    assert rejection.line == 2
    assert rejection.reason.startswith(reason)
    assert not FaqEntry.objects.filter(key="hours").exists()


def test_it_rejects_the_second_line_with_a_key_and_keeps_the_first() -> None:
    report = import_lines([line(), line(answer="Otra cosa.")])

    assert (report.created, len(report.rejected)) == (1, 1)
    assert FaqEntry.objects.get().answer == "A las 8."


def test_it_keeps_html_and_emoji_as_they_are() -> None:
    text = "<b>Sí</b> 🎉 <script>alert(1)</script>"
    import_lines([line(answer=text)])

    assert FaqEntry.objects.get().answer == text


def test_it_adds_off_topic_questions_once() -> None:
    assert import_off_topic(["¿Quién ganó?", "¿Quién ganó?", "un chiste"]) == 2
    assert import_off_topic(["un chiste", "otro"]) == 1
    assert OffTopicQuestion.objects.count() == 3


def test_it_prints_one_json_object(tmp_path: Path) -> None:
    path = tmp_path / "faq.jsonl"
    path.write_text(f"{line()}\n{{\n", encoding="utf-8-sig")
    out = StringIO()

    call_command("import_faq", str(path), "--json", stdout=out)

    summary = json.loads(out.getvalue())
    assert (summary["created"], summary["updated"], summary["rejected"][0]["line"]) == (1, 0, 2)


def test_it_says_that_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("import_faq", str(tmp_path / "nothing.jsonl"))
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(CommandError, match="not UTF-8"):
        call_command("import_faq", str(binary))


def test_it_loads_the_demo_shop_into_an_empty_database_only() -> None:
    call_command("load_demo", stdout=StringIO())

    entries = FaqEntry.objects.all()
    assert len(entries) >= 40
    assert all(4 <= entry.paraphrases.count() <= 8 for entry in entries)
    assert sum(entry.is_critical for entry in entries) >= 5
    assert OffTopicQuestion.objects.count() >= 80
    FaqEntry.objects.exclude(key="metodos-de-pago").delete()
    call_command("load_demo", stdout=StringIO())
    assert FaqEntry.objects.count() == 1
