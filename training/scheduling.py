"""Versions that go live at a time, and back: "Navidad" from 1 December to 7 January."""

from __future__ import annotations

import logging

from django.utils import timezone
from django.utils.translation import gettext as _

from training import serving, versions
from training.going_live import go_live
from training.models import Activation, AdapterVersion, ScheduledActivation

logger = logging.getLogger(__name__)

State = ScheduledActivation.State


def follow_schedule() -> None:
    """Do what is due. Each step is claimed by one conditional update, so several processes may look at once."""
    now = timezone.now()
    for scheduled in ScheduledActivation.objects.filter(state=State.WAITING, starts_at__lte=now).order_by("starts_at"):
        if _claim(scheduled, State.WAITING, State.LIVE):
            _start(scheduled)
    for scheduled in ScheduledActivation.objects.filter(state=State.LIVE, ends_at__lte=now).order_by("ends_at"):
        if _claim(scheduled, State.LIVE, State.OVER):
            _end(scheduled)


def _claim(scheduled: ScheduledActivation, expected: State, state: State) -> bool:
    return ScheduledActivation.objects.filter(pk=scheduled.pk, state=expected).update(state=state) == 1


def _start(scheduled: ScheduledActivation) -> None:
    before = versions.live_version()
    note = scheduled.note or _("As planned.")
    if _went_live(scheduled, scheduled.version, note):
        ScheduledActivation.objects.filter(pk=scheduled.pk).update(before=before)


def _end(scheduled: ScheduledActivation) -> None:
    """Back to what was live before, unless somebody has made another version live meanwhile."""
    if versions.live_version() == scheduled.version and scheduled.before is not None:
        _went_live(scheduled, scheduled.before, _("The planned time is over."))


def _went_live(scheduled: ScheduledActivation, version: AdapterVersion, note: str) -> Activation | None:
    try:
        # Whoever planned it has seen the exam, and what broke then is what was decided on.
        return go_live(version, activated_by=scheduled.planned_by, note=note, despite_critical=True)
    except versions.VersionError as error:
        logger.error("scheduled activation %s of %s: %s", scheduled.pk, version.name, error)
        ScheduledActivation.objects.filter(pk=scheduled.pk).update(state=State.FAILED, error=str(error))
        return None
    finally:
        # The engine of the smoke test; a worker keeps none.
        serving.close()
