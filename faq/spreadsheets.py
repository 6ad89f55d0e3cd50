"""Tables as spreadsheet programs write and read them, whatever they make of encodings, separators and formulas."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO, StringIO
from typing import Any
from zipfile import ZipFile

import openpyxl
import tablib
from django.utils.translation import gettext as _
from import_export.formats import base_formats

# They take a file for UTF-8 by this mark.
BYTE_ORDER_MARK = "\ufeff"
_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# No workbook can hold these.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
MAX_ROWS = 2_000
MAX_COLUMNS = 100
COLUMN_WIDTH = 40
MAX_UNPACKED_BYTES = 50_000_000
# The last column of what is read: in which row of the file each stands.
ROW_NUMBER = "#"


def no_formula(cell: str) -> str:
    """A cell that a spreadsheet does not run (https://owasp.org/www-community/attacks/CSV_Injection)."""
    return f"'{cell}" if cell.startswith(_BEGINS_A_FORMULA) else cell


def as_typed(cell: str) -> str:
    """A cell without what `no_formula` put before it."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_BEGINS_A_FORMULA) else cell


def plain_lines(text: str) -> str:
    """A text as any file holds it: one sign for the end of a line, and no others that cannot be seen."""
    return _CONTROLS.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))


class BadTable(ValueError):
    """A file that is no table to be read; its text is the reason, for the person who chose it."""


class CSV(base_formats.CSV):
    """In UTF-8 or as Windows writes it, between commas, semicolons or tabs. It comes as bytes and is decoded here."""

    def is_binary(self) -> bool:
        return True

    def get_read_mode(self) -> str:
        return "rb"

    def create_dataset(self, in_stream: bytes) -> tablib.Dataset:
        try:
            text = in_stream.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = in_stream.decode("cp1252", errors="replace")
        head = re.split(r"[\r\n]", text, maxsplit=1)[0]
        rows = csv.reader(StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
        try:
            # In UTF-16 every other character is a NUL.
            return table_of([] if "\0" in text else rows)
        except csv.Error as error:
            raise BadTable(_("This file cannot be read as a table.")) from error

    def export_data(self, dataset: tablib.Dataset, **kwargs: Any) -> bytes:
        text: str = super().export_data(dataset, **kwargs)
        return (BYTE_ORDER_MARK + text).encode()


class XLSX(base_formats.XLSX):
    """The first sheet of a workbook. Neither its size when unpacked nor the one that it declares is believed."""

    def export_data(self, dataset: tablib.Dataset, **kwargs: Any) -> bytes:
        dataset.title = _("Questions")
        content: bytes = super().export_data(dataset, column_width=COLUMN_WIDTH, **kwargs)
        return content

    def create_dataset(self, in_stream: bytes) -> tablib.Dataset:
        try:
            return table_of(_first_sheet(in_stream))
        except BadTable:
            raise
        except Exception as error:
            # What a broken archive or sheet raises is anybody's.
            raise BadTable(_("This file cannot be read as a table.")) from error


def _first_sheet(content: bytes) -> Iterator[Sequence[Any]]:
    with ZipFile(BytesIO(content)) as archive:
        if sum(each.file_size for each in archive.infolist()) > MAX_UNPACKED_BYTES:
            raise ValueError("too large when unpacked")
    book = openpyxl.load_workbook(BytesIO(content), read_only=True, data_only=True)
    sheet = book.worksheets[0]
    sheet.reset_dimensions()
    yield from sheet.iter_rows(max_col=MAX_COLUMNS, values_only=True)


def table_of(rows: Iterable[Sequence[Any]]) -> tablib.Dataset:
    """The rows that have any text. The first names the columns; after these comes ROW_NUMBER.

    Raises:
        BadTable: there are none, or too many, or one has text beyond the columns.
    """
    headers: list[str] = []
    table: list[list[str]] = []
    for number, row in enumerate(rows, start=1):
        # A sheet may have a million rows of nothing.
        if not any(row):
            continue
        cells = ["" if cell is None else plain_lines(as_typed(str(cell))) for cell in row]
        if not any(cell.strip() for cell in cells):
            continue
        if not headers:
            headers = cells
            continue
        width = len(headers)
        if any(cell.strip() for cell in cells[width:]):
            text = _("Row %(num)d has more cells than there are columns. Is a text with commas not in quotation marks?")
            raise BadTable(text % {"num": number})
        if len(table) == MAX_ROWS:
            raise BadTable(_("This table has more than %(num)d rows.") % {"num": MAX_ROWS})
        table.append([*(cells + [""] * width)[:width], str(number)])
    if not headers:
        raise BadTable(_("This file cannot be read as a table."))
    if not table:
        raise BadTable(_("This table has no rows below the names of its columns."))
    return tablib.Dataset(*table, headers=[*headers, ROW_NUMBER])
