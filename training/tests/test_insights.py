from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client

from faq.models import FaqEntry
from training import versions
from training.insights import confused_pairs, thresholds
from training.lm.decisions import Calibration
from training.models import AdapterVersion, ExamAnswer
from training.tests.conftest import MakeVersion
from training.tests.test_admin import clerk
from training.versions import read_calibration

pytestmark = pytest.mark.django_db


@pytest.fixture
def version(shop: None, make_version: MakeVersion) -> AdapterVersion:
    """Four questions to answer, two to decline, in order of confidence."""
    version = make_version()
    (version.path / "calibration.json").write_text('{"threshold": 0.6}', encoding="utf-8")
    for expected, answered, confidence in (
        ("hours", "hours", 0.95),
        ("pay", "return", 0.8),
        ("", "pay", 0.7),
        ("pay", "return", 0.5),
        ("return", "return", 0.4),
        ("", "pay", 0.2),
    ):
        ExamAnswer.objects.create(
            exam=version.exam,
            question=f"q{confidence}",
            expected_key=expected,
            answered_key=answered,
            is_declined=confidence < 0.6,
            confidence=confidence,
            coverage=1.0,
        )
    return version


def test_each_threshold_tells_what_the_exam_would_have_been(version: AdapterVersion) -> None:
    table = {row.threshold: row for row in thresholds(version)}

    assert min(table) == 0.3
    assert max(table) == 0.99
    lowest, middle, highest = table[0.3], table[0.75], table[0.96]
    assert (lowest.right, lowest.wrong, lowest.declined, lowest.off_topic_declined) == (0.5, 0.5, 0.0, 0.5)
    assert (middle.right, middle.wrong, middle.declined, middle.off_topic_declined) == (0.25, 0.25, 0.5, 1.0)
    assert (highest.right, highest.wrong, highest.declined) == (0.0, 0.0, 1.0)


def test_an_exam_without_questions_has_no_thresholds(make_version: MakeVersion) -> None:
    assert thresholds(make_version()) == []


def test_pairs_are_named_with_the_words_that_mix_them_up(version: AdapterVersion) -> None:
    [pair] = confused_pairs(version)

    assert (pair.expected_key, pair.answered_key) == ("pay", "return")
    assert (pair.expected, pair.answered) == ("¿Cómo puedo pagar?", "¿Puedo devolver un producto?")
    assert pair.questions == ("q0.8", "q0.5")


def test_staff_choose_a_threshold_and_go_back_to_the_exams(client: Client, olga: User, version: AdapterVersion) -> None:
    client.force_login(olga)
    page = f"/admin/training/adapterversion/{version.pk}/"
    assert 'value="0.5"' in client.get(f"{page}change/").content.decode(), "that of the exam"

    client.post(f"{page}threshold/", {"threshold": "0.8"})
    version.refresh_from_db()
    assert version.threshold == 0.8, "as a browser sends it"
    assert (version.exam.answered_right, version.exam.declined) == (0.25, 0.5), "the exam's figures follow"
    assert read_calibration(version) == Calibration(threshold=0.8)
    assert LogEntry.objects.get().change_message == "0.50 → 0.80"

    client.post(f"{page}threshold/", {"threshold": ["0.80", ""]})
    version.refresh_from_db()
    assert version.threshold is None
    assert read_calibration(version).threshold == 0.6
    assert version.exam.declined == 0.25


@pytest.mark.parametrize("nonsense", ["1.5", "nan", "0.123", "-1", "x"])
def test_only_a_value_of_the_table_is_taken(client: Client, olga: User, version: AdapterVersion, nonsense: str) -> None:
    client.force_login(olga)

    response = client.post(
        f"/admin/training/adapterversion/{version.pk}/threshold/", {"threshold": nonsense}, follow=True
    )

    assert "Choose a value between 0.30 and 0.99." in response.content.decode()
    version.refresh_from_db()
    assert version.threshold is None


def test_a_critical_answer_is_not_silenced_without_the_right(client: Client, version: AdapterVersion) -> None:
    FaqEntry.objects.filter(key="hours").update(is_critical=True)
    versions.activate(version)
    client.force_login(clerk("activate_adapterversion", "view_adapterversion"))
    url = f"/admin/training/adapterversion/{version.pk}/threshold/"

    page = client.post(url, {"threshold": "0.97"}, follow=True).content.decode()
    assert "a critical answer would no longer be given" in page
    client.post(url, {"threshold": "0.94"})
    version.refresh_from_db()
    assert version.threshold == 0.94

    User.objects.all().delete()
    client.force_login(clerk("activate_adapterversion", "activate_broken_adapterversion"))
    client.post(url, {"threshold": "0.97"})
    version.refresh_from_db()
    assert version.threshold == 0.97
