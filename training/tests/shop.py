"""A small shop: what it is asked, what it answers, and other wordings of the question."""

from __future__ import annotations

SHOP = {
    "hours": (
        "¿A qué hora cierran?",
        "Cerramos a las ocho.",
        ["horario de cierre", "hasta qué hora abren", "a que hora cierran hoy"],
    ),
    "pay": (
        "¿Cómo puedo pagar?",
        "Con tarjeta o transferencia.",
        ["formas de pago", "se puede pagar con tarjeta", "como se paga"],
    ),
    "return": (
        "¿Puedo devolver un producto?",
        "Tiene treinta días.",
        ["quiero devolver algo", "plazo de devolución", "devolver un producto"],
    ),
}
