"""Adapter versions: files that never change, rows that come after them, and an append-only log of what is live.

versions/v-000012-9f3c1a2b/
  adapter/            adapter_model.safetensors, adapter_config.json, tokenizer
  answers.jsonl       {"key", "question", "answer", "wordings"} as they were learned
  calibration.json    how answers are decided (lm/answers.py)
  exam.json  run.json  README.md
  origin/             manifest.json, exam.json: of a version trained elsewhere, as it came (bundles.py)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from training import status_signal, trials
from training.comparison import compare
from training.lm.decisions import Calibration
from training.models import Activation, AdapterVersion, Exam, TrainingRun
from training.runs import configured_base, configured_precision

WEIGHTS = Path("adapter") / "adapter_model.safetensors"
# So long after an activation it is one click to be where one was.
UNDO_TIME = timedelta(minutes=10)


class VersionError(RuntimeError):
    """A version cannot be found or used; the text says why."""


@dataclass(frozen=True, slots=True)
class LearnedEntry:
    """An entry as a version's training saw it."""

    key: str
    question: str
    answer: str
    wordings: frozenset[str]


def publish_files(run: TrainingRun, staged: Path) -> AdapterVersion:
    """Give the staged files their final name, by which they are complete; the caller saves the row last."""
    assert run.snapshot is not None
    version = AdapterVersion(
        number=run.pk, run=run, snapshot=run.snapshot, base_model=run.base_model, sha256=sha256_of(staged / WEIGHTS)
    )
    version.path.parent.mkdir(parents=True, exist_ok=True)
    if version.path.exists():
        # A process died between this rename and its rows; without a row nobody has used these files.
        shutil.rmtree(version.path)
    staged.rename(version.path)
    return version


def check_files(version: AdapterVersion) -> None:
    """
    Raises:
        VersionError: files are missing, or the weights are not those that were examined.
    """
    weights = version.path / WEIGHTS
    if not weights.is_file():
        raise VersionError(_("The files of version %(version)s are missing.") % {"version": version})
    if sha256_of(weights) != version.sha256:
        raise VersionError(_("The files of version %(version)s are damaged.") % {"version": version})


def check_base(version: AdapterVersion) -> None:
    """
    Raises:
        VersionError: it was trained on another base model than the one configured.
    """
    if version.base_model != configured_base().label:
        raise VersionError(
            _("Version %(version)s was trained on another base model (%(base)s).")
            % {"version": version, "base": version.base_model}
        )


def check_precision(version: AdapterVersion) -> None:
    """
    Raises:
        VersionError: it took its exam with other weights than those that are served.
    """
    precision = configured_precision()
    if version.exam.is_quantized != (precision is None or precision.is_quantized):
        raise VersionError(
            _("Version %(version)s took its exam under other settings of this server. Train again.")
            % {"version": version}
        )


def check_is_whole(version: AdapterVersion) -> None:
    """
    Raises:
        VersionError: it has learned the beginnings of its answers only, which is no ground for free text.
    """
    if version.run.config.get("cut_completions", True):
        raise VersionError(
            _("Version %(version)s has learned only how its answers begin, so it cannot write freely. Train again.")
            % {"version": version}
        )


def read_calibration(version: AdapterVersion) -> Calibration:
    """As the exam fitted it, with the threshold that staff have chosen since."""
    calibration = Calibration.from_dict(json.loads((version.path / "calibration.json").read_text(encoding="utf-8")))
    return calibration if version.threshold is None else replace(calibration, threshold=version.threshold)


def read_learned(version: AdapterVersion) -> dict[str, LearnedEntry]:
    entries: dict[str, LearnedEntry] = {}
    with (version.path / "answers.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row: dict[str, Any] = json.loads(line)
            entries[row["key"]] = LearnedEntry(row["key"], row["question"], row["answer"], frozenset(row["wordings"]))
    return entries


def find(name: str) -> AdapterVersion:
    """A version by its number ("3", "v3") or its full name.

    Raises:
        VersionError: there is none.
    """
    digits = name.removeprefix("v-").split("-")[0].removeprefix("v")
    version = AdapterVersion.objects.filter(number=int(digits)).first() if digits.isdecimal() else None
    if version is None or name not in (digits, f"v{digits}", version.name):
        raise VersionError(_("There is no version %(name)s.") % {"name": name})
    return version


def live_version() -> AdapterVersion | None:
    newest = Activation.objects.select_related("version").first()
    return newest.version if newest else None


def live_at(moment: datetime) -> Activation | None:
    """The period that a moment fell into, from the first instant on; None before anything was live."""
    return Activation.objects.select_related("version", "activated_by").filter(activated_at__lte=moment).first()


def with_ends(activations: QuerySet[Activation]) -> QuerySet[Activation]:
    """Each with `ended_at`: when the next one began, None for what is live now."""
    following = Activation.objects.filter(pk__gt=OuterRef("pk")).order_by("pk")
    return activations.annotate(ended_at=Subquery(following.values("activated_at")[:1]))


def lock_live_version() -> AdapterVersion | None:
    """The live version, which nobody changes before the transaction ends."""
    # Whoever had to wait for another's change reads it afterwards.
    Activation.objects.select_for_update(of=("self",)).first()
    return live_version()


def speaking_versions() -> list[AdapterVersion]:
    """The versions that may be asked next: what is live, and what is on trial beside it."""
    trial = trials.running_trial()
    return [version for version in (live_version(), trial.challenger if trial else None) if version is not None]


class CriticalBroken(VersionError):
    """A version answers a critical question worse than the live one."""


def activate(
    version: AdapterVersion,
    *,
    activated_by: User | None = None,
    note: str = "",
    is_rollback: bool = False,
    despite_critical: bool = False,
) -> Activation:
    """Make a version live. A trial that is under way ends with it.

    Args:
        note: why; needed where a critical answer breaks.
        despite_critical: a person has the right to do it although a critical answer breaks, and takes it.

    Raises:
        CriticalBroken: the exam shows a critical answer broken that the live version gives.
        VersionError: it has no exam, its files are missing or damaged, or it belongs to another base model
            or precision.
    """
    # Going back needs no reason: it is what one does when something went wrong.
    check_activation(version, may_break=is_rollback or bool(despite_critical and note))
    with transaction.atomic():
        lock_live_version()
        # PostgreSQL stores no NUL.
        note = note.replace("\0", "")
        activation = Activation.objects.create(
            version=version, activated_by=activated_by, note=note, is_rollback=is_rollback
        )
        trials.end_for(version, by=activated_by)
        status_signal.send(status_signal.VERSION_LIVE)
    return activation


def check_activation(version: AdapterVersion, *, may_break: bool) -> None:
    """Everything that `activate` wants of a version.

    Raises:
        VersionError: as `activate`.
    """
    if not Exam.objects.filter(version=version).exists():
        raise VersionError(_("Version %(version)s has not taken its exam.") % {"version": version})
    check_base(version)
    check_precision(version)
    check_files(version)
    if not may_break:
        check_critical(version)


def check_critical(version: AdapterVersion) -> None:
    """
    Raises:
        CriticalBroken: as `activate`.
    """
    live = live_version()
    if live is None or live == version:
        return
    broken = compare(version, live).broken_critical
    if broken:
        text = ngettext(
            "%(version)s breaks a critical answer: “%(question)s”.",
            "%(version)s breaks %(num)d critical answers, the first of them “%(question)s”.",
            len({each.expected_key for each in broken}),
        )
        values = {
            "version": version,
            "question": broken[0].expected,
            "num": len({each.expected_key for each in broken}),
        }
        raise CriticalBroken(text % values)


def check_nothing_broken(version: AdapterVersion) -> None:
    """
    Raises:
        VersionError: the exam shows an answer broken that the live version gives, critical or not, or it asked nothing
            that the live version was asked too.
    """
    live = live_version()
    if live is None or live == version:
        return
    comparison = compare(version, live)
    if len(comparison.questions) == comparison.num_new:
        raise VersionError(
            _("The exam of %(version)s asked nothing that %(live)s was asked, so somebody has to decide.")
            % {"version": version, "live": live}
        )
    num_broken = comparison.num_broken
    if num_broken:
        text = ngettext(
            "%(version)s answers %(num)d question worse than what is live, so somebody has to decide.",
            "%(version)s answers %(num)d questions worse than what is live, so somebody has to decide.",
            num_broken,
        )
        raise VersionError(text % {"version": version, "num": num_broken})


def previous_version() -> AdapterVersion | None:
    """The version that was live before the present one; going back twice goes two versions back."""
    history = list(Activation.objects.select_related("version").order_by("pk"))
    stack: list[AdapterVersion] = []
    for row in history:
        if row.is_rollback and len(stack) > 1:
            stack.pop()
        elif not stack or stack[-1] != row.version:
            stack.append(row.version)
    return stack[-2] if len(stack) > 1 else None


@dataclass(frozen=True, slots=True)
class Undo:
    """An activation that may still be taken back, and until when."""

    activation: Activation
    before: AdapterVersion
    until: datetime

    @property
    def seconds_left(self) -> int:
        return max(0, round((self.until - timezone.now()).total_seconds()))


def undo_on_offer() -> Undo | None:
    """The newest activation, if it changed what is live and its time has not passed. Going back is not undone."""
    rows = list(Activation.objects.select_related("version")[:2])
    if len(rows) < 2 or rows[0].is_rollback or rows[0].version == rows[1].version:
        return None
    newest, earlier = rows
    until = newest.activated_at + UNDO_TIME
    return Undo(newest, earlier.version, until) if timezone.now() < until else None


def roll_back(
    *, activated_by: User | None = None, note: str = "", expected: AdapterVersion | None = None
) -> Activation:
    """Make the version live that was live before.

    Args:
        expected: the version that whoever asks means; another one is not gone back to.

    Raises:
        VersionError: there was none, it is another than expected, or it cannot be used any more.
    """
    # Of two who go back at once the second one finds something else live, so nothing is gone back twice.
    with transaction.atomic():
        lock_live_version()
        version = previous_version()
        if version is None:
            raise VersionError(_("There is no earlier version to go back to."))
        if expected is not None and version != expected:
            raise VersionError(_("Meanwhile somebody changed what is live. Look again before you go back."))
        return activate(version, activated_by=activated_by, note=note, is_rollback=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
