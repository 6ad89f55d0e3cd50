"""A question put to a version as a customer would put it, for staff to look at. Nothing of it is stored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from channels.db import database_sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.utils.translation import gettext as _

from training import serving
from training.lm.decisions import Decision, EngineBusy, EngineDied, Generated
from training.lm.prompts import DECLINE, QuestionTooLong
from training.models import AdapterVersion
from training.serving import Servable
from training.versions import VersionError

# As long as what a customer may send.
MAX_QUESTION_CHARS = 1_000
DELTA_SECONDS = 0.045


class Outcome(StrEnum):
    """What becomes of a question: an answer is said, questions are suggested, "I don't know", or free text."""

    SAID = "said"
    SUGGESTED = "suggested"
    DECLINED = "declined"
    WRITTEN = "written"


@dataclass(frozen=True, slots=True)
class Near:
    """An entry that may be meant, and how probable that is."""

    key: str
    question: str
    probability: float


@dataclass(frozen=True, slots=True)
class Tried:
    """
    Attributes:
        text: what a customer would read.
        near: the entries found likeliest, likeliest first; what is said is the first one's answer. None in free text.
        threshold: how probable the first one must be to be said; None in free text.
    """

    outcome: Outcome
    text: str
    near: tuple[Near, ...] = ()
    threshold: float | None = None


def may_try(user: User | AnonymousUser) -> bool:
    """Whoever sees versions may put a question to any; whoever adds wordings, to the live one."""
    return may_choose(user) or user.has_perm("faq.add_paraphrase")


def may_choose(user: User | AnonymousUser) -> bool:
    return user.has_perm("training.view_adapterversion")


class CannotTry(Exception):
    """The version cannot answer; the text tells staff why."""


Hear = Callable[[str], Awaitable[None]]


async def try_out(question: str, version: AdapterVersion, *, stop: threading.Event, on_delta: Hear) -> Tried:
    """Have a version answer as the chat would.

    Args:
        stop: ends it within one forward.
        on_delta: told each piece of free text while it is written; an approved answer is known at once as a whole.

    Raises:
        CannotTry: it cannot be loaded, the question does not fit, or the engine is not well.
        Stopped: `stop` was set.
    """
    try:
        await _load(version)
        if serving.is_free():
            return await _write(question, version, stop, on_delta)
        return await _choose(question, version, stop)
    except QuestionTooLong as error:
        raise CannotTry(_("That message is too long for me. Please ask in fewer words.")) from error
    except EngineBusy as error:
        raise CannotTry(_("Many people are asking right now. Please try again in a moment.")) from error
    except EngineDied as error:
        raise CannotTry(_("Something went wrong on our side. Please try again.")) from error
    except VersionError as error:
        raise CannotTry(str(error)) from error


async def _load(version: AdapterVersion) -> None:
    # In a thread of its own: it takes seconds.
    prepare = database_sync_to_async(serving.prepare, thread_sensitive=False)
    try:
        await prepare(version)
    except (OSError, ValueError, KeyError, TypeError) as error:
        # One of the small files beside the adapter, which no checksum covers.
        raise CannotTry(_("The files of version %(version)s are damaged.") % {"version": version}) from error


async def _choose(question: str, version: AdapterVersion, stop: threading.Event) -> Tried:
    # Exact, so that two versions can be told apart by it.
    submit = database_sync_to_async(serving.ask, thread_sensitive=False)
    servable, future = await submit(question, version, stop=stop, is_exact=True)
    decision: Decision = await asyncio.wrap_future(future)
    return Tried(
        outcome=_outcome(servable, decision),
        text=servable.text_for(decision),
        near=tuple(Near(key, servable.entries[key].question, probability) for key, probability in decision.near),
        threshold=servable.calibration.threshold,
    )


def _outcome(servable: Servable, decision: Decision) -> Outcome:
    if servable.entry_for(decision) is not None:
        return Outcome.SAID
    return Outcome.SUGGESTED if decision.suggestions else Outcome.DECLINED


async def _write(question: str, version: AdapterVersion, stop: threading.Event, on_delta: Hear) -> Tried:
    loop = asyncio.get_running_loop()
    written: list[str] = []

    def hear(delta: str) -> None:
        loop.call_soon_threadsafe(written.append, delta)

    submit = database_sync_to_async(serving.write, thread_sensitive=False)
    _servable, future = await submit(question, version, stop=stop, on_delta=hear)
    writing = asyncio.wrap_future(future)
    said = ""
    try:
        while not writing.done():
            await asyncio.wait([writing], timeout=DELTA_SECONDS)
            delta = "".join(written)
            # What may become "I don't know" is held back: customers never read it in these words.
            if delta and not DECLINE.startswith((said + delta).rstrip()):
                written.clear()
                said += delta
                await on_delta(delta)
        generated: Generated = writing.result()
    finally:
        writing.cancel()
    if generated.is_declined or not generated.text:
        return Tried(Outcome.DECLINED, serving.decline_text())
    return Tried(Outcome.WRITTEN, generated.text)
