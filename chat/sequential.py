"""Is the challenger worse? A test that may be looked at after every conversation, and stopped at any of them.

Only conversations in which something went wrong are counted. If the challenger is no worse than the champion, each of
them is a challenger's with the probability of its share, whatever happened before and however hard customers ask at
this hour: that is how conversations were drawn. The likelihood ratio of "it goes wrong r times as often" to that is
then a supermartingale which begins at 1, and so is the mean of several. By Ville's inequality it reaches 1 / alpha with
a probability of at most alpha, at all looks together.

Lindon and Malek, Anytime-Valid Inference for Multinomial Count Data (2022), https://arxiv.org/abs/2011.03567, for the
argument from shares; Johari, Pekelis and Walsh, Always Valid Inference (2015), https://arxiv.org/abs/1512.04922, for
mixtures and what to make of them.
"""

from __future__ import annotations

import math

# How many times as often it may go wrong. The last is for a challenger that never answers.
TIMES_AS_OFTEN = (1.25, 1.5, 2.0, 4.0, 10.0, 100.0)


def evidence(num_challenger: int, num_champion: int, share: float) -> float:
    """How much speaks for the challenger being worse.

    Args:
        num_challenger, num_champion: conversations of each in which it went wrong.
        share: of all conversations that the challenger gets, between 0 and 1.

    Returns:
        The mean likelihood ratio, without bound: 1 for nothing either way.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share lies between 0 and 1, not at {share}")
    logs = []
    for times in TIMES_AS_OFTEN:
        expected = times * share / (times * share + 1 - share)
        logs.append(num_challenger * math.log(expected / share) + num_champion * math.log((1 - expected) / (1 - share)))
    # Beyond this a float ends; so does any doubt.
    return sum(math.exp(min(log, 700.0)) for log in logs) / len(logs)


def is_worse(num_challenger: int, num_champion: int, share: float, *, alpha: float) -> bool:
    """Whether the challenger is worse, wrongly so with a probability of at most `alpha` over all looks together."""
    return evidence(num_challenger, num_champion, share) >= 1 / alpha
