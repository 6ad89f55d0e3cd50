"""The way to the pointer: a version is loaded afresh and asked before customers meet it."""

from __future__ import annotations

from concurrent.futures import TimeoutError as StillAsking

from django.conf import settings
from django.contrib.auth.models import User
from django.utils.translation import gettext as _

from faq.publication import current_publication
from training import serving, versions
from training.lm.decisions import EngineBusy, EngineDied
from training.models import Activation, AdapterVersion, ExamAnswer
from training.versions import VersionError

SMOKE_TEST_SECONDS = 120


def go_live(
    version: AdapterVersion,
    *,
    activated_by: User | None = None,
    note: str = "",
    despite_critical: bool = False,
) -> Activation:
    """Make a version live once it has answered its smoke test; until then, and if it fails, the live one stays.

    Args, raises: as `versions.activate`; VersionError too if it does not answer as in its exam.
    """
    versions.check_activation(version, may_break=bool(despite_critical and note))
    smoke_test(version)
    return versions.activate(version, activated_by=activated_by, note=note, despite_critical=despite_critical)


def go_back(*, activated_by: User | None = None, note: str = "", expected: AdapterVersion | None = None) -> Activation:
    """Make the version live that was live before, once it has answered its smoke test.

    Args, raises: as `versions.roll_back` and `go_live`.
    """
    earlier = versions.previous_version()
    if earlier is not None and expected in (None, earlier):
        smoke_test(earlier)
    return versions.roll_back(activated_by=activated_by, note=note, expected=expected)


def smoke_test(version: AdapterVersion) -> None:
    """Load the version in this process and ask it what it was surest of in its exam.

    Only questions of entries that are still published; an exam without any leaves nothing to ask.

    Raises:
        VersionError: it cannot be loaded, or answers otherwise than in its exam.
    """
    published = {entry.key for entry in current_publication().entries}
    sure = ExamAnswer.objects.filter(exam__version=version, is_declined=False, expected_key__in=published)
    right = [answer for answer in sure.order_by("-confidence", "pk") if answer.is_right]
    for answer in right[: settings.SMOKE_TEST_QUESTIONS]:
        try:
            _servable, future = serving.ask(answer.question, version)
            decision = future.result(timeout=SMOKE_TEST_SECONDS)
        except (EngineBusy, EngineDied, StillAsking) as error:
            raise VersionError(_("The engine is too busy to try the version. Try again in a minute.")) from error
        if decision.is_declined or decision.key != answer.answered_key:
            raise VersionError(
                _("Version %(version)s does not answer “%(question)s” as in its exam, so nothing was changed.")
                % {"version": version, "question": answer.question}
            )
