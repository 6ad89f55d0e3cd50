"""Versions as files that another instance takes in: written here, brought in here, and their exam taken again.

The archive is stored, not compressed, so that one version makes the same bytes on every machine. It says what it holds,
not who made it: digests find damage, and what is unpacked cannot run, but whose bundle it is staff must know.
"""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils.translation import gettext as _

from training import bundle_format, runs, status_signal, versions
from training.bundle_format import BUNDLE, EVAL, MANIFEST, OPTIONAL, TRAIN, VERSION_FILES, BundleError, Manifest
from training.models import AdapterVersion, TrainingRun
from training.snapshots import digest_of

Row = dict[str, Any]
# The earliest time that an archive can tell: when the files were written is no part of a version.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_PLAIN_FILE = (stat.S_IFREG | 0o644) << 16


def export_version(version: AdapterVersion, file: BinaryIO) -> None:
    """Write a version, its training data and its exam as one archive. The same version gives the same bytes.

    Raises:
        VersionError: files of it are missing or damaged.
    """
    versions.check_files(version)
    try:
        paths = _paths(version)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            _add(archive, MANIFEST, json.dumps(_manifest(version, paths), ensure_ascii=False, indent=1).encode())
            for name, path in sorted(paths.items()):
                with path.open("rb") as source, archive.open(_member(name, path.stat().st_size), "w") as target:
                    shutil.copyfileobj(source, target)
    except (FileNotFoundError, KeyError, json.JSONDecodeError) as error:
        raise versions.VersionError(
            _("The files of version %(version)s are missing.") % {"version": version}
        ) from error


def _paths(version: AdapterVersion) -> dict[str, Path]:
    snapshot = version.snapshot
    train, evaluation = snapshot.path / "train.jsonl", snapshot.path / "eval.jsonl"
    if digest_of(train.read_bytes(), evaluation.read_bytes()) != snapshot.sha256:
        raise versions.VersionError(_("The training data of version %(version)s is damaged.") % {"version": version})
    names = [*VERSION_FILES, bundle_format.WEIGHTS, "adapter/adapter_config.json"]
    names += [name for name in OPTIONAL if (version.path / name).is_file()]
    return {TRAIN: train, EVAL: evaluation, **{name: version.path / name for name in names}}


def _manifest(version: AdapterVersion, paths: dict[str, Path]) -> Row:
    return {
        "format": bundle_format.FORMAT,
        "name": version.name,
        "number": version.number,
        "created_at": version.created_at.astimezone(UTC).isoformat(),
        "preset": version.run.preset,
        "base_model": version.base_model,
        "base_revision": version.base_model.rpartition("@")[2],
        "snapshot": version.snapshot.sha256,
        "exam": _read_exam(paths["exam.json"])["metrics"],
        "files": {name: versions.sha256_of(path) for name, path in sorted(paths.items())},
    }


def _member(name: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _NO_TIME)
    info.external_attr = _PLAIN_FILE
    # The same on every system.
    info.create_system = 3
    info.file_size = size
    return info


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(_member(name, len(content)), content)


def export_merged(version: AdapterVersion, folder: Path, *, dtype: str = "float32") -> None:
    """Write a version as one plain model: its adapter added to the base as its exam saw it, unpacked.

    Args:
        folder: a new or an empty one.
        dtype: of the weights, float32 or bfloat16.

    Raises:
        BundleError: the folder holds something, or base and adapter cannot be merged.
        VersionError: files of the version are missing or damaged, or it belongs to another base model.
    """
    from training.lm.adapters import AdapterError
    from training.lm.config import Precision
    from training.lm.loading import BaseModelError
    from training.lm.merging import merge

    versions.check_base(version)
    versions.check_files(version)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(_("The folder %(folder)s is not empty.") % {"folder": folder})
    folder.parent.mkdir(parents=True, exist_ok=True)
    precision = Precision.DEQUANTIZED if version.exam.is_quantized else Precision.FULL
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".merging-") as temporary:
        staged = Path(temporary) / "model"
        try:
            merge(runs.configured_base(), version.path / "adapter", staged, precision=precision, dtype=dtype)
        except (AdapterError, BaseModelError) as error:
            raise BundleError(str(error)) from error
        (staged / "README.md").write_text(_merged_card(version, precision, dtype), encoding="utf-8")
        staged.rename(folder)


def _merged_card(version: AdapterVersion, precision: str, dtype: str) -> str:
    is_whole = not version.run.config.get("cut_completions", True)
    learned = "whole answers" if is_whole else "only how its answers begin, as far as that tells them apart"
    return (
        f"# {version.name}, merged\n\n"
        f"The base model `{version.base_model}` ({precision} weights) with the adapter `{version.sha256[:12]}` added "
        f"to them, in {dtype}. Loads with transformers' `AutoModelForCausalLM.from_pretrained`; the prompt is the "
        "tokenizer's chat template, with the question's white space folded.\n\n"
        f"It has learned {learned}, from the training data `{version.snapshot.sha256[:12]}`. The adapter's exam chose "
        f"among approved answers with guided decoding (accuracy {version.exam.accuracy:.4f}). A server without that "
        "writes the model's own words, which nobody has approved and this exam says nothing about. The base model's "
        "licence holds for it too. Packing it into 4 bits again loses a part of what it learned.\n"
    )


def import_version(file: BinaryIO, *, imported_by: User | None = None) -> AdapterVersion:
    """Make a version of this instance out of a bundle, and take its exam in this process.

    Raises:
        BundleError: the bundle is not taken, or its exam could not be taken; nothing of it is kept.
        QueueFull: too many trainings wait.
        RunInProgress: one is running.
    """
    # Heavy libraries only where an exam really runs.
    from training.pipeline import execute

    with _unpacked(file) as (folder, manifest), transaction.atomic():
        asked = _ask_for_exam(folder, manifest, imported_by)
        try:
            run = runs.claim_at_once(asked)
        except runs.RunInProgress:
            shutil.rmtree(asked.work_dir)
            raise
    try:
        version = execute(run)
    except KeyboardInterrupt:
        runs.request_cancel(run.pk)
        shutil.rmtree(run.work_dir, ignore_errors=True)
        raise
    if version is None:
        run.refresh_from_db()
        shutil.rmtree(run.work_dir, ignore_errors=True)
        raise BundleError(run.error or _("The exam was cancelled."))
    return version


def queue_import(file: BinaryIO, *, imported_by: User) -> TrainingRun:
    """As `import_version`, but a worker takes the exam. Returns its run, whose page shows how far it is."""
    with _unpacked(file) as (folder, manifest), transaction.atomic():
        run = _ask_for_exam(folder, manifest, imported_by)
        transaction.on_commit(runs.wake)
    status_signal.send(status_signal.RUN_MOVED)
    return run


@contextmanager
def _unpacked(file: BinaryIO) -> Iterator[tuple[Path, Manifest]]:
    """A bundle's files in a folder that goes away with whatever has not been taken out of it."""
    from training.lm.adapters import AdapterError
    from training.lm.loading import BaseModelError
    from training.lm.lora import inspect_adapter

    base = runs.configured_base()
    parent = Path(settings.ARTIFACTS_DIR) / "runs"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix="bundle-") as temporary:
        folder = Path(temporary) / "run"
        manifest = bundle_format.unpack(file, folder / BUNDLE, base_model=base.label)
        try:
            inspect_adapter(folder / BUNDLE / "adapter", base, manifest.config)
        except (AdapterError, BaseModelError) as error:
            raise BundleError(
                _("What the file holds was not trained on this base model: %(error)s.") % {"error": error}
            ) from error
        yield folder, manifest


def _ask_for_exam(folder: Path, manifest: Manifest, imported_by: User | None) -> TrainingRun:
    run = runs.create_run(manifest.preset, requested_by=imported_by, config=manifest.config, origin=manifest.name)
    # Left by a process that died before its row was kept.
    shutil.rmtree(run.work_dir, ignore_errors=True)
    folder.rename(run.work_dir)
    return run


@dataclass(frozen=True, slots=True)
class AnsweredOtherwise:
    """An exam question that came out here otherwise than there. Keys of entries; None for "I don't know"."""

    question: str
    expected: str | None
    there: str | None
    here: str | None


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The exam of a version that was trained elsewhere, beside the one that it took here.

    Attributes:
        name: of the version there.
        there, here: the exams' metrics (lm/evaluate.py).
        num_asked: questions of both exams.
        num_unmatched: questions of only one of them.
        answered_otherwise: another entry, or declined where it was answered, or the other way round.
        largest_difference: of the confidences in one question.
    """

    name: str
    there: Row
    here: Row
    num_asked: int
    num_unmatched: int
    answered_otherwise: tuple[AnsweredOtherwise, ...]
    largest_difference: float

    @property
    def is_exact(self) -> bool:
        is_same = self.there["accuracy"] == self.here["accuracy"]
        return is_same and not self.answered_otherwise and not self.num_unmatched


def reproduction(version: AdapterVersion) -> Reproduction | None:
    """How the exam here came out beside the bundle's; None for a version that was trained here, or without files."""
    try:
        there, here = _read_exam(version.path / "origin" / "exam.json"), _read_exam(version.path / "exam.json")
    except FileNotFoundError:
        return None
    before_by_question, now_by_question = ({_asked(row): row for row in each["answers"]} for each in (there, here))
    both = [(row, now_by_question[asked]) for asked, row in before_by_question.items() if asked in now_by_question]
    otherwise = [
        AnsweredOtherwise(now["question"], now["expected"], _said(before), _said(now))
        for before, now in both
        if _said(before) != _said(now)
    ]
    return Reproduction(
        name=version.run.origin,
        there=there["metrics"],
        here=here["metrics"],
        num_asked=len(both),
        num_unmatched=len(before_by_question) + len(now_by_question) - 2 * len(both),
        answered_otherwise=tuple(otherwise),
        largest_difference=max((abs(before["confidence"] - now["confidence"]) for before, now in both), default=0.0),
    )


def _asked(row: Row) -> tuple[str, str | None]:
    return row["question"], row["expected"]


def _said(row: Row) -> str | None:
    return None if row["declined"] else row["answered"]


def _read_exam(path: Path) -> Row:
    report: Row = json.loads(path.read_text(encoding="utf-8"))
    return report
