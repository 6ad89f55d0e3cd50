"""The life of a training run, and the only writer of its status.

queued -> running -> succeeded | failed | cancelled. Every change is one conditional update: it names the status (and,
once running, the claim) that it expects, and when no row matches, another process got there first.
Celery only wakes: a message lost or delivered twice changes nothing.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from celery import current_app
from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError

from training import status_signal
from training.lm.config import PRESETS, BaseModel, Precision, TrainConfig
from training.models import AdapterVersion, DatasetSnapshot, TrainingRun

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5
# A run silent for longer has lost its process.
SILENCE_LIMIT = timedelta(seconds=60)
MAX_ATTEMPTS = 3

Status = TrainingRun.Status


class RunInProgress(RuntimeError):
    """There is a run waiting or running already."""


class ClaimLost(RuntimeError):
    """The run belongs to another process now, or has ended. Whoever gets this must write nothing more."""


def configured_base() -> BaseModel:
    if not settings.BASE_MODEL:
        return BaseModel()
    return BaseModel(settings.BASE_MODEL, settings.BASE_MODEL_REVISION or None)


def configured_precision() -> Precision | None:
    """How serving and the exam hold the base's weights; None: as suits the device."""
    return Precision(settings.SERVING_PRECISION) if settings.SERVING_PRECISION else None


def queue_run(
    preset: str = "normal",
    *,
    requested_by: User | None = None,
    activates_on_success: bool = False,
    config: TrainConfig | None = None,
    is_scheduled: bool = False,
) -> TrainingRun:
    """Ask for a training; a worker takes it as soon as one is free.

    Raises:
        RunInProgress: one is waiting or running.
    """
    with transaction.atomic():
        run = create_run(
            preset,
            requested_by=requested_by,
            activates_on_success=activates_on_success,
            config=config,
            is_scheduled=is_scheduled,
        )
        transaction.on_commit(lambda: wake(run.pk))
    status_signal.send(status_signal.RUN_MOVED)
    return run


def preset_config(preset: str) -> TrainConfig:
    """A preset with this installation's own parameters."""
    # Free text needs whole answers.
    whole = {"cut_completions": False} if settings.ANSWER_POLICY == "free" else {}
    return replace(PRESETS[preset], **{**whole, **settings.TRAINING_PARAMETERS})


def start_in_foreground(
    preset: str = "normal", *, activates_on_success: bool = False, config: TrainConfig | None = None
) -> TrainingRun:
    """A run that this process claims at once, so that it needs neither broker nor worker."""
    with transaction.atomic():
        run = create_run(preset, requested_by=None, activates_on_success=activates_on_success, config=config)
        claimed = claim(run.pk)
    assert claimed is not None, "nobody else can see the row before the transaction ends"
    return claimed


def create_run(
    preset: str = "normal",
    *,
    requested_by: User | None = None,
    activates_on_success: bool = False,
    config: TrainConfig | None = None,
    snapshot: DatasetSnapshot | None = None,
    warm_start_from: AdapterVersion | None = None,
    is_scheduled: bool = False,
    origin: str = "",
) -> TrainingRun:
    """A waiting run, and no word to any worker: one that starts later finds it.

    Args:
        snapshot: what to learn; None for what is published when the run begins.
        warm_start_from: what an update goes on from; None for what is live when it begins.
        is_scheduled: nobody asked for it.
        origin: for a version that was trained elsewhere and only takes its exam here, its name there.

    Raises:
        RunInProgress: one is waiting or running.
    """
    sweep()
    config = config or preset_config(preset)
    try:
        with transaction.atomic():
            return TrainingRun.objects.create(
                preset=preset,
                config=config.to_dict(),
                base_model=configured_base().label,
                requested_by=requested_by,
                activates_on_success=activates_on_success,
                snapshot=snapshot,
                warm_start_from=warm_start_from,
                is_scheduled=is_scheduled,
                origin=origin,
            )
    except IntegrityError as error:
        active = TrainingRun.objects.filter(status__in=TrainingRun.ACTIVE).first()
        raise RunInProgress(_("Training %(run)s has not ended yet.") % {"run": active or ""}) from error


def retry(run: TrainingRun, *, requested_by: User | None = None) -> TrainingRun:
    """A new run on the data and with the parameters of one that failed, from the last checkpoint that it wrote.

    Raises:
        RunInProgress: one is waiting or running.
        ValueError: the run has not failed, or its checkpoints are gone.
    """
    if not run.can_be_retried:
        raise ValueError(f"run {run.pk} has not failed, or its checkpoints are gone")
    config = TrainConfig.from_dict(run.config)
    with transaction.atomic():
        retried = create_run(
            run.preset,
            requested_by=requested_by,
            activates_on_success=run.activates_on_success and _may_activate(requested_by),
            config=config,
            snapshot=run.snapshot,
            warm_start_from=run.warm_start_from,
            origin=run.origin,
        )
        # Before anybody can claim the new run. If the base has been changed since, it fails and says so.
        TrainingRun.objects.filter(pk=retried.pk).update(base_model=run.base_model)
        run.work_dir.rename(retried.work_dir)
        transaction.on_commit(lambda: wake(retried.pk))
    status_signal.send(status_signal.RUN_MOVED)
    return retried


def _may_activate(user: User | None) -> bool:
    """Whoever works on the command line may do everything."""
    return user is None or user.has_perm("training.activate_adapterversion")


def wake(run_pk: int, *, expires: float | None = None) -> None:
    """Tell a worker that a run is waiting. Without a broker the run waits for the next sweep."""
    try:
        current_app.send_task("training.tasks.run_training", args=[run_pk], expires=expires)
    except OperationalError as error:
        logger.warning("training run %s waits: the broker cannot be reached (%s)", run_pk, error)


def claim(run_pk: int) -> TrainingRun | None:
    """Take a waiting run. None when it is no longer waiting: taken, ended, or delivered twice."""
    token = uuid.uuid4().hex
    now = timezone.now()
    num_claimed = TrainingRun.objects.filter(pk=run_pk, status=Status.QUEUED).update(
        status=Status.RUNNING, phase=TrainingRun.Phase.PREPARING, claim=token, heartbeat_at=now
    )
    if num_claimed == 0:
        return None
    TrainingRun.objects.filter(pk=run_pk, started_at=None).update(started_at=now)
    run = TrainingRun.objects.get(pk=run_pk)
    _write(run, num_attempts=run.num_attempts + 1)
    status_signal.send(status_signal.RUN_MOVED)
    return run


def heartbeat(run: TrainingRun) -> bool:
    """Say that the run's process lives, unless its progress has just said so. Returns whether to cancel the run."""
    row = TrainingRun.objects.get(pk=run.pk)
    is_fresh = row.heartbeat_at and timezone.now() - row.heartbeat_at < timedelta(seconds=HEARTBEAT_SECONDS / 2)
    if not (is_fresh and row.claim == run.claim and row.status == Status.RUNNING):
        _write(run, heartbeat_at=timezone.now())
    return row.cancel_requested_at is not None


def progress(run: TrainingRun, **values: Any) -> None:
    """Record where the run is. Names are columns of the row."""
    _write(run, heartbeat_at=timezone.now(), **values)
    status_signal.send(status_signal.RUN_MOVED)


def succeed(run: TrainingRun) -> None:
    _end(run, Status.SUCCEEDED, phase=TrainingRun.Phase.DONE)


def fail(run: TrainingRun, error: str, *, traceback: str = "") -> None:
    _end(run, Status.FAILED, error=error, traceback=traceback)


def cancel(run: TrainingRun) -> None:
    _end(run, Status.CANCELLED)


def release(run: TrainingRun) -> None:
    """Give a claimed run back, because this process has been told to go; the next one resumes it."""
    _write(
        run, status=Status.QUEUED, phase=TrainingRun.Phase.WAITING, claim="", num_attempts=max(run.num_attempts - 1, 0)
    )


def request_cancel(run_pk: int) -> None:
    """Cancel a waiting run at once; ask a running one to stop after its current step."""
    now = timezone.now()
    # The wish first: whoever claims or sweeps the run between the two updates finds it.
    TrainingRun.objects.filter(pk=run_pk, status__in=TrainingRun.ACTIVE).update(cancel_requested_at=now)
    TrainingRun.objects.filter(pk=run_pk, status=Status.QUEUED).update(status=Status.CANCELLED, ended_at=now)
    status_signal.send(status_signal.RUN_MOVED)


def is_silent(run: TrainingRun) -> bool:
    """Whether a running run's process has been lost."""
    if run.status != Status.RUNNING or run.heartbeat_at is None:
        return False
    return timezone.now() - run.heartbeat_at > SILENCE_LIMIT


def sweep() -> list[int]:
    """Deal with runs whose process has gone silent: back to the queue, or failed after several attempts.

    Returns the runs that wait, so that the caller may wake a worker for them.
    """
    silent = TrainingRun.objects.filter(status=Status.RUNNING, heartbeat_at__lt=timezone.now() - SILENCE_LIMIT)
    for run in silent:
        try:
            # It may have beaten since it was read: a machine that wakes from sleep sees its own run as silent.
            _write(run, expected_heartbeat=run.heartbeat_at, num_attempts=run.num_attempts)
            if run.cancel_requested_at:
                cancel(run)
            elif run.num_attempts >= MAX_ATTEMPTS:
                fail(run, _("The training stopped unexpectedly %(num)d times.") % {"num": run.num_attempts})
            else:
                _write(run, status=Status.QUEUED, phase=TrainingRun.Phase.WAITING, claim="")
                logger.warning("training run %s fell silent and waits for a worker again", run.pk)
        except ClaimLost:
            continue
    return list(TrainingRun.objects.filter(status=Status.QUEUED).order_by("pk").values_list("pk", flat=True))


def _end(run: TrainingRun, status: Status, **values: Any) -> None:
    _write(run, status=status, ended_at=timezone.now(), **values)
    status_signal.send(status_signal.RUN_MOVED)


def _write(run: TrainingRun, *, expected_heartbeat: datetime | None = None, **values: Any) -> None:
    """Update a running row that is still this claim's and, if asked, has not beaten since."""
    rows = TrainingRun.objects.filter(pk=run.pk, status=Status.RUNNING, claim=run.claim)
    if expected_heartbeat is not None:
        rows = rows.filter(heartbeat_at=expected_heartbeat)
    if rows.update(**values) == 0:
        raise ClaimLost(f"training run {run.pk} is no longer claimed by {run.claim}")
    for name, value in values.items():
        setattr(run, name, value)
