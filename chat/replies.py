"""A reply, from the stored question to the last delta. It belongs to this process, not to the socket that asked.

1. The assistant's message is stored, empty, before anything else happens.
2. The engine decides. Where the model answers in its own words (ANSWER_POLICY), it writes instead. Greetings and thanks
   for which staff wrote no answer get a courteous one (courtesy.py).
3. The answer goes out in a few numbered deltas. What the model writes is stored delta by delta, each before it is
   signalled; an approved answer is stored whole before its first one, with what was decided and on what basis. So a
   client that missed something finds it in the row.
4. The message ends with a finish reason: also when the process is told to go, and when it is lost, as soon as the
   customer's page asks again. An approved answer that is stored is not lost with its process; what is held back is.

Lines sent quickly are one turn: one that arrives within TURN_SECONDS of the customer's last, before a word of the reply
to that was said, takes the reply back; the new reply answers all of them. A reply that answers nothing (a greeting, "I
don't know") is held back for a moment, and for as long as the customer is typing, so that the next line still can. That
needs both lines to come to this process, as they do over one websocket.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from channels.db import aclose_old_connections, database_sync_to_async
from django.db import connections, transaction
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from chat import trials
from chat.courtesy import Courtesy, courtesy_of, plea_of, pleasantries_in, pleasantries_of, wants_person
from chat.earlier import MAX_LINES, spoken_language, spoken_of
from chat.frames import delta_frame, message_frame, publish
from chat.languages import language_of
from chat.models import MAX_MESSAGE_CHARS, Conversation, Message
from faq.publication import PublishedEntry
from training import serving
from training.lm.decisions import Decision, EngineBusy, EngineDied, Heeded, Stopped, passing_over
from training.lm.followups import Rests, rests
from training.lm.prompts import DECLINE, QuestionTooLong
from training.models import AdapterVersion
from training.serving import Servable
from training.versions import VersionError

logger = logging.getLogger(__name__)

# A few deltas in less than a second read as writing, and leave time to stop it.
MAX_DELTAS = 8
DELTA_SECONDS = 0.1
# Whoever waits longer than a moment is told how many are before them.
WAIT_SECONDS = 1.0
TURN_SECONDS = 2.0
# From the last sign that the customer goes on writing to a reply that answers nothing, and at most.
HOLD_SECONDS = 1.5
MAX_HOLD_SECONDS = 12.0
# Nobody writes any more on a message that has not changed for so long.
ABANDONED_AFTER = timedelta(seconds=60)

FinishReason = Message.FinishReason


@dataclass(frozen=True, slots=True)
class Speaker:
    """The version that answers next, and the same with all that it needs if that is at hand."""

    version: AdapterVersion
    servable: Servable | None


@dataclass(slots=True)
class Reply:
    """One reply being written by this process. Its language is the page's until the question has been read.

    Attributes:
        heard_at: by the monotonic clock, when the customer last wrote or typed.
        is_held: it answers nothing and waits for what else the customer says.
        held_seconds: how long it did so.
    """

    message: Message
    question: str
    language: str
    conversation: Conversation
    speaker: Speaker | None
    stop: threading.Event = field(default_factory=threading.Event)
    heard_at: float = field(default_factory=time.monotonic)
    is_held: bool = False
    held_seconds: float = 0.0

    @property
    def group(self) -> str:
        return self.conversation.group


@dataclass(frozen=True, slots=True)
class Turn:
    """What a customer said and the reply to it, stored.

    Attributes:
        answer: None where people read it, and the assistant says nothing.
        question: what is to be answered: the line just stored, after those that it goes on from.
        withdrawn: the reply that was taken back for it.
        speaker: who is to answer; None where nobody can yet, or people read it.
    """

    asked: Message
    answer: Message | None
    question: str
    withdrawn: int | None
    speaker: Speaker | None


class CannotReply(Exception):
    """There is no answer to be had now; the text tells the customer why, in their language."""


_running: dict[int, Reply] = {}
_tasks: set[asyncio.Task[None]] = set()


@database_sync_to_async
def store(conversation: Conversation, text: str, client_id: str, *, is_late: bool = False) -> Turn:
    """Store what a customer says and the empty reply to it, both or neither, and find who is to give it. People's
    customers get no reply here.

    Args:
        is_late: it waited for a connection. That it comes soon after another says nothing of when it was written, so it
            is a turn of its own.

    Raises:
        IntegrityError: it is stored already.
        Conversation.DoesNotExist: the conversation has been deleted.
    """
    with transaction.atomic():
        conversation.hold()
        is_with_people = conversation.handovers.open().exists()
        is_apart = is_late or is_with_people
        withdrawn, earlier = (None, []) if is_apart else _take_back(conversation, len(text))
        said = [Message(conversation=conversation, role=Message.Role.USER, text=text, client_id=client_id)]
        if not is_with_people:
            said.append(Message(conversation=conversation, role=Message.Role.ASSISTANT))
        # Here, since each turn in the thread of the database is a wait behind everybody else's.
        speaker = None if is_with_people else _speaker_for(conversation)
        asked, *answers = Message.objects.bulk_create(said)
    return Turn(asked, answers[0] if answers else None, _question_in([*earlier, text]), withdrawn, speaker)


def _question_in(lines: list[str]) -> str:
    """What is asked in the lines of a turn. A greeting beside a question only makes it harder to tell which."""
    return "\n".join([line for line in lines if courtesy_of(line) is None] or lines)


def _speaker_for(conversation: Conversation) -> Speaker | None:
    version = trials.version_for(conversation)
    return None if version is None else Speaker(version, serving.loaded(version))


def _take_back(conversation: Conversation, num_chars: int) -> tuple[int | None, list[str]]:
    """Delete the reply that has not begun, if this line comes soon enough: its id, and the lines it was to answer."""
    last = conversation.messages.order_by("-pk").only("role", "seq", "stop_requested_at").first()
    if last is None or last.role != Message.Role.ASSISTANT or last.seq or last.stop_requested_at is not None:
        return None, []
    lines: list[Message] = []
    for message in conversation.messages.filter(pk__lt=last.pk).order_by("-pk")[:MAX_LINES]:
        if message.role != Message.Role.USER:
            break
        lines.insert(0, message)
    texts = [line.text for line in lines]
    since = timezone.now() - timedelta(seconds=TURN_SECONDS)
    reply = _running.get(last.pk)
    is_held = reply is not None and reply.is_held
    is_soon = bool(lines) and (is_held or lines[-1].created_at >= since)
    if not is_soon or sum(map(len, texts)) + num_chars >= MAX_MESSAGE_CHARS:
        return None, []
    # Locked, since the reply may begin at this moment.
    unbegun = conversation.messages.select_for_update().filter(pk=last.pk, seq=0, finish_reason="").first()
    if unbegun is None:
        return None, []
    unbegun.delete()
    return last.pk, texts


async def begin(conversation: Conversation, turn: Turn, language: str) -> None:
    """Tell everyone in the conversation, and write the reply in the background."""
    frames: list[dict[str, Any]] = []
    if turn.withdrawn is not None:
        if turn.withdrawn in _running:
            _running[turn.withdrawn].stop.set()
        frames.append({"type": "withdrawn", "message_id": turn.withdrawn})
    frames += [{"type": "message", "message": message_frame(each)} for each in (turn.asked, turn.answer) if each]
    await publish(conversation.group, *frames)
    if turn.answer is None:
        return
    reply = Reply(turn.answer, turn.question, language, conversation, turn.speaker)
    _running[turn.answer.pk] = reply
    # In a context of its own: that of a request ends with the request.
    task = asyncio.create_task(_write(reply), context=contextvars.Context())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def hear_typing(conversation: Conversation) -> None:
    """Somebody types in a conversation: what this process holds back there waits on."""
    for reply in _running.values():
        if reply.group == conversation.group:
            reply.heard_at = time.monotonic()


async def stop(conversation: Conversation) -> None:
    """Stop what is being written in a conversation, by this process at once and by any other at its next delta."""
    unfinished = Message.objects.filter(conversation=conversation, role=Message.Role.ASSISTANT, finish_reason="")
    await unfinished.aupdate(stop_requested_at=timezone.now())
    for reply in _running.values():
        if reply.group == conversation.group:
            reply.stop.set()


async def end_abandoned(conversation: Conversation) -> None:
    """End replies whose process was lost, so that nobody waits for them for ever."""
    abandoned = Message.objects.filter(
        conversation=conversation,
        role=Message.Role.ASSISTANT,
        finish_reason="",
        updated_at__lt=timezone.now() - ABANDONED_AFTER,
    )
    async for message in abandoned:
        await _finish(message, conversation.group, _reason_of_lost(message))


async def interrupt_all() -> None:
    """End what this process is writing, because it has been told to go. Customers may ask again at once."""
    interrupted = list(_running.values())
    for task in _tasks:
        task.cancel()
    for reply in interrupted:
        reply.stop.set()
    # First nobody writes any more, then it is written down how it ended.
    await asyncio.gather(*_tasks, return_exceptions=True)
    for reply in interrupted:
        unfinished = await Message.objects.filter(pk=reply.message.pk, finish_reason="").afirst()
        if unfinished is not None:
            await _finish(unfinished, reply.group, _reason_of_lost(unfinished))


async def _write(reply: Reply) -> None:
    pk = reply.message.pk
    try:
        reply.language = language_of(reply.question) or await spoken_language(reply.conversation, reply.language)
        with translation.override(reply.language):
            await (_write_freely(reply) if serving.is_free() else _answer(reply))
    except Stopped:
        await _finish(reply.message, reply.group, FinishReason.CANCELLED, text=reply.message.text)
    except CannotReply as error:
        await _finish(reply.message, reply.group, FinishReason.ERROR, text=str(error))
    except Exception:
        logger.exception("the reply %s failed", pk)
        reason = _reason_of_lost(reply.message)
        with translation.override(reply.language):
            text = _("Something went wrong on our side. Please try again.")
        await _finish(reply.message, reply.group, reason, text=None if reason is FinishReason.STOP else text)
    finally:
        del _running[pk]
    went_wrong = reply.message.is_declined or reply.message.finish_reason == FinishReason.ERROR
    if went_wrong and reply.conversation.is_challenger:
        # At once: a worker that is training hears no beat.
        await database_sync_to_async(trials.look)()


async def _answer(reply: Reply) -> None:
    """Have the engine choose an approved answer, store on what basis, and say it."""
    servable, decision = await _decision(reply)
    entry = _entry_for(servable, decision, reply.question)
    courtesy, plea = _besides_answers(reply.question) if entry is None else (None, None)
    suggestions = servable.suggestions_for(decision) if entry is None and courtesy is None else []
    if plea is Courtesy.PERSON and not suggestions:
        courtesy = plea
    is_declined = entry is None and courtesy is None
    is_second = is_declined and await _declined_before(reply.message)
    basis = {
        "version": servable.version,
        "language": reply.language,
        "entry_key": entry.key if entry else "",
        "entry_question": entry.question if entry else "",
        "entry_revised_at": entry.revised_at if entry else None,
        # What staff chose is Spanish until they choose; the text shows it better.
        "entry_language": (language_of(entry.answer) or entry.language) if entry else "",
        "is_declined": is_declined,
        "is_courtesy": courtesy is not None,
        "suggestions": suggestions,
        "offers_person": is_second or _may_want_person(reply, courtesy, plea),
        "context": decision.context,
        # None where it was not what decided.
        "confidence": decision.confidence if entry is None or entry.key == decision.key else None,
        "coverage": decision.coverage,
    }
    text = courtesy.reply if courtesy else entry.answer if entry else _declining(bool(suggestions), is_second, plea)
    if entry is None:
        await _hold(reply)
    await _say_approved(reply, text, **basis)


def _entry_for(servable: Servable, decision: Decision, question: str) -> PublishedEntry | None:
    """The decision's, but for pleasantries: these have one that staff wrote for such, or none."""
    entry, kinds = servable.entry_for(decision), pleasantries_in(question)
    if not kinds:
        return entry
    likeliest_first = sorted(servable.entries.values(), key=lambda each: entry is None or each.key != entry.key)
    fitting = (each for each in likeliest_first if any(kinds & pleasantries_of(text) for text in each.wordings))
    return next(fitting, None)


async def _decision(reply: Reply) -> tuple[Servable, Any]:
    """What the engine makes of the question: alone, and together with what was said before where it may rest on that.

    A question without a subject of its own is not tried alone: it would be answered surely, and of something else. Nor
    does it ask for the very answer that the customer has just read.
    """
    how = Rests.NOT if courtesy_of(reply.question) else rests(reply.question)
    subject = await spoken_of(reply.message) if how is not Rests.NOT else ""
    if how is not Rests.ENTIRELY or not subject:
        # A follow-up that staff once wrote down belongs to what is spoken of now.
        heeded = Heeded.OFFERED if subject else Heeded.ALL
        servable, decision = await _ask(reply, partial(serving.ask, heeded=heeded))
        if not decision.is_declined or not subject:
            return servable, decision
    servable, decision = await _ask(reply, partial(serving.ask, context=subject))
    if how is Rests.ENTIRELY and decision.context and decision.key is not None and not decision.is_declined:
        before = await _answer_before(reply.message)
        if before is not None and before.entry_key == decision.key:
            return servable, passing_over(decision, decision.key, servable.calibration)
    return servable, decision


@database_sync_to_async
def _answer_before(message: Message) -> Message | None:
    answers = Message.objects.filter(conversation=message.conversation_id, role=Message.Role.ASSISTANT)
    return answers.filter(pk__lt=message.pk).order_by("-pk").first()


async def _declined_before(message: Message) -> bool:
    """Whether the answer before this one was "I don't know" too."""
    before = await _answer_before(message)
    return before is not None and before.is_declined


def _besides_answers(question: str) -> tuple[Courtesy | None, Courtesy | None]:
    """What a message that is not answered is beside a question: a courtesy, or else a plea."""
    courtesy = courtesy_of(question)
    return courtesy, plea_of(question) if courtesy is None else None


def _may_want_person(reply: Reply, courtesy: Courtesy | None, plea: Courtesy | None) -> bool:
    return courtesy is Courtesy.WHO_ARE_YOU or plea is not None or wants_person(reply.question)


def _declining(has_suggestions: bool, is_second: bool, plea: Courtesy | None) -> str:
    """First questions that may be meant, or asking in other words; then a person, and at once who complains."""
    if has_suggestions:
        return serving.suggest_text()
    if plea is Courtesy.COMPLAINT:
        return plea.reply
    return _("I'm sorry, I don't know that either. You can ask for a person.") if is_second else serving.decline_text()


async def _write_freely(reply: Reply) -> None:
    """Have the engine write, and say what it writes while it does."""
    loop = asyncio.get_running_loop()
    written: list[str] = []

    def hear(delta: str) -> None:
        loop.call_soon_threadsafe(written.append, delta)

    subject = await spoken_of(reply.message) if rests(reply.question) >= Rests.PLAINLY else ""
    write = partial(serving.write, context=subject, on_delta=hear)
    answering = asyncio.ensure_future(_ask(reply, write, is_repeatable=False))
    try:
        while not answering.done():
            await asyncio.wait([answering], timeout=DELTA_SECONDS)
            delta = "".join(written)
            # "I don't know" is said in the customer's language, not in the words that the model learned for it.
            if delta and not DECLINE.startswith((reply.message.text + delta).rstrip()):
                written.clear()
                await _say(reply, delta)
    finally:
        if not answering.done():
            reply.stop.set()
            answering.cancel()
        # Also what it failed with, if saying it failed first.
        await asyncio.gather(answering, return_exceptions=True)
    servable, generated = answering.result()
    courtesy, plea = _besides_answers(reply.question) if generated.is_declined else (None, None)
    if plea is Courtesy.PERSON:
        courtesy = plea
    is_declined = courtesy is None and (generated.is_declined or not generated.text)
    if (courtesy or is_declined) and not reply.message.text:
        await _hold(reply)
    is_second = is_declined and await _declined_before(reply.message)
    await _update(
        reply.message,
        version=servable.version,
        language=reply.language,
        context=generated.context,
        is_declined=is_declined,
        is_courtesy=courtesy is not None,
        offers_person=is_second or _may_want_person(reply, courtesy, plea),
    )
    if courtesy:
        rest = courtesy.reply
    elif is_declined:
        rest = _declining(False, is_second, plea)
    else:
        rest = generated.text[len(reply.message.text) :]
    if rest:
        await _say(reply, rest)
    await _finish(reply.message, reply.group, FinishReason(generated.finish_reason))


async def _ask(
    reply: Reply, ask: Callable[..., tuple[Servable, Future[Any]]], *, is_repeatable: bool = True
) -> tuple[Servable, Any]:
    """Put the question to the conversation's version, and wait for what the engine makes of it.

    Args:
        is_repeatable: whether another engine may be asked once more where this one dies: not where some of its answer
            may have been said already.

    Raises:
        Stopped: the customer does not want to know any more.
        CannotReply: the engine cannot say.
        EngineDied: the engine is gone, and the one after it if it was asked.
    """
    speaker = reply.speaker
    if speaker is None:
        raise CannotReply(_("The assistant is still learning. Please try again in a few minutes."))

    def submit() -> tuple[Servable, Future[Any]]:
        try:
            return ask(reply.question, speaker.version, known=speaker.servable, stop=reply.stop)
        finally:
            # Nobody would close it while this thread waits for its next question.
            connections.close_all()

    try:
        # In a thread of its own: to read the question takes long, and to load a version seconds, and others want the
        # database meanwhile.
        submitting = asyncio.ensure_future(database_sync_to_async(submit, thread_sensitive=False)())
        servable, future = await _kept_alive(reply, submitting)
        return servable, await _waited_for(reply, future)
    except EngineDied:
        if not is_repeatable:
            raise
        # What is published may be another by now.
        reply.speaker = await database_sync_to_async(_speaker_for)(reply.conversation)
        return await _ask(reply, ask, is_repeatable=False)
    except EngineBusy as error:
        raise CannotReply(_("Many people are asking right now. Please try again in a moment.")) from error
    except QuestionTooLong as error:
        raise CannotReply(_("That message is too long for me. Please ask in fewer words.")) from error
    except VersionError as error:
        logger.error("the version of this conversation cannot answer: %s", error)
        raise CannotReply(_("Something went wrong on our side. Please try again.")) from error


async def _hold(reply: Reply) -> None:
    """Leave the customer time to go on writing.

    Raises:
        Stopped: they have stopped it, or written on.
    """
    reply.is_held = True
    began = time.monotonic()
    until = began + MAX_HOLD_SECONDS
    while not reply.stop.is_set() and time.monotonic() < min(reply.heard_at + HOLD_SECONDS, until):  # noqa: ASYNC110
        # Another thread may stop it, and the customer's typing puts it off.
        await asyncio.sleep(DELTA_SECONDS)
    reply.is_held = False
    reply.held_seconds = time.monotonic() - began
    if reply.stop.is_set():
        raise Stopped


async def _kept_alive(reply: Reply, submitting: asyncio.Future[tuple[Servable, Future[Any]]]) -> Any:
    """What is being submitted, once it is: a large base takes long to load. Meanwhile the row says that it lives."""
    try:
        while not (await asyncio.wait([submitting], timeout=WAIT_SECONDS))[0]:
            await _update(reply.message)
        return submitting.result()
    finally:
        submitting.cancel()


async def _waited_for(reply: Reply, future: Future[Any]) -> Any:
    """The engine's result. Meanwhile the customer is told how many are before them, and the row says that it lives."""
    waiting = asyncio.wrap_future(future)
    told = 0
    try:
        while True:
            done, _pending = await asyncio.wait([waiting], timeout=WAIT_SECONDS)
            if done:
                return waiting.result()
            await _update(reply.message)
            place = serving.place_of(future)
            if place != told:
                told = place
                await publish(reply.group, {"type": "waiting", "message_id": reply.message.pk, "place": place})
    finally:
        waiting.cancel()


async def _say_approved(reply: Reply, text: str, **basis: Any) -> None:
    """Store the whole text, and give it to the customer's pages in a few deltas.

    Args:
        basis: what is stored of the message with it.

    Raises:
        Stopped: as `_say` does; the message then holds what was said until then.
    """
    message = reply.message
    *others, last = deltas(text) or [""]
    num_deltas = len(others) + 1
    await _store(reply, text=text, seq=num_deltas, **basis)
    said = ""
    try:
        for number, delta in enumerate(others, start=1):
            if reply.stop.is_set():
                raise Stopped
            said += delta
            await publish(reply.group, delta_frame(message, number, delta, said))
            await asyncio.sleep(DELTA_SECONDS)
        await _store(reply, finish_reason=FinishReason.STOP)
    except Stopped:
        message.text = said
        raise
    done = {"type": "done", "message": message_frame(message)}
    await publish(reply.group, delta_frame(message, num_deltas, last, text), done)


async def _say(reply: Reply, delta: str) -> None:
    """Store and give to the customer's pages what the model has written since the last delta.

    Raises:
        Stopped: the customer does not want to hear it, or has deleted the conversation.
    """
    message = reply.message
    await _store(reply, text=message.text + delta, seq=message.seq + 1)
    await publish(reply.group, delta_frame(message, message.seq, delta, message.text))


async def _store(reply: Reply, **values: Any) -> None:
    """
    Raises:
        Stopped: the customer does not want to hear it, or has deleted the conversation.
    """
    message = reply.message
    if message.first_delta_ms is None:
        waited = timezone.now() - message.created_at - timedelta(seconds=reply.held_seconds)
        values["first_delta_ms"] = max(waited // timedelta(milliseconds=1), 0)
    unstopped = Message.objects.filter(pk=message.pk, finish_reason="", stop_requested_at=None)
    if reply.stop.is_set() or not await unstopped.aupdate(**values, updated_at=timezone.now()):
        # Another process may have been told, or may have taken this for abandoned; the customer may have gone on
        # writing, and another reply answers the whole; or the conversation is gone. The engine need not go on.
        reply.stop.set()
        raise Stopped
    for name, value in values.items():
        setattr(message, name, value)


def _reason_of_lost(message: Message) -> FinishReason:
    """How a message ends that nobody writes any more: what was decided is stored whole."""
    return FinishReason.ERROR if message.coverage is None else FinishReason.STOP


async def _finish(message: Message, group: str, reason: FinishReason, *, text: str | None = None) -> None:
    # What went wrong may be the connection; without another one the reply would not end.
    await aclose_old_connections()
    values = {"finish_reason": reason} if text is None else {"finish_reason": reason, "text": text}
    if await _update(message, **values):
        await publish(group, {"type": "done", "message": message_frame(message)})


async def _update(message: Message, **values: Any) -> bool:
    """False where the message was withdrawn or has ended: what has ended changes no more."""
    for name, value in values.items():
        setattr(message, name, value)
    unfinished = Message.objects.filter(pk=message.pk, finish_reason="")
    return bool(await unfinished.aupdate(updated_at=timezone.now(), **values))


def deltas(text: str) -> list[str]:
    """Cut a text into at most MAX_DELTAS pieces that join to it exactly, between words."""
    words = text.split(" ")
    size = -(-len(words) // MAX_DELTAS)
    pieces = [" ".join(words[start : start + size]) for start in range(0, len(words), size)]
    return [piece + " " for piece in pieces[:-1]] + [piece for piece in pieces[-1:] if piece]
