"""Freeze what is published into files that a run can train on: content-addressed, never changed.

snapshots/<sha256>/train.jsonl   {"key", "question", "answer"}; key null for a question to decline
snapshots/<sha256>/eval.jsonl    the same, held out: wordings of entries that are in train, never whole entries
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from faq.personal_data import mask
from faq.publication import Publication, PublishedEntry
from training.lm.augment import plain
from training.lm.prompts import DECLINE
from training.models import DatasetSnapshot

Row = dict[str, Any]

MIN_ENTRIES = 2


class NothingToLearn(ValueError):
    """What is published cannot be trained on; the text tells staff why."""


def build_snapshot(publication: Publication) -> DatasetSnapshot:
    """Write the snapshot of a publication, or find the one that has the same content.

    Raises:
        NothingToLearn: fewer than two published entries.
    """
    if len(publication.entries) < MIN_ENTRIES:
        raise NothingToLearn(
            _("At least %(min)d published answers are needed; there are %(num)d.")
            % {"min": MIN_ENTRIES, "num": len(publication.entries)}
        )
    train, evaluation = split(publication)
    return keep_snapshot(*_files(train, evaluation))


def fingerprint(publication: Publication) -> str:
    """The digest of the snapshot that this publication would make."""
    return digest_of(*_files(*split(publication)))


def _files(train: Sequence[Row], evaluation: Sequence[Row]) -> tuple[bytes, bytes]:
    return _json_lines(train).encode(), _json_lines(evaluation).encode()


def keep_snapshot(train_file: bytes, eval_file: bytes) -> DatasetSnapshot:
    """Write a snapshot's two files, or find the one that has the same content."""
    digest = digest_of(train_file, eval_file)
    _write_once(
        Path(settings.ARTIFACTS_DIR) / "snapshots" / digest, {"train.jsonl": train_file, "eval.jsonl": eval_file}
    )
    train, evaluation = (
        [json.loads(line) for line in file.split(b"\n") if line.strip()] for file in (train_file, eval_file)
    )
    snapshot, _is_new = DatasetSnapshot.objects.get_or_create(
        sha256=digest,
        defaults={
            "num_entries": len({row["key"] for row in train} - {None}),
            "num_train": sum(row["key"] is not None for row in train),
            "num_eval": sum(row["key"] is not None for row in evaluation),
            "num_off_topic": sum(row["key"] is None for row in [*train, *evaluation]),
        },
    )
    return snapshot


def digest_of(train_file: bytes, eval_file: bytes) -> str:
    """The name of the snapshot that has these files."""
    return hashlib.sha256(train_file + b"\0" + eval_file).hexdigest()


def learned_entries(train_rows: Sequence[Row]) -> list[Row]:
    """`{"key", "question", "answer", "wordings"}` of every entry in a snapshot's training rows."""
    entries: dict[str, Row] = {}
    for row in train_rows:
        if row["key"] is not None:
            entry = entries.setdefault(row["key"], {**row, "wordings": []})
            entry["wordings"].append(row["question"])
    return list(entries.values())


def split(publication: Publication) -> tuple[list[Row], list[Row]]:
    """Rows to learn and rows to examine with.

    Held out are paraphrases, never facts: of an entry with three wordings or more about one in six, never its own
    question. Which ones depends on the wording alone, so that adding an entry moves no other. Personal data is masked:
    what an adapter has learned cannot be taken out of it again.
    """
    train: list[Row] = []
    evaluation: list[Row] = []
    for entry in publication.entries:
        wordings = learned_wordings(entry)
        paraphrases = wordings[1:]
        held_out = set(sorted(paraphrases, key=_chance)[: num_held_out(len(wordings))])
        for wording in wordings:
            rows = evaluation if wording in held_out else train
            rows.append({"key": entry.key, "question": wording, "answer": entry.answer})
    off_topic = sorted(publication.off_topic, key=_chance)
    num_eval = len(off_topic) // 4
    rows = [{"key": None, "question": mask(text), "answer": DECLINE} for text in off_topic]
    evaluation += rows[:num_eval]
    train += rows[num_eval:]
    return train, evaluation


def learned_wordings(entry: PublishedEntry) -> list[str]:
    """An entry's question and other wordings as they are learned: masked, and once each however they are written."""
    masked = [mask(wording) for wording in entry.wordings]
    return list({plain(wording): wording for wording in reversed(masked)}.values())[::-1]


def held_out_wordings(snapshot: DatasetSnapshot) -> dict[str, frozenset[str]]:
    """What a snapshot keeps for the exam, by entry.

    Raises:
        OSError: its files are gone.
    """
    wordings: dict[str, set[str]] = {}
    with (snapshot.path / "eval.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["key"] is not None:
                wordings.setdefault(row["key"], set()).add(row["question"])
    return {key: frozenset(each) for key, each in wordings.items()}


def num_held_out(num_wordings: int) -> int:
    return 0 if num_wordings < 3 else min(3, max(1, num_wordings // 6))


def _chance(text: str) -> float:
    return random.Random(text).random()


def _json_lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)


def _write_once(directory: Path, files: dict[str, bytes]) -> None:
    """Write a directory whole or not at all; two processes may try at once."""
    if directory.is_dir():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        staged = Path(temporary) / "snapshot"
        staged.mkdir()
        for name, content in files.items():
            (staged / name).write_bytes(content)
        try:
            staged.rename(directory)
        except OSError:
            if not directory.is_dir():
                raise
