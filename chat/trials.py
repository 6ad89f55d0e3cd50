"""A trial among customers: who speaks with whom, both sides' figures, and the retreat of a challenger that is worse.

A conversation is drawn when it begins (models.py) and stays on its side while the trial lasts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Aggregate, Count, F, Q, QuerySet, Sum
from django.utils import translation
from django.utils.translation import gettext as _

from chat.models import Conversation, Message, Rating, TrialFigures
from chat.sequential import is_worse
from training import trials
from training.models import Activation, AdapterVersion, Trial
from training.versions import live_version

logger = logging.getLogger(__name__)

FAILED = Q(finish_reason=Message.FinishReason.ERROR)
DECLINED = Q(is_declined=True) & ~FAILED
# As Message.sureness has it.
DECIDED = Q(is_declined=True) | ~Q(entry_key="")
# What is counted of the answers on each side, by the columns of TrialFigures.
COUNTS: dict[str, Aggregate] = {
    "num_conversations": Count("conversation", distinct=True),
    "num_conversations_declined": Count("conversation", distinct=True, filter=DECLINED),
    "num_conversations_failed": Count("conversation", distinct=True, filter=FAILED),
    "num_answers": Count("pk"),
    "num_answered": Count("pk", filter=Q(version__isnull=False, is_declined=False) & ~FAILED),
    "num_suggested": Count("pk", filter=DECLINED & ~Q(suggestions=[])),
    "num_declined": Count("pk", filter=DECLINED & Q(suggestions=[])),
    "num_cancelled": Count("pk", filter=Q(finish_reason=Message.FinishReason.CANCELLED)),
    "num_failed": Count("pk", filter=FAILED),
    "num_unhelpful": Count("pk", filter=Q(feedback__rating=Rating.DOWN)),
    "num_decided": Count("confidence", filter=DECIDED),
    "sum_confidence": Sum("confidence", filter=DECIDED, default=0.0),
}


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a trial in figures.

    Attributes:
        num_answers: that have ended.
        num_suggested: answers that asked "Did you mean …?".
        num_declined: answers that said "I don't know" and no more.
        num_cancelled: that the customer stopped, whatever they said.
        num_failed: that were interrupted or could not be given.
        num_unhelpful: that the customer rated as not helpful.
        num_conversations_declined, num_conversations_failed: with at least one answer of that kind, suggestions being
            no answer either.
        num_decided, sum_confidence: answers that the confidence decided (Message.sureness), and what it adds up to.
    """

    version: AdapterVersion
    num_conversations: int = 0
    num_conversations_declined: int = 0
    num_conversations_failed: int = 0
    num_answers: int = 0
    num_answered: int = 0
    num_suggested: int = 0
    num_declined: int = 0
    num_cancelled: int = 0
    num_failed: int = 0
    num_unhelpful: int = 0
    num_decided: int = 0
    sum_confidence: float = 0.0

    @property
    def confidence(self) -> float | None:
        """The mean; None if nothing was decided."""
        return self.sum_confidence / self.num_decided if self.num_decided else None

    @property
    def figures(self) -> list[tuple[str, str]]:
        """What staff read: a name and a value each, the same for both sides."""
        return [
            (_("conversations"), str(self.num_conversations)),
            (_("answers"), str(self.num_answers)),
            (_("answered"), self._share(self.num_answered)),
            (_("asked what was meant"), self._share(self.num_suggested)),
            (_("said “I don't know”"), self._share(self.num_declined)),
            (_("stopped by the customer"), self._share(self.num_cancelled)),
            (_("interrupted"), self._share(self.num_failed)),
            (_("rated as not helpful"), self._share(self.num_unhelpful)),
            (_("how sure, on average"), "–" if self.confidence is None else f"{100 * self.confidence:.0f} %"),
        ]

    def _share(self, num: int) -> str:
        return f"{100 * num / self.num_answers:.0f} % ({num})" if self.num_answers else "–"


@dataclass(frozen=True, slots=True)
class Sides:
    challenger: Side
    champion: Side

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Name, challenger's value, champion's value."""
        pairs = zip(self.challenger.figures, self.champion.figures, strict=True)
        return [(name, ours, theirs) for (name, ours), (_name, theirs) in pairs]


def version_for(conversation: Conversation) -> AdapterVersion | None:
    """The version that gives a conversation's next answer; None where none is live."""
    if conversation.is_challenger:
        trial = trials.running_trial()
        if trial is not None and trial.pk == conversation.trial_id:
            return trial.challenger
    return live_version()


def trial_to_show() -> Trial | None:
    """For the front page: the trial under way, or one that ended by itself if nobody has decided anything since."""
    trial = Trial.objects.select_related("challenger", "champion").first()
    if trial is None or trial.is_running:
        return trial
    has_ended_by_itself = trial.outcome in (Trial.Outcome.RETREATED, Trial.Outcome.OVER)
    is_settled = Activation.objects.filter(activated_at__gt=trial.ended_at).exists()
    return trial if has_ended_by_itself and not is_settled else None


def sides(trial: Trial) -> Sides:
    """What has come of a trial so far, or came of it until it ended; deleted conversations count as they did."""
    # Before what is still there: a conversation that is deleted in between is missed once, not counted twice.
    kept = {row["is_challenger"]: row for row in trial.figures.values("is_challenger", *COUNTS)}
    counted = {is_challenger: row for (_pk, is_challenger), row in _count(Conversation.objects.filter(trial=trial))}

    def side(version: AdapterVersion, *, is_challenger: bool) -> Side:
        rows = [found[is_challenger] for found in (kept, counted) if is_challenger in found]
        return Side(version, **{name: sum(row[name] for row in rows) for name in COUNTS})

    return Sides(side(trial.challenger, is_challenger=True), side(trial.champion, is_challenger=False))


def keep(conversations: QuerySet[Conversation]) -> None:
    """Add what conversations brought to their trials to TrialFigures; for the transaction that deletes them."""
    # In order, so that two that delete at once do not wait for each other in a circle.
    for (trial_pk, is_challenger), row in sorted(_count(conversations.exclude(trial=None)), key=lambda each: each[0]):
        figures, _is_new = TrialFigures.objects.get_or_create(trial_id=trial_pk, is_challenger=is_challenger)
        TrialFigures.objects.filter(pk=figures.pk).update(**{name: F(name) + row[name] for name in COUNTS})


def _count(conversations: QuerySet[Conversation]) -> list[tuple[tuple[int, bool], dict[str, Any]]]:
    """For each trial's number and side, what the answers in these conversations add up to."""
    ended = Message.objects.filter(conversation__in=conversations, role=Message.Role.ASSISTANT).exclude(
        finish_reason=""
    )
    # The conversations go on after the trial, all with the live version.
    until = Q(conversation__trial__ended_at=None) | Q(created_at__lte=F("conversation__trial__ended_at"))
    side = ("conversation__trial", "conversation__is_challenger")
    rows = ended.filter(until).order_by().values(*side).annotate(**COUNTS)
    return [((row[side[0]], row[side[1]]), row) for row in rows]


def look() -> None:
    """End the trial under way if its challenger is worse for customers, and write down why."""
    trial = trials.running_trial()
    if trial is None:
        return
    found = sides(trial)
    with translation.override(settings.LANGUAGE_CODE):
        reason = _why_worse(trial, found.challenger, found.champion)
    if reason and trials.end(trial, Trial.Outcome.RETREATED, by=None, reason=reason):
        logger.warning("the trial of %s has ended by itself: %s", trial.challenger.name, reason)


def _why_worse(trial: Trial, challenger: Side, champion: Side) -> str:
    """Why the challenger is worse, in a sentence; empty if that is not sure."""
    compared = (
        (
            challenger.num_conversations_declined,
            champion.num_conversations_declined,
            _(
                "%(version)s left a question unanswered in %(num)d of %(all)d conversations; "
                "%(other)s in %(num_other)d of %(all_other)d."
            ),
        ),
        (
            challenger.num_conversations_failed,
            champion.num_conversations_failed,
            _(
                "%(version)s was interrupted in %(num)d of %(all)d conversations; "
                "%(other)s in %(num_other)d of %(all_other)d."
            ),
        ),
    )
    for ours, theirs, text in compared:
        # Two questions are asked of the same trial, so each gets half of what may go wrong.
        if is_worse(ours, theirs, trial.share / 100, alpha=trial.alpha / len(compared)):
            return text % {
                "version": challenger.version,
                "num": ours,
                "all": challenger.num_conversations,
                "other": champion.version,
                "num_other": theirs,
                "all_other": champion.num_conversations,
            }
    return ""
