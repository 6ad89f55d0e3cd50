from __future__ import annotations

import html
import random
import re

import pytest

from chat.markdown import SCHEMES, TAGS, render, render_partial

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
