"""How what is published differs from what a version learned, entry by entry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from django.utils.translation import ngettext

from faq.publication import PublishedEntry, current_publication
from training.models import AdapterVersion
from training.snapshots import held_out_wordings, learned_wordings
from training.versions import LearnedEntry, read_learned


class Kind(StrEnum):
    NEW = "new"
    ANSWER = "answer"
    WORDINGS = "wordings"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Difference:
    """One entry that a training would learn anew, otherwise or no longer."""

    key: str
    question: str
    kind: Kind
    answer_before: str
    answer_now: str
    wordings_added: tuple[str, ...]
    wordings_gone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a training would change.

    Attributes:
        num_learned: published entries that the version knows, changed ones among them.
    """

    num_learned: int
    differences: tuple[Difference, ...]

    def num(self, *kinds: Kind) -> int:
        return sum(each.kind in kinds for each in self.differences)

    @property
    def is_worth_training(self) -> bool:
        return self.num(Kind.NEW, Kind.ANSWER, Kind.WORDINGS) > 0

    def in_words(self) -> str:
        changed, new, gone = self.num(Kind.ANSWER, Kind.WORDINGS), self.num(Kind.NEW), self.num(Kind.GONE)
        parts = [
            (self.num_learned, ngettext("%(num)d answer learned", "%(num)d answers learned", self.num_learned)),
            (changed, ngettext("%(num)d changed since", "%(num)d changed since", changed)),
            (new, ngettext("%(num)d new", "%(num)d new", new)),
            (gone, ngettext("%(num)d taken out", "%(num)d taken out", gone)),
        ]
        return " · ".join(text % {"num": num} for num, text in parts if num)


def changes_since(version: AdapterVersion) -> Changes:
    """
    Raises:
        OSError: the version's files or its training data are gone.
    """
    examined = held_out_wordings(version.snapshot)
    learned = {
        key: replace(entry, wordings=entry.wordings | examined.get(key, frozenset()))
        for key, entry in read_learned(version).items()
    }
    published = current_publication().entries
    differences = [
        difference for entry in published if (difference := _difference(learned.get(entry.key), entry)) is not None
    ]
    keys = {entry.key for entry in published}
    differences += [
        Difference(key, entry.question, Kind.GONE, entry.answer, "", (), tuple(sorted(entry.wordings)))
        for key, entry in learned.items()
        if key not in keys
    ]
    return Changes(num_learned=len(keys & learned.keys()), differences=tuple(differences))


def _difference(learned: LearnedEntry | None, entry: PublishedEntry) -> Difference | None:
    wordings = set(learned_wordings(entry))
    if learned is None:
        return Difference(entry.key, entry.question, Kind.NEW, "", entry.answer, tuple(sorted(wordings)), ())
    added, gone = tuple(sorted(wordings - learned.wordings)), tuple(sorted(learned.wordings - wordings))
    if learned.answer != entry.answer:
        kind = Kind.ANSWER
    elif added or gone:
        kind = Kind.WORDINGS
    else:
        return None
    return Difference(entry.key, entry.question, kind, learned.answer, entry.answer, added, gone)
