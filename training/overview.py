"""The overview on the admin's front page, as plain data: what is live, what changed since, what can be done."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from faq.models import FaqEntry
from training import runs
from training.differences import Changes, Kind, changes_since
from training.events import lines
from training.learned import count_learned
from training.models import Activation, AdapterVersion, TrainingRun
from training.preflight import expected_seconds, in_minutes, num_published_wordings
from training.retraining import cheapest_preset
from training.status import current_run
from training.versions import previous_version, undo_on_offer


def overview(user: User | AnonymousUser) -> dict[str, Any]:
    """Everything that the front page shows."""
    live = Activation.objects.select_related("version__exam", "activated_by").first()
    changes = _changes(live)
    run = current_run()
    may_activate = user.has_perm("training.activate_adapterversion")
    return {
        "live": live,
        "changes": changes,
        "advice": _advice(changes) if changes else "",
        "learned": count_learned(),
        "is_anything_published": FaqEntry.objects.published().exists(),
        "run": run_status(run) if run else None,
        "queue": queue(),
        "can_cancel": user.has_perm("training.change_trainingrun"),
        "can_train": user.has_perm("training.add_trainingrun"),
        "runs": TrainingRun.objects.select_related("requested_by", "version")[:5],
        "can_see_versions": user.has_perm("training.view_adapterversion"),
        "versions": AdapterVersion.objects.select_related("exam")[:5],
        "can_activate": may_activate,
        "previous": previous_version() if may_activate else None,
        "undo": undo_on_offer() if may_activate else None,
    }


def training_status(told: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a page that watches asks for again and again: the run that is under way, and who waits behind it.

    Args:
        told: what `status_signal.send_progress` last said, which may be ahead of the row.
    """
    run = current_run()
    if run and told and (told["run"], told["claim"]) == (run.pk, run.claim) and told["values"]["step"] > run.step:
        for name, value in told["values"].items():
            setattr(run, name, value)
    return {"run": run_status(run) if run else None, "queue": [each.pk for each in queue()]}


def queue() -> list[TrainingRun]:
    return list(runs.waiting().select_related("requested_by"))


def run_status(run: TrainingRun) -> dict[str, Any]:
    """How far a run is, in words and numbers."""
    return {
        "id": run.pk,
        "status": run.status,
        "status_text": str(run.get_status_display()),
        "phase_text": str(run.get_phase_display()),
        "percent": run.percent,
        "step": run.step,
        "max_steps": run.max_steps,
        "is_active": run.is_active,
        "left_text": _time_left(run),
        "memory_mb": run.memory_mb,
        "curve": run.curve,
        "log": lines(run),
        "url": reverse("admin:training_trainingrun_change", args=[run.pk]),
    }


def _time_left(run: TrainingRun) -> str:
    """By how far it has come since it began; nothing before there is something to go by."""
    if not run.is_active or run.started_at is None or not run.step:
        return ""
    taken = (timezone.now() - run.started_at).total_seconds()
    minutes = max(1, round(taken * (100 - run.percent) / max(run.percent, 1) / 60))
    return ngettext("about a minute left", "about %(num)d minutes left", minutes) % {"num": minutes}


def _advice(changes: Changes) -> str:
    """Whether to train, whether anything false is said meanwhile, and how long it would take by earlier runs."""
    if not changes.is_worth_training:
        return _("Nothing has changed since: there is no need to train.")
    num_edited = changes.num(Kind.ANSWER)
    if num_edited:
        text = ngettext(
            "%(num)d answer has another text, which is said already: nothing false reaches customers.",
            "%(num)d answers have another text, which is said already: nothing false reaches customers.",
            num_edited,
        ) % {"num": num_edited}
    else:
        text = _("Nothing false reaches customers meanwhile.")
    purpose = _("A training teaches the assistant to recognise what has changed better.")
    duration = in_minutes(expected_seconds(cheapest_preset(), num_published_wordings()))
    return " ".join([text, purpose, *([_("It takes %(minutes)s.") % {"minutes": duration}] if duration else [])])


def _changes(live: Activation | None) -> Changes | None:
    try:
        return changes_since(live.version) if live else None
    except OSError:
        # The version's files are gone; activation and the chat say so in their own places.
        return None
