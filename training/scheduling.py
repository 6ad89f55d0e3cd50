"""Versions that go live at a time, and back: "Navidad" from 1 December to 7 January."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from training import serving, versions
from training.going_live import go_back, go_live
from training.models import ScheduledActivation

logger = logging.getLogger(__name__)

State = ScheduledActivation.State
# A process that has not been heard of for so long has died with what it took in hand.
TAKEN_AT_MOST = timedelta(minutes=10)


def follow_schedule() -> None:
    """Do what is due: first what ends, so that one plan may begin when another does.

    Who writes into a row first that they have taken it deals with it, so several processes may look at once, and none
    waits for another that is loading a version. Whatever goes wrong unforeseen leaves it as it was, for a later time.
    """
    now = timezone.now()
    due = (
        (ScheduledActivation.objects.filter(state=State.LIVE, ends_at__lte=now).order_by("ends_at"), _end),
        (ScheduledActivation.objects.filter(state=State.WAITING, starts_at__lte=now).order_by("starts_at"), _start),
    )
    try:
        for plans, act in due:
            for pk in list(plans.values_list("pk", flat=True)):
                free = Q(taken_at=None) | Q(taken_at__lt=timezone.now() - TAKEN_AT_MOST)
                if plans.filter(free, pk=pk).update(taken_at=timezone.now()):
                    try:
                        _act(ScheduledActivation.objects.get(pk=pk), act)
                    finally:
                        ScheduledActivation.objects.filter(pk=pk).update(taken_at=None)
    finally:
        # The engine of a smoke test; a worker keeps none.
        serving.close()


def _act(scheduled: ScheduledActivation, act: Callable[[ScheduledActivation], None]) -> None:
    try:
        act(scheduled)
    except versions.VersionError as error:
        logger.error("scheduled activation %s of %s: %s", scheduled.pk, scheduled.version.name, error)
        scheduled.state, scheduled.error = State.FAILED, str(error)
    ScheduledActivation.objects.filter(pk=scheduled.pk).update(
        state=scheduled.state, error=scheduled.error, before=scheduled.before
    )


def _start(scheduled: ScheduledActivation) -> None:
    if scheduled.ends_at is not None and scheduled.ends_at <= timezone.now():
        # Nobody was there in all its time.
        scheduled.state = State.OVER
        return
    planner = scheduled.planned_by
    may_break = planner is not None and planner.has_perm("training.activate_broken_adapterversion")
    scheduled.before = versions.live_version()
    go_live(
        scheduled.version,
        activated_by=planner,
        note=scheduled.note or ("" if may_break else _("As planned.")),
        despite_critical=may_break,
    )
    scheduled.state = State.LIVE


def _end(scheduled: ScheduledActivation) -> None:
    """Back to what was live before, unless somebody has made another version live meanwhile."""
    scheduled.state = State.OVER
    if versions.live_version() == scheduled.version and scheduled.before is not None:
        go_back(activated_by=scheduled.planned_by, note=_("The planned time is over."), expected=scheduled.before)
