"""Looked at before a training costs anything: what would be learned, what is wrong with it, how long it takes."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from faq import personal_data
from faq.models import FaqEntry, Paraphrase
from faq.publication import Publication, PublishedEntry, current_publication
from training import runs
from training.lm.augment import plain
from training.lm.config import PRESETS, BaseModel
from training.models import TrainingRun
from training.snapshots import MIN_ENTRIES, learned_wordings, num_held_out, split

# Two wordings of different entries that are as alike (0 to 1) are probably one question. As many pairs are named in
# `bench/businesses` as at 0.75 by letters alone.
ALIKE = 0.73
MAX_ALIKE = 20
# Wordings are compared with all others, so many of them in stretches.
_ROWS_AT_ONCE = 500
MEGABYTE = 1_000_000
# Beside the base's weights: the libraries, activations, checkpoints.
MEMORY_BESIDE = 800 * MEGABYTE
DISK_BESIDE = 200 * MEGABYTE
MAX_ESTIMATED_FROM = 3  # runs


class Severity(StrEnum):
    BLOCKS = "blocks"
    WARNS = "warns"


@dataclass(frozen=True, slots=True)
class Concern:
    """An entry that a finding is about, with the words that show it."""

    key: str
    question: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    text: str
    concerns: tuple[Concern, ...] = ()


@dataclass(frozen=True, slots=True)
class Preflight:
    """
    Attributes:
        num_wordings: questions and other wordings of all entries.
        num_examined: of these, kept for the exam.
        findings: blocking ones first.
        expected_seconds: by preset, from earlier runs; None where there was none.
    """

    num_entries: int
    num_wordings: int
    num_examined: int
    num_off_topic: int
    findings: tuple[Finding, ...]
    expected_seconds: dict[str, float | None]

    @property
    def is_blocked(self) -> bool:
        return any(finding.severity == Severity.BLOCKS for finding in self.findings)


def preflight() -> Preflight:
    """Look at what is published now."""
    publication = current_publication()
    train, evaluation = split(publication)
    examined = [row for row in evaluation if row["key"] is not None]
    num_wordings = sum(row["key"] is not None for row in train) + len(examined)
    return Preflight(
        num_entries=len(publication.entries),
        num_wordings=num_wordings,
        num_examined=len(examined),
        num_off_topic=len(train) + len(evaluation) - num_wordings,
        findings=tuple(sorted(_findings(publication), key=lambda finding: finding.severity)),
        expected_seconds={preset: expected_seconds(preset, num_wordings) for preset in PRESETS},
    )


class NotReady(ValueError):
    """What is published must not be trained on; the text tells staff why."""


def require_ready() -> None:
    """
    Raises:
        NotReady: a finding blocks.
    """
    publication = current_publication()
    for finding in chain(_quick_findings(publication), _too_long(publication.entries)):
        if finding.severity == Severity.BLOCKS:
            raise NotReady(finding.text)


def expected_seconds(preset: str, num_wordings: int) -> float | None:
    """How long a training will take on this machine, by the last ones with the same preset and base model."""
    ended = TrainingRun.objects.filter(
        status=TrainingRun.Status.SUCCEEDED, origin="", preset=preset, base_model=runs.configured_base().label
    ).select_related("snapshot")[:MAX_ESTIMATED_FROM]
    min_steps = PRESETS[preset].min_steps
    estimates = []
    for run in ended:
        if run.seconds and run.warm_start_from_id:
            # What an update learns hardly depends on how much there is.
            estimates.append(run.seconds)
            continue
        if run.seconds and run.snapshot and run.max_steps:
            num_then = run.snapshot.num_train + run.snapshot.num_eval
            num_steps = max(run.max_steps * num_wordings / max(num_then, 1), min_steps)
            estimates.append(run.seconds * num_steps / run.max_steps)
    return statistics.median(estimates) if estimates else None


def in_minutes(seconds: float | None) -> str:
    """Empty where nothing is known."""
    if seconds is None:
        return ""
    minutes = max(1, round(seconds / 60))
    return ngettext("about a minute", "about %(num)d minutes", minutes) % {"num": minutes}


def num_published_wordings() -> int:
    """Questions and other wordings, counted where they are kept."""
    published = FaqEntry.objects.published()
    return published.count() + Paraphrase.objects.filter(entry__in=published).count()


def _findings(publication: Publication) -> Iterator[Finding]:
    yield from _quick_findings(publication)
    yield from _alike(publication.entries)
    yield from _too_long(publication.entries)
    yield from _room(runs.configured_base())


def _quick_findings(publication: Publication) -> Iterator[Finding]:
    entries = publication.entries
    if len(entries) < MIN_ENTRIES:
        yield Finding(
            Severity.BLOCKS,
            _("At least %(min)d published answers are needed; there are %(num)d.")
            % {"min": MIN_ENTRIES, "num": len(entries)},
        )
    yield from _contradictions(entries)
    yield from _personal(publication)
    yield from _same_answers(entries)
    single = [entry for entry in entries if num_held_out(len(learned_wordings(entry))) == 0]
    if single and entries:
        text = ngettext(
            "%(num)d answer has fewer than three wordings, so the exam cannot ask it in words that it has not learned.",
            "%(num)d answers have fewer than three wordings, so the exam cannot ask them in words that it has not "
            "learned.",
            len(single),
        )
        yield Finding(Severity.WARNS, text % {"num": len(single)}, _concerns(single))


def _contradictions(entries: Sequence[PublishedEntry]) -> Iterator[Finding]:
    """One question, word for word, with two answers: whatever is learned of it, one is wrong."""
    owners: dict[str, list[PublishedEntry]] = {}
    for entry in entries:
        for wording in learned_wordings(entry):
            owners.setdefault(plain(wording), []).append(entry)
    concerns = [
        Concern(entry.key, entry.question, _said(wording, entry))
        for wording, sharing in owners.items()
        if len({entry.answer for entry in sharing}) > 1
        for entry in sharing
    ]
    if concerns:
        yield Finding(
            Severity.WARNS, _("The same question leads to different answers. Leave it with one."), tuple(concerns)
        )


def _said(wording: str, entry: PublishedEntry) -> str:
    return next(each for each in entry.wordings if plain(personal_data.mask(each)) == wording)


def _personal(publication: Publication) -> Iterator[Finding]:
    told = [(entry.key, entry.question, wording) for entry in publication.entries for wording in entry.wordings]
    told += [("", question, "") for question in publication.off_topic]
    concerns = tuple(Concern(*each) for each in told if personal_data.find(each[2] or each[1]))
    if not concerns:
        return
    if settings.PERSONAL_DATA == "block":
        yield Finding(Severity.BLOCKS, _("Wordings hold personal data. Take it out first."), concerns)
    else:
        text = _("Wordings hold personal data. It is learned as a word in square brackets, such as “[correo]”.")
        yield Finding(Severity.WARNS, text, concerns)


def _same_answers(entries: Sequence[PublishedEntry]) -> Iterator[Finding]:
    by_answer: dict[str, list[PublishedEntry]] = {}
    for entry in entries:
        by_answer.setdefault(" ".join(entry.answer.split()), []).append(entry)
    alike = [entry for sharing in by_answer.values() if len(sharing) > 1 for entry in sharing]
    if alike:
        text = _("Several entries have the same answer. One entry with all their wordings is learned better.")
        yield Finding(Severity.WARNS, text, _concerns(alike))


def _alike(entries: Sequence[PublishedEntry]) -> Iterator[Finding]:
    """Questions so near to one another that customers will hardly keep them apart."""
    pairs = list(alike_pairs(entries))
    if pairs:
        concerns = []
        for one, other, said, meant in pairs:
            concerns.append(Concern(one.key, one.question, f"«{said}» ~ «{meant}» ({other.question})"))
        text = _(
            "Some questions are nearly the same and lead to different answers. Check that customers can tell them "
            "apart."
        )
        yield Finding(Severity.WARNS, text, tuple(concerns))


def alike_pairs(
    entries: Sequence[PublishedEntry],
) -> Iterator[tuple[PublishedEntry, PublishedEntry, str, str]]:
    """Entries with different answers and the wordings of both that are most alike, the most alike first.

    Alike by n-grams of letters and words (TF-IDF); those that are equal are contradictions, not these.
    """
    # Heavy, as what `_too_long` takes: a web server starts without them.
    from sklearn.feature_extraction.text import TfidfTransformer

    from training.lm.ngrams import count_ngrams

    owners = [(entry, wording) for entry in entries for wording in learned_wordings(entry)]
    if len(entries) < 2:
        return
    ngrams = TfidfTransformer(sublinear_tf=True).fit_transform(count_ngrams([wording for _entry, wording in owners]))
    best: dict[tuple[str, str], tuple[float, int, int]] = {}
    for start in range(0, len(owners), _ROWS_AT_ONCE):
        likeness = (ngrams[start : start + _ROWS_AT_ONCE] @ ngrams.T).toarray()
        for row, column in zip(*np.nonzero(likeness >= ALIKE), strict=True):
            one, other = start + int(row), int(column)
            (first, said), (second, meant) = owners[one], owners[other]
            if one < other and first.answer != second.answer and plain(said) != plain(meant):
                value = float(likeness[row, column])
                best[first.key, second.key] = max(best.get((first.key, second.key), (0.0, 0, 0)), (value, one, other))
    for _value, one, other in sorted(best.values(), reverse=True)[:MAX_ALIKE]:
        yield owners[one][0], owners[other][0], owners[one][1], owners[other][1]


def _too_long(entries: Sequence[PublishedEntry]) -> Iterator[Finding]:
    """Texts that the base model cannot read whole."""
    from training.lm.loading import BaseModelError, load_tokenizer
    from training.lm.prompts import encode_answer, fits

    try:
        tokenizer = load_tokenizer(runs.configured_base())
    except BaseModelError as error:
        yield Finding(Severity.BLOCKS, str(error))
        return
    unread = [
        Concern(entry.key, entry.question, wording)
        for entry in entries
        for wording in entry.wordings
        if not fits(tokenizer, wording)
    ]
    if unread:
        yield Finding(Severity.WARNS, _("Some wordings are too long to be learned; they are left out."), tuple(unread))
    by_path: dict[tuple[int, ...], list[PublishedEntry]] = {}
    for entry in entries:
        by_path.setdefault(tuple(encode_answer(tokenizer, entry.answer)), []).append(entry)
    confused = [
        entry
        for sharing in by_path.values()
        if len({" ".join(entry.answer.split()) for entry in sharing}) > 1
        for entry in sharing
    ]
    if confused:
        text = _("Some long answers begin with the same words, so the assistant cannot tell them apart.")
        yield Finding(Severity.BLOCKS, text, _concerns(confused))


def _room(base: BaseModel) -> Iterator[Finding]:
    """Memory and disk of this machine; another may be the one that trains."""
    weights = sum(path.stat().st_size for path in Path(base.name).glob("*.safetensors")) if base.is_local else 0
    artifacts = Path(settings.ARTIFACTS_DIR)
    artifacts.mkdir(parents=True, exist_ok=True)
    kinds = (
        (psutil.virtual_memory().available, MEMORY_BESIDE + weights, _("This machine is short of memory")),
        (shutil.disk_usage(artifacts).free, DISK_BESIDE + weights, _("This machine is short of disk space")),
    )
    for free, wanted, text in kinds:
        if free < wanted:
            amounts = _("%(free)d MB are free, a training wants about %(wanted)d") % {
                "free": free // MEGABYTE,
                "wanted": wanted // MEGABYTE,
            }
            yield Finding(Severity.WARNS, f"{text}: {amounts}.")


def _concerns(entries: Iterable[PublishedEntry]) -> tuple[Concern, ...]:
    return tuple(Concern(entry.key, entry.question) for entry in entries)


def to_dict(found: Preflight) -> dict[str, Any]:
    """For `preflight --json`."""
    return {
        "entries": found.num_entries,
        "wordings": found.num_wordings,
        "examined": found.num_examined,
        "off_topic": found.num_off_topic,
        "blocked": found.is_blocked,
        "expected_seconds": found.expected_seconds,
        "findings": [
            {
                "severity": finding.severity,
                "text": finding.text,
                "entries": [{"key": each.key, "detail": each.detail} for each in finding.concerns],
            }
            for finding in found.findings
        ],
    }
