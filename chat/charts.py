"""Figures as stacked columns: whole numbers that a template draws as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chat.figures import OUTCOMES, Row

STEP, WIDTH, HEIGHT = 10, 8, 100


@dataclass(frozen=True, slots=True)
class Segment:
    kind: str
    y: int
    height: int


@dataclass(frozen=True, slots=True)
class Column:
    """One time's replies, from the bottom up in the order of OUTCOMES. `text` says them in words."""

    x: int
    text: str
    segments: list[Segment]


@dataclass(frozen=True, slots=True)
class Chart:
    columns: list[Column]
    highest: int
    width: int
    step: int = STEP
    column_width: int = WIDTH
    height: int = HEIGHT


def chart(rows: Sequence[Row]) -> Chart:
    """A column for each row, the highest of them as high as there is room."""
    highest = max((row.num_replies for row in rows), default=0)
    columns = [_column(place, row, highest) for place, row in enumerate(rows)]
    return Chart(columns, highest, width=STEP * len(rows))


def _column(place: int, row: Row, highest: int) -> Column:
    segments, below = [], 0
    for kind in OUTCOMES:
        top = below + row.counts[kind]
        # Both ends are rounded, not the height, so that no gaps open.
        low, high = (round(HEIGHT * each / max(highest, 1)) for each in (below, top))
        segments.append(Segment(kind.value, HEIGHT - high, high - low))
        below = top
    words = ", ".join(f"{row.counts[kind]} {kind.label}" for kind in OUTCOMES if row.counts[kind])
    return Column(place * STEP + (STEP - WIDTH) // 2, f"{row.name}: {words or 0}", segments)
