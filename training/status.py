"""What there is to say about training to someone who waits for it: is a version live, and how far is the run?"""

from __future__ import annotations

from typing import Any

from training import runs
from training.models import TrainingRun
from training.versions import live_version


def latest_run() -> TrainingRun | None:
    """The newest run; whoever looks at one that has fallen silent sets it right, so none is seen running for ever."""
    run = TrainingRun.objects.first()
    if run is not None and runs.is_silent(run):
        for run_pk in runs.sweep():
            runs.wake(run_pk)
        run.refresh_from_db()
    return run


def public_status() -> dict[str, Any]:
    """For customers: whether somebody is there to answer, and if not, how long it may still take."""
    if live_version() is not None:
        return {"live": True, "run": None}
    run = latest_run()
    if run is None or not run.is_active:
        return {"live": False, "run": None}
    return {"live": False, "run": {"phase": str(run.get_phase_display()), "percent": run.percent}}
