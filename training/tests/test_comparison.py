from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from faq.models import FaqEntry
from training import versions
from training.comparison import Outcome, compare
from training.models import AdapterVersion
from training.tests.conftest import Answers, MakeVersion

pytestmark = pytest.mark.django_db


@pytest.fixture
def pair(
    shop: None, settings: Settings, make_version: MakeVersion, answered: Answers
) -> tuple[AdapterVersion, AdapterVersion]:
    # These versions have no adapters that could answer.
    settings.SMOKE_TEST_QUESTIONS = 0
    FaqEntry.objects.filter(key="return").update(is_critical=True)
    older, newer = make_version(), make_version()
    answered(
        older,
        a=("hours", "hours"),
        b=("hours", None),
        c=("pay", "hours"),
        d=("return", "return"),
        e=(None, None),
        moved=("hours", "hours"),
    )
    answered(
        newer,
        a=("hours", "pay"),
        b=("hours", "hours"),
        c=("pay", None),
        d=("return", None),
        e=(None, None),
        moved=("pay", "hours"),
        new=("gone-entry", "gone-entry"),
    )
    return older, newer


def test_it_says_what_became_of_every_question(pair: tuple[AdapterVersion, AdapterVersion]) -> None:
    older, newer = pair
    comparison = compare(newer, older)

    assert [(each.question, each.outcome) for each in comparison.questions] == [
        ("d", Outcome.BROKEN),
        ("a", Outcome.BROKEN),
        ("b", Outcome.FIXED),
        ("c", Outcome.STILL_WRONG),
        ("moved", Outcome.NEW_WRONG),
        ("new", Outcome.NEW_RIGHT),
        ("e", Outcome.STILL_RIGHT),
    ], "critical ones first"
    assert (comparison.num_broken, comparison.num_fixed, comparison.num_unchanged, comparison.num_new) == (2, 1, 2, 2)
    assert [each.question for each in comparison.broken_critical] == ["d"]


def test_it_names_entries_by_their_question(pair: tuple[AdapterVersion, AdapterVersion]) -> None:
    older, newer = pair
    by_question = {each.question: each for each in compare(newer, older).questions}

    assert (by_question["a"].before, by_question["a"].now) == ("¿A qué hora cierran?", "¿Cómo puedo pagar?")
    assert (by_question["c"].before, by_question["c"].now) == ("¿A qué hora cierran?", "")
    assert (by_question["new"].before, by_question["new"].now) == (None, "gone-entry")
    assert by_question["e"].expected == ""


def test_a_version_that_breaks_a_critical_answer_does_not_go_live(pair: tuple[AdapterVersion, AdapterVersion]) -> None:
    older, newer = pair
    versions.activate(older)

    with pytest.raises(versions.CriticalBroken, match="breaks a critical answer"):
        versions.activate(newer)
    with pytest.raises(versions.CriticalBroken):
        versions.activate(newer, despite_critical=True)
    with pytest.raises(CommandError, match="needs a --note"):
        call_command("activate", str(newer.number), despite_critical=True)
    assert versions.live_version() == older

    call_command("activate", str(newer.number), despite_critical=True, note="Returns have ended.")
    assert versions.live_version() == newer
    versions.roll_back()
    assert versions.live_version() == older


def test_going_back_is_never_refused_for_a_broken_answer(pair: tuple[AdapterVersion, AdapterVersion]) -> None:
    older, newer = pair
    versions.activate(newer)
    versions.activate(older)

    versions.roll_back()

    assert versions.live_version() == newer
