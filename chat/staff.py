"""What staff do with conversations. Every view is wrapped by the admin (admin.py) and asks for its permission."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from asgiref.sync import async_to_sync
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Case, When
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from chat import handovers, inbox, people
from chat.charts import chart
from chat.earlier import mostly_spoken_language
from chat.exports import as_csv, as_json_lines, messages_of
from chat.figures import HANDED_OVER, OUTCOMES, RATINGS, Figures, Kind, Period
from chat.figures import figures as count
from chat.filters import problem_of
from chat.handovers import CannotDo
from chat.models import Conversation, Message
from faq.models import FaqEntry, FaqEntryQuerySet
from faq.personal_data import mask
from training.teaching import add_wording as teach_wording
from training.views import entry_links

# Whoever wrote longer ago has most likely left the page.
MAY_BE_HERE = timedelta(hours=1)


def _require(request: HttpRequest, *permissions: str) -> None:
    if not request.user.has_perms(permissions):
        raise PermissionDenied


def transcript(request: HttpRequest, conversation: Conversation) -> dict[str, Any]:
    """What transcript.html needs to show a conversation, and what each answer rests on."""
    said = list(conversation.messages.select_related("version", "feedback"))
    entries = FaqEntry.objects.filter(key__in={message.entry_key for message in said} - {""})
    return {
        "said": said,
        "entries": {entry.key: entry for entry in entries},
        "handed_over": conversation.handovers.select_related("taken_by"),
        "can_see_handovers": request.user.has_perm("chat.view_handover"),
        "can_see_entries": request.user.has_perm("faq.view_faqentry") or request.user.has_perm("faq.change_faqentry"),
        "can_see_versions": request.user.has_perm("training.view_adapterversion"),
        "can_teach": request.user.has_perm("faq.add_paraphrase"),
        "can_step_in": request.user.has_perm(inbox.PERMISSION)
        and _may_be_here(conversation)
        and not conversation.handovers.open().exists(),
    }


def _may_be_here(conversation: Conversation) -> bool:
    return conversation.updated_at > timezone.now() - MAY_BE_HERE


@require_POST
def step_in(request: HttpRequest, conversation_pk: UUID) -> HttpResponse:
    """Take a conversation from the assistant without being asked, and answer in the inbox."""
    _require(request, "chat.view_conversation", inbox.PERMISSION)
    conversation = get_object_or_404(Conversation, pk=conversation_pk)
    if not _may_be_here(conversation):
        messages.error(request, _("Nothing was said here for more than an hour: the customer has most likely left."))
        return redirect("admin:chat_conversation_change", conversation.pk)
    language = async_to_sync(mostly_spoken_language)(conversation, conversation.language)
    try:
        change = handovers.step_in(conversation, request.user, language)  # type: ignore[arg-type]
    except CannotDo as error:
        messages.error(request, str(error))
        return redirect("admin:chat_conversation_change", conversation.pk)
    async_to_sync(people.silence)(conversation, change)
    return redirect(f"{reverse('admin:chat_inbox')}?handover={change.handover.pk}")


@require_safe
def export(request: HttpRequest, model_admin: Any, form: str) -> HttpResponseBase:
    """The conversations of the list, as it is searched and filtered, with all that was said in them."""
    _require(request, "chat.view_conversation", "chat.export_conversation")
    try:
        listed = model_admin.get_changelist_instance(request)
    except IncorrectLookupParameters:
        messages.error(request, _("These filters are not known. Choose them anew."))
        return redirect("admin:chat_conversation_changelist")
    if problem_of(listed):
        # The filter has said it, and says it again on the list: once is enough.
        list(messages.get_messages(request))
        return redirect(f"{reverse('admin:chat_conversation_changelist')}?{request.GET.urlencode()}")
    said = messages_of(listed.queryset)
    pieces, content_type = (
        (as_csv(said), "text/csv") if form == "csv" else (as_json_lines(said), "application/x-ndjson")
    )
    response = StreamingHttpResponse(pieces, content_type=f"{content_type}; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="conversations.{form}"'
    response["Cache-Control"] = "no-store"
    return response


@require_safe
def figures(request: HttpRequest) -> HttpResponse:
    """What the last hours or days add up to."""
    _require(request, "chat.view_conversation")
    given = request.GET.get("period", "")
    period = Period(given) if given in Period.values else Period.WEEK
    found = count(period)
    outcomes = [(kind.value, kind.label) for kind in OUTCOMES]
    context = {
        "title": _("Figures of the conversations"),
        "period": period,
        "periods": Period.choices,
        "figures": found,
        "chart": chart(found.over_time),
        "can_teach": request.user.has_perm("faq.add_paraphrase"),
        "kinds": Kind.choices,
        "outcomes": outcomes,
        "headline": _headline(found),
        "handed_over": _handed_over(found),
        "tables": [
            # Who asks, asks no version.
            (
                _("By version"),
                _("version"),
                found.by_version,
                [*outcomes, *((kind.value, kind.label) for kind in RATINGS)],
            ),
            (
                _("By language"),
                _("language"),
                found.by_language,
                [(kind.value, kind.label) for kind in Kind if kind not in HANDED_OVER],
            ),
        ],
        **entry_links(request),
    }
    return render(request, "admin/chat/figures.html", {**admin.site.each_context(request), **context})


def _headline(found: Figures) -> list[tuple[str, str, str]]:
    """Name, value and definition of each figure on top."""
    counts, total = found.totals.counts, found.totals.num_to_questions
    definitions = {
        Kind.CONVERSATIONS: _("Conversations that began in this time."),
        Kind.QUESTIONS: _("Messages that customers wrote."),
        Kind.ANSWERED: _("Replies that gave an answer to the end."),
        Kind.SUGGESTED: _("Replies that were not sure enough and offered questions that may have been meant."),
        Kind.DECLINED: _("Replies that said “I don't know” and had nothing to offer."),
        Kind.COURTESY: _("Replies to a greeting, thanks and the like. The shares are those of all other replies."),
        Kind.STOPPED: _("Replies that the customer stopped, whatever they were going to say."),
        Kind.INTERRUPTED: _(
            "Replies that broke off or could not be given: a fault on our side, too many people at once, a message that"
            " was too long, or an assistant that had not learned anything yet."
        ),
        Kind.UP: _("Replies of this time that the customer rated as helpful, whenever they did."),
        Kind.DOWN: _("Replies of this time that the customer rated as not helpful, whenever they did."),
        Kind.ALL_UP: _("Conversations of this time that the customer rated as helpful when they ended."),
        Kind.ALL_DOWN: _("Conversations of this time that the customer rated as not helpful when they ended."),
        Kind.PERSONS: _(
            "Conversations that began in this time and in which the customer asked for a person, or agreed when the"
            " assistant offered one."
        ),
    }
    of_questions = OUTCOMES.keys() - {Kind.COURTESY}
    shares = {kind: f" ({100 * counts[kind] / total:.0f} %)" for kind in of_questions if total}
    headline = [(str(kind.label), f"{counts[kind]}{shares.get(kind, '')}", text) for kind, text in definitions.items()]
    uncounted = _("A pause that leaves the customer time to go on writing is not counted.")
    for name, seconds, text in (
        (_("first words, half of them"), found.first_words_p50, _("Half of the replies began within this time.")),
        (_("first words, 95 of 100"), found.first_words_p95, _("95 of 100 replies began within this time.")),
    ):
        headline.append((name, _duration(seconds), f"{text} {uncounted}"))
    return headline


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{round(1000 * seconds)} ms" if seconds < 1 else f"{number_format(seconds, 1)} s"


def _handed_over(found: Figures) -> list[tuple[str, str, str]]:
    """Name, value and definition of each figure of hand-overs: how many, why, and whether somebody came."""
    counts, total = found.totals.counts, found.totals.num_handed_over
    definitions = {
        Kind.ASKED: (
            _("at the customer's request"),
            _("The customer asked for a person without the assistant having offered one."),
        ),
        Kind.UNCLEAR: (
            _("the assistant did not know"),
            _("The assistant had not known an answer twice in a row and offered a person, and the customer agreed."),
        ),
        Kind.STEPPED_IN: (
            _("staff stepped in"),
            _("A person took the conversation from the assistant without being asked."),
        ),
        Kind.TAKEN: (
            _("taken by staff"),
            _("Of all these, those that a person took. The others wait, or ended before."),
        ),
    }
    all_of_them = _("Times that a conversation went from the assistant to people, in this time.")
    shares = {kind: f" ({100 * counts[kind] / total:.0f} %)" for kind in definitions if total}
    rows = [(name, f"{counts[kind]}{shares.get(kind, '')}", text) for kind, (name, text) in definitions.items()]
    return [(_("handed over"), str(total), all_of_them), *rows]


class WordingForm(forms.Form):
    """A customer's question as one more wording of an entry."""

    entry = forms.ModelChoiceField(FaqEntry.objects.none(), widget=forms.Select(attrs={"class": "room-input"}))
    text = forms.CharField(
        label=gettext_lazy("wording"), widget=forms.Textarea(attrs={"class": "room-input", "rows": 3, "dir": "auto"})
    )

    def __init__(self, *args: Any, entries: FaqEntryQuerySet, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["entry"].queryset = entries  # type: ignore[attr-defined]


@require_http_methods(["GET", "HEAD", "POST"])
def add_wording(request: HttpRequest, message_pk: int) -> HttpResponse:
    """Let staff keep a customer's question as a wording that the next training learns."""
    _require(request, "chat.view_conversation", "faq.add_paraphrase")
    asked = get_object_or_404(Message, pk=message_pk, role=Message.Role.USER)
    back_url = reverse("admin:chat_conversation_change", args=[asked.conversation_id])
    answered, entries = _likely_first(asked)
    form = WordingForm(request.POST or None, entries=entries, initial={"text": mask(asked.text), "entry": answered})
    if request.method == "POST" and form.is_valid():
        entry = form.cleaned_data["entry"]
        try:
            teach_wording(entry, form.cleaned_data["text"])
        except ValidationError as error:
            form.add_error("text", error.messages)
        else:
            text = _("Added to “%(question)s”. The chat knows it from now on, and the next training learns it.")
            messages.success(request, text % {"question": entry.question})
            return redirect(back_url)
    add_url = reverse("admin:faq_faqentry_add") if request.user.has_perm("faq.add_faqentry") else ""
    context = {
        "title": _("Add as a wording"),
        "form": form,
        "asked": asked,
        "back_url": back_url,
        "add_url": f"{add_url}?{urlencode({'question': mask(asked.text)})}" if add_url else "",
    }
    return render(request, "admin/chat/wording.html", {**admin.site.each_context(request), **context})


def _likely_first(asked: Message) -> tuple[FaqEntry | None, FaqEntryQuerySet]:
    """The entry that it was answered with, and the published ones, first what was suggested.

    None where nothing was sure: a guess that is taken over unread teaches nonsense.
    """
    replies = Message.objects.filter(conversation=asked.conversation_id, role=Message.Role.ASSISTANT, pk__gt=asked.pk)
    reply = replies.first()
    entries = FaqEntry.objects.published()
    if reply is None or not reply.suggestions:
        return _answered(entries, reply), entries.order_by("question")
    likely_first = entries.order_by(Case(When(question__in=reply.suggestions, then=0), default=1), "question")
    return _answered(entries, reply), likely_first


def _answered(entries: FaqEntryQuerySet, reply: Message | None) -> FaqEntry | None:
    return entries.filter(key=reply.entry_key).first() if reply is not None and reply.entry_key else None
