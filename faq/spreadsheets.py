"""Tables as spreadsheet programs write and read them, whatever they make of encodings, separators and formulas."""

from __future__ import annotations

import csv
from io import StringIO
from typing import Any
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile

import tablib
from django.utils.translation import gettext as _
from import_export.formats import base_formats
from openpyxl.utils.exceptions import InvalidFileException

# They take a file for UTF-8 by this mark.
BYTE_ORDER_MARK = "\ufeff"
_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
MAX_ROWS = 5_000
# What openpyxl and what it stands on raise for files of any other kind, also of archives that only look like one.
_NO_WORKBOOK = (
    *(BadZipFile, InvalidFileException, ParseError, RuntimeError, StopIteration),
    *(AttributeError, KeyError, TypeError, ValueError),
)


def no_formula(cell: str) -> str:
    """A cell that a spreadsheet does not run (https://owasp.org/www-community/attacks/CSV_Injection)."""
    return f"'{cell}" if cell.startswith(_BEGINS_A_FORMULA) else cell


def as_typed(cell: str) -> str:
    """A cell without what `no_formula` put before it."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_BEGINS_A_FORMULA) else cell


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
        head = text.partition("\n")[0]
        rows = csv.reader(StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
        try:
            return table_of(list(rows))
        except csv.Error as error:
            raise BadTable(_("This file cannot be read as a table.")) from error

    def export_data(self, dataset: tablib.Dataset, **kwargs: Any) -> bytes:
        text: str = super().export_data(dataset, **kwargs)
        return (BYTE_ORDER_MARK + text).encode()


class XLSX(base_formats.XLSX):
    def create_dataset(self, in_stream: bytes) -> tablib.Dataset:
        try:
            read = super().create_dataset(in_stream)
        except _NO_WORKBOOK as error:
            raise BadTable(_("This file cannot be read as a table.")) from error
        return table_of([read.headers or [], *read])


def table_of(rows: list[Any]) -> tablib.Dataset:
    """The rows that have any text, all as long as the first, which names the columns.

    Raises:
        BadTable: there are none, or too many.
    """
    texts = [["" if cell is None else as_typed(str(cell)) for cell in row] for row in rows]
    headers, *filled = [row for row in texts if any(cell.strip() for cell in row)] or [[]]
    if not filled:
        raise BadTable(_("This table has no rows below the names of its columns."))
    if len(filled) > MAX_ROWS:
        raise BadTable(_("This table has more than %(num)d rows.") % {"num": MAX_ROWS})
    width = len(headers)
    return tablib.Dataset(*[(row + [""] * width)[:width] for row in filled], headers=headers)
