"""What there is to say about training to someone who waits for it: is a version live, and how far is the run?"""

from __future__ import annotations

from typing import Any

from training import runs
from training.models import TrainingRun
from training.versions import live_version


def current_run() -> TrainingRun | None:
    """The run that is running, else the one whose turn is next, else None.

    Whoever looks at one that has fallen silent sets it right, so none is seen running for ever.
    """
    run = runs.running()
    if run is not None and runs.is_silent(run):
        if runs.sweep():
            runs.wake()
        run = runs.running()
    return run or runs.waiting().first()


def public_status() -> dict[str, Any]:
    """For customers: whether somebody is there to answer, and if not, how long it may still take."""
    if live_version() is not None:
        return {"live": True, "run": None}
    run = current_run()
    if run is None:
        return {"live": False, "run": None}
    return {"live": False, "run": {"percent": run.percent}}
