"""What happened to a run, in words: the lines under its progress."""

from __future__ import annotations

import math
from typing import Any

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from training.models import RunEvent, TrainingRun

Code = RunEvent.Code


def lines(run: TrainingRun) -> list[dict[str, Any]]:
    """A run's events in order, as its page shows them. `id` names a line for ever; old ones may leave."""
    return [
        {
            "id": event.pk,
            "at": event.happened_at.isoformat(),
            "time": date_format(timezone.localtime(event.happened_at), "TIME_FORMAT"),
            "text": in_words(event),
        }
        for event in run.events.select_related("by")
    ]


def in_words(event: RunEvent) -> str:
    text = {
        Code.ASKED: _("Asked for by %(by)s") if event.by else _("Asked for"),
        Code.STARTED: _("Started") if event.values.get("attempt") == 1 else _("Started, attempt %(attempt)d"),
        Code.FROZEN: _("What it learns is fixed: %(answers)d answers in %(wordings)d wordings"),
        Code.PHASE: "%(phase)s",
        Code.RESUMED: _("Goes on after step %(step)d, which was saved"),
        Code.BATCH: _("The memory holds %(size)d wordings at a time; the result is the same"),
        Code.STEP: _("Learning: step %(step)d of %(max_steps)d, %(sureness)s sure of the right words"),
        Code.MEASURED: _(
            "Measured after step %(step)d of %(max_steps)d: %(sureness)s sure of the right words, asked in ways that it"
            " has not seen"
        ),
        Code.RETURNED: _("Interrupted; it goes on when its turn comes"),
        Code.LOST: _("Its process was lost; it goes on when its turn comes"),
        Code.CANCEL_ASKED: _("Cancelled by %(by)s") if event.by else _("Somebody cancelled it"),
        Code.SUCCEEDED: _("Finished"),
        Code.FAILED: _("Failed"),
        Code.CANCELLED: _("Ended without a version"),
    }[Code(event.code)]
    return text % _values(event)


def _values(event: RunEvent) -> dict[str, Any]:
    values = {**event.values, "by": event.by}
    if "phase" in values:
        values["phase"] = TrainingRun.Phase(values["phase"]).label
    if "loss" in values:
        # The mean probability of each right token, which is what a loss says to somebody who knows none.
        loss = values["loss"]
        values["sureness"] = "–" if loss is None else f"{round(100 * math.exp(-loss))} %"
    return values
