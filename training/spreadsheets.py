"""What spreadsheets need to read a file as what it is."""

from __future__ import annotations

# They take a file for UTF-8 by this mark.
BYTE_ORDER_MARK = "\ufeff"
_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def no_formula(cell: str) -> str:
    """A cell that a spreadsheet does not run (https://owasp.org/www-community/attacks/CSV_Injection)."""
    return f"'{cell}" if cell.startswith(_BEGINS_A_FORMULA) else cell
