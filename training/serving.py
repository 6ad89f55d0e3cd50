"""Between the database and the engine: what a version may say right now, and the one engine of this process.

Nothing here imports torch before the first question or `warm_up`.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.translation import gettext as _

from faq.personal_data import mask
from faq.publication import Publication, PublishedEntry, current_publication, publication_stamp
from training.lm.config import GenerationParams
from training.lm.decisions import Calibration, Candidate, Decision, EngineDied, EngineHealth, Generated, Heeded
from training.models import AdapterVersion
from training.runs import configured_base, configured_precision
from training.versions import (
    LearnedEntry,
    VersionError,
    check_base,
    check_files,
    check_is_whole,
    check_precision,
    read_calibration,
    read_learned,
    speaking_versions,
)

if TYPE_CHECKING:
    from training.lm.answers import AnswerSet
    from training.lm.engine import Engine, Request


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Servable:
    """A version ready to answer with what is published at `stamp`."""

    version: AdapterVersion
    stamp: str
    answers: AnswerSet
    calibration: Calibration
    learned: dict[str, LearnedEntry]
    entries: dict[str, PublishedEntry]

    def entry_for(self, decision: Decision) -> PublishedEntry | None:
        """The entry whose stored answer is to be said, character for character; None for "I don't know"."""
        return None if decision.is_declined or decision.key is None else self.entries[decision.key]

    def suggestions_for(self, decision: Decision) -> list[str]:
        """The published questions to offer where the decision is not to answer; none for a plain "I don't know"."""
        return [self.entries[key].question for key in decision.suggestions]

    def text_for(self, decision: Decision) -> str:
        """What a customer reads in answer to a question, in their language; greetings are the chat's matter."""
        entry = self.entry_for(decision)
        if entry is not None:
            return entry.answer
        return suggest_text() if decision.suggestions else decline_text()


MAX_SERVABLES = 8

_servables: dict[str, Servable] = {}
_engine: Engine | None = None
# Taken again by whoever holds it: to prepare a version needs the engine.
_lock = threading.RLock()
_warming = threading.Lock()


def engine() -> Engine:
    """The engine of this process: made at the first call, and again after its thread has died."""
    global _engine
    known = _engine
    if known is not None and known.is_alive:
        return known
    with _lock:
        if _engine is None or not _engine.is_alive:
            from training.lm.engine import Engine

            if not gc.get_freeze_count():
                # Libraries stay. To look all through them for garbage, which Python does every few hundred questions,
                # would have everybody wait for a quarter of a second.
                gc.collect()
                gc.freeze()
            _engine = Engine(configured_base(), precision=configured_precision())
        return _engine


def engine_health() -> EngineHealth | None:
    """How this process's engine is; None where nobody has needed one yet. Never waits and loads nothing."""
    return _engine.health() if _engine is not None else None


def close() -> None:
    """End the engine; the next question makes another."""
    global _engine
    with _lock:
        _servables.clear()
        if _engine is not None:
            _engine.shutdown()
        _engine = None


def is_free() -> bool:
    """Whether the model answers in its own words instead of choosing among approved answers."""
    return bool(settings.ANSWER_POLICY == "free")


def ask(
    question: str,
    version: AdapterVersion,
    *,
    known: Servable | None = None,
    stop: threading.Event | None = None,
    context: str = "",
    is_exact: bool = False,
    heeded: Heeded = Heeded.ALL,
) -> tuple[Servable, Future[Decision]]:
    """Queue a question for a version. Blocks while the version is being loaded: not for an event loop.

    Args:
        known: the version as `loaded` gave it a moment ago; then no database is asked.
        context: what was spoken of before, where the question goes on from there (lm/followups.py).
        is_exact: for measurements: the confidence as exactly as it can be known, however long that takes.
        heeded: of which wordings a question that is one of them has the answer at once. Of none where something in it
            was masked: that is the customer's own, and says nothing of what is meant.

    Raises:
        VersionError: the version cannot be used.
        QuestionTooLong: the question does not fit the prompt.
        EngineBusy: too many questions wait.
    """
    return _submit(
        question,
        version,
        known,
        stop,
        context,
        lambda engine, request: engine.submit(
            replace(request, is_exact=is_exact, heeded=heeded if request.question == question else Heeded.NONE)
        ),
    )


def write(
    question: str,
    version: AdapterVersion,
    *,
    known: Servable | None = None,
    stop: threading.Event | None = None,
    context: str = "",
    on_delta: Callable[[str], None] = lambda delta: None,
) -> tuple[Servable, Future[Generated]]:
    """Queue a question to be answered in the model's own words. Blocks and raises as `ask` does.

    Args:
        on_delta: told each piece of text as it is written, on another thread.
    """
    check_is_whole(version)
    params = _generation_params()
    return _submit(
        question,
        version,
        known,
        stop,
        context,
        lambda engine, request: engine.submit_generation(request, params, on_delta=on_delta),
    )


def _generation_params() -> GenerationParams:
    try:
        return GenerationParams(**settings.GENERATION_PARAMETERS)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"GENERATION_PARAMETERS: {error}") from error


def place_of(future: Future[Any]) -> int:
    """How many questions are before this one."""
    return _engine.place_of(future) if _engine is not None else 0


def _submit(
    question: str,
    version: AdapterVersion,
    known: Servable | None,
    stop: threading.Event | None,
    context: str,
    submit: Callable[[Engine, Request], Future[Any]],
) -> tuple[Servable, Future[Any]]:
    for is_last in (False, True):
        try:
            # This one, not whichever is there a moment later: it is the one that has the version.
            current = engine()
            servable = known if known and current.is_resident(version.name) else prepare(version)
            from training.lm.engine import Request

            # As it is learned: a customer's e-mail address says nothing about what is meant.
            request = Request(
                mask(question),
                version.name,
                servable.answers,
                servable.calibration,
                stop or threading.Event(),
                context=mask(context),
            )
            return servable, submit(current, request)
        except EngineDied:
            logger.warning("the engine died before it took a question")
            if is_last:
                raise
    raise AssertionError("the last round returns or raises")


def decline_text() -> str:
    """What customers read when the assistant does not know, in their language."""
    return _("I'm sorry, I don't know that. Could you ask it in another way?")


def suggest_text() -> str:
    """What customers read above the questions that they may have meant, in their language."""
    return _("I am not sure that I understood. Did you mean this?")


def loaded(version: AdapterVersion) -> Servable | None:
    """A version if it is ready to answer with what is published now; None if `prepare` would have to load something."""
    known, current = _servables.get(version.name), _engine
    if known is None or current is None or not current.is_alive or not current.is_resident(version.name):
        return None
    return known if known.stamp == _stamp(version) else None


def prepare(version: AdapterVersion) -> Servable:
    """Load a version, unless it is loaded, and bring its answers up to date with what is published."""
    ready = loaded(version)
    if ready is not None:
        return ready
    # The heavy libraries, too, are imported under the lock: they cannot bear two threads importing them at once.
    with _lock:
        from training.lm.adapters import AdapterError
        from training.lm.loading import BaseModelError

        # Another thread may have built a later one meanwhile.
        stamp = _stamp(version)
        known = _servables.get(version.name)
        if known is None:
            check_base(version)
            check_precision(version)
            check_files(version)
        try:
            engine().load_version(version.name, version.path / "adapter")
        except AdapterError as error:
            raise VersionError(_("The files of version %(version)s are damaged.") % {"version": version}) from error
        except BaseModelError as error:
            raise VersionError(str(error)) from error
        if known is None or known.stamp != stamp:
            known = _build(version, stamp, known)
            _servables[version.name] = known
            while len(_servables) > MAX_SERVABLES:
                del _servables[next(iter(_servables))]
    return known


def _stamp(version: AdapterVersion) -> str:
    return f"{publication_stamp()}|{version.threshold}"


def _build(version: AdapterVersion, stamp: str, known: Servable | None) -> Servable:
    from training.lm.answers import AnswerSet

    learned = known.learned if known else read_learned(version)
    publication = current_publication()
    answers = AnswerSet(
        engine().tokenizer,
        list(candidates(publication, learned)),
        [mask(text) for text in publication.off_topic],
        previous=known.answers if known else None,
    )
    return Servable(
        version=version,
        stamp=stamp,
        answers=answers,
        calibration=read_calibration(version),
        learned=learned,
        entries={entry.key: entry for entry in publication.entries},
    )


def candidates(publication: Publication, learned: dict[str, LearnedEntry]) -> Iterable[Candidate]:
    """What may be said: every published entry, led to by the words that the version learned for it.

    An entry whose wordings have all been replaced is another entry under an old key: the version does not know it.
    """
    for entry in publication.entries:
        known = learned.get(entry.key)
        wordings = tuple(map(mask, entry.wordings))
        is_learned = known is not None and not known.wordings.isdisjoint(wordings)
        yield Candidate(
            key=entry.key,
            answer=entry.answer,
            learned_text=known.answer if known is not None and is_learned else entry.answer,
            wordings=wordings,
            is_learned=is_learned,
        )


def warm_up() -> None:
    """Load what customers may ask next in the background, so that they do not wait for it."""
    if _warming.acquire(blocking=False):
        threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()


def _warm_up() -> None:
    try:
        engine()
        for version in speaking_versions():
            prepare(version)
    except (VersionError, EngineDied) as error:
        logger.error("a version that customers may ask cannot be loaded: %s", error)
    finally:
        connections.close_all()
        _warming.release()
