"""Staff are told by e-mail that a customer waits, so that nobody has to watch the inbox."""

from __future__ import annotations

import logging

from celery import current_app
from django.conf import settings
from django.core.mail import send_mail
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError

from chat.models import Handover

logger = logging.getLogger(__name__)


def request(handover: Handover) -> None:
    """Have it sent in the background, if anybody is to be told. Where that fails the customer waits in the inbox."""
    if not settings.HANDOVER_EMAILS:
        return
    try:
        current_app.send_task("chat.tasks.send_alert", [handover.pk])
    except OperationalError:
        logger.exception("nobody is told by e-mail of the hand-over %s", handover.reference)


def send(handover_pk: int) -> None:
    """Tell of a customer who still waits. What was said stays where it is kept and deleted: here.

    Raises:
        OSError: the mail server cannot be reached, or refuses.
    """
    handover = Handover.objects.filter(pk=handover_pk, state=Handover.State.WAITING).first()
    if handover is None:
        return
    with translation.override(settings.LANGUAGE_CODE):
        values = {"reference": handover.reference, "time": timezone.localtime(handover.asked_at).strftime("%H:%M")}
        subject = _("A customer waits for a person: %(reference)s") % values
        text = _("Since %(time)s a customer with the number %(reference)s waits for an answer in the inbox.") % values
    send_mail(subject, text, None, settings.HANDOVER_EMAILS)
