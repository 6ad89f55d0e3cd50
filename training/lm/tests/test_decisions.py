"""What is made of the likeliest entries."""

from __future__ import annotations

from training.lm.decisions import Calibration, Decision, passing_over

SURE = Decision("price", False, 0.9, 1.0, 1, near=(("price", 0.9), ("time", 0.07), ("place", 0.002)))
CALIBRATION = Calibration(suggestion_threshold=0.6)


def test_the_others_are_offered_by_what_is_left_to_them() -> None:
    decision = passing_over(SURE, "price", CALIBRATION)
    assert (decision.key, decision.is_declined) == ("time", True)
    # Seven of ten; two of a hundred are too few to be offered.
    assert round(decision.confidence, 6) == 0.7
    assert decision.suggestions == ("time",)


def test_nothing_is_offered_where_the_others_are_unlikely_too() -> None:
    decision = passing_over(SURE, "price", Calibration(suggestion_threshold=0.8))
    assert (decision.key, decision.suggestions) == ("time", ())


def test_nothing_is_left_of_a_decision_that_knew_one_entry() -> None:
    only = Decision("price", False, 1.0, 1.0, 1, near=(("price", 1.0),))
    decision = passing_over(only, "price", CALIBRATION)
    assert (decision.key, decision.is_declined, decision.confidence, decision.suggestions) == (None, True, 0.0, ())
