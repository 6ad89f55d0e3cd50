"""A version leaves one instance and comes into another, with a tiny random base; and what is not taken."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from asgiref.sync import async_to_sync
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import AsyncClient, Client
from pytest_django import Settings
from safetensors.torch import load, save
from transformers import AutoModelForCausalLM

from faq.models import FaqEntry
from training import bundle_format, bundles, pipeline, runs, serving, versions
from training.bundle_format import MANIFEST, OPTIONAL, REQUIRED, WEIGHTS, BundleError
from training.going_live import go_live
from training.lm.config import BaseModel
from training.lm.tests.conftest import make_base
from training.models import AdapterVersion, DatasetSnapshot, Exam, TrainingRun
from training.tasks import run_training
from training.tests.conftest import MakeVersion
from training.tests.test_pipeline import on_tiny_llama, train

__all__ = ["on_tiny_llama"]

pytestmark = pytest.mark.django_db(transaction=True)

VERSIONS = "/admin/training/adapterversion/"
Files = dict[str, bytes]
Change = Callable[[Files], object]


@pytest.fixture(autouse=True)
def _fresh_engine() -> Iterator[None]:
    yield
    serving.close()


def exported(version: AdapterVersion) -> bytes:
    file = io.BytesIO()
    bundles.export_version(version, file)
    return file.getvalue()


def move_to_another_instance(settings: Settings, tmp_path: Path) -> None:
    """No rows and no files."""
    AdapterVersion.objects.all().delete()
    TrainingRun.objects.all().delete()
    DatasetSnapshot.objects.all().delete()
    FaqEntry.objects.all().delete()
    settings.ARTIFACTS_DIR = tmp_path / "second"


_made: list[bytes] = []


@pytest.fixture
def bundle(shop: None, on_tiny_llama: None, settings: Settings, tmp_path: Path) -> bytes:
    """A good one, in the hands of an instance that has nothing yet."""
    if not _made:
        _made.append(exported(train()))
    move_to_another_instance(settings, tmp_path)
    return _made[0]


def opened(bundle: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: Files, *, compression: int = zipfile.ZIP_STORED, lists_anew: bool = True) -> bytes:
    """An archive of these files, with a manifest that tells of them as they are."""
    if lists_anew and MANIFEST in files:
        manifest = json.loads(files[MANIFEST])
        manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != MANIFEST}
        manifest["name"] = f"v-000001-{manifest['files'].get(WEIGHTS, '00000000')[:8]}"
        files = {**files, MANIFEST: json.dumps(manifest).encode()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def edited(name: str, **values: Any) -> Change:
    """Other values in a JSON file; a function gets the old one."""

    def change(files: Files) -> None:
        content = json.loads(files[name])
        for key, value in values.items():
            content[key] = value(content[key]) if callable(value) else value
        files[name] = json.dumps(content).encode()

    return change


def put(name: str, content: bytes) -> Change:
    return lambda files: files.update({name: content})


def state() -> tuple[set[Path], tuple[int, ...]]:
    """Every file below the artifacts, and how many rows there are."""
    from django.conf import settings

    tables = (TrainingRun, AdapterVersion, DatasetSnapshot, Exam)
    paths = {path for path in Path(settings.ARTIFACTS_DIR).rglob("*") if path.is_file()}
    return paths, tuple(table.objects.count() for table in tables)


def assert_refused(bundle: bytes, reason: str) -> None:
    before = state()
    with pytest.raises(BundleError, match=reason):
        bundles.import_version(io.BytesIO(bundle))
    assert state() == before, "nothing is left behind"


def test_the_same_version_gives_the_same_bytes(shop: None, on_tiny_llama: None) -> None:
    version = train()

    first, second = exported(version), exported(AdapterVersion.objects.get(pk=version.pk))

    assert first == second
    files = opened(first)
    assert set(files) >= REQUIRED
    assert set(files) <= REQUIRED | OPTIONAL
    manifest = json.loads(files[MANIFEST])
    assert (manifest["name"], manifest["base_model"]) == (version.name, version.base_model)
    assert manifest["exam"]["accuracy"] == pytest.approx(version.exam.accuracy, abs=1e-3)
    for name, digest in manifest["files"].items():
        assert hashlib.sha256(files[name]).hexdigest() == digest


def test_it_comes_into_another_instance_with_its_exam(
    shop: None, settings: Settings, any_tiny_base: Path, olga: User, tmp_path: Path
) -> None:
    settings.BASE_MODEL = str(any_tiny_base)
    there = train()
    files, snapshot = opened(exported(there)), there.snapshot.sha256
    answers = list(there.exam.answers.values_list("question", "expected_key", "answered_key", "is_declined"))
    figures = {name: getattr(there.exam, name) for name in ("accuracy", "answered_right", "declined", "threshold")}
    counts = (there.snapshot.num_entries, there.snapshot.num_train, there.snapshot.num_eval)
    move_to_another_instance(settings, tmp_path)

    here = bundles.import_version(io.BytesIO(packed(files, lists_anew=False)), imported_by=olga)

    run = TrainingRun.objects.get(version=here)
    assert here.number == run.pk
    assert (run.status, run.phase, run.origin, run.requested_by) == ("succeeded", "done", there.name, olga)
    assert (here.snapshot.sha256, here.base_model) == (snapshot, there.base_model)
    assert (here.snapshot.num_entries, here.snapshot.num_train, here.snapshot.num_eval) == counts
    assert list(here.exam.answers.values_list("question", "expected_key", "answered_key", "is_declined")) == answers
    assert {name: getattr(here.exam, name) for name in figures} == figures
    found = bundles.reproduction(here)
    assert found is not None
    assert found.is_exact
    assert (found.name, found.num_asked, found.largest_difference) == (there.name, 4, 0.0)
    again = opened(exported(here))
    assert {name: data for name, data in again.items() if name != MANIFEST} == {
        name: data for name, data in files.items() if name != MANIFEST
    }
    assert not list((Path(settings.ARTIFACTS_DIR) / "runs").iterdir())
    go_live(here)
    assert versions.live_version() == here


def test_it_tells_where_the_exam_came_out_otherwise(bundle: bytes) -> None:
    files = opened(bundle)
    report = json.loads(files["exam.json"])
    answer = report["answers"][0]
    answer.update(declined=not answer["declined"], confidence=answer["confidence"] / 2)
    report["answers"].append({**answer, "question": "nobody asks this here"})
    report["metrics"]["accuracy"] = 0.123
    files["exam.json"] = json.dumps(report).encode()
    edited(MANIFEST, exam=report["metrics"])(files)

    version = bundles.import_version(io.BytesIO(packed(files)))

    found = bundles.reproduction(version)
    assert found is not None
    assert not found.is_exact
    assert [each.question for each in found.answered_otherwise] == [answer["question"]]
    assert (found.num_asked, found.num_unmatched) == (4, 1)
    assert found.there["accuracy"] == 0.123
    assert found.here["accuracy"] == pytest.approx(version.exam.accuracy, abs=1e-3), "as it was taken here"
    assert found.largest_difference > 0


def test_a_bundle_that_somebody_packed_again_is_taken(bundle: bytes) -> None:
    compressed = packed(opened(bundle), compression=zipfile.ZIP_DEFLATED)
    assert len(compressed) < len(bundle)

    assert bundles.import_version(io.BytesIO(compressed)).exam is not None


def in_row(name: str, **values: Any) -> Change:
    """Other values in the first line of a file."""

    def change(files: Files) -> None:
        lines = files[name].decode().split("\n")
        files[name] = "\n".join([json.dumps({**json.loads(lines[0]), **values}), *lines[1:]]).encode()

    return change


def with_tensors(change: Callable[[dict[str, torch.Tensor], str], object]) -> Change:
    def apply(files: Files) -> None:
        tensors = load(files[WEIGHTS])
        change(tensors, sorted(tensors)[0])
        files[WEIGHTS] = save(tensors)

    return apply


REFUSED: dict[str, tuple[Change, str]] = {
    "pickle": (put("adapter/training_args.bin", b"\x80\x04."), "could run a program"),
    "torch file": (put("adapter/optimizer.pt", b"PK"), "could run a program"),
    "program": (put("adapter/modeling.py", b"import os"), "could run a program"),
    "capitals": (put("adapter/ADAPTER_MODEL.BIN", b""), "could run a program"),
    "unknown file": (put("notes.txt", b"hello"), "does not belong there"),
    "folder": (put("adapter/", b""), "does not belong there"),
    "upwards": (put("../../evil.json", b"{}"), "outside of its folder"),
    "upwards within": (put("adapter/../../evil.json", b"{}"), "outside of its folder"),
    "absolute": (put("/etc/evil.json", b"{}"), "outside of its folder"),
    "backslash": (put("..\\evil.json", b"{}"), "outside of its folder"),
    "drive": (put("C:evil.json", b"{}"), "outside of its folder"),
    "missing weights": (lambda files: files.pop(WEIGHTS), "lacks adapter/adapter_model.safetensors"),
    "missing manifest": (lambda files: files.pop(MANIFEST), "lacks manifest.json"),
    "missing exam": (lambda files: files.pop("exam.json"), "lacks exam.json"),
    "other format": (edited(MANIFEST, format=2), "has the format 2"),
    "no format": (edited(MANIFEST, format=None), "has the format"),
    "other base": (edited(MANIFEST, base_model="other@12345678"), r"another base model \(other@12345678\)"),
    "manifest no JSON": (put(MANIFEST, b"{"), "manifest.json is not as it should be"),
    "manifest a list": (put(MANIFEST, b"[]"), "manifest.json is not as it should be"),
    "deep JSON": (put("calibration.json", b"[" * 200_000), "calibration.json is not as it should be"),
    "no UTF-8": (put("calibration.json", b"\xff\xfe"), "calibration.json is not as it should be"),
    "card no UTF-8": (put("README.md", b"\xff"), "README.md is not as it should be"),
    "preset": (edited(MANIFEST, preset="<b>"), "manifest.json is not as it should be"),
    "files a list": (edited(MANIFEST, files=[]), "manifest.json is not as it should be"),
    "code in the tokenizer": (edited("adapter/tokenizer_config.json", auto_map={"A": "x.A"}), "names a program"),
    "code in the adapter": (edited("adapter/adapter_config.json", auto_mapping={"a": "os"}), "names a program"),
    "calibration of other shape": (put("calibration.json", b'{"alpha": 1}'), "calibration.json is not as"),
    "calibration NaN": (edited("calibration.json", threshold=float("nan")), "calibration.json is not as"),
    "calibration text": (edited("calibration.json", threshold="0.9"), "calibration.json is not as"),
    "calibration huge": (edited("calibration.json", threshold=10**400), "calibration.json is not as"),
    "calibration of another exam": (edited("calibration.json", threshold=0.123), "exam.json is not as"),
    "exam without answers": (edited("exam.json", answers=None), "exam.json is not as"),
    "exam of other shape": (edited("exam.json", answers=[{"question": 1}]), "exam.json is not as"),
    "exam figures": (edited("exam.json", metrics={"in_scope": "many"}), "exam.json is not as"),
    "exam other than told": (edited(MANIFEST, exam={}), "exam.json is not as"),
    "run of another base": (edited("run.json", base_model="other"), "run.json is not as"),
    "run of another snapshot": (edited("run.json", snapshot="0" * 64), "run.json is not as"),
    "unknown parameter": (edited("run.json", config=lambda old: {**old, "evil": 1}), "run.json is not as"),
    "parameter of another kind": (edited("run.json", config=lambda old: {**old, "seed": [0]}), "run.json is not as"),
    "parameter too large": (edited("run.json", config=lambda old: {**old, "lora_r": -1}), "run.json is not as"),
    "training data changed": (in_row("snapshot/train.jsonl", question="¿Otra?"), "training data is not that"),
    "row of other shape": (in_row("snapshot/train.jsonl", extra=1), "train.jsonl is not as"),
    "row without text": (in_row("snapshot/train.jsonl", question="  "), "train.jsonl is not as"),
    "half a sign": (in_row("snapshot/train.jsonl", question="\ud800"), "train.jsonl is not as"),
    "zero byte": (in_row("snapshot/train.jsonl", question="a\0b"), "train.jsonl is not as"),
    "long key": (in_row("snapshot/train.jsonl", key="k" * 201), "train.jsonl is not as"),
    "no training data": (put("snapshot/train.jsonl", b""), "train.jsonl is not as"),
    "exam of the unknown": (in_row("snapshot/eval.jsonl", key="nobody"), "eval.jsonl is not as"),
    "answers not learned": (in_row("answers.jsonl", answer="Gratis."), "answers.jsonl is not as"),
    "safetensors header": (lambda files: files.update({WEIGHTS: files[WEIGHTS][:8] + b"x" * 500}), "no safetensors"),
    "pickle under another name": (put(WEIGHTS, b"\x80\x04\x95" + b"x" * 500), "no safetensors"),
    "shape": (with_tensors(lambda tensors, first: tensors.update({first: torch.zeros(3, 3)})), "shape"),
    "extra tensor": (with_tensors(lambda tensors, _: tensors.update({"lm_head": torch.zeros(1)})), "no place"),
    "no LoRA": (edited("adapter/adapter_config.json", peft_type="IA3"), "peft_type"),
    "other layers": (edited("adapter/adapter_config.json", target_modules=["lm_head"]), "other layers"),
    "other rank": (edited("adapter/adapter_config.json", r=8), "r is 8"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_not_as_it_should_be_is_refused(bundle: bytes, change: Change, reason: str) -> None:
    files = opened(bundle)
    change(files)
    # Where the manifest itself is what is wrong, it stays so.
    is_manifest_changed = files.get(MANIFEST) != opened(bundle)[MANIFEST]

    assert_refused(packed(files, lists_anew=not is_manifest_changed), reason)


@pytest.mark.parametrize("name", sorted(REQUIRED - {MANIFEST}))
def test_a_wrong_digest_is_refused(bundle: bytes, name: str) -> None:
    files = opened(bundle)
    files[name] = files[name] + b" "

    assert_refused(packed(files, lists_anew=False), "is not what its list says")


def test_a_file_that_is_not_listed_is_refused(bundle: bytes) -> None:
    files = opened(bundle)
    files["adapter/vocab.txt"] = b"a"

    assert_refused(packed(files, lists_anew=False), "list of files")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused(bundle: bytes) -> None:
    out = io.BytesIO(bundle)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("run.json", b"{}")

    assert_refused(out.getvalue(), "holds run.json twice")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_what_is_no_plain_file_is_refused(bundle: bytes, kind: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in opened(bundle).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = ((kind if name == "run.json" else stat.S_IFREG) | 0o777) << 16
            archive.writestr(info, b"/etc/passwd" if name == "run.json" else data)

    assert_refused(out.getvalue(), "run.json is no plain file")


def flip(bundle: bytes, field: int, value: bytes) -> bytes:
    """Another value at this place of every entry of the archive's directory."""
    data, at = bytearray(bundle), 0
    while (at := data.find(b"PK\1\2", at)) >= 0:
        data[at + field : at + field + len(value)] = value
        at += 4
    return bytes(data)


def test_an_encrypted_archive_is_refused(bundle: bytes) -> None:
    assert_refused(flip(bundle, 8, b"\1\0"), "encrypted")


def test_an_unknown_packing_is_refused(bundle: bytes) -> None:
    assert_refused(packed(opened(bundle), compression=zipfile.ZIP_LZMA), "packed in a way")


def test_a_bomb_by_ratio_is_refused(bundle: bytes) -> None:
    files = {**opened(bundle), "README.md": b" " * 50_000_000}

    assert_refused(packed(files, compression=zipfile.ZIP_DEFLATED), "larger than any version")


def test_a_bomb_of_honest_size_is_refused(bundle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_format, "MAX_UNPACKED_BYTES", 10_000)

    assert_refused(bundle, "larger than any version")


@pytest.mark.parametrize(("limit", "at_most"), [("MAX_TEXT_BYTES", 1_000), ("MAX_MANIFEST_BYTES", 100)])
def test_what_is_really_read_is_counted(
    bundle: bytes, monkeypatch: pytest.MonkeyPatch, limit: str, at_most: int
) -> None:
    """Whatever the headers say: nothing of more than the limit is written."""
    monkeypatch.setattr(bundle_format, limit, at_most)

    assert_refused(bundle, "larger than any version")


def test_a_header_that_lies_about_its_size_is_refused(bundle: bytes) -> None:
    """Sizes in the directory are made small; what is read then is not what was listed."""
    assert_refused(flip(bundle, 24, struct.pack("<L", 10)), "damaged")


def test_a_bomb_behind_a_small_declared_size_is_refused(bundle: bytes) -> None:
    """No more than what is declared is ever unpacked, and that is not what was listed."""
    files = {**opened(bundle), "README.md": b" " * 50_000_000}
    bomb = bytearray(packed(files, compression=zipfile.ZIP_DEFLATED))
    entry = next(
        match.start()
        for match in re.finditer(rb"PK\x01\x02", bomb)
        if bomb.startswith(b"README.md", match.start() + 46)
    )
    bomb[entry + 24 : entry + 28] = struct.pack("<L", 1_000)

    assert_refused(bytes(bomb), "damaged")


def test_many_files_are_refused_before_they_are_listed(bundle: bytes) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(70_000):
            archive.writestr(f"{number}", b"")

    assert_refused(out.getvalue(), "damaged")  # more than 65,535 of them need the ZIP64 kind of end
    assert_refused(packed({f"{number}": b"" for number in range(100)}), "more files")


def test_a_zip64_end_that_tells_another_story_is_refused(bundle: bytes) -> None:
    end = bundle[-22:]
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(bundle), 1)

    assert_refused(bundle[:-22] + locator + end, "damaged")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\5\6" + b"\0" * 18, b"\0" * 100_000])
def test_what_is_no_archive_is_refused(bundle: bytes, content: bytes) -> None:
    assert_refused(content, "not the file of a version")


def test_a_file_that_is_too_large_is_refused_unread(bundle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_format, "MAX_BUNDLE_BYTES", 50_000)

    assert_refused(bundle, "larger than 0 MB")


def test_an_adapter_of_another_base_is_refused(bundle: bytes, settings: Settings, tmp_path: Path) -> None:
    """Also when its manifest claims to be for this one."""
    settings.BASE_MODEL = str(make_base(tmp_path / "gpt2", "gpt2"))
    label = BaseModel(settings.BASE_MODEL).label
    assert_refused(bundle, "another base model")
    files = opened(bundle)
    for name, key in ((MANIFEST, "base_model"), ("run.json", "base_model")):
        edited(name, **{key: label})(files)
    assert_refused(packed(files), "it names the base model")
    edited("adapter/adapter_config.json", base_model_name_or_path=label)(files)
    assert_refused(packed(files), "other layers")


def test_the_commands_carry_a_version_over(shop: None, on_tiny_llama: None, settings: Settings, tmp_path: Path) -> None:
    there, path = train(), tmp_path / "version.zip"
    written = run_json("export_version", str(there.number), str(path))
    assert written == {
        "version": there.name,
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("export_version", there.name, str(path))
    with pytest.raises(CommandError, match="either a FILE or"):
        call_command("export_version", there.name)
    with pytest.raises(CommandError, match="There is no version"):
        call_command("export_version", "77", str(tmp_path / "other.zip"))
    move_to_another_instance(settings, tmp_path)

    brought = run_json("import_version", str(path))

    assert (brought["origin"], brought["status"], brought["is_reproduced"]) == (there.name, "succeeded", True)
    assert brought["answered_otherwise"] == []
    assert brought["exam"]["accuracy"] == pytest.approx(brought["exam_there"]["accuracy"], abs=1e-3)  # type: ignore[index]
    out = StringIO()
    call_command("import_version", str(path), stdout=out)
    assert "Its exam came out as there" in out.getvalue()
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("import_version", str(tmp_path / "nothing.zip"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CommandError, match="not the file of a version"):
        call_command("import_version", str(path))


def run_json(*args: str) -> dict[str, object]:
    out = StringIO()
    call_command(*args, "--json", stdout=out)
    result: dict[str, object] = json.loads(out.getvalue())
    return result


def test_a_file_that_cannot_be_made_whole_is_not_left(shop: None, on_tiny_llama: None, tmp_path: Path) -> None:
    version = train()
    (version.path / "exam.json").unlink()

    with pytest.raises(CommandError, match="are missing"):
        call_command("export_version", version.name, str(tmp_path / "version.zip"))

    assert not (tmp_path / "version.zip").exists()
    (version.snapshot.path / "eval.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(versions.VersionError, match="is damaged"):
        exported(version)


def test_the_command_writes_one_plain_model(shop: None, on_tiny_llama: None, tmp_path: Path) -> None:
    version, folder = train(), tmp_path / "models" / "plain"

    written = run_json("export_version", version.name, "--merged", str(folder), "--dtype", "bfloat16")

    assert written == {"version": version.name, "folder": str(folder), "dtype": "bfloat16"}
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert version.base_model in card
    assert "only how its answers begin" in card
    assert [path.name for path in folder.parent.iterdir()] == ["plain"]
    with pytest.raises(CommandError, match="is not empty"):
        call_command("export_version", version.name, "--merged", str(folder))


def test_a_training_that_is_under_way_comes_first(bundle: bytes) -> None:
    runs.start_in_foreground()
    before = state()

    with pytest.raises(runs.RunInProgress):
        bundles.import_version(io.BytesIO(bundle))

    assert state() == before


def test_an_exam_that_failed_is_taken_again(bundle: bytes, olga: User, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bundles.queue_import(io.BytesIO(bundle), imported_by=olga)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_examine", lambda *args, **values: 1 / 0)
        run_training()
    run.refresh_from_db()
    assert (run.status, run.can_be_retried) == ("failed", True)
    assert not AdapterVersion.objects.exists()
    assert not DatasetSnapshot.objects.exists()

    retried = runs.retry(run, requested_by=olga)
    run_training()

    version = AdapterVersion.objects.get(run=retried)
    assert version.run.origin == run.origin
    found = bundles.reproduction(version)
    assert found is not None
    assert found.is_exact


def test_a_base_that_was_changed_meanwhile_fails_in_words(
    bundle: bytes, olga: User, settings: Settings, tmp_path: Path
) -> None:
    run = bundles.queue_import(io.BytesIO(bundle), imported_by=olga)
    settings.BASE_MODEL = str(make_base(tmp_path / "gpt2", "gpt2"))

    run_training()

    run.refresh_from_db()
    assert (run.status, run.error) == ("failed", "The base model has been changed since this version was brought in.")


def test_staff_bring_a_version_in_and_see_both_exams(bundle: bytes, olga: User, client: Client) -> None:
    client.force_login(olga)
    assert "/adapterversion/import/" in client.get(VERSIONS).content.decode()
    page = client.get(VERSIONS + "import/").content.decode()
    assert 'type="file"' in page
    assert "At most 2000 MB." in page

    response = client.post(VERSIONS + "import/", {"bundle": io.BytesIO(bundle)})

    run = TrainingRun.objects.get()
    assert response.headers["Location"] == f"/admin/training/trainingrun/{run.pk}/change/"
    assert (run.status, run.requested_by) == ("queued", olga)
    waiting = client.get(response.headers["Location"]).content.decode()
    assert f"{run.origin}, from another server, takes its exam here." in waiting
    run_training()
    version = AdapterVersion.objects.get()
    run_page = client.get(f"/admin/training/trainingrun/{run.pk}/change/").content.decode()
    assert f"{run.origin} from another server is version" in run_page
    page = client.get(f"{VERSIONS}{version.pk}/change/").content.decode()
    assert "Its exam there and here" in page
    assert "4 answers, all the same" in page
    assert f"there ({run.origin})" in page


def test_staff_read_why_a_file_is_not_taken(bundle: bytes, olga: User, client: Client) -> None:
    client.force_login(olga)
    files = {**opened(bundle), "adapter/<b>.py": b""}

    response = client.post(VERSIONS + "import/", {"bundle": io.BytesIO(packed(files))}, follow=True)
    assert "could run a program: adapter/&lt;b&gt;.py" in response.content.decode()
    response = client.post(VERSIONS + "import/", follow=True)
    assert "Choose a file." in response.content.decode()

    assert not TrainingRun.objects.exists()


def test_staff_download_a_version(bundle: bytes, olga: User, client: Client, async_client: AsyncClient) -> None:
    version = bundles.import_version(io.BytesIO(bundle))
    url = f"{VERSIONS}{version.pk}/export/"

    async def download() -> tuple[Any, bytes]:
        await async_client.aforce_login(olga)
        response: Any = await async_client.post(url)
        assert response.is_async, "sent as it is read, not held in memory"
        return response, b"".join([chunk async for chunk in response])

    response, content = async_to_sync(download)()

    assert response.headers["Content-Disposition"] == f'attachment; filename="{version.name}.zip"'
    assert int(response.headers["Content-Length"]) == len(content)
    assert content == exported(version)
    assert LogEntry.objects.get().user == olga
    client.force_login(olga)
    assert client.get(url).status_code == 405


def test_a_version_without_files_says_so(make_version: MakeVersion, olga: User, client: Client) -> None:
    client.force_login(olga)
    version = make_version()

    response = client.post(f"{VERSIONS}{version.pk}/export/", follow=True)

    assert f"The files of version {version} are missing." in response.content.decode()


def damaged(bundle: bytes, chance: random.Random) -> bytes:
    """One of the ways in which a file suffers, half of them where an archive tells of its files."""
    data = bytearray(bundle)
    way = chance.choice(["flip", "flip directory", "flip directory", "cut", "rename", "zeros", "double", "swap"])
    if way == "cut":
        return bytes(data[: chance.randrange(len(data))])
    if way == "rename":
        name = chance.choice(sorted(REQUIRED)).encode()
        other = bytes(chance.choice(b"abc./\\\0\xff") if chance.random() < 0.2 else each for each in name)
        return bytes(data).replace(name, other, chance.choice([1, 2, -1]))
    begin = data.find(b"PK\1\2") if way == "flip directory" else 0
    at = chance.randrange(begin, len(data))
    size = chance.randrange(1, 64)
    if way == "zeros":
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif way == "double":
        data[at:at] = data[at : at + size]
    elif way == "swap":
        other_at = chance.randrange(len(data))
        data[at : at + size] = data[other_at : other_at + size]
    else:
        for _ in range(chance.choice([1, 1, 2, 8])):
            data[chance.randrange(begin, len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def test_two_hundred_damaged_bundles_are_refused_or_the_same(
    bundle: bytes, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is imported all the same is what was exported, to the byte, so that its exam may be taken once."""
    chance = random.Random(20261126)
    whole = opened(bundle)
    taken: list[Files] = []

    def look(run: TrainingRun) -> AdapterVersion:
        folder = run.work_dir / bundle_format.BUNDLE
        taken.append({name: (folder / name).read_bytes() for name in whole})
        raise BundleError("looked at")

    (Path(settings.ARTIFACTS_DIR) / "runs").mkdir(parents=True)
    before = state()
    monkeypatch.setattr(pipeline, "execute", look)
    for _ in range(200):
        with pytest.raises(BundleError):
            bundles.import_version(io.BytesIO(damaged(bundle, chance)))
        for run in TrainingRun.objects.filter(status="running"):
            runs.cancel(run)
            assert [path.is_dir() for path in run.work_dir.iterdir()] == [True]
            pipeline._tidy_up()
            run.delete()
        assert state() == before
    assert 0 < len(taken) < 100
    assert all(each == whole for each in taken)
