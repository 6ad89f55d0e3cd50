"""Answers that staff take out as a table, and tables that they bring."""

from __future__ import annotations

import csv
import os
import re
import time
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import openpyxl
import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from faq.models import FaqEntry
from faq.publication import publication_stamp
from faq.resources import FORGOTTEN_AFTER_SECONDS

pytestmark = [pytest.mark.django_db, pytest.mark.database]

LIST = "/admin/faq/faqentry/"
XLSX, CSV = "0", "1"
TABLE = """pregunta,respuesta,otras formas
¿A qué hora cierran?,A las 8.,"hasta qué hora abren
¿cuándo cierran?"
¿Hacen envíos?,"Sí, a toda España.",
"""


@pytest.fixture
def owner(client: Client, settings: Settings, tmp_path: Path) -> Client:
    settings.ARTIFACTS_DIR = tmp_path
    client.force_login(User.objects.create_superuser("olga"))
    client.cookies["django_language"] = "es"
    return client


def look_at(client: Client, table: str | bytes, form: str = CSV) -> Any:
    """What staff see of a table before it is taken."""
    content = table.encode() if isinstance(table, str) else table
    file = SimpleUploadedFile("tabla", content)
    return client.post(LIST + "import/", {"import_file": file, "format": form, "resource": "0"})


def take(client: Client, table: str | bytes, form: str = CSV) -> Any:
    """Look at a table and take it; returns the page that follows."""
    return client.post(
        LIST + "process_import/", look_at(client, table, form).context["confirm_form"].initial, follow=True
    )


def entries() -> dict[str, tuple[str, str, list[str]]]:
    return {
        each.question: (each.answer, each.status, [other.text for other in each.paraphrases.all()])
        for each in FaqEntry.objects.all()
    }


def tables() -> list[Path]:
    """Those that wait for being taken."""
    return list(Path(settings.ARTIFACTS_DIR, "tables").iterdir())


def as_workbook(*rows: list[Any]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    file = BytesIO()
    book.save(file)
    return file.getvalue()


def test_a_table_becomes_entries_once_it_has_been_looked_at(owner: Client) -> None:
    page = look_at(owner, TABLE)

    assert "hasta qué hora abren" in page.content.decode()
    assert not FaqEntry.objects.exists()
    page = take(owner, TABLE)
    assert "Nuevas: 2" in page.content.decode()
    assert entries() == {
        "¿A qué hora cierran?": ("A las 8.", "published", ["hasta qué hora abren", "¿cuándo cierran?"]),
        "¿Hacen envíos?": ("Sí, a toda España.", "published", []),
    }
    assert FaqEntry.history.filter(history_user__username="olga").count() == 2


@pytest.mark.parametrize(
    "table",
    [
        TABLE.encode("utf-8-sig"),
        TABLE.replace(",Sí", ";Sí").encode("cp1252"),
        'Pregunta;RESPUESTA;Otras formas\n¿A qué hora cierran?;A las 8.;"hasta qué hora abren\n¿cuándo cierran?"\n;;\n'
        "¿Hacen envíos?;Sí, a toda España.;\n".encode("cp1252"),
        'question\tanswer\tvariants\r\n¿A qué hora cierran?\tA las 8.\t"hasta qué hora abren\r\n¿cuándo cierran?"\r\n'
        "¿Hacen envíos?\tSí, a toda España.\r\n".encode(),
        b"Pregunta;Respuesta;Otras formas\n\xc2\xbfA qu\xc3\xa9 hora cierran?;A las 8.;"
        + "hasta qué hora abren | ¿cuándo cierran?\n¿Hacen envíos?;Sí, a toda España.;\n".encode(),
    ],
    ids=["utf-8 with a mark", "windows", "semicolons", "tabs and English", "bars"],
)
def test_it_is_read_as_spreadsheets_write_it(owner: Client, table: bytes) -> None:
    take(owner, table)

    assert entries()["¿A qué hora cierran?"][2] == ["hasta qué hora abren", "¿cuándo cierran?"]
    assert "toda España" in entries()["¿Hacen envíos?"][0]


def test_a_workbook_may_hold_numbers_blank_rows_and_columns_of_its_own(owner: Client) -> None:
    rows: list[list[Any]] = [
        ["Pregunta", "Respuesta", "Notas", None],
        ["¿Cuántas tiendas hay?", 12, "x", None],
        [None] * 4,
    ]

    page = look_at(owner, as_workbook(*rows), XLSX)
    assert "Estas columnas no se leen: Notas" in page.content.decode()
    take(owner, as_workbook(*rows), XLSX)

    assert entries() == {"¿Cuántas tiendas hay?": ("12", "published", [])}


def test_what_the_table_does_not_name_stays(owner: Client) -> None:
    take(owner, TABLE)
    FaqEntry.objects.update(category="Tienda", is_critical=True)

    page = take(
        owner,
        "pregunta;respuesta;clave;delicada;categoría;otras formas;estado;idioma\n"
        "A que hora cierran;A las 9.;;;;;;\n¿Hacen envíos?;Sí, a toda España.;;;;;;\n",
    )

    assert "cambiadas: 1, sin cambios: 1" in page.content.decode()
    assert entries()["A que hora cierran"] == ("A las 9.", "published", ["hasta qué hora abren", "¿cuándo cierran?"])
    assert set(FaqEntry.objects.values_list("category", "is_critical")) == {("Tienda", True)}
    assert FaqEntry.history.count() == 3, "what is as before has no new history"


def test_a_key_finds_its_entry_whatever_is_asked_now(owner: Client) -> None:
    take(owner, TABLE)

    take(
        owner,
        "clave;pregunta;respuesta;otras formas;estado;delicada;idioma\n"
        "a-que-hora-cierran ;¿Cuál es el horario?;De 9 a 8.;¿a qué hora cierran?;Retirada;sí;inglés\n",
    )

    entry = FaqEntry.objects.get(key="a-que-hora-cierran")
    assert (entry.question, entry.status, entry.is_critical, entry.language) == (
        *("¿Cuál es el horario?", "retired", True, "en"),
    )
    assert [each.text for each in entry.paraphrases.all()] == ["¿a qué hora cierran?"]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("pregunta,contestación\n¿Abren?,Sí.", "una columna «respuesta»"),
        ("pregunta,question,respuesta\n¿Abren?,¿Abren?,Sí.", "una columna «pregunta»"),
        ("pregunta,respuesta,clave,key\n¿Abren?,Sí.,a,b", "«clave» está dos veces"),
        ("pregunta,respuesta\n", "no tiene filas"),
        ("", "vacío"),
        ("pregunta,respuesta\n" + "¿Abren?,Sí.\n" * 2001, "más de 2"),
        ("pregunta,respuesta\n\n¿Abren?,Sí, a toda España", "La fila 3 tiene más celdas"),
        ("pregunta\0,respuesta\n¿Abren?,Sí.", "no se puede leer como una tabla"),
        ("clave,pregunta,respuesta\nuna,¿Abrís?,Sí.\notra,abris,No.", "«una» ya tiene esta pregunta"),
        ("pregunta,respuesta\n\n¿Abren?,", "<b>Fila 3</b> · ¿Abren?"),
        ("pregunta,respuesta\n¿Abren?,", "respuesta: Este campo"),
        ("pregunta,respuesta\n¿?,Sí.", "al menos una palabra"),
        ("pregunta,respuesta\n¿Abren?,Sí.\n¿Abren?,No.", "La fila 2 es de la misma pregunta"),
        (
            "pregunta,respuesta,estado\n¿Abren?,Sí.,quizá",
            "una de estas opciones: Borrador, Publicada, Retirada.",
        ),
        ("pregunta,respuesta,otras formas\n¿Abren?,Sí.,¡!", "al menos una palabra"),
    ],
)
def test_it_says_what_is_wrong_and_takes_nothing(owner: Client, table: str, problem: str) -> None:
    page = look_at(owner, table)

    assert problem in page.content.decode()
    assert "Traceback" not in page.content.decode()
    assert "confirm_form" not in page.context
    assert not FaqEntry.objects.exists()


def an_archive(text: str) -> bytes:
    file = BytesIO()
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        archive.writestr("hola.txt", text)
    return file.getvalue()


def a_damaged_workbook() -> bytes:
    """Whose directory is right, and whose sheet cannot be unpacked."""
    content = bytearray(as_workbook(["pregunta", "respuesta"], *([f"¿{n}?", "Sí."] for n in range(500))))
    with ZipFile(BytesIO(content)) as archive:
        start = archive.getinfo("xl/worksheets/sheet1.xml").header_offset + 60
    content[start : start + 40] = b"\xff" * 40
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        *(b"PK\x03\x04 broken", TABLE.encode(), an_archive("hola")),
        *(as_workbook()[:-200], a_damaged_workbook(), as_workbook()),
    ],
    ids=["broken", "text", "another archive", "cut off", "damaged", "empty"],
)
def test_what_is_no_workbook_is_said_to_be_none(owner: Client, content: bytes) -> None:
    assert "no se puede leer como una tabla" in look_at(owner, content, XLSX).content.decode()


def test_a_file_that_is_too_large_is_not_read(owner: Client) -> None:
    assert "más de 5 MB" in look_at(owner, b"x" * 5_000_001).content.decode()


def test_a_workbook_is_not_believed_how_large_it_is(owner: Client) -> None:
    book = openpyxl.load_workbook(BytesIO(as_workbook(["pregunta", "respuesta"], ["¿Abren?", "Sí."])))
    book.active["XFD1048576"] = "x"
    file = BytesIO()
    book.save(file)

    assert "no se puede leer como una tabla" in look_at(owner, an_archive("x" * 60_000_000), XLSX).content.decode()
    assert "confirm_form" in look_at(owner, file.getvalue(), XLSX).context


def test_retired_entries_are_left_to_rest_unless_they_are_named(owner: Client) -> None:
    take(owner, TABLE)
    FaqEntry.objects.update(status="retired")

    take(
        owner,
        "pregunta;respuesta;clave;estado\n¿A qué hora cierran?;A las 9.;;\n¿Hacen envíos?;No.;hacen-envios;Publicada\n",
    )

    assert sorted(FaqEntry.objects.values_list("key", "answer", "status")) == [
        ("a-que-hora-cierran", "A las 8.", "retired"),
        ("a-que-hora-cierran-2", "A las 9.", "published"),
        ("hacen-envios", "No.", "published"),
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # The question of an entry that a row before renames or retires.
        ("a-que-hora-cierran;¿Horario?;A las 8.;", ";¿A qué hora cierran?;A las 9.;"),
        ("a-que-hora-cierran;¿Horario?;A las 8.;", "nueva;¿A qué hora cierran?;A las 9.;"),
        ("a-que-hora-cierran;¿A qué hora cierran?;A las 8.;Retirada", ";¿A qué hora cierran?;A las 9.;"),
        # Another word.
        (";¿Venden monos?;No.;", ";¿Venden moños?;Sí.;"),
    ],
)
def test_rows_are_read_one_after_the_other(owner: Client, first: str, second: str) -> None:
    take(owner, TABLE)

    page = take(owner, f"clave;pregunta;respuesta;estado\n{first}\n{second}\n")

    assert "Importado" in page.content.decode()
    assert FaqEntry.objects.count() == (3 if "hora" in first else 4)


def test_of_several_with_one_question_one_must_be_named(owner: Client) -> None:
    for key in ("una", "otra"):
        FaqEntry.objects.create(key=key, question="¿Abren?", answer="Sí.", status="draft")

    page = look_at(owner, "pregunta,respuesta\nabren,No.")

    assert "por su clave: una, otra" in page.content.decode()


def test_a_wording_with_a_bar_stays_one(owner: Client) -> None:
    take(owner, TABLE)
    FaqEntry.objects.get(key="hacen-envios").paraphrases.create(text="envían L|V")

    page = look_at(owner, "pregunta;respuesta;otras formas\n¿Hacen envíos?;Sí, a toda España.;envían L|V\n")

    assert "sin cambios: 1" in page.content.decode()


def test_answers_that_leave_customers_a_choice_are_named(owner: Client) -> None:
    take(owner, TABLE)

    page = take(owner, "pregunta;respuesta;otras formas\n¿Horario?;De 9 a 8.;hasta qué hora abren")

    assert "«¿A qué hora cierran?» también tiene esa forma" in page.content.decode()


def test_what_others_have_changed_meanwhile_is_not_overwritten(owner: Client) -> None:
    take(owner, TABLE)
    confirm = look_at(owner, TABLE.replace("A las 8.", "A las 9.")).context["confirm_form"].initial
    FaqEntry.objects.get(key="a-que-hora-cierran").paraphrases.create(text="a qué hora abren")

    page = owner.post(LIST + "process_import/", confirm, follow=True)

    assert "han cambiado entretanto" in page.content.decode()
    assert entries()["¿A qué hora cierran?"][0] == "A las 8."


def test_what_would_change_is_shown_line_by_line(owner: Client) -> None:
    take(owner, TABLE)

    page = look_at(owner, TABLE.replace("A las 8.", "A las 9.").replace("¿cuándo cierran?", "a qué hora abren"))

    marked = re.findall(r"<(ins|del)>(.*?)</", page.content.decode())
    assert marked == [
        ("del", "A las 8."),
        ("ins", "A las 9."),
        ("del", "¿cuándo cierran?"),
        ("ins", "a qué hora abren"),
    ]


def test_one_bad_row_keeps_the_others_out(owner: Client) -> None:
    confirm = look_at(owner, TABLE).context["confirm_form"].initial
    (stored,) = tables()
    stored.write_text(TABLE + "¿Y esto?,\n", encoding="utf-8")

    page = owner.post(LIST + "process_import/", confirm, follow=True)

    assert "No se ha importado nada" in page.content.decode()
    assert not FaqEntry.objects.exists()


def test_a_table_is_taken_once_and_no_other_file_ever(owner: Client) -> None:
    confirm = look_at(owner, TABLE).context["confirm_form"].initial
    owner.post(LIST + "process_import/", confirm)
    assert tables() == []

    confirm["seen"] = publication_stamp()
    for change in (
        *({"import_file_name": name} for name in (confirm["import_file_name"], "../secret", "/etc/passwd", "0" * 32)),
        *({"format": number} for number in ("2", "x")),
    ):
        page = owner.post(LIST + "process_import/", confirm | change, follow=True)
        assert "Esa tabla ya no está" in page.content.decode()
    assert len(entries()) == 2


def test_tables_that_nobody_took_are_forgotten(owner: Client) -> None:
    look_at(owner, TABLE)
    (old,) = tables()
    os.utime(old, (time.time() - FORGOTTEN_AFTER_SECONDS - 60,) * 2)

    look_at(owner, TABLE)

    assert old not in tables()


@pytest.mark.parametrize(("form", "read"), [(CSV, "csv"), (XLSX, "xlsx")])
def test_what_is_taken_out_can_be_brought_back(owner: Client, form: str, read: str) -> None:
    # With a wording that comes before those that were there, and an answer as the admin's form and a paste leave it.
    take(owner, TABLE + "=1+1 ¿qué es?,-5 €,@hola\n")
    take(owner, TABLE.replace('"hasta', '"a qué hora abren\nhasta'))
    FaqEntry.objects.filter(key="hacen-envios").update(answer="Sí,\r\na toda\x0bEspaña.")
    before = entries()
    history = FaqEntry.history.count()

    file = owner.post(LIST + "export/", {"format": form, "resource": "0"})
    content = file.content

    assert f'filename="preguntas-{timezone.localdate()}.{read}"' in file["Content-Disposition"]
    if read == "csv":
        rows = list(csv.reader(StringIO(content.decode("utf-8-sig"))))
    else:
        rows = [[cell or "" for cell in row] for row in openpyxl.load_workbook(BytesIO(content)).active.values]
    assert rows[0] == [
        "pregunta",
        "respuesta",
        "otras formas de preguntar",
        "categoría",
        "idioma",
        "estado",
        "delicada",
        "clave",
    ]
    formula = next(row for row in rows if "1+1" in row[0])
    assert formula[:3] == ["'=1+1 ¿qué es?", "'-5 €", "'@hola"], "no spreadsheet runs it"
    assert "A las 8." not in look_at(owner, content, form).content.decode(), "only what would change is shown"
    page = take(owner, content, form)
    assert "cambiadas: 0, sin cambios: 3" in page.content.decode()
    assert (entries(), FaqEntry.history.count()) == (before, history)
    FaqEntry.objects.all().delete()
    take(owner, content, form)
    assert entries()["¿Hacen envíos?"] == ("Sí,\na toda España.", "published", [])
    assert entries()["=1+1 ¿qué es?"] == before["=1+1 ¿qué es?"]


def test_the_export_is_what_the_list_shows(owner: Client) -> None:
    take(owner, TABLE)

    content = owner.post(LIST + "export/?q=hora", {"format": CSV, "resource": "0"}).content.decode()

    assert "A las 8." in content
    assert "España" not in content


def test_what_a_table_says_is_never_run(owner: Client) -> None:
    attack = "<script>alert(1)</script>"
    pages = [
        look_at(owner, f"pregunta,respuesta\n{attack},Sí."),
        look_at(owner, f"pregunta,respuesta,estado\n{attack},Sí.,{attack}"),
        look_at(owner, f"pregunta,respuesta,otras formas\n¿Abren?,Sí.,{attack * 30}"),
        look_at(owner, f"{attack},pregunta,respuesta\nx,¿Abren?,Sí."),
    ]
    for page in pages:
        assert attack not in page.content.decode()
        assert "&lt;script&gt;" in page.content.decode()


@pytest.mark.parametrize(
    ("rights", "may_import", "may_export"),
    [
        ([], False, False),
        (["view_faqentry"], False, True),
        (["view_faqentry", "change_faqentry"], False, True),
        (["view_faqentry", "add_faqentry"], False, True),
        (["add_faqentry", "change_faqentry"], False, True),
        (["add_faqentry", "change_faqentry", "add_paraphrase", "delete_paraphrase"], True, True),
    ],
)
def test_only_who_may_add_and_change_may_import(
    client: Client, rights: list[str], may_import: bool, may_export: bool
) -> None:
    user = User.objects.create_user("pepe", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client.force_login(user)

    assert client.get(LIST + "import/").status_code == (200 if may_import else 403)
    assert client.post(LIST + "process_import/").status_code == (302 if may_import else 403)
    assert client.get(LIST + "export/").status_code == (200 if may_export else 403)


def test_strangers_see_nothing(client: Client) -> None:
    for page in ("import/", "export/"):
        assert client.get(LIST + page).status_code == 302
    assert client.post(LIST + "process_import/").status_code == 302
