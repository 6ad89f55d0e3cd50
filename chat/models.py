"""The conversation. The stored message is the truth; what goes over the channel layer only says that it changed."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone
from django.utils.dates import WEEKDAYS
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from chat.origins import HasPath, OriginError, normalised
from faq.models import MAX_QUESTION_CHARS, Language
from training.models import AdapterVersion, Trial
from training.trials import running_trial

MAX_MESSAGE_CHARS = 1_000
MAX_FEEDBACK_CHARS = 1_000


def validate_origins(text: str) -> None:
    problems = []
    for line in text.split():
        try:
            normalised(line)
        except HasPath as error:
            values = {"line": line, "origin": error}
            problems.append(gettext("%(line)s has a path or more after the address: write %(origin)s alone.") % values)
        except OriginError:
            problems.append(gettext("%(line)s is not an address such as https://www.example.com.") % {"line": line})
    if problems:
        raise ValidationError(problems)


def new_key() -> str:
    return secrets.token_urlsafe(12)


class SiteQuerySet(models.QuerySet["Site"]):
    def at(self, origin: str) -> list[Site]:
        """The active sites that have a page at an origin, as browsers write it."""
        return [site for site in self.filter(is_active=True) if origin in site.origin_set]


class Site(models.Model):
    """A website that carries the chat. Its key is public: what counts is the origin that the browser names."""

    name = models.CharField(_("name"), max_length=100)
    key = models.CharField(_("key"), max_length=32, unique=True, default=new_key, editable=False)
    origins = models.TextField(
        _("addresses"),
        validators=[validate_origins],
        help_text=_("Where the chat may appear, one a line, without a path: https://www.example.com"),
    )
    title = models.CharField(_("title"), max_length=60, blank=True, help_text=_("Empty: Customer service."))
    greeting = models.CharField(
        _("greeting"),
        max_length=300,
        blank=True,
        help_text=_("Said before the first message, after the sentence that says that customers write to an AI."),
    )
    is_active = models.BooleanField(_("active"), default=True)

    objects = SiteQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name = _("website")
        verbose_name_plural = _("websites")

    def __str__(self) -> str:
        return self.name

    @property
    def origin_set(self) -> frozenset[str]:
        return frozenset(normalised(line) for line in self.origins.split())


class Rating(models.TextChoices):
    UP = "up", _("Helpful")
    DOWN = "down", _("Not helpful")


class Conversation(models.Model):
    """Belongs to whoever holds its token; only the token's digest is kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    token_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    language = models.CharField(_("language"), max_length=2, choices=Language.choices, default=Language.SPANISH)
    site = models.ForeignKey(Site, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("website"))
    # What the website says of who writes; nobody has checked it.
    customer_name = models.CharField(_("name"), max_length=100, blank=True)
    customer_email = models.EmailField(_("e-mail address"), blank=True)
    wants_person_at = models.DateTimeField(_("asked for a person"), null=True, blank=True, db_index=True)
    # What the customer thought of the whole when it ended.
    rating = models.CharField(_("rating of the whole"), max_length=4, choices=Rating.choices, blank=True)
    # The trial that was under way when it began, and on which side of it this conversation stays.
    trial = models.ForeignKey(Trial, on_delete=models.PROTECT, null=True, related_name="conversations", editable=False)
    is_challenger = models.BooleanField(_("with the version on trial"), default=False, editable=False)
    created_at = models.DateTimeField(_("started"), auto_now_add=True, db_index=True)
    updated_at = models.DateTimeField(_("last message"), auto_now=True, db_index=True)

    class Meta:
        ordering = ["-updated_at"]
        verbose_name = _("conversation")
        verbose_name_plural = _("conversations")
        permissions = [("export_conversation", _("Can take conversations out as a file"))]

    def __str__(self) -> str:
        return str(self.id)[:8]

    @classmethod
    def start(cls, language: str, *, token: str = "", **values: Any) -> tuple[Conversation, str]:
        """A new conversation and the token that opens it: the page's own, or one that is told once.

        Raises:
            IntegrityError: the token has begun one already.
        """
        token = token or secrets.token_urlsafe(32)
        conversation = cls(token_sha256=_digest(token), language=language, trial=running_trial(), **values)
        conversation.is_challenger = conversation.trial is not None and conversation.trial.takes(conversation.id)
        conversation.save()
        return conversation, token

    @classmethod
    async def begun_with(cls, token: str, site: Site | None) -> Conversation:
        """What a page has begun on a website with a token of its own.

        Raises:
            Conversation.DoesNotExist: nothing, or on another website.
        """
        return await cls.objects.aget(token_sha256=_digest(token), site=site)

    @classmethod
    def opened_by(cls, pk: str, token: str) -> Conversation | None:
        """None for a conversation that does not exist and for a wrong token alike, at the cost of one look-up each."""
        try:
            return cls.objects.filter(pk=uuid.UUID(pk), token_sha256=_digest(token)).first()
        except ValueError:
            return None

    def hold(self) -> None:
        """Note that something is said, and lock the row for the rest of the transaction: nobody deletes it meanwhile.

        Raises:
            Conversation.DoesNotExist: it has been deleted.
        """
        if not Conversation.objects.filter(pk=self.pk).update(updated_at=timezone.now()):
            raise Conversation.DoesNotExist

    def opens_with(self, token: str) -> bool:
        return secrets.compare_digest(self.token_sha256, _digest(token))

    @property
    def group(self) -> str:
        return f"conversation.{self.id}"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


class Message(models.Model):
    class Role(models.TextChoices):
        USER = "user", _("Customer")
        ASSISTANT = "assistant", _("Assistant")
        # Says what happens to the conversation; nobody's words.
        SYSTEM = "system", _("Notice")
        AGENT = "agent", _("Person")

    class FinishReason(models.TextChoices):
        STOP = "stop", _("Complete")
        LENGTH = "length", _("Cut short")
        CANCELLED = "cancelled", _("Stopped by the customer")
        ERROR = "error", _("Interrupted")

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages")
    role = models.CharField(_("who wrote"), max_length=10, choices=Role.choices)
    # The name of the person who wrote, as customers read it then; empty for all others.
    author = models.CharField(_("name"), max_length=150, blank=True)
    text = models.TextField(_("text"), blank=True)
    # The customer's own name for it, against doubles.
    client_id = models.CharField(max_length=64, blank=True)
    # The number of the last delta that `text` holds. An approved answer is stored before its deltas go out.
    seq = models.PositiveIntegerField(default=0)
    # Empty while it is being written.
    finish_reason = models.CharField(_("how it ended"), max_length=10, choices=FinishReason.choices, blank=True)
    stop_requested_at = models.DateTimeField(null=True)
    version = models.ForeignKey(
        AdapterVersion, on_delete=models.PROTECT, null=True, related_name="+", verbose_name=_("version")
    )
    entry_key = models.CharField(_("answer"), max_length=200, blank=True)
    # The entry as it was when this was said.
    entry_question = models.CharField(_("entry"), max_length=MAX_QUESTION_CHARS, blank=True)
    entry_revised_at = models.DateTimeField(_("entry revised"), null=True)
    entry_language = models.CharField(_("entry's language"), max_length=2, choices=Language.choices, blank=True)
    # Of a reply: in which it was asked for, and our own sentences come.
    language = models.CharField(_("language"), max_length=2, choices=Language.choices, blank=True)
    # Of a reply to a follow-up: what had been spoken of before, together with which it was understood.
    context = models.TextField(_("understood together with"), blank=True)
    is_declined = models.BooleanField(_("declined"), default=False)
    # Of a greeting, thanks and the like, for which staff wrote no answer: nothing was asked.
    is_courtesy = models.BooleanField(_("courtesy"), default=False)
    # Where it was declined: questions that may have been meant, as they were published then.
    suggestions = models.JSONField(_("suggested questions"), default=list, blank=True)
    # Where it was not the first in a row: asking in other words has been tried.
    offers_person = models.BooleanField(_("offered a person"), default=False)
    confidence = models.FloatField(_("confidence"), null=True)
    coverage = models.FloatField(_("coverage"), null=True)
    # From the stored, empty reply to its first words, without the moment left to the customer to go on writing.
    first_delta_ms = models.PositiveIntegerField(_("milliseconds to its first words"), null=True)
    created_at = models.DateTimeField(_("sent at"), auto_now_add=True, db_index=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["pk"]
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        constraints = [
            models.UniqueConstraint(
                fields=["conversation", "client_id"],
                condition=~models.Q(client_id=""),
                name="client_id_once_per_conversation",
            )
        ]

    def __str__(self) -> str:
        return self.text[:60]

    @property
    def plain_text(self) -> str:
        """The text where staff read it as it is written: without the marks of what a notice stresses."""
        return self.text.replace("**", "") if self.role == self.Role.SYSTEM else self.text

    @property
    def sureness(self) -> float | None:
        """The confidence, where it decided: that of a greeting tells nothing of the reply to it."""
        return self.confidence if self.entry_key or self.is_declined else None

    @property
    def opinion(self) -> Feedback | None:
        """What the customer thinks of it, if they have said so."""
        try:
            return self.feedback
        except Feedback.DoesNotExist:
            return None

    @property
    def first_seconds(self) -> float | None:
        return None if self.first_delta_ms is None else self.first_delta_ms / 1000


class Feedback(models.Model):
    """What a customer thinks of one reply. The message knows by which version and on what basis it was said."""

    class Reason(models.TextChoices):
        INCORRECT = "incorrect", _("Incorrect")
        INCOMPLETE = "incomplete", _("Incomplete")
        OUTDATED = "outdated", _("Outdated")
        INAPPROPRIATE = "inappropriate", _("Inappropriate")
        OTHER = "other", _("Something else")

    message = models.OneToOneField(Message, on_delete=models.CASCADE, related_name="feedback")
    rating = models.CharField(_("rating"), max_length=4, choices=Rating.choices)
    # Values of Reason, in its order.
    reasons = models.JSONField(_("reasons"), default=list, blank=True)
    text = models.CharField(_("in their words"), max_length=MAX_FEEDBACK_CHARS, blank=True)
    created_at = models.DateTimeField(_("given"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        ordering = ["-updated_at"]
        verbose_name = _("feedback")
        verbose_name_plural = _("feedback")

    def __str__(self) -> str:
        return self.get_rating_display()

    @property
    def reason_labels(self) -> list[str]:
        return [str(self.Reason(reason).label) for reason in self.reasons]


class DailyFigures(models.Model):
    """What deleted conversations leave behind: how many of a kind there were on a day, and nothing of what was said."""

    class Kind(models.TextChoices):
        CONVERSATIONS = "conversations", _("conversations")
        QUESTIONS = "questions", _("questions")
        ANSWERED = "answered", _("answered")
        SUGGESTED = "suggested", _("asked what was meant")
        DECLINED = "declined", _("not known")
        COURTESY = "courtesy", _("courtesies")
        STOPPED = "stopped", _("stopped by the customer")
        INTERRUPTED = "interrupted", _("interrupted")
        # As in Rating.
        UP = "up", _("rated as helpful")
        DOWN = "down", _("rated as not helpful")
        # Of the whole conversation.
        ALL_UP = "all_up", _("conversations rated as helpful")
        ALL_DOWN = "all_down", _("conversations rated as not helpful")
        PERSONS = "persons", _("asked for a person")
        # As in Handover.Reason.
        ASKED = "asked", _("handed over: asked for")
        UNCLEAR = "unclear", _("handed over: not known")
        STEPPED_IN = "staff", _("handed over: staff stepped in")
        TAKEN = "taken", _("taken by staff")

    day = models.DateField()
    kind = models.CharField(max_length=20, choices=Kind.choices)
    language = models.CharField(max_length=2, choices=Language.choices)
    # 0 where no version spoke.
    version_number = models.PositiveIntegerField(default=0)
    # Empty where no entry was said.
    entry_key = models.CharField(max_length=200, blank=True)
    num = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name = _("figures")
        verbose_name_plural = _("figures")
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["day", "kind", "language", "version_number", "entry_key"], name="one_row_per_daily_figure"
            )
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.kind}: {self.num}"


class TrialFigures(models.Model):
    """What deleted conversations leave behind on one side of a trial, counted as chat/trials.py counts."""

    trial = models.ForeignKey(Trial, on_delete=models.CASCADE, related_name="figures")
    is_challenger = models.BooleanField()
    num_conversations = models.PositiveIntegerField(default=0)
    num_conversations_declined = models.PositiveIntegerField(default=0)
    num_conversations_failed = models.PositiveIntegerField(default=0)
    num_answers = models.PositiveIntegerField(default=0)
    num_answered = models.PositiveIntegerField(default=0)
    num_suggested = models.PositiveIntegerField(default=0)
    num_declined = models.PositiveIntegerField(default=0)
    num_cancelled = models.PositiveIntegerField(default=0)
    num_failed = models.PositiveIntegerField(default=0)
    num_unhelpful = models.PositiveIntegerField(default=0)
    num_decided = models.PositiveIntegerField(default=0)
    sum_confidence = models.FloatField(default=0)

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["trial", "is_challenger"], name="one_row_per_side_of_a_trial"),
        ]

    def __str__(self) -> str:
        return f"{self.trial}: {self.num_conversations}"


# A page says every 20 seconds that it is there; browsers let one that nobody looks at say so once a minute.
HERE_WITHIN = timedelta(seconds=90)


class HandoverQuerySet(models.QuerySet["Handover"]):
    def open(self) -> HandoverQuerySet:
        return self.filter(state__in=Handover.OPEN)


class Handover(models.Model):
    """A conversation in the hands of people, from the moment the customer asks. Only chat/handovers.py changes it.

    While one is open (waiting or taken) the assistant says nothing in its conversation.
    """

    class Reason(models.TextChoices):
        ASKED = "asked", _("Asked for a person")
        NOT_UNDERSTOOD = "unclear", _("The assistant did not know")
        STEPPED_IN = "staff", _("A person stepped in")

    class State(models.TextChoices):
        WAITING = "waiting", _("Waiting")
        TAKEN = "taken", _("With a person")
        RETURNED = "returned", _("Back with the assistant")
        CLOSED = "closed", _("Closed")

    OPEN = (State.WAITING, State.TAKEN)

    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, related_name="handovers", verbose_name=_("conversation")
    )
    # What people say on the telephone: A-4821.
    reference = models.CharField(_("number"), max_length=12, unique=True)
    reason = models.CharField(_("reason"), max_length=10, choices=Reason.choices)
    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.WAITING)
    # In which notices are written.
    language = models.CharField(_("language"), max_length=2, choices=Language.choices)
    email = models.EmailField(_("e-mail address"), blank=True)
    asked_at = models.DateTimeField(_("asked at"), default=timezone.now)
    taken_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("with")
    )
    taken_at = models.DateTimeField(_("taken at"), null=True)
    returned_at = models.DateTimeField(_("returned at"), null=True)
    closed_at = models.DateTimeField(_("closed at"), null=True)
    closed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("closed by")
    )
    # When the customer was told that it takes longer, or that nobody is there.
    told_to_wait_at = models.DateTimeField(null=True)
    customer_seen_at = models.DateTimeField(default=timezone.now)
    # Of the person who has taken it.
    agent_seen_at = models.DateTimeField(null=True)

    objects = HandoverQuerySet.as_manager()

    class Meta:
        ordering = ["-asked_at"]
        verbose_name = _("hand-over")
        verbose_name_plural = _("hand-overs")
        permissions = [("answer_conversation", _("Can answer customers who ask for a person"))]
        constraints = [
            models.UniqueConstraint(
                fields=["conversation"],
                condition=models.Q(state__in=["waiting", "taken"]),
                name="one_open_handover_per_conversation",
            )
        ]

    def __str__(self) -> str:
        return self.reference

    @property
    def is_open(self) -> bool:
        return self.state in self.OPEN

    @property
    def is_customer_here(self) -> bool:
        return self.customer_seen_at > timezone.now() - HERE_WITHIN


class PublicName(models.Model):
    """How somebody who answers customers wants to be called by them."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    name = models.CharField(_("name that customers read"), max_length=40)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class OpeningHours(models.Model):
    """When people answer, in the time zone of the site. A day may have several."""

    weekday = models.PositiveSmallIntegerField(_("weekday"), choices=list(WEEKDAYS.items()))
    opens = models.TimeField(_("from"))
    closes = models.TimeField(_("to"))

    class Meta:
        ordering = ["weekday", "opens"]
        verbose_name = _("opening hours")
        verbose_name_plural = _("opening hours")

    def __str__(self) -> str:
        return f"{self.get_weekday_display()} {self.opens:%H:%M}–{self.closes:%H:%M}"

    def clean(self) -> None:
        if self.opens and self.closes and self.opens >= self.closes:
            raise ValidationError({"closes": gettext("It has to be later than the beginning.")})


class ClosedDay(models.Model):
    """A day on which nobody answers, whatever the opening hours say."""

    day = models.DateField(_("day"), unique=True)
    name = models.CharField(_("name"), max_length=100, blank=True)

    class Meta:
        ordering = ["day"]
        verbose_name = _("closed day")
        verbose_name_plural = _("closed days")

    def __str__(self) -> str:
        return self.name or f"{self.day:%Y-%m-%d}"
