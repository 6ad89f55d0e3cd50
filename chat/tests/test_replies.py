from __future__ import annotations

import pytest

from chat.replies import MAX_DELTAS, deltas
from training.limits import Allowance


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hola",
        "uno dos",
        "  espacios  por  todas partes ",
        "línea\nnueva\n\nfin",
        "🎉 " * 300,
        "x" * 5000,
        "a b " * 500,
    ],
)
def test_deltas_join_to_the_text_exactly_and_are_few(text: str) -> None:
    pieces = deltas(text)

    assert "".join(pieces) == text
    assert len(pieces) <= MAX_DELTAS
    assert all(pieces)


def test_an_allowance_runs_out_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("training.limits.time.monotonic", lambda: now)
    allowance = Allowance(capacity=2, per_second=0.5)

    assert [allowance.take() for _ in range(3)] == [True, True, False]
    assert allowance.seconds_left == 2
    now = 2.1
    assert allowance.take()
    now = 100
    assert [allowance.take() for _ in range(3)] == [True, True, False]
