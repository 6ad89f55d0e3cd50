"""What staff know: questions with their approved answers, other wordings of them, and what is none of our business."""

from __future__ import annotations

import re
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator
from django.db import models
from django.utils.text import slugify
from django.utils.translation import gettext_lazy as _
from simple_history.models import HistoricalRecords

MAX_QUESTION_CHARS = 500
MAX_ANSWER_CHARS = 10_000


def validate_has_words(text: str) -> None:
    """A text of blanks, emoji or punctuation alone can be neither asked nor learned; PostgreSQL stores no NUL."""
    if "\0" in text:
        raise ValidationError(_("Null characters are not allowed."), code="null_characters_not_allowed")
    if not re.search(r"[^\W_]", text):
        raise ValidationError(_("Write at least one word."), code="no_words")


class Language(models.TextChoices):
    SPANISH = "es", _("Spanish")
    ENGLISH = "en", _("English")


class FaqEntryQuerySet(models.QuerySet["FaqEntry"]):
    def published(self) -> FaqEntryQuerySet:
        return self.filter(status=FaqEntry.Status.PUBLISHED)


class History(HistoricalRecords):
    """Every change of a row. A reason that nobody gave is empty and not None, which the history's page would print."""

    def get_change_reason_for_object(self, instance: models.Model, history_type: str, using: str | None) -> str:
        return super().get_change_reason_for_object(instance, history_type, using) or ""


class FaqEntry(models.Model):
    class Status(models.TextChoices):
        DRAFT = "draft", _("Draft")
        PUBLISHED = "published", _("Published")
        RETIRED = "retired", _("Retired")

    key = models.CharField(
        _("key"),
        max_length=200,
        unique=True,
        blank=True,
        help_text=_("A short name that never changes. Leave it empty to have one made from the question."),
    )
    question = models.CharField(
        _("question"),
        max_length=MAX_QUESTION_CHARS,
        validators=[validate_has_words],
        help_text=_("As a customer would ask it."),
    )
    answer = models.TextField(
        _("answer"),
        validators=[validate_has_words, MaxLengthValidator(MAX_ANSWER_CHARS)],
        help_text=_("The assistant says exactly this, word for word."),
    )
    category = models.CharField(_("category"), max_length=100, blank=True)
    language = models.CharField(_("language"), max_length=2, choices=Language.choices, default=Language.SPANISH)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.DRAFT)
    is_critical = models.BooleanField(
        _("critical"),
        default=False,
        help_text=_("A wrong answer here would cost money or trust: prices, deadlines, refunds."),
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True, db_index=True)
    history = History()

    objects = FaqEntryQuerySet.as_manager()

    class Meta:
        ordering = ["category", "question"]
        verbose_name = _("question and answer")
        verbose_name_plural = _("questions and answers")

    def __str__(self) -> str:
        return self.question

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self.key:
            self.key = free_key(self.question)
        super().save(*args, **kwargs)

    def rivals(self) -> FaqEntryQuerySet:
        """Other published entries with a wording of this one and another answer, if this one is published too."""
        if self.status != self.Status.PUBLISHED:
            return FaqEntry.objects.none()
        same = models.Q()
        for wording in (self.question, *self.paraphrases.values_list("text", flat=True)):
            same |= models.Q(question__iexact=wording) | models.Q(paraphrases__text__iexact=wording)
        others = FaqEntry.objects.published().filter(same).exclude(pk=self.pk).exclude(answer=self.answer)
        return others.distinct()


def free_key(question: str) -> str:
    """A key made from the question that no entry has yet."""
    stem = slugify(question)[:180] or "entry"
    taken = set(FaqEntry.objects.filter(key__startswith=stem).values_list("key", flat=True))
    if stem not in taken:
        return stem
    return next(key for key in (f"{stem}-{n}" for n in range(2, len(taken) + 3)) if key not in taken)


class Paraphrase(models.Model):
    entry = models.ForeignKey(FaqEntry, on_delete=models.CASCADE, related_name="paraphrases", verbose_name=_("entry"))
    text = models.CharField(_("wording"), max_length=MAX_QUESTION_CHARS, validators=[validate_has_words])
    updated_at = models.DateTimeField(auto_now=True, db_index=True)

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["entry", "text"], name="unique_wording_per_entry")]
        verbose_name = _("other wording")
        verbose_name_plural = _("other wordings")

    def __str__(self) -> str:
        return self.text


class OffTopicQuestion(models.Model):
    """A question that the assistant must decline."""

    text = models.CharField(_("question"), max_length=MAX_QUESTION_CHARS, unique=True, validators=[validate_has_words])
    updated_at = models.DateTimeField(_("changed"), auto_now=True, db_index=True)

    class Meta:
        ordering = ["text"]
        verbose_name = _("off-topic question")
        verbose_name_plural = _("off-topic questions")

    def __str__(self) -> str:
        return self.text
