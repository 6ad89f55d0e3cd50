"""The few marks that answers may have, as HTML: bold, italic, code, lists, links, tables. The rest stays as written.

The stored text is the truth; this is how it looks. Two walls: markdown-it knows no HTML and no other marks, and what it
makes is reduced to an allow-list by nh3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from faq.personal_data import Kind, find

SCHEMES = {"http", "https", "mailto", "tel"}
TAGS = {"p", "br", "strong", "em", "code", "ul", "ol", "li", "a", "table", "thead", "tbody", "tr", "th", "td"}

_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"«»]+", re.IGNORECASE)
_AFTER_URL = re.compile(r"[).,;:!?'*_\]]+$")
# As Spain writes telephones, and hardly anything else. In what is said to customers they need no word before them.
_GROUPED_PHONE = re.compile(
    r"(?<![\w+#$€£.,/-])(?<!\d[ \u00a0])[6-9]\d\d(?:(?:[ \u00a0]\d\d){3}|(?:[ \u00a0]\d{3}){2})"
    r"(?![\w%€$£/-]|[.,]\d|[ \u00a0](?:\d|[%€$£]|(?:euros?|pesos?|soles|bol[íi]vares|d[óo]lares|EUR|USD|[A-Z]{3})\b))"
)
_SAYS_OTHER_NUMBER = re.compile(
    r"\b(?:pedidos?|orden|facturas?|referencias?|ref|gu[íi]as?|albar[áa]n|env[íi]os?|seguimiento|c[óo]digos?|art[íi]culos?"
    r"|series?|tickets?|cuentas?|cup[óo]n|orders?|invoices?|tracking|codes?|serial)\b\W{1,3}(?:\w+\W+){0,3}$",
    re.IGNORECASE,
)


@lru_cache(maxsize=2048)
def render(text: str) -> SafeString:
    """The HTML of a whole text; safe to be inserted as it is."""
    return _clean(_parser.render(text), TAGS)


@lru_cache(maxsize=2048)
def render_without_marks(text: str) -> SafeString:
    """The HTML of what people write: nothing in it is a mark, and addresses and telephones can be tapped.

    Safe to be inserted as it is. Lines end as they do in the text, so it is to be shown with its white space.
    """
    tokens = [token for line in text.splitlines(keepends=True) for token in _linked(line)]
    return _clean(_parser.renderer.render(tokens, _parser.options, {}), {"a"})


def _clean(html: str, tags: set[str]) -> SafeString:
    html = nh3.clean(
        html,
        tags=tags,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes=SCHEMES,
        url_relative="deny",
        link_rel="noopener noreferrer",
    )
    return mark_safe(html.strip())  # noqa: S308 - reduced to an allow-list just now


def render_partial(text: str) -> SafeString:
    """The HTML of a text that is still being written: nothing is shown that the next words would turn into a mark."""
    return render(settled(text))


def without_marks(text: str) -> str:
    """The same text to be read as it is written: lists and tables stay, and a link's address stands behind its words.

    As render() has it, each line by itself.
    """
    return "\n".join(_words(line) for line in text.split("\n"))


def _words(line: str) -> str:
    words = []
    href = label = ""
    for token in _parser.parseInline(line)[0].children or []:
        if token.type == "link_open":
            href, label = str(token.attrs["href"]), ""
        elif token.type == "link_close":
            # What reads as an address is one already.
            words.append(f" ({href})" if href.startswith("http") and label not in href else "")
        else:
            words.append(token.content)
            label += token.content
    return "".join(words)


_MARKS = re.compile(r"\*+|_+|`+")
_LAST_MARKS = re.compile(r"[*_`]+\Z")
_TARGET = re.compile(r"\]\([^()\n]*\)")
_HALF_LINK = re.compile(r"\[[^\[\]\n]*(?:\](?:\([^()\n]*)?)?\Z")
_HALF_BULLET = re.compile(r"(?:^|(?<=\n))[ \t]*(?:[-+*]|\d{1,9}[.)]?)[ \t]*\Z")
_TABLE = re.compile(r"(?:(?:^|(?<=\n))[ \t]*\|[^\n]*(?:\n|\Z))+\Z")


def settled(text: str) -> str:
    """The beginning of an unfinished text whose look the rest cannot change, its open marks closed."""
    head, break_, block = text.rpartition("\n\n")
    table = _TABLE.search(block)
    if table:
        # A row is shown when it is whole, and a table when its second line is.
        rows = table.group().split("\n")[:-1]
        return head + break_ + block[: table.start()] + ("\n".join(rows) if len(rows) > 1 else "")
    for pattern in (_HALF_LINK, _HALF_BULLET):
        block = pattern.sub("", block)
    return head + break_ + _closed(block)


def _closed(block: str) -> str:
    """A block without marks that nothing follows yet, and those that are open at its end closed."""
    body = _LAST_MARKS.sub("", block)
    # Marks do not reach over a line's end here, and those of a link's address are none.
    line = _TARGET.sub("]", body.rpartition("\n")[2])
    is_open: list[str] = []
    for match in _MARKS.finditer(line):
        mark = match.group()
        before, after = line[: match.start()][-1:], line[match.end() : match.end() + 1]
        if is_open and is_open[-1] == mark and before.strip():
            is_open.pop()
        elif after.strip() and (mark[0] != "_" or not before.isalnum()):
            is_open.append(mark)
    return body.rstrip(" ") + "".join(reversed(is_open)) if is_open else body


@dataclass(frozen=True, slots=True)
class _Link:
    start: int
    end: int
    href: str


def _links(text: str) -> Iterator[_Link]:
    """Addresses and telephones in a text, in order."""
    found = []
    for match in _URL.finditer(text):
        url = _AFTER_URL.sub("", match.group())
        href = url if "://" in url else f"https://{url}"
        found.append(_Link(match.start(), match.start() + len(url), href))
    for each in find(text):
        written = text[each.start : each.end]
        if each.kind == Kind.EMAIL:
            found.append(_Link(each.start, each.end, f"mailto:{written}"))
        elif each.kind == Kind.PHONE:
            found.append(_Link(each.start, each.end, _dial(written)))
    for match in _GROUPED_PHONE.finditer(text):
        if not _SAYS_OTHER_NUMBER.search(text[: match.start()]):
            found.append(_Link(*match.span(), _dial(match.group())))
    end = 0
    for link in sorted(found, key=lambda link: (link.start, -link.end)):
        if link.start >= end:
            yield link
            end = link.end


def _dial(phone: str) -> str:
    return "tel:" + re.sub(r"[^\d+]", "", phone)


def _link_addresses(state: StateCore) -> None:
    """A rule: what reads as an address can be tapped."""
    for block in state.tokens:
        if block.type != "inline" or not block.children:
            continue
        children: list[Token] = []
        depth = 0
        for token in block.children:
            depth += token.nesting if token.type in ("link_open", "link_close") else 0
            children += _linked(token.content) if token.type == "text" and depth == 0 else [token]
        block.children = children


def _linked(text: str) -> Iterator[Token]:
    position = 0
    for link in _links(text):
        yield _text(text[position : link.start])
        yield Token("link_open", "a", 1, attrs={"href": link.href})
        yield _text(text[link.start : link.end])
        yield Token("link_close", "a", -1)
        position = link.end
    yield _text(text[position:])


def _text(content: str) -> Token:
    return Token("text", "", 0, content=content)


def _is_safe(url: str) -> bool:
    return url.partition(":")[0].strip().lower() in SCHEMES and ":" in url


def _make_parser() -> MarkdownIt:
    parser = MarkdownIt("zero", {"html": False, "breaks": True})
    parser.enable(["list", "table", "emphasis", "backticks", "link", "escape", "newline"])
    parser.core.ruler.push("addresses", _link_addresses)
    checked: Any = parser
    checked.validateLink = _is_safe
    return parser


_parser = _make_parser()
