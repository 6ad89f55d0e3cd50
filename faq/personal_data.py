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

# Where a telephone without a country's prefix may be from.
PHONE_REGIONS = ("ES", "MX", "CO", "AR", "CL", "PE", "EC", "UY", "VE", "US")

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{2,4}){3,8}\b", re.IGNORECASE)
_CARD = re.compile(r"\b[3-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{3,4}\b(?![ -]?\d)")
# Such as carry a letter or a dash of their own: nothing else looks like them.
_MARKED_IDENTITY = re.compile(
    r"\b(?:[A-Z]{4}\d{6}[A-Z]{6}[A-Z0-9]\d|\d{8}-?[A-Z]|[XYZ]-?\d{7}-?[A-Z]|\d{1,2}\.?\d{3}\.?\d{3}-[\dK]|\d{2}-\d{8}-\d)\b",
    re.IGNORECASE,
)
# Digits alone may be an order or a date. They are a person's only behind a word that says so.
_DIGITS = re.compile(r"(?<![\w+])\+?\d(?:[ .()-]{0,2}\d){6,13}(?!\w)")
_SAYS_IDENTITY = re.compile(
    r"\b(?:dni|c[ée]dula|documento|identidad|identificaci[óo]n|nit|rut|cuit|cuil|ci|cc)\W{1,3}(?:\w+\W+){0,3}$", re.I
)
_SAYS_PHONE = re.compile(
    r"\b(?:tel[ée]fonos?|tel|tlf|cel|celular|m[óo]vil|fono|whatsapp|wasap|wsp|ll[áa]m\w+|marc\w+|n[úu]mero)\W{1,3}(?:\w+\W+){0,3}$",
    re.IGNORECASE,
)
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
    and telephones. Check digits must be right, and plain digits count only behind a word such as "cédula" or "celular",
    so that orders and dates are left alone.
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
        (Kind.IDENTITY, _MARKED_IDENTITY, _IDENTITY_CHECKS),
    )
    for kind, pattern, is_valid in checks:
        for match in pattern.finditer(text):
            if any(check(match.group()) for check in is_valid):
                yield Found(kind, *match.span())
    for match in _DIGITS.finditer(text):
        # Of two numbers in a row the second is what the first is.
        before, number = _DIGITS.sub("", text[: match.start()]), match.group()
        if _SAYS_IDENTITY.search(before) and any(check(number) for check in _IDENTITY_CHECKS):
            yield Found(Kind.IDENTITY, *match.span())
        elif (number.startswith("+") or _SAYS_PHONE.search(before)) and _is_phone(number):
            yield Found(Kind.PHONE, *match.span())


def _is_phone(number: str) -> bool:
    for region in PHONE_REGIONS:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(number, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False
