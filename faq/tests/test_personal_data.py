from __future__ import annotations

import pytest

from faq.personal_data import find, mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mi correo es ana.ruiz+tienda@ejemplo.com.co gracias", "mi correo es [correo] gracias"),
        ("llámenme al +34 612 34 56 78 por favor", "llámenme al [teléfono] por favor"),
        ("mi cel es 310 555 1234", "mi cel es [teléfono]"),
        ("llámenme al 310 555 1234 o al 3105559876", "llámenme al [teléfono] o al [teléfono]"),
        ("mi cédula de ecuador es 1710034065", "mi cédula de ecuador es [documento]"),
        ("devuélvanlo a ES91 2100 0418 4502 0005 1332", "devuélvanlo a [cuenta]"),
        ("pagué con 4111 1111 1111 1111 y falló", "pagué con [tarjeta] y falló"),
        ("mi DNI es 12345678Z", "mi DNI es [documento]"),
        ("soy el NIE X1234567L", "soy el NIE [documento]"),
        ("mi rut 12.531.909-2", "mi rut [documento]"),
        ("CURP BOXW310820HNERXN09 y a@b.es", "CURP [documento] y [correo]"),
    ],
)
def test_it_masks_what_belongs_to_a_person(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "¿A qué hora cierran el 24/12/2026?",
        "mi pedido 12345 no llega",
        "cuánto cuesta el modelo X200 de 1.299,99 euros",
        "abren de 09:00 a 20:30",
        "vale más de 1.000.000 de pesos",
        "la referencia 12345678A no existe",
        "abren del 24-12-2025 al 06-01-2026",
        "¿dónde está mi pedido 310555123?",
        "la factura 20251231 llegó tarde",
        "mi envío 612345678 sigue en aduana",
        "guía 4111 1111 1111 1111 1111",
        "el número de pedido es 9988",
        "escríbanme a la @ de siempre",
        "",
    ],
)
def test_it_leaves_what_belongs_to_nobody(text: str) -> None:
    assert find(text) == []
    assert mask(text) == text
