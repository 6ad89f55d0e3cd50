"""From published entries to a live adapter: snapshots, runs, versions, exams and the log of what was live when."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class DatasetSnapshot(models.Model):
    """Published entries frozen for training. The files are named by the digest of their content."""

    sha256 = models.CharField(max_length=64, unique=True)
    num_entries = models.PositiveIntegerField(_("answers"))
    num_train = models.PositiveIntegerField(_("wordings to learn"))
    num_eval = models.PositiveIntegerField(_("wordings held out"))
    num_off_topic = models.PositiveIntegerField(_("off-topic questions"))
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("training data")
        verbose_name_plural = _("training data")

    def __str__(self) -> str:
        return self.sha256[:12]

    @property
    def path(self) -> Path:
        return Path(settings.ARTIFACTS_DIR) / "snapshots" / self.sha256


class TrainingRun(models.Model):
    class Status(models.TextChoices):
        QUEUED = "queued", _("Waiting")
        RUNNING = "running", _("Running")
        SUCCEEDED = "succeeded", _("Finished")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")

    class Phase(models.TextChoices):
        WAITING = "waiting", _("Waiting for its turn")
        PREPARING = "preparing", _("Preparing the questions")
        TRAINING = "training", _("Learning")
        EXAM = "exam", _("Taking the exam")
        PACKAGING = "packaging", _("Saving the version")
        DONE = "done", _("Done")

    class Preset(models.TextChoices):
        QUICK = "quick", _("Quick")
        NORMAL = "normal", _("Normal")
        THOROUGH = "thorough", _("Thorough")
        UPDATE = "update", _("Only what has changed")

    ACTIVE = (Status.QUEUED, Status.RUNNING)

    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.QUEUED)
    phase = models.CharField(_("phase"), max_length=10, choices=Phase.choices, default=Phase.WAITING)
    preset = models.CharField(_("thoroughness"), max_length=10, choices=Preset.choices, default=Preset.NORMAL)
    config = models.JSONField(_("parameters"), help_text=_("For technicians: the names that TRL and PEFT use."))
    base_model = models.CharField(_("base model"), max_length=300)
    # The name, where it was trained, of a version that comes in a bundle and takes its exam here. Empty: trained here.
    origin = models.CharField(_("brought in as"), max_length=30, blank=True)
    snapshot = models.ForeignKey(
        DatasetSnapshot, on_delete=models.PROTECT, null=True, related_name="runs", verbose_name=_("training data")
    )
    # The version that an update goes on from; chosen when the run begins.
    warm_start_from = models.ForeignKey(
        "AdapterVersion", on_delete=models.PROTECT, null=True, related_name="+", verbose_name=_("goes on from")
    )
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("asked by")
    )
    activates_on_success = models.BooleanField(_("goes live by itself"), default=False)
    # Nobody asked for it (retraining.py), so it goes live by itself only if it breaks nothing at all.
    is_scheduled = models.BooleanField(_("by the timetable"), default=False)
    step = models.PositiveIntegerField(_("step"), default=0)
    max_steps = models.PositiveIntegerField(_("steps"), default=0)
    train_loss = models.FloatField(_("error on what is learned"), null=True)
    eval_loss = models.FloatField(_("error on what is held out"), null=True)
    # [step, error on what is learned, error on what is held out or null], in order, at most MAX_CURVE_POINTS.
    curve = models.JSONField(default=list)
    memory_mb = models.PositiveIntegerField(_("memory (MB)"), null=True)
    # Names the one process that may write this row.
    claim = models.CharField(max_length=32, blank=True)
    num_attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    heartbeat_at = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)
    error = models.TextField(_("what went wrong"), blank=True)
    traceback = models.TextField(blank=True)
    requested_at = models.DateTimeField(_("asked for"), auto_now_add=True)
    started_at = models.DateTimeField(_("started"), null=True)
    ended_at = models.DateTimeField(_("ended"), null=True)

    class Meta:
        ordering = ["-pk"]
        verbose_name = _("training run")
        verbose_name_plural = _("training runs")
        constraints = [
            # One at a time: an index over a constant lets one row in. Any number may wait.
            models.UniqueConstraint(models.Value(1), condition=models.Q(status="running"), name="one_running_run")
        ]

    def __str__(self) -> str:
        return f"#{self.pk}"

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    @property
    def percent(self) -> int:
        """How far along, all phases counted; learning takes the middle eighty."""
        if self.status == self.Status.SUCCEEDED:
            return 100
        if self.phase == self.Phase.TRAINING and self.max_steps:
            return 10 + 80 * self.step // self.max_steps
        order = {self.Phase.WAITING: 0, self.Phase.PREPARING: 2, self.Phase.TRAINING: 10}
        return order.get(self.Phase(self.phase), 92)

    @property
    def work_dir(self) -> Path:
        """Where the run keeps its checkpoints, or the files of the bundle that it examines."""
        return Path(settings.ARTIFACTS_DIR) / "runs" / f"run-{self.pk:06d}"

    @property
    def can_be_retried(self) -> bool:
        return self.status == self.Status.FAILED and self.work_dir.is_dir()

    @property
    def seconds(self) -> float | None:
        return (self.ended_at - self.started_at).total_seconds() if self.ended_at and self.started_at else None


class RunEvent(models.Model):
    """Something that happened to a run. A code and values, so that each reader reads it in his language (events.py)."""

    class Code(models.TextChoices):
        ASKED = "asked"
        STARTED = "started"
        FROZEN = "frozen"
        PHASE = "phase"
        RESUMED = "resumed"
        BATCH = "batch"
        STEP = "step"
        MEASURED = "measured"
        RETURNED = "returned"
        LOST = "lost"
        CANCEL_ASKED = "cancel_asked"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="events")
    code = models.CharField(max_length=12, choices=Code.choices)
    values = models.JSONField(default=dict)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    happened_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"{self.run} {self.code}"


class AdapterVersion(models.Model):
    """One adapter on disk, whose files never change. The row comes last, so that a row means complete files."""

    number = models.PositiveIntegerField(_("number"), unique=True)
    run = models.OneToOneField(TrainingRun, on_delete=models.PROTECT, related_name="version", verbose_name=_("run"))
    snapshot = models.ForeignKey(
        DatasetSnapshot, on_delete=models.PROTECT, related_name="versions", verbose_name=_("training data")
    )
    base_model = models.CharField(_("base model"), max_length=300)
    sha256 = models.CharField(_("fingerprint of the files"), max_length=64)
    # What staff have chosen; None: as the exam fitted it.
    threshold = models.FloatField(_("confidence needed to answer"), null=True, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        ordering = ["-number"]
        verbose_name = _("version")
        verbose_name_plural = _("versions")
        permissions = [
            ("activate_adapterversion", _("Can make a version live and go back")),
            ("activate_broken_adapterversion", _("Can make a version live that breaks a critical answer")),
            ("export_adapterversion", _("Can download a version, with the wordings that it learned")),
            ("import_adapterversion", _("Can bring in a version from elsewhere")),
        ]

    def __str__(self) -> str:
        return f"v{self.number}"

    @property
    def name(self) -> str:
        """Fixed width: no adapter's name may be a prefix of another's."""
        return f"v-{self.number:06d}-{self.sha256[:8]}"

    @property
    def path(self) -> Path:
        return Path(settings.ARTIFACTS_DIR) / "versions" / self.name

    @property
    def threshold_in_use(self) -> float:
        return self.exam.threshold if self.threshold is None else self.threshold


class Exam(models.Model):
    """What a version answered to wordings that its training had not seen, and to questions it must decline."""

    version = models.OneToOneField(AdapterVersion, on_delete=models.CASCADE, related_name="exam")
    num_in_scope = models.PositiveIntegerField(_("questions asked"))
    accuracy = models.FloatField(_("right answer first"))
    answered_right = models.FloatField(_("answered right"))
    answered_wrong = models.FloatField(_("answered wrong"))
    declined = models.FloatField(_("declined"))
    # Of those declined: met with "Did you mean …?"; and with the right entry among the questions offered.
    suggested = models.FloatField(_("met with suggestions"), default=0)
    suggested_right = models.FloatField(_("rightly suggested"), default=0)
    num_off_topic = models.PositiveIntegerField(_("off-topic questions asked"))
    off_topic_declined = models.FloatField(_("off-topic declined"), null=True)
    auroc = models.FloatField(null=True)
    threshold = models.FloatField(_("confidence needed to answer"))
    # False: no entry had wordings to spare, so typed variants of learned ones were asked.
    is_held_out = models.BooleanField(default=True)
    # With the base's weights as adapters are trained on them, however they are unpacked; else in full precision.
    is_quantized = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("exam")
        verbose_name_plural = _("exams")

    def __str__(self) -> str:
        return f"{self.version}: {100 * self.accuracy:.0f} %"


class ExamAnswer(models.Model):
    exam = models.ForeignKey(Exam, on_delete=models.CASCADE, related_name="answers")
    question = models.TextField(_("question"))
    # Empty: to be declined.
    expected_key = models.CharField(_("expected"), max_length=200, blank=True)
    answered_key = models.CharField(_("answered"), max_length=200, blank=True)
    is_declined = models.BooleanField(_("declined"))
    confidence = models.FloatField(_("confidence"))
    coverage = models.FloatField(_("coverage"))

    class Meta:
        ordering = ["pk"]
        verbose_name = _("exam answer")
        verbose_name_plural = _("exam answers")

    def __str__(self) -> str:
        return self.question

    @property
    def is_right(self) -> bool:
        if not self.expected_key:
            return self.is_declined
        return not self.is_declined and self.answered_key == self.expected_key


class Activation(models.Model):
    """A version went live. The newest row says what is live now; rows are never changed or deleted."""

    version = models.ForeignKey(
        AdapterVersion, on_delete=models.PROTECT, related_name="activations", verbose_name=_("version")
    )
    activated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("by")
    )
    activated_at = models.DateTimeField(_("live since"), auto_now_add=True)
    is_rollback = models.BooleanField(_("went back"), default=False)
    note = models.CharField(_("note"), max_length=300, blank=True)

    class Meta:
        ordering = ["-pk"]
        verbose_name = _("live period")
        verbose_name_plural = _("live periods")

    def __str__(self) -> str:
        return f"{self.version} {self.activated_at:%Y-%m-%d %H:%M}"


class RetrainingSchedule(models.Model):
    """When to train without being asked (retraining.py). There is one row."""

    is_enabled = models.BooleanField(_("train by itself"), default=False)
    at = models.TimeField(_("every night at"), null=True, blank=True, help_text=_("Empty: at no fixed time."))
    num_changes = models.PositiveIntegerField(
        _("after so many changed answers"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("Once nobody has edited any for ten minutes. Empty: however many."),
    )
    activates = models.BooleanField(
        _("put in use by itself"),
        default=False,
        help_text=_("Only if the exam shows nothing broken. Otherwise somebody decides."),
    )
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("changed by")
    )
    changed_at = models.DateTimeField(auto_now=True)
    looked_at = models.DateTimeField(_("last looked"), null=True)
    outcome = models.TextField(_("what came of it"), blank=True)

    class Meta:
        verbose_name = _("timetable of trainings")
        verbose_name_plural = _("timetable of trainings")
        constraints = [
            models.CheckConstraint(condition=models.Q(pk=1), name="one_retraining_schedule"),
        ]

    def __str__(self) -> str:
        return str(_("Train by itself")) if self.is_enabled else str(_("Train only when asked"))

    def clean(self) -> None:
        if self.is_enabled and self.at is None and self.num_changes is None:
            raise ValidationError(_("Say at what time, or after how many changes."))


class ScheduledActivation(models.Model):
    """A version that is to go live at a time, and perhaps back (scheduling.py)."""

    class State(models.TextChoices):
        WAITING = "waiting", _("Planned")
        LIVE = "live", _("Live")
        OVER = "over", _("Over")
        FAILED = "failed", _("Failed")

    version = models.ForeignKey(
        AdapterVersion, on_delete=models.CASCADE, related_name="scheduled", verbose_name=_("version")
    )
    starts_at = models.DateTimeField(_("live from"))
    ends_at = models.DateTimeField(
        _("until"),
        null=True,
        blank=True,
        help_text=_("Then back to the version that was live before. Empty: it stays."),
    )
    note = models.CharField(_("note"), max_length=300, blank=True)
    planned_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("by")
    )
    state = models.CharField(_("status"), max_length=10, choices=State.choices, default=State.WAITING)
    before = models.ForeignKey(AdapterVersion, on_delete=models.SET_NULL, null=True, related_name="+")
    # When a process last took it in hand.
    taken_at = models.DateTimeField(null=True)
    error = models.TextField(_("what went wrong"), blank=True)

    class Meta:
        ordering = ["-starts_at"]
        verbose_name = _("planned activation")
        verbose_name_plural = _("planned activations")

    def __str__(self) -> str:
        return f"{self.version} {self.starts_at:%Y-%m-%d %H:%M}"

    def clean(self) -> None:
        if self.starts_at and self.ends_at and self.ends_at <= self.starts_at:
            raise ValidationError({"ends_at": _("It must end after it begins.")})
        if self.starts_at and self.ends_at and self.ends_at <= timezone.now():
            raise ValidationError({"ends_at": _("This time has passed.")})
        if self.starts_at and self._meets_another():
            raise ValidationError(_("Another version is planned for a part of this time."))

    def _meets_another(self) -> bool:
        open_ones = ScheduledActivation.objects.exclude(pk=self.pk).filter(
            state__in=[self.State.WAITING, self.State.LIVE]
        )
        begins_before_our_end = models.Q(starts_at__lt=self.ends_at) if self.ends_at else models.Q()
        ends_after_our_beginning = models.Q(ends_at__gt=self.starts_at) | models.Q(
            ends_at=None, starts_at__gte=self.starts_at
        )
        return open_ones.filter(begins_before_our_end, ends_after_our_beginning).exists()


class Trial(models.Model):
    """A version answers a part of the new conversations beside the live one (trials.py)."""

    class Outcome(models.TextChoices):
        RUNNING = "running", _("Under way")
        PROMOTED = "promoted", _("In use for everybody")
        STOPPED = "stopped", _("Stopped before its time")
        OVER = "over", _("Over")
        RETREATED = "retreated", _("Ended by itself: it was worse")

    MIN_SHARE, MAX_SHARE = 1, 50

    challenger = models.ForeignKey(
        AdapterVersion, on_delete=models.PROTECT, related_name="trials", verbose_name=_("version on trial")
    )
    champion = models.ForeignKey(
        AdapterVersion, on_delete=models.PROTECT, related_name="+", verbose_name=_("version for the others")
    )
    share = models.PositiveSmallIntegerField(
        _("share of new conversations (%)"),
        default=10,
        validators=[MinValueValidator(MIN_SHARE), MaxValueValidator(MAX_SHARE)],
    )
    # How likely a challenger that is no worse may be to be withdrawn, over the whole trial.
    alpha = models.FloatField(default=0.05)
    note = models.CharField(_("Note (why)"), max_length=300)
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("begun by")
    )
    started_at = models.DateTimeField(_("begun"), auto_now_add=True)
    ends_at = models.DateTimeField(
        _("until"), null=True, blank=True, help_text=_("Empty: until somebody ends it, or it proves worse.")
    )
    ended_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("ended by")
    )
    ended_at = models.DateTimeField(_("ended"), null=True)
    outcome = models.CharField(_("result"), max_length=10, choices=Outcome.choices, default=Outcome.RUNNING)
    reason = models.TextField(_("why it ended"), blank=True)

    class Meta:
        ordering = ["-pk"]
        verbose_name = _("trial with customers")
        verbose_name_plural = _("trials with customers")
        constraints = [
            # One at a time: an index over a constant lets one row in.
            models.UniqueConstraint(models.Value(1), condition=models.Q(outcome="running"), name="one_running_trial"),
            models.CheckConstraint(condition=models.Q(share__range=(1, 50)), name="trial_share_1_to_50"),
        ]

    def __str__(self) -> str:
        return f"{self.challenger} ({self.share} %)"

    def clean(self) -> None:
        if self.ends_at and self.ends_at <= timezone.now():
            raise ValidationError({"ends_at": _("This time has passed.")})

    @property
    def is_running(self) -> bool:
        return self.outcome == self.Outcome.RUNNING

    @property
    def is_overdue(self) -> bool:
        return self.is_running and self.ends_at is not None and self.ends_at <= timezone.now()

    def takes(self, conversation_id: uuid.UUID) -> bool:
        """Whether a new conversation gets the challenger: a uniform draw that comes out the same every time."""
        digest = hashlib.sha256(f"{self.pk}:{conversation_id}".encode()).digest()
        return int.from_bytes(digest[:8]) * 100 < self.share * 2**64
