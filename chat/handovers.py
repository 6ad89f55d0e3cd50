"""A hand-over from asking to closing; the only writer of its state.

    waiting -> taken -> returned | closed          waiting -> returned | closed
    taken at once, when a person steps in unasked
    taken -> waiting, when the person is gone while the customer waits for an answer; taken -> returned where the
    customer never asked for a person

Each change is a conditional update that names what it expects, so that of two people who take a conversation one gets
it. What customers are told is stored with the change; people.py tells everybody afterwards.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from chat import opening
from chat.courtesy import wants_person
from chat.models import Conversation, Handover, Message, PublicName

# Whoever waits longer is told so, once.
LONG_WAIT = timedelta(minutes=3)
# A person of whom nothing has been heard for so long, while the customer waits for an answer, is gone.
GONE_AFTER = timedelta(minutes=3)
MAX_REPLY_CHARS = 4_000
# Without those that are taken for others when spoken.
LETTERS = "ACDEFGHJKLMPRTUX"

State = Handover.State


class CannotDo(Exception):
    """It is not possible any more; the text says why, in the reader's language."""


@dataclass(frozen=True, slots=True)
class Change:
    """What has been stored.

    Attributes:
        said: messages that are new in the conversation.
    """

    handover: Handover
    said: list[Message] = field(default_factory=list)


def name_of(user: User) -> str:
    """What customers read of somebody: the name chosen for that, else the first name; never the login."""
    chosen = PublicName.objects.filter(user=user).first()
    return chosen.name if chosen else user.first_name.strip() or _("Our team")


def find(pk: int) -> Handover:
    """
    Raises:
        CannotDo: it has been deleted, as hand-overs are with their conversation alone.
    """
    handover = Handover.objects.select_related("conversation", "taken_by").filter(pk=pk).first()
    if handover is None:
        raise CannotDo(_("This conversation has been deleted."))
    return handover


def open_of(conversation: Conversation) -> Handover | None:
    return Handover.objects.open().select_related("taken_by").filter(conversation=conversation).first()


def latest_of(conversation: Conversation) -> Handover | None:
    return conversation.handovers.select_related("taken_by").order_by("-asked_at").first()


def has_ended(latest: Handover | None) -> bool:
    """Whether a conversation, whose latest hand-over this is, was closed by people and nothing has been said since."""
    if latest is None or latest.state != State.CLOSED:
        return False
    last = Message.objects.filter(conversation=latest.conversation_id).order_by("-pk").only("role").first()
    return last is not None and last.role == Message.Role.SYSTEM


def place_of(handover: Handover) -> int:
    """How many have been waiting for longer."""
    return Handover.objects.filter(state=State.WAITING, asked_at__lt=handover.asked_at).count()


# What customers do


def ask(conversation: Conversation, language: str) -> Change:
    """Let a customer wait for a person. One who does already goes on waiting and is told nothing new."""
    now = timezone.now()
    Conversation.objects.filter(pk=conversation.pk, wants_person_at=None).update(wants_person_at=now)
    is_open = opening.is_open()
    try:
        with transaction.atomic():
            conversation.hold()
            handover = Handover.objects.create(
                conversation=conversation,
                reference=_new_reference(),
                reason=_reason(conversation),
                language=language,
                asked_at=now,
                # Outside the hours, at once.
                told_to_wait_at=None if is_open else now,
            )
    except IntegrityError:
        waiting = open_of(conversation)
        if waiting is None:
            raise
        return Change(waiting)
    with translation.override(language):
        text = "\n\n".join([_("You asked for a person."), *_what_happens(handover, is_open)])
    return Change(handover, [_notice(handover, text)])


def leave_email(conversation: Conversation, email: str) -> Change:
    """
    Raises:
        CannotDo: the customer waits for nobody any more.
    """
    handover = _open_or_refuse(conversation)
    if handover.email == email:
        # Sent again after a broken connection.
        return Change(handover)
    Handover.objects.filter(pk=handover.pk).update(email=email)
    handover.email = email
    with translation.override(handover.language):
        text = _("Noted: our team sees %(email)s beside your number %(reference)s and can write to you there.") % {
            "email": email,
            "reference": handover.reference,
        }
    return Change(handover, [_notice(handover, text)])


def leave(conversation: Conversation) -> Change:
    """Back to the assistant, as the customer wishes.

    Raises:
        CannotDo: the customer is there already.
    """
    handover = _open_or_refuse(conversation)
    _move(handover, Handover.OPEN, state=State.RETURNED, returned_at=timezone.now())
    return Change(handover, [_returned_notice(handover)])


# What staff do


def take(pk: int, user: User) -> Change:
    """
    Raises:
        CannotDo: somebody else has it, or nobody waits any more.
    """
    now = timezone.now()
    handover = find(pk)
    if handover.state == State.TAKEN and handover.taken_by_id == user.pk:
        return Change(handover)
    _move(handover, [State.WAITING], state=State.TAKEN, taken_by=user, taken_at=now, agent_seen_at=now)
    return Change(handover, [_taken_notice(handover, user)])


def step_in(conversation: Conversation, user: User, language: str) -> Change:
    """Take a conversation from the assistant, without the customer having asked.

    Args:
        language: in which the customer is told.

    Raises:
        CannotDo: people have it already.
    """
    now = timezone.now()
    try:
        with transaction.atomic():
            conversation.hold()
            handover = Handover.objects.create(
                conversation=conversation,
                reference=_new_reference(),
                reason=Handover.Reason.STEPPED_IN,
                state=State.TAKEN,
                language=language,
                asked_at=now,
                taken_by=user,
                taken_at=now,
                agent_seen_at=now,
                # As far as anybody knows.
                customer_seen_at=conversation.updated_at,
            )
    except IntegrityError as error:
        had = open_of(conversation)
        if had is None:
            raise
        raise CannotDo(_who_has(had)) from error
    return Change(handover, [_taken_notice(handover, user)])


def reply(pk: int, user: User, text: str, client_id: str) -> Change:
    """Store what a person says; once, however often it is sent.

    Raises:
        CannotDo: the person has not taken the conversation.
    """
    with transaction.atomic():
        handover = _own(pk, user)
        handover.conversation.hold()
        said = handover.conversation.messages.filter(client_id=client_id).first()
        if said is not None:
            return Change(handover)
        with translation.override(handover.language):
            author = name_of(user)
        message = handover.conversation.messages.create(
            role=Message.Role.AGENT,
            author=author,
            text=text,
            client_id=client_id,
            finish_reason=Message.FinishReason.STOP,
            seq=1,
        )
    return Change(handover, [message])


def give_back(pk: int, user: User) -> Change:
    """Back to the assistant.

    Raises:
        CannotDo: the person has not taken the conversation.
    """
    handover = _own(pk, user)
    _move(handover, [State.TAKEN], taken_by=user, state=State.RETURNED, returned_at=timezone.now())
    return Change(handover, [_returned_notice(handover)])


def close(pk: int, user: User) -> Change:
    """The matter is settled. The number stays; what the customer writes next goes to the assistant.

    Raises:
        CannotDo: the person has not taken the conversation.
    """
    handover = _own(pk, user)
    _move(handover, [State.TAKEN], taken_by=user, state=State.CLOSED, closed_at=timezone.now(), closed_by=user)
    with translation.override(handover.language):
        text = _(
            "Our team has closed %(reference)s. Keep the number if you want to refer to it. The assistant answers"
            " again; you can ask for a person at any time."
        ) % {"reference": handover.reference}
    return Change(handover, [_notice(handover, text)])


# What time does


def see_customer(conversation: Conversation) -> bool:
    """Note that a customer's page is there; False where the conversation is not in the hands of people."""
    handover = open_of(conversation)
    if handover is None:
        return False
    return bool(Handover.objects.filter(pk=handover.pk).update(customer_seen_at=timezone.now()))


def see_agent(user: User) -> None:
    Handover.objects.filter(state=State.TAKEN, taken_by=user).update(agent_seen_at=timezone.now())


def look() -> list[Change]:
    """Do what is due: take conversations from people who are gone, and tell those who wait long."""
    now = timezone.now()
    gone = Handover.objects.filter(state=State.TAKEN, agent_seen_at__lt=now - GONE_AFTER)
    long = Handover.objects.filter(state=State.WAITING, told_to_wait_at=None, asked_at__lt=now - LONG_WAIT)
    changes = [_release(each) for each in gone.select_related("conversation", "taken_by") if waits(each)]
    changes += [_tell_to_wait(each) for each in long.select_related("conversation")]
    return [change for change in changes if change is not None]


def waits(handover: Handover) -> bool:
    """Whether the customer was the last to say something, or nobody has answered yet in this hand-over."""
    spoken = handover.conversation.messages.filter(
        role__in=[Message.Role.USER, Message.Role.AGENT], created_at__gte=handover.asked_at
    )
    last = spoken.order_by("-pk").first()
    return last is None or last.role == Message.Role.USER


def _release(handover: Handover) -> Change | None:
    """Let a customer wait again, whose person is gone; back to the assistant, who never asked for a person."""
    agent = handover.taken_by
    still = Handover.objects.filter(
        pk=handover.pk, state=State.TAKEN, taken_by=agent, agent_seen_at=handover.agent_seen_at
    )
    if handover.reason == Handover.Reason.STEPPED_IN:
        if not still.update(state=State.RETURNED, returned_at=timezone.now()):
            return None
        handover.refresh_from_db()
        return Change(handover, [_returned_notice(handover)])
    # Told again if it takes long again.
    if not still.update(state=State.WAITING, taken_by=None, taken_at=None, agent_seen_at=None, told_to_wait_at=None):
        return None
    handover.refresh_from_db()
    with translation.override(handover.language):
        name = name_of(agent) if agent else _("Our team")
        what = _("%(name)s is not there any more. You are waiting again, with the same number.") % {"name": name}
        text = "\n\n".join([what, *_what_happens(handover, opening.is_open())])
    return Change(handover, [_notice(handover, text)])


def _tell_to_wait(handover: Handover) -> Change | None:
    waiting = Handover.objects.filter(pk=handover.pk, state=State.WAITING, told_to_wait_at=None)
    if not waiting.update(told_to_wait_at=timezone.now()):
        return None
    handover.refresh_from_db()
    with translation.override(handover.language):
        is_open = opening.is_open()
        lines = [_("It is taking longer than it should: nobody has taken your conversation yet.")]
        lines += _what_happens(handover, is_open)
        if is_open:
            lines.append(_("You can leave an e-mail address below, or go back to the assistant."))
    return Change(handover, [_notice(handover, "\n\n".join(lines))])


# What customers are told


def _what_happens(handover: Handover, is_open: bool) -> list[str]:
    """The number, who is before, and when somebody is there."""
    lines = [_("Your number is **%(reference)s**.") % {"reference": handover.reference}]
    if is_open:
        lines[0] += " " + place_in_words(place_of(handover))
    else:
        lines.append(closed_in_words())
    hours = opening.hours_in_words()
    if hours:
        lines.append(_("Opening hours: %(hours)s.") % {"hours": hours})
    if settings.PERSON_CONTACT:
        lines.append(_("You also reach us here: %(contact)s") % {"contact": settings.PERSON_CONTACT})
    lines.append(_("What you write here goes to our team. The assistant says nothing until you go back to it."))
    return lines


def place_in_words(place: int) -> str:
    if not place:
        return _("You are next.")
    return ngettext("%(num)d person is before you.", "%(num)d people are before you.", place) % {"num": place}


def closed_in_words() -> str:
    """When people are back, as far as anybody knows, and what customers can do until then."""
    back = opening.next_opening()
    when = (
        _("Nobody is here now. We are back %(moment)s.") % {"moment": opening.moment_in_words(back)}
        if back
        else _("We cannot say when somebody will read this.")
    )
    return when + " " + _("You can leave an e-mail address below, so that we can write to you.")


def _taken_notice(handover: Handover, user: User) -> Message:
    with translation.override(handover.language):
        text = _("%(name)s is with you now. It is a person who reads and answers from here on.") % {
            "name": name_of(user)
        }
        if handover.reason == Handover.Reason.STEPPED_IN:
            # Nobody has told it yet.
            text += "\n\n" + _("Your number is **%(reference)s**.") % {"reference": handover.reference}
    return _notice(handover, text)


def _returned_notice(handover: Handover) -> Message:
    with translation.override(handover.language):
        text = _("You are back with the AI assistant. Your number was %(reference)s.") % {
            "reference": handover.reference
        }
    return _notice(handover, text)


def _notice(handover: Handover, text: str) -> Message:
    return handover.conversation.messages.create(
        role=Message.Role.SYSTEM, text=text, finish_reason=Message.FinishReason.STOP, seq=1
    )


# Rows


def _new_reference() -> str:
    """One that is free. They grow longer when the short ones become rare."""
    for num_digits in (4, 4, 4, 4, 5, 6, 7):
        number = secrets.randbelow(9 * 10 ** (num_digits - 1)) + 10 ** (num_digits - 1)
        reference = f"{secrets.choice(LETTERS)}-{number}"
        if not Handover.objects.filter(reference=reference).exists():
            break
    return reference


def reference_in(word: str) -> str:
    """A number as it is stored where people leave out the hyphen; else the word."""
    return re.sub(r"^([a-z])(\d{4,})$", r"\1-\2", word, flags=re.IGNORECASE)


def _reason(conversation: Conversation) -> str:
    """Not understood is whoever was offered a person for that, and had not asked for one in words."""
    newest = conversation.messages.order_by("-pk")
    last, asked = (newest.filter(role=role).first() for role in (Message.Role.ASSISTANT, Message.Role.USER))
    is_unclear = last is not None and last.offers_person and last.is_declined
    is_unclear = is_unclear and not (asked is not None and wants_person(asked.text))
    return Handover.Reason.NOT_UNDERSTOOD if is_unclear else Handover.Reason.ASKED


def _open_or_refuse(conversation: Conversation) -> Handover:
    handover = open_of(conversation)
    if handover is None:
        raise CannotDo(_("You are with the assistant already. You can ask for a person again."))
    return handover


def _own(pk: int, user: User) -> Handover:
    handover = find(pk)
    if handover.state != State.TAKEN or handover.taken_by_id != user.pk:
        raise CannotDo(_who_has(handover))
    return handover


def _move(handover: Handover, expected: list[State] | tuple[State, ...], **values: Any) -> None:
    """Write a new state where an expected one is, and one's own where it is taken.

    Raises:
        CannotDo: it has moved on.
    """
    rows: QuerySet[Handover] = Handover.objects.filter(pk=handover.pk, state__in=expected)
    if "taken_by" in values and State.TAKEN in expected:
        rows = rows.filter(taken_by=values["taken_by"])
    if not rows.update(**values):
        handover.refresh_from_db()
        raise CannotDo(_who_has(handover))
    handover.refresh_from_db()


def _who_has(handover: Handover) -> str:
    values = {"reference": handover.reference}
    if handover.state == State.TAKEN and handover.taken_by is not None:
        name = handover.taken_by.get_full_name() or handover.taken_by.get_username()
        return _("%(name)s has %(reference)s.") % {**values, "name": name}
    if handover.state == State.WAITING:
        return _("Take %(reference)s first.") % values
    return _("%(reference)s is no longer open.") % values
