"""Personal data in what people type: found by its form and its check digits, and masked before anything learns it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import phonenumbers
from stdnum import iban, luhn
from stdnum.ar import cuit
from stdnum.cl import rut
from stdnum.co import nit
from stdnum.ec import ci
from stdnum.es import dni, nie
from stdnum.mx import curp

# Where a number without a country's prefix may be a telephone's.
PHONE_REGIONS = ("ES", "MX", "CO", "AR", "CL", "PE", "EC", "UY", "VE", "US")
MIN_PHONE_DIGITS = 8

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{2,4}){3,8}\b", re.IGNORECASE)
_CARD = re.compile(r"\b\d(?:[ -]?\d){12,18}\b")
_IDENTITY = re.compile(r"\b(?:[A-Z]{4}\d{6}[A-Z]{6}[A-Z0-9]\d|[XYZ]?\d[\d.]{4,12}-?[\dA-Z])\b", re.IGNORECASE)
_IDENTITY_CHECKS: tuple[Callable[[str], bool], ...] = (
    *(dni.is_valid, nie.is_valid, curp.is_valid, rut.is_valid, cuit.is_valid),
    *(nit.is_valid, ci.is_valid),
)


class Kind(StrEnum):
    EMAIL = "email"
    IBAN = "iban"
    CARD = "card"
    IDENTITY = "identity"
    PHONE = "phone"


# What stands in their place: a word of the same sort, so that a sentence stays one.
MASKS = {
    Kind.EMAIL: "[correo]",
    Kind.IBAN: "[cuenta]",
    Kind.CARD: "[tarjeta]",
    Kind.IDENTITY: "[documento]",
    Kind.PHONE: "[teléfono]",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A piece of a text, `text[start:end]`, and what it is."""

    kind: Kind
    start: int
    end: int


def find(text: str) -> list[Found]:
    """Personal data in a text, in order, none overlapping another.

    E-mail addresses, IBANs, payment cards, identity numbers of seven countries (DNI, NIE, CURP, RUT, CUIT, NIT, cédula)
    and telephones. Numbers count only if their check digits are right, so that an order's number is not taken for one.
    """
    found: list[Found] = []
    for each in _all(text):
        if all(each.end <= other.start or other.end <= each.start for other in found):
            found.append(each)
    return sorted(found, key=lambda each: each.start)


def mask(text: str) -> str:
    """The text with a word in square brackets for each piece of personal data."""
    for each in reversed(find(text)):
        text = text[: each.start] + MASKS[each.kind] + text[each.end :]
    return text


def _all(text: str) -> Iterator[Found]:
    """The surest kinds first."""
    if "@" in text:
        yield from (Found(Kind.EMAIL, *match.span()) for match in _EMAIL.finditer(text))
    if not re.search(r"\d{2}", text):
        return
    checks: tuple[tuple[Kind, re.Pattern[str], tuple[Callable[[str], bool], ...]], ...] = (
        (Kind.IBAN, _IBAN, (iban.is_valid,)),
        (Kind.CARD, _CARD, (lambda number: luhn.is_valid(re.sub(r"\D", "", number)),)),
        (Kind.IDENTITY, _IDENTITY, _IDENTITY_CHECKS),
    )
    for kind, pattern, is_valid in checks:
        for match in pattern.finditer(text):
            if any(check(match.group()) for check in is_valid):
                yield Found(kind, *match.span())
    if sum(letter.isdigit() for letter in text) < MIN_PHONE_DIGITS:
        return
    for region in PHONE_REGIONS:
        for number in phonenumbers.PhoneNumberMatcher(text, region):
            yield Found(Kind.PHONE, number.start, number.end)
