"""Between the database and the engine: what a version may say right now, and the one engine of this process.

Nothing here imports torch before the first question or `warm_up`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from django.db import close_old_connections
from django.utils.translation import gettext as _

from faq.publication import Publication, PublishedEntry, current_publication, publication_stamp
from training.lm.decisions import Calibration, Candidate, Decision
from training.models import AdapterVersion
from training.runs import configured_base
from training.versions import (
    LearnedEntry,
    VersionError,
    check_base,
    check_files,
    live_version,
    read_calibration,
    read_learned,
)

if TYPE_CHECKING:
    from training.lm.answers import AnswerSet
    from training.lm.engine import Engine


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


MAX_SERVABLES = 8

_servables: dict[str, Servable] = {}
_lock = threading.Lock()
_warming = threading.Lock()


@cache
def engine() -> Engine:
    """The engine of this process, made at the first call."""
    from training.lm.engine import Engine

    return Engine(configured_base())


def ask(
    question: str, version: AdapterVersion, *, stop: threading.Event | None = None
) -> tuple[Servable, Future[Decision]]:
    """Queue a question for a version. Blocks while the version is being loaded: not for an event loop.

    Raises:
        VersionError: the version cannot be used.
        EngineBusy: too many questions wait.
    """
    servable = prepare(version)
    from training.lm.engine import Request

    request = Request(question, version.name, servable.answers, servable.calibration, stop or threading.Event())
    return servable, engine().submit(request)


def decline_text() -> str:
    """What customers read when the assistant does not know, in their language."""
    return _("I'm sorry, I don't know that. Could you ask it in another way?")


def prepare(version: AdapterVersion) -> Servable:
    """Load a version, unless it is loaded, and bring its answers up to date with what is published."""
    stamp = publication_stamp()
    known = _servables.get(version.name)
    if known is not None and known.stamp == stamp and engine().is_resident(version.name):
        return known
    # The heavy libraries, too, are imported under the lock: they cannot bear two threads importing them at once.
    with _lock:
        from training.lm.engine import AdapterError
        from training.lm.loading import BaseModelError

        known = _servables.get(version.name)
        if known is None:
            check_base(version)
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


def _build(version: AdapterVersion, stamp: str, known: Servable | None) -> Servable:
    from training.lm.answers import AnswerSet

    learned = known.learned if known else read_learned(version)
    publication = current_publication()
    answers = AnswerSet(engine().tokenizer, list(candidates(publication, learned)), publication.off_topic)
    return Servable(
        version=version,
        stamp=stamp,
        answers=answers,
        calibration=known.calibration if known else read_calibration(version),
        learned=learned,
        entries={entry.key: entry for entry in publication.entries},
    )


def candidates(publication: Publication, learned: dict[str, LearnedEntry]) -> Iterable[Candidate]:
    """What may be said: every published entry, led to by the words that the version learned for it.

    An entry whose wordings have all been replaced is another entry under an old key: the version does not know it.
    """
    for entry in publication.entries:
        known = learned.get(entry.key)
        is_known = known is not None and not known.wordings.isdisjoint(entry.wordings)
        yield Candidate(
            key=entry.key,
            answer=entry.answer,
            learned_text=known.answer if known is not None and is_known else entry.answer,
            wordings=entry.wordings,
        )


def warm_up() -> None:
    """Load the live version in the background, so that the next customer does not wait for it."""
    if _warming.acquire(blocking=False):
        threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()


def _warm_up() -> None:
    try:
        version = live_version()
        if version is not None:
            prepare(version)
    except VersionError as error:
        logger.error("the live version cannot be loaded: %s", error)
    finally:
        close_old_connections()
        _warming.release()
