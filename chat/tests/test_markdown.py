from __future__ import annotations

import html
import random
import re

import pytest

from chat.markdown import SCHEMES, TAGS, render, render_partial, render_without_marks, without_marks

RICH = """Con **tarjeta**, *transferencia* o _Bizum_, no con cheque_al_portador.

- en [la tienda](https://tienda.es/pagos?a=1&b_2=2)
- por **teléfono y *móvil***

1. primero
2. segundo

| Plazo | Precio |
|---|--:|
| 24 h | **5 €** |
| 72 h | 2 * 3 € |

Llámenos al +34 900 123 456, escriba a hola@tienda.es o mire www.tienda.es/ayuda. Código: `ABC_1`."""

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "[x](/admin/)",
    "[x](//evil.example)",
    "![x](https://evil.example/pixel.png)",
    "<javascript:alert(1)>",
    '[x](https://a.es "onmouseover=alert(1)")',
    "**<svg/onload=alert(1)>**",
    "| <b onclick=x>a</b> |\n|---|\n| <iframe> |",
    'https://a.es/"><script>alert(1)</script>',
    "a@b.es'onclick=alert(1)",
    "<style>*{display:none}</style>",
]


def visible(rendered: str) -> str:
    return re.sub(r"\s+", "", html.unescape(re.sub(r"<[^>]+>", "", rendered)))


def test_it_renders_the_few_marks_that_there_are() -> None:
    page = render(RICH)

    assert "<strong>tarjeta</strong>" in page
    assert "<em>transferencia</em>" in page
    assert "cheque_al_portador" in page
    assert page.count("<li>") == 4
    assert "<td>2 * 3 €</td>" in page
    assert '<a href="https://tienda.es/pagos?a=1&amp;b_2=2" rel="noopener noreferrer">la tienda</a>' in page


def test_it_makes_addresses_and_telephones_tappable() -> None:
    page = render(RICH)

    assert '<a href="tel:+34900123456" rel="noopener noreferrer">+34 900 123 456</a>' in page
    assert '<a href="mailto:hola@tienda.es" rel="noopener noreferrer">hola@tienda.es</a>' in page
    assert '<a href="https://www.tienda.es/ayuda" rel="noopener noreferrer">www.tienda.es/ayuda</a>.' in page
    assert render("El pedido 20261126 son 12.50 €").count("<a") == 0


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("Llame al 900 123 456 o al 955 01 02 03.", ["900123456", "955010203"]),
        ("Sevilla: 955\u00a001\u00a002\u00a003, Madrid: 612 345 678", ["955010203", "612345678"]),
        ("Estamos en el (+34) 955 01 02 03", ["+34955010203"]),
        ("Desde fuera: +57 310 555 1234", ["+573105551234"]),
        ("**955 01 02 03**", ["955010203"]),
        ("Tel. 955 01 02 03 - 955 01 02 04", ["955010203", "955010204"]),
    ],
)
def test_telephones_in_groups_can_be_tapped_whatever_stands_before(text: str, targets: list[str]) -> None:
    assert re.findall(r'href="tel:([^"]*)"', render(text)) == targets


@pytest.mark.parametrize(
    "text",
    [
        "Su pedido 612 345 678 ha salido.",
        "Pedido n.º 955 01 02 03",
        "La referencia es 700 123 456",
        "Cuesta 900 123 456 pesos",
        "Son 612 345 678 €",
        "Son 612 345 678,50",
        "$ 2 612 345 678",
        "Del 24-12-2025 al 06-01-2026, de 9 a 20",
        "955010203",
        "2026 11 27 08 30",
        "ES91 2100 0418 450 200 051",
        "4111 111 111 111",
        "Talla 955 01 02 03-B",
        "123 456 789",
    ],
)
def test_other_numbers_are_not_taken_for_telephones(text: str) -> None:
    assert "<a" not in render(text)


def test_it_can_leave_the_marks_out() -> None:
    text = without_marks(RICH)

    assert "Con tarjeta, transferencia o Bizum, no con cheque_al_portador." in text
    assert "\n- en la tienda (https://tienda.es/pagos?a=1&b_2=2)\n- por teléfono y móvil\n" in text
    assert "\n1. primero\n2. segundo\n" in text
    assert "| 24 h | 5 € |" in text
    assert "+34 900 123 456, escriba a hola@tienda.es o mire www.tienda.es/ayuda. Código: ABC_1." in text
    assert without_marks("2 * 3 * 4\n\n  fin") == "2 * 3 * 4\n\n  fin"


@pytest.mark.parametrize(
    "text", ["Cerramos a las ocho.", "# no\n> nada", "a\nb", "fin &amp; &lt;", "2 * 3 _ 4", "<b>x</b>"]
)
def test_it_leaves_everything_else_as_it_is_written(text: str) -> None:
    assert visible(render(text)) == re.sub(r"\s+", "", text)


def tags_and_targets(rendered: str) -> tuple[set[str], set[str]]:
    tags = set(re.findall(r"<\s*/?\s*([a-zA-Z]+)", rendered))
    attributes = set(re.findall(r"<[^>]*?\s([a-zA-Z-]+)=", rendered))
    for href in re.findall(r'href="([^"]*)"', rendered):
        assert href.partition(":")[0] in SCHEMES, rendered
    return tags, attributes


@pytest.mark.parametrize("text", [*PAYLOADS, RICH, "# no\n> nada", "fin &amp; &lt;", "2 * 3 _ 4\n\n  - x\n1. y"])
def test_what_people_write_is_shown_as_it_is_written(text: str) -> None:
    rendered = render_without_marks(text)
    assert html.unescape(re.sub(r"</?a\b[^>]*>", "", rendered)) == text
    tags, attributes = tags_and_targets(rendered)
    assert tags <= {"a"}
    assert attributes <= {"href", "rel"}


def test_what_people_write_can_be_tapped_by_the_same_rules() -> None:
    rendered = render_without_marks(
        "Vea **www.tienda.es/a?b=1&c=2**\no hola@tienda.es, 955 01 02 03.\nPedido 612 345 678"
    )
    assert re.findall(r'href="([^"]*)"', rendered) == [
        "https://www.tienda.es/a?b=1&amp;c=2",
        "mailto:hola@tienda.es",
        "tel:955010203",
    ]
    assert 'rel="noopener noreferrer"' in rendered


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_comes_through_that_is_not_allowed(payload: str) -> None:
    for text in (
        payload,
        f"**{payload}**",
        f"- {payload}",
        f"[{payload}](https://a.es)",
        f"| a |\n|---|\n| {payload} |",
    ):
        for rendered in (render(text), render_partial(text)):
            tags, attributes = tags_and_targets(rendered)
            assert tags <= TAGS, rendered
            assert attributes <= {"href", "rel", "start"}, rendered


def test_nothing_comes_through_whatever_is_put_together() -> None:
    rng = random.Random(0)
    pieces = [*PAYLOADS, *"*_`[]()<>|\n-&\"'", "**", "\n\n", "javascript:", "http://", " onclick=x ", "](", "|---|"]
    for _ in range(400):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 12)))
        for rendered in (render(text), render_partial(text)):
            tags, attributes = tags_and_targets(rendered)
            assert tags <= TAGS, text
            assert attributes <= {"href", "rel", "start"}, text


def test_a_text_that_grows_never_shows_half_a_mark_and_never_takes_words_back() -> None:
    shown = ""
    for end in range(len(RICH) + 1):
        now = visible(render_partial(RICH[:end]))
        assert now.startswith(shown), RICH[:end][-30:]
        assert not re.search(r"\*\*|\]\(|`|\|", now), RICH[:end][-30:]
        shown = now
    assert visible(render(RICH)).startswith(shown)


def test_a_whole_text_is_rendered_alike_at_once_and_in_pieces() -> None:
    assert render_partial(RICH + "\n\n") == render(RICH)
