"""A version on trial: some of the new conversations get it. Its row says since when, and how it ended.

running -> promoted | stopped | over | retreated, written only here, each end by one conditional update, so that of two
who end a trial at the same moment the first one's reason stays. Who speaks with whom, and whether the challenger does
worse, is for chat/trials.py to know.
"""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from training import status_signal
from training.models import AdapterVersion, Trial

Outcome = Trial.Outcome


class TrialInProgress(RuntimeError):
    """There is a trial under way already."""


def running_trial() -> Trial | None:
    """The trial under way. One whose time is over has ended for whoever looks."""
    # Without its versions: nearly always there is none, and every conversation that begins asks.
    trial = Trial.objects.filter(outcome=Outcome.RUNNING).first()
    if trial is None or not trial.is_overdue:
        return trial
    end(trial, Outcome.OVER, by=None, reason="")
    return None


def start(
    challenger: AdapterVersion,
    champion: AdapterVersion,
    *,
    share: int,
    note: str,
    started_by: User | None,
    ends_at: datetime | None = None,
) -> Trial:
    """Write that a trial has begun; whether the challenger may speak is for going_live.py to have found out.

    Args:
        champion: what is live.
        share: of a hundred new conversations, how many get the challenger.

    Raises:
        TrialInProgress: another one is under way.
    """
    running_trial()
    try:
        with transaction.atomic():
            trial = Trial.objects.create(
                challenger=challenger,
                champion=champion,
                share=share,
                note=note,
                started_by=started_by,
                ends_at=ends_at,
            )
    except IntegrityError as error:
        if not Trial.objects.filter(outcome=Outcome.RUNNING).exists():
            raise
        raise TrialInProgress(_("A trial is under way. End it before you begin another.")) from error
    status_signal.send(status_signal.VERSION_LIVE)
    return trial


def end(trial: Trial, outcome: Outcome, *, by: User | None, reason: str) -> bool:
    """End a trial; its conversations speak with the live version from their next answer on.

    Args:
        by: None: nobody, it ended by itself.

    Returns:
        Whether this call ended it.
    """
    running = Trial.objects.filter(pk=trial.pk, outcome=Outcome.RUNNING)
    return bool(running.update(outcome=outcome, ended_by=by, reason=reason, ended_at=timezone.now()))


def end_for(live: AdapterVersion, *, by: User | None) -> None:
    """End the trial under way because a version has gone live, unless that is the one it was tried against."""
    trial = running_trial()
    if trial is None or live == trial.champion:
        return
    if live == trial.challenger:
        end(trial, Outcome.PROMOTED, by=by, reason="")
        return
    with translation.override(settings.LANGUAGE_CODE):
        reason = _("%(version)s was put in use.") % {"version": live}
    end(trial, Outcome.STOPPED, by=by, reason=reason)
