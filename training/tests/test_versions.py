from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from training import versions
from training.models import Activation
from training.tests.conftest import MakeVersion

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_it_names_versions_at_one_width(make_version: MakeVersion) -> None:
    names = [make_version().name for _ in range(12)]

    assert len({len(name) for name in names}) == 1
    assert not any(a != b and b.startswith(a) for a in names for b in names)


def test_it_makes_a_version_live_and_remembers_who_did(make_version: MakeVersion, olga: User) -> None:
    assert versions.live_version() is None
    first, second = make_version(), make_version()

    versions.activate(first)
    versions.activate(second, activated_by=olga, note="Prices of May")

    assert versions.live_version() == second
    newest = Activation.objects.first()
    assert newest is not None
    assert (newest.activated_by, newest.note, newest.is_rollback) == (olga, "Prices of May", False)
    assert Activation.objects.count() == 2


def test_it_goes_back_step_by_step(make_version: MakeVersion) -> None:
    first, second, third = make_version(), make_version(), make_version()
    for version in (first, second, third):
        versions.activate(version)

    assert versions.roll_back().version == second
    assert versions.roll_back().version == first
    with pytest.raises(versions.VersionError, match="no earlier version"):
        versions.roll_back()
    assert versions.live_version() == first
    versions.activate(third)
    assert versions.roll_back().version == first


def test_it_goes_back_to_another_version_when_one_was_activated_twice(make_version: MakeVersion) -> None:
    first, second = make_version(), make_version()
    for version in (first, second, second):
        versions.activate(version)

    assert versions.roll_back().version == first


def test_it_refuses_a_version_without_an_exam(make_version: MakeVersion) -> None:
    with pytest.raises(versions.VersionError, match="has not taken its exam"):
        versions.activate(make_version(has_exam=False))
    assert versions.live_version() is None


def test_it_refuses_damaged_or_missing_files(make_version: MakeVersion) -> None:
    good, bad = make_version(), make_version()
    versions.activate(good)
    weights = bad.path / versions.WEIGHTS
    weights.write_bytes(b"something else")

    with pytest.raises(versions.VersionError, match="damaged"):
        versions.activate(bad)
    weights.unlink()
    with pytest.raises(versions.VersionError, match="missing"):
        versions.activate(bad)
    assert versions.live_version() == good


def test_it_refuses_a_version_of_another_base(make_version: MakeVersion) -> None:
    version = make_version()
    version.base_model = "old-base@11111111"

    with pytest.raises(versions.VersionError, match="another base model"):
        versions.activate(version)


def test_it_refuses_a_version_that_was_examined_in_another_precision(
    make_version: MakeVersion, settings: Settings
) -> None:
    """The exam speaks for the weights it was taken with; the 4-bit ones are the same however they are unpacked."""
    version = make_version()

    settings.SERVING_PRECISION = "full"
    with pytest.raises(versions.VersionError, match="under other settings"):
        versions.activate(version)

    for precision in ("nf4", "dequantized", ""):
        settings.SERVING_PRECISION = precision
        assert versions.activate(version).version == version


def test_it_refuses_a_version_without_whole_answers_for_free_text(make_version: MakeVersion) -> None:
    version = make_version()
    with pytest.raises(versions.VersionError, match="only how its answers begin"):
        versions.check_is_whole(version)

    version.run.config = {"cut_completions": False}
    versions.check_is_whole(version)


def test_it_goes_back_only_to_the_version_that_is_meant(make_version: MakeVersion) -> None:
    first, second, third = make_version(), make_version(), make_version()
    for version in (first, second, third):
        versions.activate(version)

    versions.roll_back(expected=second)
    with pytest.raises(versions.VersionError, match="Meanwhile"):
        versions.roll_back(expected=second)
    assert versions.live_version() == second


def test_it_finds_a_version_by_number_and_by_name(make_version: MakeVersion) -> None:
    version = make_version()

    for name in (str(version.number), f"v{version.number}", version.name):
        assert versions.find(name) == version
    for name in ("v999", "", "nonsense", "v-", "-1", "2-zzz", "v-000001-ffffffff"):
        with pytest.raises(versions.VersionError, match="There is no version"):
            versions.find(name)
