"""Trainings that nobody has to ask for: every night, or after some changes."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from faq.models import FaqEntry, OffTopicQuestion, Paraphrase
from faq.publication import current_publication
from training import runs, updates, versions
from training.differences import Kind, changes_since
from training.models import RetrainingSchedule, TrainingRun
from training.preflight import NotReady, require_ready
from training.snapshots import fingerprint

logger = logging.getLogger(__name__)

# Whoever edits one answer often edits the next.
QUIET = timedelta(minutes=10)


def train_if_due() -> TrainingRun | None:
    """Queue the training that the timetable wants now, if any; what came of looking stands in its row.

    Several processes may look at once: who writes down first that they have looked acts. Nothing is trained twice: the
    newest run that has learned, or failed on, exactly what is published stands for it.
    """
    schedule = RetrainingSchedule.objects.filter(pk=1, is_enabled=True).first()
    if schedule is None or not (_night_has_come(schedule) or _enough_has_changed(schedule)):
        return None
    if runs.running() is not None or runs.waiting().exists():
        # Whatever it is learning, this looks again once it has ended.
        return None
    rows = RetrainingSchedule.objects.filter(pk=1, is_enabled=True, looked_at=schedule.looked_at)
    if not rows.update(looked_at=timezone.now()):
        return None
    run = None
    try:
        run = _train(schedule)
        outcome = _("Training %(run)s.") % {"run": run}
    except (NothingNew, NotReady, runs.QueueFull) as error:
        outcome = str(error)
    RetrainingSchedule.objects.filter(pk=1).update(outcome=outcome)
    logger.info("timetable of trainings: %s", outcome)
    return run


class NothingNew(Exception):
    """What is published has been trained on already."""


def _train(schedule: RetrainingSchedule) -> TrainingRun:
    newest = (
        TrainingRun.objects.filter(origin="")
        .exclude(snapshot=None)
        .exclude(status=TrainingRun.Status.CANCELLED)
        .first()
    )
    if newest is not None and newest.snapshot is not None:
        has_same_base = newest.base_model == runs.configured_base().label
        if has_same_base and newest.snapshot.sha256 == fingerprint(current_publication()):
            raise NothingNew(_("Nothing has changed since training %(run)s.") % {"run": newest})
    require_ready()
    owner = schedule.changed_by
    return runs.queue_run(
        cheapest_preset(),
        requested_by=owner,
        activates_on_success=schedule.activates
        and owner is not None
        and owner.has_perm("training.activate_adapterversion"),
        is_scheduled=True,
    )


def cheapest_preset() -> str:
    """An update where one will do, as far as can be told at once."""
    try:
        updates.version_to_update(is_certain=False)
    except updates.CannotUpdate:
        return TrainingRun.Preset.NORMAL
    return TrainingRun.Preset.UPDATE


def _night_has_come(schedule: RetrainingSchedule) -> bool:
    if schedule.at is None:
        return False
    now = timezone.localtime()
    due = timezone.make_aware(datetime.combine(now.date(), schedule.at))
    if due > now:
        due -= timedelta(days=1)
    return due > max(schedule.changed_at, schedule.looked_at or schedule.changed_at)


def _enough_has_changed(schedule: RetrainingSchedule) -> bool:
    if schedule.num_changes is None:
        return False
    edited = last_edit()
    if edited is None or timezone.now() - edited < QUIET:
        return False
    if schedule.looked_at is not None and edited < schedule.looked_at:
        return False
    live = versions.live_version()
    if live is None:
        return FaqEntry.objects.published().count() >= schedule.num_changes
    try:
        return changes_since(live).num(*Kind) >= schedule.num_changes
    except OSError:
        # What it has learned is not kept any more, so nobody can say what has changed.
        return False


def last_edit() -> datetime | None:
    """When anything that is learned was edited, added or taken out last."""
    newest = [
        FaqEntry.history.aggregate(newest=Max("history_date"))["newest"],
        Paraphrase.objects.aggregate(newest=Max("updated_at"))["newest"],
        OffTopicQuestion.objects.aggregate(newest=Max("updated_at"))["newest"],
    ]
    return max((each for each in newest if each is not None), default=None)
