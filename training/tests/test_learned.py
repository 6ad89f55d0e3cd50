from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from faq.models import FaqEntry
from training import versions
from training.learned import Learned, count_learned, learned_statuses
from training.models import AdapterVersion
from training.tests.conftest import Answers, MakeVersion

pytestmark = pytest.mark.django_db

LINE = '{{"key": "{key}", "question": "{question}", "answer": "{answer}", "wordings": {wordings}}}\n'


@pytest.fixture
def live(shop: None, make_version: MakeVersion, answered: Answers) -> AdapterVersion:
    """A version that knows two of three entries as they are now, and answered one of them wrong in its exam."""
    version = make_version()
    known = FaqEntry.objects.exclude(key="return")
    lines = (
        LINE.format(
            key=entry.key,
            question=entry.question,
            answer=entry.answer,
            wordings=str([entry.question, *entry.paraphrases.values_list("text", flat=True)]).replace("'", '"'),
        )
        for entry in known
    )
    (version.path / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
    answered(version, a=("hours", "hours"), b=("pay", "pay"), c=("pay", None), off=(None, None))
    versions.activate(version)
    return version


def test_it_says_how_the_live_version_knows_each_entry(live: AdapterVersion) -> None:
    assert learned_statuses() == {"hours": Learned.LEARNED, "pay": Learned.WEAK, "return": Learned.NEVER}
    assert count_learned() == [(Learned.NEVER, 1), (Learned.WEAK, 1), (Learned.LEARNED, 1)]


def test_an_edit_counts_before_the_exam(live: AdapterVersion) -> None:
    FaqEntry.objects.filter(key="pay").update(answer="Solo en efectivo.")

    assert learned_statuses()["pay"] == Learned.CHANGED


def test_what_the_exam_did_not_ask_is_untested(live: AdapterVersion) -> None:
    live.exam.answers.filter(expected_key="hours").delete()

    assert learned_statuses()["hours"] == Learned.UNTESTED


def test_an_exam_of_typed_variants_tests_nothing(live: AdapterVersion) -> None:
    live.exam.is_held_out = False
    live.exam.save()

    assert learned_statuses()["hours"] == Learned.UNTESTED


def test_what_the_version_before_answered_better_is_worse_than_before(
    live: AdapterVersion, make_version: MakeVersion, answered: Answers
) -> None:
    newer = make_version()
    (newer.path / "answers.jsonl").write_bytes((live.path / "answers.jsonl").read_bytes())
    answered(newer, a=("hours", "pay"), b=("pay", "pay"), c=("pay", None))
    versions.activate(newer)

    assert learned_statuses() == {"hours": Learned.REGRESSED, "pay": Learned.WEAK, "return": Learned.NEVER}


def test_nothing_is_said_while_nothing_is_live(shop: None, make_version: MakeVersion) -> None:
    make_version()

    assert learned_statuses() == {}


def test_staff_see_it_in_the_list_and_filter_by_it(client: Client, olga: User, live: AdapterVersion) -> None:
    client.force_login(olga)

    page = client.get("/admin/faq/faqentry/").content.decode()
    assert "weak in the exam" in page
    weak = client.get("/admin/faq/faqentry/?learned=weak").content.decode()
    assert "¿Cómo puedo pagar?" in weak
    assert "¿A qué hora cierran?" not in weak
    assert client.get("/admin/faq/faqentry/?learned=%27&o=4").status_code == 200
    front = client.get("/admin/").content.decode()
    assert '<a href="/admin/faq/faqentry/?learned=weak">1 weak in the exam</a>' in front
