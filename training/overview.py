"""The overview on the admin's front page, as plain data: what is live, what changed since, what can be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from faq.publication import current_publication
from training.models import Activation, AdapterVersion, TrainingRun
from training.snapshots import MIN_ENTRIES
from training.status import latest_run
from training.versions import previous_version, read_learned


@dataclass(frozen=True, slots=True)
class Changes:
    """How what is published differs from what the live version learned."""

    num_learned: int
    num_changed: int
    num_new: int
    num_gone: int

    @property
    def is_worth_training(self) -> bool:
        return bool(self.num_changed or self.num_new)

    def in_words(self) -> str:
        parts = [
            (self.num_learned, ngettext("%(num)d answer learned", "%(num)d answers learned", self.num_learned)),
            (self.num_changed, ngettext("%(num)d changed since", "%(num)d changed since", self.num_changed)),
            (self.num_new, ngettext("%(num)d new", "%(num)d new", self.num_new)),
            (self.num_gone, ngettext("%(num)d taken out", "%(num)d taken out", self.num_gone)),
        ]
        return " · ".join(text % {"num": num} for num, text in parts if num)


def changes_since(version: AdapterVersion) -> Changes:
    learned = read_learned(version)
    published = {entry.key: entry for entry in current_publication().entries}
    known = published.keys() & learned.keys()
    num_changed = sum(
        published[key].answer != learned[key].answer or not learned[key].wordings <= set(published[key].wordings)
        for key in known
    )
    return Changes(
        num_learned=len(known),
        num_changed=num_changed,
        num_new=len(published.keys() - learned.keys()),
        num_gone=len(learned.keys() - published.keys()),
    )


def overview(user: User | AnonymousUser) -> dict[str, Any]:
    """Everything that the front page shows."""
    live = Activation.objects.select_related("version__exam", "activated_by").first()
    run = latest_run()
    active_run = run if run is not None and run.is_active else None
    may_activate = user.has_perm("training.activate_adapterversion")
    return {
        "live": live,
        "changes": _changes(live),
        "active_run": active_run,
        "run": run_status(active_run) if active_run else None,
        "can_train": user.has_perm("training.add_trainingrun"),
        "reason_not_to_train": _reason_not_to_train(active_run),
        "presets": _presets(),
        "runs": TrainingRun.objects.select_related("requested_by", "version")[:5],
        "versions": AdapterVersion.objects.select_related("exam")[:5],
        "can_activate": may_activate,
        "previous": previous_version() if may_activate else None,
    }


def run_status(run: TrainingRun) -> dict[str, Any]:
    """What a page that watches a run asks for again and again."""
    return {
        "id": run.pk,
        "status": run.status,
        "status_text": str(run.get_status_display()),
        "phase_text": str(run.get_phase_display()),
        "percent": run.percent,
        "step": run.step,
        "max_steps": run.max_steps,
        "is_active": run.is_active,
        "url": reverse("admin:training_trainingrun_change", args=[run.pk]),
    }


def _changes(live: Activation | None) -> Changes | None:
    try:
        return changes_since(live.version) if live else None
    except OSError:
        # The version's files are gone; activation and the chat say so in their own places.
        return None


def _reason_not_to_train(active_run: TrainingRun | None) -> str:
    if active_run:
        return _("A training is under way.")
    num_published = len(current_publication().entries)
    if num_published < MIN_ENTRIES:
        return _("At least %(min)d published answers are needed; there are %(num)d.") % {
            "min": MIN_ENTRIES,
            "num": num_published,
        }
    return ""


def _presets() -> list[tuple[str, str, str]]:
    Preset = TrainingRun.Preset
    return [
        (Preset.QUICK, str(Preset.QUICK.label), _("a few minutes, to try a change")),
        (Preset.NORMAL, str(Preset.NORMAL.label), _("what to use for customers")),
        (Preset.THOROUGH, str(Preset.THOROUGH.label), _("takes longest, studies the answers as well as the questions")),
    ]
