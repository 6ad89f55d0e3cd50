"""The way to the pointer: a version is loaded afresh and asked before customers meet it."""

from __future__ import annotations

from concurrent.futures import TimeoutError as StillAsking
from datetime import datetime

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils.translation import gettext as _

from faq.publication import current_publication
from training import serving, trials, versions
from training.lm.decisions import EngineBusy, EngineDied, Heeded
from training.models import Activation, AdapterVersion, ExamAnswer, Trial
from training.snapshots import learned_wordings
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
    _check(version, may_break=bool(despite_critical and note))
    return versions.activate(version, activated_by=activated_by, note=note, despite_critical=despite_critical)


def try_out(
    version: AdapterVersion,
    *,
    share: int,
    note: str,
    started_by: User | None = None,
    ends_at: datetime | None = None,
    despite_critical: bool = False,
) -> Trial:
    """Give a version a share of the new conversations, under the same conditions as going live.

    Args, raises: as `trials.start` and `go_live`; VersionError too if there is no other version live.
    """
    _check(version, may_break=bool(despite_critical and note))
    with transaction.atomic():
        live = versions.lock_live_version()
        if live is None:
            raise VersionError(_("No version is live yet, so there is nothing to try another beside."))
        if live == version:
            raise VersionError(_("%(version)s is live already.") % {"version": version})
        return trials.start(version, live, share=share, note=note, started_by=started_by, ends_at=ends_at)


def _check(version: AdapterVersion, *, may_break: bool) -> None:
    """
    Raises:
        VersionError: customers may not meet this version.
    """
    try:
        versions.check_activation(version, may_break=may_break)
        smoke_test(version)
    except OSError as error:
        raise VersionError(_("The files of version %(version)s are missing.") % {"version": version}) from error


def go_back(*, activated_by: User | None = None, note: str = "", expected: AdapterVersion | None = None) -> Activation:
    """Make the version live that was live before, once it has been loaded: going back must never wait for an exam.

    Args, raises: as `versions.roll_back`; VersionError too if it cannot be loaded.
    """
    earlier = versions.previous_version()
    if earlier is not None and expected in (None, earlier) and settings.SMOKE_TEST_QUESTIONS:
        serving.prepare(earlier)
    return versions.roll_back(activated_by=activated_by, note=note, expected=expected)


def undo(activation_pk: int, *, activated_by: User | None = None) -> Activation:
    """Go back to what was live before an activation, within its time.

    Raises:
        VersionError: its time has passed, it is not the newest any more, or what was live before cannot be loaded.
    """
    offer = versions.undo_on_offer()
    if offer is not None and offer.activation.pk == activation_pk:
        return go_back(activated_by=activated_by, note=_("Undone."), expected=offer.before)
    newest = Activation.objects.first()
    if newest is None or newest.pk != activation_pk:
        raise VersionError(_("Meanwhile somebody changed what is live. Look again before you go back."))
    raise VersionError(_("The ten minutes for undoing have passed, so nothing was changed. You can still go back."))


def smoke_test(version: AdapterVersion) -> None:
    """Load the version in this process and ask it what it was surest of in its exam.

    Of questions that are still published for the same entry, so that an edit since is no fault; one in five may come
    out otherwise, as other entries may have come nearer. An exam without any leaves nothing to ask.

    Raises:
        VersionError: it cannot be loaded, or answers otherwise than in its exam.
    """
    published = {(entry.key, text) for entry in current_publication().entries for text in learned_wordings(entry)}
    asked = [
        answer
        for answer in ExamAnswer.objects.filter(exam__version=version).order_by("-confidence", "pk")
        if answer.is_right and (answer.expected_key, answer.question) in published
    ][: settings.SMOKE_TEST_QUESTIONS]
    try:
        # By what it has learned: what staff wrote any version would answer.
        futures = [serving.ask(answer.question, version, heeded=Heeded.NONE)[1] for answer in asked]
        keys = [future.result(timeout=SMOKE_TEST_SECONDS).key for future in futures]
    except (EngineBusy, EngineDied, StillAsking) as error:
        raise VersionError(_("The assistant is too busy to try the version. Try again in a minute.")) from error
    missed = [answer for answer, key in zip(asked, keys, strict=True) if key != answer.answered_key]
    if len(missed) > len(asked) // 5:
        raise VersionError(
            _("Version %(version)s does not answer “%(question)s” as in its exam, so nothing was changed.")
            % {"version": version, "question": missed[0].question}
        )
