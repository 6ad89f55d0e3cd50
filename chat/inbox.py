"""What staff see of hand-overs: the inbox's lists, a conversation what each answer rests on, and answers to use."""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from chat import handovers, markdown
from chat.models import Feedback, Handover, Message, PublicName
from faq.models import FaqEntry

PERMISSION = "chat.answer_conversation"
CLOSED_SINCE = timedelta(days=1)
MAX_CLOSED = 20
MAX_WAITING = 200
MAX_MESSAGES = 200
MAX_FOUND = 8
MAX_QUERY_CHARS = 100
NAME_MARKS = " .'’-"

State = Handover.State


class NameForm(forms.ModelForm):  # type: ignore[type-arg]
    """How customers read somebody's name; empty goes back to the default."""

    class Meta:
        model = PublicName
        fields = ("name",)
        widgets = {
            "name": forms.TextInput(
                {"class": "room-input", "autocomplete": "off", "aria-describedby": "inbox-name-hint"}
            )
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["name"].required = False

    def clean_name(self) -> str:
        name = " ".join(self.cleaned_data["name"].split())
        if not name.isprintable():
            raise ValidationError(_("There are characters in it that cannot be seen."))
        if not all(character in NAME_MARKS or unicodedata.category(character)[0] in "LMN" for character in name):
            raise ValidationError(_("Only letters, digits, spaces, full stops, apostrophes and hyphens are possible."))
        # Notices, which begin with it, may have marks and addresses that can be tapped.
        if name and markdown.render(name) != f"<p>{name}</p>":
            raise ValidationError(_("It reads as an address or as the beginning of a list."))
        return name


@require_safe
def inbox(request: HttpRequest) -> HttpResponse:
    """The page; what is in it comes over the websocket (inbox_consumer.py)."""
    user = _permitted(request)
    return _page(request, NameForm(instance=PublicName.objects.filter(user=user).first()))


@require_POST
def choose_name(request: HttpRequest) -> HttpResponse:
    """Keep the name that customers are to read of whoever asks."""
    user = _permitted(request)
    form = NameForm(request.POST)
    if not form.is_valid():
        return _page(request, form)
    if name := form.cleaned_data["name"]:
        PublicName.objects.update_or_create(user=user, defaults={"name": name})
    else:
        PublicName.objects.filter(user=user).delete()
    messages.success(request, _("Customers read your name as “%(name)s”.") % {"name": handovers.name_of(user)})
    return redirect("admin:chat_inbox")


def _permitted(request: HttpRequest) -> User:
    if not request.user.has_perm(PERMISSION):
        raise PermissionDenied
    assert isinstance(request.user, User), "a permission was asked for"
    return request.user


def _page(request: HttpRequest, form: NameForm) -> HttpResponse:
    context = {
        "title": _("Inbox"),
        "texts": _texts(),
        "max_chars": handovers.MAX_REPLY_CHARS,
        "name": handovers.name_of(_permitted(request)),
        "name_form": form,
    }
    return render(request, "admin/chat/inbox.html", {**admin.site.each_context(request), **context})


def lists(user: User) -> dict[str, list[dict[str, Any]]]:
    """Who waits, longest first; what is with this person, with others, and what ended within a day."""
    found = _with_last_words(Handover.objects.select_related("conversation", "taken_by", "closed_by"))
    since = timezone.now() - CLOSED_SINCE
    ended = found.filter(state=State.CLOSED, closed_at__gte=since) | found.filter(
        state=State.RETURNED, returned_at__gte=since
    )
    taken = found.filter(state=State.TAKEN).order_by("taken_at")
    chosen: dict[str, QuerySet[Handover]] = {
        "waiting": found.filter(state=State.WAITING).order_by("asked_at")[:MAX_WAITING],
        "mine": taken.filter(taken_by=user),
        "others": taken.exclude(taken_by=user),
        "closed": ended.order_by(Coalesce("closed_at", "returned_at").desc())[:MAX_CLOSED],
    }
    return {name: [_row(each) for each in handed_over] for name, handed_over in chosen.items()}


def _with_last_words(handed_over: QuerySet[Handover]) -> QuerySet[Handover]:
    """Hand-overs with who spoke last in their own time: after the one before ended, until they ended themselves."""
    ended_at = Coalesce("closed_at", "returned_at")
    earlier = Handover.objects.filter(conversation=OuterRef("conversation"), pk__lt=OuterRef("pk")).order_by("-pk")
    own_time = handed_over.annotate(
        begins_at=Coalesce(Subquery(earlier.values(at=ended_at)[:1]), "conversation__created_at"),
        # Nothing is said later than that.
        ends_at=Coalesce(ended_at, Value(timezone.now() + CLOSED_SINCE)),
    )
    spoken = Message.objects.filter(
        conversation=OuterRef("conversation"),
        role__in=[Message.Role.USER, Message.Role.AGENT],
        created_at__range=(OuterRef("begins_at"), OuterRef("ends_at")),
    ).order_by("-pk")
    return own_time.annotate(
        last_role=Subquery(spoken.values("role")[:1]), last_text=Subquery(spoken.values("text")[:1])
    )


def thread(pk: int, user: User) -> dict[str, Any]:
    """One conversation, as staff read it.

    Raises:
        CannotDo: it has been deleted.
    """
    handover = handovers.find(pk)
    newest = handover.conversation.messages.select_related("version", "feedback").order_by("-pk")[:MAX_MESSAGES]
    is_mine = handover.state == State.TAKEN and handover.taken_by_id == user.pk
    return {
        **_row(handover),
        "may_take": handover.state == State.WAITING,
        "is_mine": is_mine,
        "url": _url(handover) if user.has_perm("chat.view_conversation") else "",
        "messages": [_said(message) for message in reversed(newest)],
    }


def answers(text: str) -> list[dict[str, str]]:
    """Published answers whose question or text holds every word of a text."""
    found = FaqEntry.objects.published().order_by("question")
    for word in text[:MAX_QUERY_CHARS].split():
        found = found.filter(question__icontains=word) | found.filter(answer__icontains=word)
    return [{"question": entry.question, "answer": entry.answer} for entry in found[:MAX_FOUND]]


def _row(handover: Any) -> dict[str, Any]:
    conversation = handover.conversation
    agent = handover.taken_by
    return {
        "id": handover.pk,
        "reference": handover.reference,
        "state": handover.state,
        "state_text": handover.get_state_display(),
        "reason": handover.get_reason_display(),
        "was_asked": handover.reason != Handover.Reason.STEPPED_IN,
        "language": handover.get_language_display(),
        "customer": conversation.customer_name,
        "email": handover.email or conversation.customer_email,
        "agent": (agent.get_full_name() or agent.get_username()) if agent else "",
        "seconds": _seconds_since(handover.asked_at),
        "is_here": handover.is_customer_here,
        "seen_seconds": _seconds_since(handover.customer_seen_at),
        "waits": handover.is_open and getattr(handover, "last_role", "") != Message.Role.AGENT,
        "last": Truncator(getattr(handover, "last_text", "") or "").chars(80),
    }


def _url(handover: Handover) -> str:
    """Of the conversation's page."""
    return reverse("admin:chat_conversation_change", args=[handover.conversation_id])


def _seconds_since(moment: datetime) -> int:
    return max(0, round((timezone.now() - moment).total_seconds()))


def _said(message: Message) -> dict[str, Any]:
    return {
        "id": message.pk,
        "role": message.role,
        "by": message.author or message.get_role_display(),
        "text": message.plain_text or "–",
        "suggestions": message.suggestions,
        "at": message.created_at.isoformat(),
        "basis": _basis(message) if message.role == Message.Role.ASSISTANT else [],
    }


def _basis(message: Message) -> list[str]:
    """On what an answer rests, and what the customer thinks of it."""
    basis = []
    if message.entry_key:
        basis.append(_("Answer: %(question)s") % {"question": message.entry_question or message.entry_key})
    elif message.is_declined:
        basis.append(_("not known"))
    if message.context:
        basis.append(
            _("understood as going on from “%(context)s”") % {"context": Truncator(message.context).chars(160)}
        )
    if message.sureness is not None:
        basis.append(_("%(percent)d %% sure") % {"percent": round(100 * message.sureness)})
    if message.version:
        basis.append(str(message.version))
    if message.finish_reason != Message.FinishReason.STOP:
        basis.append(message.get_finish_reason_display() if message.finish_reason else _("being written"))
    with suppress(Feedback.DoesNotExist):
        basis.append(message.feedback.get_rating_display())
    return basis


def _texts() -> dict[str, str]:
    """What the page's script says, in the reader's language."""
    return {
        "empty": _("Nobody."),
        "here": _("here now"),
        "away": _("left %(time)s ago"),
        "waited": _("asked %(time)s ago"),
        "begun": _("%(time)s ago"),
        "seconds": _("%(num)s s"),
        "minutes": _("%(num)s min"),
        "hours": _("%(num)s h"),
        "days": _("%(num)s days"),
        "waits": _("waits for an answer"),
        "with": _("with %(name)s"),
        "email": _("E-mail address: %(email)s"),
        "newWaiting": _("A customer waits: %(reference)s"),
        "newMessage": _("%(reference)s: %(text)s"),
        "offline": _("No connection. Trying again…"),
        "forbidden": _("You may not answer customers any more. Load the page again."),
        "keys": _("Enter begins a new line; Ctrl+Enter sends."),
        "unsent": _("The conversation is not with you any more. What you wrote here was not sent; you can copy it."),
        "sent": _("Sent"),
        "nothingFound": _("Nothing was found."),
        "inTitle": _("(%(num)s) %(title)s"),
    }
