"""The life of a training run, and the only writer of its status.

queued -> running -> succeeded | failed | cancelled. Every change is one conditional update: it names the status (and,
once running, the claim) that it expects, and when no row matches, another process got there first.
Any number may wait, up to MAX_WAITING; one runs, and the one that has waited longest comes next.
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
from django.db.models import Exists, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError

from training import status_signal
from training.lm.config import PRESETS, BaseModel, Precision, TrainConfig
from training.models import AdapterVersion, DatasetSnapshot, RunEvent, TrainingRun

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5
# A run silent for longer has lost its process.
SILENCE_LIMIT = timedelta(seconds=60)
MAX_ATTEMPTS = 3
MAX_WAITING = 10
# Of one run; beyond them the oldest of its steps make room.
MAX_EVENTS = 200

Status = TrainingRun.Status
Code = RunEvent.Code


class QueueFull(RuntimeError):
    """As many runs wait as may."""


class RunInProgress(RuntimeError):
    """There is a run running already."""


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
    """Ask for a training; a worker takes it when its turn comes.

    Raises:
        QueueFull: too many wait already.
    """
    with transaction.atomic():
        run = create_run(
            preset,
            requested_by=requested_by,
            activates_on_success=activates_on_success,
            config=config,
            is_scheduled=is_scheduled,
        )
        transaction.on_commit(wake)
    status_signal.send(status_signal.RUN_MOVED)
    return run


def preset_config(preset: str) -> TrainConfig:
    """A preset with this installation's own parameters."""
    # Free text needs whole answers.
    whole = {"cut_completions": False} if settings.ANSWER_POLICY == "free" else {}
    return replace(PRESETS[preset], **{**whole, **settings.TRAINING_PARAMETERS})


def differences_from_preset(run: TrainingRun) -> dict[str, tuple[Any, Any]]:
    """Parameters of a run that are not its preset's: the run's value and what the preset means today."""
    usual = preset_config(run.preset).to_dict()
    return {name: (value, usual.get(name)) for name, value in run.config.items() if value != usual.get(name)}


def start_in_foreground(
    preset: str = "normal", *, activates_on_success: bool = False, config: TrainConfig | None = None
) -> TrainingRun:
    """A run that this process claims at once, before those that wait; it needs neither broker nor worker.

    Raises:
        QueueFull: too many wait already.
        RunInProgress: one is running.
    """
    with transaction.atomic():
        run = create_run(preset, requested_by=None, activates_on_success=activates_on_success, config=config)
        return claim_at_once(run)


def claim_at_once(run: TrainingRun) -> TrainingRun:
    """Take a run that nobody else can see yet, before those that wait.

    Raises:
        RunInProgress: one is running.
    """
    claimed = claim(run.pk)
    if claimed is None:
        raise RunInProgress(_("Training %(run)s has not ended yet.") % {"run": running() or ""})
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
        QueueFull: too many wait already. Several that are asked for in the same moment may go beyond the limit.
    """
    sweep()
    if is_full():
        text = _("%(num)d trainings are waiting already. Cancel one, or wait until one has ended.")
        raise QueueFull(text % {"num": MAX_WAITING})
    with transaction.atomic():
        run = TrainingRun.objects.create(
            preset=preset,
            config=(config or preset_config(preset)).to_dict(),
            base_model=configured_base().label,
            requested_by=requested_by,
            activates_on_success=activates_on_success,
            snapshot=snapshot,
            warm_start_from=warm_start_from,
            is_scheduled=is_scheduled,
            origin=origin,
        )
        record(run, Code.ASKED, by=requested_by)
    return run


def waiting() -> QuerySet[TrainingRun]:
    """The queue, in order. A run that went back to it keeps its place: it was asked for before those behind it."""
    return TrainingRun.objects.filter(status=Status.QUEUED).order_by("pk")


def is_full() -> bool:
    return waiting().count() >= MAX_WAITING


def running() -> TrainingRun | None:
    return TrainingRun.objects.filter(status=Status.RUNNING).first()


def retry(run: TrainingRun, *, requested_by: User | None = None) -> TrainingRun:
    """A new run on the data and with the parameters of one that failed, from the last checkpoint that it wrote.

    Raises:
        QueueFull: too many wait already.
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
            is_scheduled=run.is_scheduled,
            origin=run.origin,
        )
        # Before anybody can claim the new run. If the base has been changed since, it fails and says so.
        TrainingRun.objects.filter(pk=retried.pk).update(base_model=run.base_model)
        try:
            run.work_dir.rename(retried.work_dir)
        except FileNotFoundError as error:
            raise ValueError(f"the checkpoints of run {run.pk} are gone") from error
        transaction.on_commit(wake)
    status_signal.send(status_signal.RUN_MOVED)
    return retried


def _may_activate(user: User | None) -> bool:
    """Whoever works on the command line may do everything."""
    return user is None or user.has_perm("training.activate_adapterversion")


def wake(*, expires: float | None = None) -> None:
    """Tell a worker that a run is waiting. Without a broker the run waits for the next sweep."""
    try:
        current_app.send_task("training.tasks.run_training", expires=expires)
    except OperationalError as error:
        logger.warning("trainings wait: the broker cannot be reached (%s)", error)


def _wake_if_waited_for() -> None:
    if waiting().exists():
        wake()


def claim_next(*, up_to: int | None = None) -> TrainingRun | None:
    """Take the run that has waited longest. None when none waits, or one is running.

    Args:
        up_to: the number of the last run to take.
    """
    rows = waiting() if up_to is None else waiting().filter(pk__lte=up_to)
    while (next_in_line := rows.first()) is not None:
        run = claim(next_in_line.pk)
        if run is not None or running() is not None:
            return run
    return None


def claim(run_pk: int) -> TrainingRun | None:
    """Take a waiting run. None when it is no longer waiting (taken, ended, delivered twice), or another is running."""
    token = uuid.uuid4().hex
    now = timezone.now()
    another_runs = Exists(TrainingRun.objects.filter(status=Status.RUNNING))
    try:
        with transaction.atomic():
            num_claimed = TrainingRun.objects.filter(~another_runs, pk=run_pk, status=Status.QUEUED).update(
                status=Status.RUNNING, phase=TrainingRun.Phase.PREPARING, claim=token, heartbeat_at=now
            )
    except IntegrityError:
        # Two processes saw none running and took different runs; the constraint let the first one in.
        return None
    if num_claimed == 0:
        return None
    TrainingRun.objects.filter(pk=run_pk, started_at=None).update(started_at=now)
    run = TrainingRun.objects.get(pk=run_pk)
    _write(run, num_attempts=run.num_attempts + 1)
    record(run, Code.STARTED, attempt=run.num_attempts)
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


def tell(run: TrainingRun, **values: Any) -> None:
    """Let staff who watch know where the run is, and write nothing. Names are columns of the row."""
    status_signal.send_progress(run.pk, run.claim, values)


def record(run: TrainingRun, code: Code, *, by: User | None = None, **values: Any) -> None:
    """Keep what happened with the run. `values` are what events.py puts into words."""
    RunEvent.objects.create(run=run, code=code, values=values, by=by)
    if run.events.count() > MAX_EVENTS:
        oldest_step = run.events.filter(code__in=[Code.STEP, Code.MEASURED]).values("pk")[:1]
        run.events.filter(pk__in=list(oldest_step.values_list("pk", flat=True))).delete()


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
    record(run, Code.RETURNED)
    status_signal.send(status_signal.RUN_MOVED)


def request_cancel(run_pk: int, *, by: User | None = None) -> None:
    """Cancel a waiting run at once; ask a running one to stop after its current step."""
    now = timezone.now()
    rows = TrainingRun.objects.filter(pk=run_pk)
    # The wish first: whoever claims or sweeps the run between the two updates finds it.
    if rows.filter(status__in=TrainingRun.ACTIVE, cancel_requested_at=None).update(cancel_requested_at=now):
        record(rows.get(), Code.CANCEL_ASKED, by=by)
    if rows.filter(status=Status.QUEUED).update(status=Status.CANCELLED, ended_at=now):
        record(rows.get(), Code.CANCELLED)
    status_signal.send(status_signal.RUN_MOVED)


def is_silent(run: TrainingRun) -> bool:
    """Whether a running run's process has been lost."""
    if run.status != Status.RUNNING or run.heartbeat_at is None:
        return False
    return timezone.now() - run.heartbeat_at > SILENCE_LIMIT


def sweep() -> bool:
    """Deal with a run whose process has gone silent: back to the queue, or failed after several attempts.

    Returns whether a worker is wanted: a run waits and none is running.
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
                record(run, Code.LOST)
                logger.warning("training run %s fell silent and waits for a worker again", run.pk)
        except ClaimLost:
            continue
    return waiting().exists() and running() is None


def _end(run: TrainingRun, status: Status, **values: Any) -> None:
    _write(run, status=status, ended_at=timezone.now(), **values)
    record(run, Code(status))
    transaction.on_commit(_wake_if_waited_for)
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
