"""The test is tried on conversations drawn with fixed seeds, looked at after each one."""

from __future__ import annotations

import math
import random

import pytest

from chat.sequential import evidence, is_worse

ALPHA = 0.05


def conversations_until_alarm(
    rng: random.Random, *, share: float, champion: float, challenger: float, limit: int, swing: float = 0.0
) -> int | None:
    """After how many conversations the challenger is found worse; None if it is not within the limit.

    Args:
        champion, challenger: how often a conversation with each goes wrong.
        swing: how much that rises and falls for both in the course of a day of 500 conversations.
    """
    wrong = {True: 0, False: 0}
    for number in range(1, limit + 1):
        is_challenger = rng.random() < share
        rate = (challenger if is_challenger else champion) * (1 + swing * math.sin(number / 500 * math.tau))
        if rng.random() < rate:
            wrong[is_challenger] += 1
            if is_worse(wrong[True], wrong[False], share, alpha=ALPHA):
                return number
    return None


@pytest.mark.parametrize(
    ("share", "rate", "swing"), [(0.01, 0.2, 0.0), (0.1, 0.05, 0.0), (0.1, 0.4, 0.9), (0.5, 0.2, 0.0), (0.5, 0.5, 0.9)]
)
def test_no_more_false_alarms_than_allowed_however_often_it_is_looked_at(
    share: float, rate: float, swing: float
) -> None:
    rng, trials = random.Random(5), 400

    alarms = [
        conversations_until_alarm(rng, share=share, champion=rate, challenger=rate, limit=2000, swing=swing)
        for _ in range(trials)
    ]

    assert sum(alarm is not None for alarm in alarms) / trials <= ALPHA


def test_a_better_challenger_is_all_but_always_left_alone() -> None:
    rng, trials = random.Random(6), 200

    alarms = [
        conversations_until_alarm(rng, share=0.2, champion=0.3, challenger=0.2, limit=2000) for _ in range(trials)
    ]

    assert sum(alarm is not None for alarm in alarms) / trials <= ALPHA / 5


@pytest.mark.parametrize(
    ("share", "champion", "challenger", "within"),
    [(0.1, 0.1, 0.3, 1500), (0.5, 0.2, 0.4, 500), (0.05, 0.05, 0.3, 2000), (0.2, 0.1, 0.15, 6000)],
)
def test_a_worse_challenger_is_found_nine_times_in_ten(
    share: float, champion: float, challenger: float, within: int
) -> None:
    rng, trials = random.Random(7), 100

    alarms = [
        conversations_until_alarm(rng, share=share, champion=champion, challenger=challenger, limit=within)
        for _ in range(trials)
    ]

    assert sum(alarm is not None for alarm in alarms) / trials >= 0.9


@pytest.mark.parametrize(("share", "enough"), [(0.01, 2), (0.1, 3), (0.5, 10)])
def test_one_that_never_answers_is_found_after_a_few(share: float, enough: int) -> None:
    assert is_worse(enough, 0, share, alpha=ALPHA)
    assert not is_worse(1, 0, share, alpha=ALPHA)


def test_nothing_seen_is_no_evidence_and_much_seen_overflows_nothing() -> None:
    assert evidence(0, 0, 0.1) == pytest.approx(1)
    assert math.isfinite(evidence(10**6, 0, 0.01))
    assert evidence(0, 10**6, 0.5) == 0
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            evidence(1, 1, share)
