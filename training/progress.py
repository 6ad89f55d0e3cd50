"""What a run tells of its steps while it learns: in its row, in its log, and to staff who watch."""

from __future__ import annotations

import logging
import time

import psutil
from django.db import DatabaseError, connection

from training import runs
from training.lm.config import TrainProgress
from training.models import RunEvent, TrainingRun

logger = logging.getLogger(__name__)

Code = RunEvent.Code
# How soon after the last one a step is told; sooner, it is left to the next one to tell.
TELL_SECONDS = 0.2
# How soon after the last one a step is written into the row, and how often at most, however many there are. What is
# only told, staff alone hear; what is written, everybody who waits for a first version.
WRITE_SECONDS = 0.5
# Where telling takes longer than a moment, Redis or the database hangs; then the next step is told so much later.
SLOW_SECONDS = 0.25
QUIET_SECONDS = 30.0
MAX_WRITES = 400
MAX_CURVE_POINTS = 200
# In the run's log; and as many measurements of what is held out.
MAX_TOLD_STEPS = 40
# Of those in the process's own log, one in so many.
LOGGED_STEPS = 20
MEGABYTE = 1_000_000


class Progress:
    """Hears of every step of a run and of every loss (`on_progress` of `sft.train`)."""

    def __init__(self, run: TrainingRun) -> None:
        self._run = run
        self._losses: dict[str, float] = {}
        self._curve: list[list[float | None]] = list(run.curve)
        self._told_at = self._written_at = self._quiet_until = 0.0
        self._written_step = 0
        self._has_begun = False
        # The last step of each kind in the run's log.
        self._logged: dict[Code, int] = {}

    def __call__(self, progress: TrainProgress) -> None:
        self._note_losses(progress)
        try:
            self._log(progress)
            self._tell(progress)
        except DatabaseError as error:
            # A training of hours is worth more than one line of its progress.
            logger.warning("training run %s: this progress was not recorded: %s", self._run.pk, error)
            # Nobody else here asks whether it is the connection that is dead.
            connection.close()
        if progress.step % LOGGED_STEPS == 0 and progress.train_loss is None and progress.eval_loss is None:
            logger.info("training run %s: step %s of %s", self._run.pk, progress.step, progress.max_steps)

    def _note_losses(self, progress: TrainProgress) -> None:
        if progress.train_loss is not None:
            self._losses["train_loss"] = progress.train_loss
            self._curve.append([progress.step, round(progress.train_loss, 4), None])
        if progress.eval_loss is not None:
            self._losses["eval_loss"] = progress.eval_loss
            self._curve.append([progress.step, None, round(progress.eval_loss, 4)])
        if len(self._curve) > MAX_CURVE_POINTS:
            # The form of a curve needs no more; what was held out is measured seldom and stays.
            numbered = enumerate(self._curve)
            self._curve = [point for place, point in numbered if place % 2 == 0 or point[2] is not None]

    def _tell(self, progress: TrainProgress) -> None:
        now = time.monotonic()
        is_last = progress.step == progress.max_steps
        is_early = now - self._told_at < TELL_SECONDS or now < self._quiet_until
        if is_early and not is_last and not progress.is_before_pause:
            return
        self._told_at = now
        values = {
            "step": progress.step,
            "max_steps": progress.max_steps,
            "curve": self._curve,
            "memory_mb": psutil.Process().memory_info().rss // MEGABYTE,
            **self._losses,
        }
        has_room = progress.step - self._written_step >= progress.max_steps / MAX_WRITES
        if is_last or (has_room and now - self._written_at >= WRITE_SECONDS):
            self._written_at, self._written_step = now, progress.step
            runs.progress(self._run, **values)
        else:
            runs.tell(self._run, **values)
        told = time.monotonic()
        if told - now > SLOW_SECONDS:
            self._quiet_until = told + QUIET_SECONDS

    def _log(self, progress: TrainProgress) -> None:
        """Keep the few of all steps that stay with the run as events."""
        if not self._has_begun:
            self._has_begun = True
            if progress.step > 1:
                runs.record(self._run, Code.RESUMED, step=progress.step - 1)
            if progress.batch_size is not None:
                runs.record(self._run, Code.BATCH, size=progress.batch_size)
        for code, loss in ((Code.STEP, progress.train_loss), (Code.MEASURED, progress.eval_loss)):
            is_due = progress.step - self._logged.get(code, 0) >= progress.max_steps / MAX_TOLD_STEPS
            if loss is not None and is_due:
                self._logged[code] = progress.step
                shown = number(round(loss, 4))
                runs.record(self._run, code, step=progress.step, max_steps=progress.max_steps, loss=shown)


def number(value: float) -> float | None:
    """None for what JSON and databases cannot hold."""
    return value if value == value else None
