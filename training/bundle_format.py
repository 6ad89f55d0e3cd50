"""A version as one file, and how such a file is opened: it comes from elsewhere, so nothing in it is believed.

manifest.json    format, version, base model, exam figures, the SHA-256 of every other file
adapter/         adapter_model.safetensors, adapter_config.json, tokenizer
answers.jsonl  calibration.json  exam.json  run.json  README.md   as in the version's folder
snapshot/        train.jsonl, eval.jsonl: what it learned, and what its exam asks
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from django.utils.translation import gettext as _

from training.lm.config import TrainConfig
from training.lm.decisions import Calibration
from training.lm.evaluate import Metrics
from training.models import TrainingRun
from training.snapshots import MIN_ENTRIES, digest_of, learned_entries

FORMAT = 1
MANIFEST = "manifest.json"
# Below a run's work_dir: the bundle's files while the version takes its exam.
BUNDLE = "bundle"
WEIGHTS = "adapter/adapter_model.safetensors"
TRAIN, EVAL = "snapshot/train.jsonl", "snapshot/eval.jsonl"
VERSION_FILES = ("answers.jsonl", "calibration.json", "exam.json", "run.json", "README.md")
REQUIRED = frozenset({MANIFEST, WEIGHTS, "adapter/adapter_config.json", *VERSION_FILES, TRAIN, EVAL})
# What transformers and PEFT may write beside them. Nothing here reads it: the base's own tokenizer is used.
OPTIONAL = frozenset(
    f"adapter/{name}"
    for name in (
        *("README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("chat_template.jinja", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
    )
)
PROGRAMS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".joblib", ".py", ".pyc", ".so", ".sh", ".exe")

MEGABYTE = 1_000_000
MAX_BUNDLE_BYTES = 2_000 * MEGABYTE
MAX_MANIFEST_BYTES = 1 * MEGABYTE
MAX_TEXT_BYTES = 100 * MEGABYTE
MAX_UNPACKED_BYTES = 2_200 * MEGABYTE
# Ours are not compressed at all; texts that somebody packed again come to about ten.
MAX_RATIO = 100
MAX_DIRECTORY_BYTES = 64_000
MAX_KEY_CHARS = 200
CHUNK_BYTES = 1 << 20

# How an archive ends: a record of 22 bytes, before which a larger one of the ZIP64 kind may stand.
_END = struct.Struct("<4s4H2LH")
_END_MARK, _ZIP64_MARK = b"PK\5\6", b"PK\6\7"
_ZIP64_BYTES = 20
_ENCRYPTED = 0x1
_UNREADABLE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, struct.error, OSError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)


class BundleError(RuntimeError):
    """A bundle cannot be made or taken. The text says why, in words for who brings it."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is to be known of a version that comes in a bundle.

    Attributes:
        name: of the version where it was trained.
        config: with which it was trained.
    """

    name: str
    preset: str
    config: TrainConfig


def unpack(file: BinaryIO, folder: Path, *, base_model: str) -> Manifest:
    """Write a bundle's files below an empty folder and look at every one of them but the adapter's weights.

    Args:
        base_model: the label of the base model that is used here.

    Raises:
        BundleError: there is anything in it that does not belong there. What was written is the caller's to remove.
    """
    with _open(file) as archive:
        members = _members(archive)
        manifest_path = folder / MANIFEST
        _extract(archive, members[MANIFEST], manifest_path, MAX_MANIFEST_BYTES)
        manifest = _read_json(manifest_path)
        digests = _check_manifest(manifest, members, base_model)
        room = MAX_UNPACKED_BYTES
        for name, digest in digests.items():
            limit = room if name == WEIGHTS else min(room, MAX_TEXT_BYTES)
            found, num_bytes = _extract(archive, members[name], folder / name, limit)
            room -= num_bytes
            if found != digest:
                raise BundleError(
                    _("The bundle is damaged: %(name)s is not what its list says.") % {"name": _shown(name)}
                )
    return _check_contents(folder, manifest, digests)


@contextmanager
def _open(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    _check_end(file)
    try:
        archive = zipfile.ZipFile(file)
    except _UNREADABLE as error:
        raise _damaged() from error
    with archive:
        yield archive


def _damaged() -> BundleError:
    return BundleError(_("This is not the file of a version, or it is damaged. Download the version again."))


def _check_end(file: BinaryIO) -> None:
    """Look at the archive's end before anybody reads the list of its files, which could be made to fill the memory."""
    size = file.seek(0, 2)
    if size > MAX_BUNDLE_BYTES:
        limit = MAX_BUNDLE_BYTES // MEGABYTE
        raise BundleError(_("The file is larger than %(max)d MB, which is the most for a bundle.") % {"max": limit})
    tail_bytes = _ZIP64_BYTES + _END.size
    if size < tail_bytes:
        raise _damaged()
    file.seek(-tail_bytes, 2)
    tail = file.read(tail_bytes)
    mark, _disk, _first_disk, _here, num_members, directory_bytes, _offset, comment = _END.unpack(tail[_ZIP64_BYTES:])
    if mark != _END_MARK or comment or tail.startswith(_ZIP64_MARK):
        raise _damaged()
    if num_members > len(REQUIRED | OPTIONAL) or directory_bytes > MAX_DIRECTORY_BYTES:
        raise BundleError(_("The bundle holds more files than a version has."))


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        _check_name(info.orig_filename)
        if info.filename in members:
            raise BundleError(_("The bundle holds %(name)s twice.") % {"name": _shown(info.filename)})
        members[info.filename] = info
        _check_member(info)
    missing = sorted(REQUIRED - set(members))
    if missing:
        raise BundleError(_("The bundle lacks %(names)s.") % {"names": ", ".join(missing)})
    if sum(info.file_size for info in members.values()) > MAX_UNPACKED_BYTES:
        raise _too_large()
    return members


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or any(sign in name for sign in "\\:\0"):
        raise BundleError(
            _("The bundle holds a file that would be written outside of its folder: %(name)s.") % {"name": _shown(name)}
        )
    if name.lower().endswith(PROGRAMS):
        raise BundleError(
            _("The bundle holds a file that could run a program: %(name)s. Weights are taken as safetensors only.")
            % {"name": _shown(name)}
        )
    if name not in REQUIRED | OPTIONAL:
        raise BundleError(_("The bundle holds a file that does not belong there: %(name)s.") % {"name": _shown(name)})


def _check_member(info: zipfile.ZipInfo) -> None:
    name = {"name": _shown(info.filename)}
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise BundleError(_("In the bundle %(name)s is no plain file.") % name)
    if info.flag_bits & _ENCRYPTED:
        raise BundleError(_("The bundle is encrypted."))
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(_("In the bundle %(name)s is packed in a way that is not known here.") % name)
    if info.file_size > MAX_RATIO * max(info.compress_size, 1_000):
        raise _too_large()


def _too_large() -> BundleError:
    return BundleError(_("Unpacked, the bundle would be larger than any version is."))


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, limit: int) -> tuple[str, int]:
    """Write one file, up to `limit` bytes whatever its header says. Returns its SHA-256 and its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("xb") as target:
        for chunk in _chunks(archive, info):
            num_bytes += len(chunk)
            if num_bytes > limit:
                raise _too_large()
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest(), num_bytes


def _chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(info) as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk
    except _UNREADABLE as error:
        raise _damaged() from error


def _shown(text: object) -> str:
    """A name out of a bundle as it may be shown: short, and without signs that a terminal would obey."""
    return ascii(str(text))[1:-1][:100]


def _read_json(path: Path) -> dict[str, Any]:
    with _well_formed(path.name):
        values = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_refuse_constant)
        if not isinstance(values, dict):
            raise TypeError("it is no JSON object")
        return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


@contextmanager
def _well_formed(name: str) -> Iterator[None]:
    """Whatever reading a file of another shape comes to is said of that file."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise BundleError(
            _("In the bundle %(name)s is not as it should be: %(error)s.")
            % {"name": name, "error": _shown(f"{type(error).__name__}: {error}")}
        ) from error


def _check_manifest(manifest: dict[str, Any], members: dict[str, zipfile.ZipInfo], base_model: str) -> dict[str, str]:
    """What the manifest says by itself. Returns the digest of every file, the weights' last."""
    if manifest.get("format") != FORMAT:
        raise BundleError(
            _("The bundle has the format %(found)s; this release reads %(known)d. Update the older of the two.")
            % {"found": _shown(manifest.get("format")), "known": FORMAT}
        )
    if manifest.get("base_model") != base_model:
        raise BundleError(
            _("The version belongs to another base model (%(found)s); here it is %(known)s.")
            % {"found": _shown(manifest.get("base_model")), "known": base_model}
        )
    with _well_formed(MANIFEST):
        digests: dict[str, str] = {}
        for name, digest in manifest["files"].items():
            digests[name] = _matching(digest, r"[0-9a-f]{64}")
        if set(digests) != set(members) - {MANIFEST}:
            raise ValueError("its list of files is not what the bundle holds")
        _matching(manifest["name"], r"v-[0-9]{6,9}-" + digests[WEIGHTS][:8])
        _matching(manifest["snapshot"], r"[0-9a-f]{64}")
        if manifest["preset"] not in TrainingRun.Preset.values:
            raise ValueError("its thoroughness is not known")
    # A text that is wrong is found before anybody has to wait for the weights.
    return dict(sorted(digests.items(), key=lambda item: item[0] == WEIGHTS))


def _check_contents(folder: Path, manifest: dict[str, Any], digests: dict[str, str]) -> Manifest:
    for name in digests:
        if name.endswith(".json"):
            _check_names_no_code(name, _read_json(folder / name))
        elif name.endswith((".md", ".jinja", ".txt")):
            with _well_formed(name):
                (folder / name).read_bytes().decode("utf-8")
    _check_snapshot(folder, manifest)
    run = _read_json(folder / "run.json")
    with _well_formed("run.json"):
        if (run["base_model"], run["snapshot"]) != (manifest["base_model"], manifest["snapshot"]):
            raise ValueError("it is about another training")
        config = _training_config(run["config"])
    calibration, report = _read_json(folder / "calibration.json"), _read_json(folder / "exam.json")
    with _well_formed("calibration.json"):
        # An earlier version's lacks what has come since, which has a default.
        names = {each.name for each in fields(Calibration)}
        if (
            not calibration
            or not set(calibration) <= names
            or not all(_is_number(value) for value in calibration.values())
        ):
            raise ValueError("it is no calibration")
    with _well_formed("exam.json"):
        _check_report(report)
        if report["calibration"] != calibration or report["metrics"] != manifest["exam"]:
            raise ValueError("it is another exam than the calibration or the manifest tells of")
    return Manifest(manifest["name"], manifest["preset"], config)


def _check_names_no_code(name: str, values: dict[str, Any]) -> None:
    if values.get("auto_map") or values.get("auto_mapping"):
        raise BundleError(_("In the bundle %(name)s names a program to run.") % {"name": name})


def _check_snapshot(folder: Path, manifest: dict[str, Any]) -> None:
    with _well_formed(TRAIN):
        train = [_row(row) for row in _read_lines(folder / TRAIN)]
        keys = {row["key"] for row in train} - {None}
        if len(keys) < MIN_ENTRIES:
            raise ValueError(f"it holds {len(keys)} answers")
    with _well_formed(EVAL):
        if not {row["key"] for row in map(_row, _read_lines(folder / EVAL))} <= keys | {None}:
            raise ValueError("it asks for what was never learned")
    if digest_of((folder / TRAIN).read_bytes(), (folder / EVAL).read_bytes()) != manifest["snapshot"]:
        raise BundleError(_("The bundle's training data is not that of its version."))
    with _well_formed("answers.jsonl"):
        if list(_read_lines(folder / "answers.jsonl")) != learned_entries(train):
            raise ValueError("it is not what was learned")


def _read_lines(path: Path) -> Iterator[Any]:
    for line in path.read_bytes().decode("utf-8").split("\n"):
        if line.strip():
            yield json.loads(line, parse_constant=_refuse_constant)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    if set(row) != {"key", "question", "answer"}:
        raise ValueError("a line is not {key, question, answer}")
    _texts([row["question"], row["answer"], *([] if row["key"] is None else [row["key"]])])
    if len(row["key"] or "") > MAX_KEY_CHARS:
        raise ValueError("a key is too long")
    return row


def _texts(values: Iterable[Any]) -> None:
    for value in values:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError("a text is missing")
        # A half of a surrogate pair is no text, though JSON can hold it.
        value.encode("utf-8")


def _training_config(values: dict[str, Any]) -> TrainConfig:
    config = TrainConfig.from_dict(values)
    for each in fields(TrainConfig):
        value, default = getattr(config, each.name), each.default
        is_like = _is_number(value) if type(default) is float else type(value) is type(default)
        if not is_like:
            raise TypeError(f"{each.name} is {value!r}")
    return config


def _check_report(report: dict[str, Any]) -> None:
    for each in fields(Metrics):
        value = report["metrics"][each.name]
        is_right = type(value) is int if each.type == "int" else value is None or _is_number(value)
        if not is_right:
            raise ValueError(f"{each.name} is {value!r}")
    if not isinstance(report["is_held_out"], bool) or not isinstance(report["is_quantized"], bool):
        raise TypeError("it does not say how it was taken")
    for answer in report["answers"]:
        _texts([answer["question"], *answer["suggested"]])
        _texts(answer[name] for name in ("expected", "answered") if answer[name] is not None)
        if not isinstance(answer["declined"], bool):
            raise TypeError("an answer is neither given nor declined")
        if not (_is_number(answer["confidence"]) and _is_number(answer["coverage"])):
            raise TypeError("an answer has no confidence")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _matching(value: Any, pattern: str) -> str:
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise ValueError(f"{_shown(value)} is not {pattern}")
    return value
