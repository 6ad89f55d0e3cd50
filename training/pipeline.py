"""One training run from claim to version: snapshot, fine-tuning, exam, files, rows.

A version that was trained elsewhere takes the same way from its exam on.

execute(run)   the task boundary: whatever goes wrong ends the run, in words for staff and with the trace
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connections, transaction
from django.db.models import F
from django.utils.translation import gettext as _

from faq.publication import current_publication
from training import exams, runs, serving, trials, updates, versions
from training.bundle_format import BUNDLE, EVAL, MANIFEST, TRAIN, VERSION_FILES
from training.going_live import go_live
from training.lm import sft
from training.lm.config import TrainConfig, TrainResult, WarmStart
from training.lm.engine import Engine
from training.lm.loading import BaseModelError
from training.models import AdapterVersion, DatasetSnapshot, RunEvent, TrainingRun
from training.progress import Progress, number
from training.snapshots import NothingToLearn, build_snapshot, keep_snapshot, learned_entries

logger = logging.getLogger(__name__)

Code = RunEvent.Code
Phase = TrainingRun.Phase
EXAM_NAME = "v-000000-examined"


class Cancelled(Exception):
    """Somebody asked to cancel the run."""


class ToldToGo(BaseException):
    """The process was sent SIGTERM. Not an Exception: nothing on the way may take it for a failure."""


def execute(run: TrainingRun) -> AdapterVersion | None:
    """Carry out a claimed run. Returns its version, or None when it failed, was cancelled or was taken over."""
    logger.info("training run %s: started (%s)", run.pk, run.preset)
    try:
        version = _execute_and_end(run)
    except runs.ClaimLost:
        logger.warning("training run %s: taken over by another process", run.pk)
        return None
    _tidy_up()
    if version is not None and run.activates_on_success:
        try:
            if run.is_scheduled:
                _check_goes_live_alone(version)
            go_live(version, activated_by=run.requested_by, note=_("By itself, after its exam."))
        except versions.VersionError as error:
            # The version is there and its exam shows why; a person decides.
            logger.warning("training run %s: version %s does not go live by itself: %s", run.pk, version.name, error)
        finally:
            # A worker keeps no engine between runs.
            serving.close()
    return version


def _check_goes_live_alone(version: AdapterVersion) -> None:
    """
    Raises:
        VersionError: nobody asked for this version, and somebody has to decide about it.
    """
    if trials.running_trial() is not None:
        raise versions.VersionError(_("Another version is being tried with customers, so somebody has to decide."))
    versions.check_nothing_broken(version)


def _tidy_up() -> None:
    """Leave checkpoints to runs that have not ended, and to the last that ended if it failed: it may be tried again.

    A folder whose row cannot be seen yet is not touched: somebody is just asking for that run.
    """
    ended = TrainingRun.objects.exclude(status__in=TrainingRun.ACTIVE).order_by(F("ended_at").desc(nulls_last=True))
    last = ended.first()
    for run in ended.only("pk", "status"):
        if run != last or run.status != TrainingRun.Status.FAILED:
            shutil.rmtree(run.work_dir, ignore_errors=True)


def _execute_and_end(run: TrainingRun) -> AdapterVersion | None:
    stop = threading.Event()
    try:
        with _heartbeat(run, stop):
            version = _execute(run, stop)
    except Cancelled:
        runs.cancel(run)
        logger.info("training run %s: cancelled", run.pk)
    except ToldToGo:
        runs.release(run)
        logger.info("training run %s: goes on when a worker is back", run.pk)
    except KeyboardInterrupt:
        # Whoever started it here says whether it ends for good.
        runs.release(run)
        raise
    except (NothingToLearn, BaseModelError, updates.CannotUpdate) as error:
        runs.fail(run, _in_words(error))
        logger.error("training run %s: %s", run.pk, error)
    except runs.ClaimLost:
        raise
    except Exception as error:
        logger.exception("training run %s: failed", run.pk)
        runs.fail(run, _in_words(error), traceback=_without_paths(traceback.format_exc()))
    else:
        logger.info("training run %s: version %s is ready", run.pk, version.name)
        return version
    return None


def _in_words(error: Exception) -> str:
    # As CUDA and torch's allocator for the CPU put it.
    no_room = ("out of memory", "can't allocate memory", "not enough memory")
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in no_room):
        return _(
            "Not enough memory: close other programs and try again. If that does not help, a technician can lower "
            "per_device_train_batch_size or max_length under “Advanced”, or choose a smaller base model."
        )
    if isinstance(error, (NothingToLearn, BaseModelError, updates.CannotUpdate)):
        return str(error)
    if isinstance(error, sft.DidNotConverge):
        return _("The training did not settle on anything. A technician may lower its learning rate.")
    return _("Something unexpected went wrong: %(error)s") % {"error": error}


def _execute(run: TrainingRun, stop: threading.Event) -> AdapterVersion:
    is_same_base = run.base_model == runs.configured_base().label
    if not is_same_base and run.origin:
        raise BaseModelError(_("The base model has been changed since this version was brought in."))
    if not is_same_base:
        raise BaseModelError(_("The base model has been changed since this training was asked for. Train again."))
    if run.origin:
        return _bring_in(run, stop)
    if run.preset == TrainingRun.Preset.UPDATE and run.warm_start_from is None:
        # Before anything is frozen: what cannot be learned as an update is not kept to be tried again.
        runs.progress(run, warm_start_from=updates.version_to_update(TrainConfig.from_dict(run.config)))
    if run.snapshot is None:
        snapshot = build_snapshot(current_publication())
        runs.progress(run, snapshot=snapshot)
        num_wordings = snapshot.num_train + snapshot.num_eval
        runs.record(run, Code.FROZEN, answers=snapshot.num_entries, wordings=num_wordings)
    assert run.snapshot is not None
    work_dir = run.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    _enter(run, Phase.TRAINING)
    result = _train(run, run.snapshot, work_dir, stop)
    if result.was_stopped:
        raise Cancelled
    _enter(run, Phase.EXAM, train_loss=number(result.train_loss), eval_loss=result.eval_loss)
    exam = _examine(work_dir / "adapter", run.snapshot.path, stop, learned=_learned_before(run))
    _enter(run, Phase.PACKAGING)
    with tempfile.TemporaryDirectory(dir=work_dir) as staged_root:
        staged = Path(staged_root) / "version"
        _stage(run, run.snapshot, work_dir / "adapter", staged, result, exam)
        with transaction.atomic():
            return _publish(run, staged, exam)


def _bring_in(run: TrainingRun, stop: threading.Event) -> AdapterVersion:
    """A version out of a bundle, whose files have been looked at already (bundles.py): its exam is taken here."""
    bundle = run.work_dir / BUNDLE
    _enter(run, Phase.EXAM)
    exam = _examine(bundle / "adapter", (bundle / TRAIN).parent, stop, learned=_not_asked_there(bundle))
    _enter(run, Phase.PACKAGING)
    with tempfile.TemporaryDirectory(dir=run.work_dir) as staged_root:
        staged = Path(staged_root) / "version"
        shutil.copytree(bundle / "adapter", staged / "adapter")
        for name in VERSION_FILES:
            shutil.copy(bundle / name, staged)
        (staged / "origin").mkdir()
        for name in (MANIFEST, "exam.json"):
            shutil.copy(bundle / name, staged / "origin")
        _write_exam(exam, staged)
        with transaction.atomic():
            runs.progress(run, snapshot=keep_snapshot((bundle / TRAIN).read_bytes(), (bundle / EVAL).read_bytes()))
            return _publish(run, staged, exam)


def _publish(run: TrainingRun, staged: Path, exam: exams.ExamResult) -> AdapterVersion:
    version = versions.publish_files(run, staged)
    version.save()
    exams.save(version, exam)
    runs.succeed(run)
    return version


def _enter(run: TrainingRun, phase: Phase, **values: Any) -> None:
    runs.record(run, Code.PHASE, phase=phase)
    runs.progress(run, phase=phase, **values)


def _train(run: TrainingRun, snapshot: DatasetSnapshot, work_dir: Path, stop: threading.Event) -> TrainResult:
    return sft.train(
        TrainConfig.from_dict(run.config),
        snapshot.path / "train.jsonl",
        snapshot.path / "eval.jsonl",
        work_dir,
        base=runs.configured_base(),
        warm_start=_warm_start(run.warm_start_from),
        on_progress=Progress(run),
        should_stop=stop.is_set,
    )


def _warm_start(version: AdapterVersion | None) -> WarmStart | None:
    if version is None:
        return None
    return WarmStart(version.path / "adapter", version.snapshot.path / "train.jsonl")


def _examine(adapter: Path, snapshot: Path, stop: threading.Event, *, learned: Collection[str]) -> exams.ExamResult:
    """Through the engine and from the saved files, exactly as customers will be answered.

    Args:
        learned: questions that the adapter has learned before, whatever this snapshot holds out: more wordings of an
            entry can move an old one to the exam.
    """

    def check() -> None:
        if stop.is_set():
            raise Cancelled

    engine = Engine(runs.configured_base(), precision=runs.configured_precision(), max_waiting=exams.MAX_WAITING)
    try:
        engine.load_version(EXAM_NAME, adapter)
        return exams.examine(
            engine,
            EXAM_NAME,
            sft.read_rows(snapshot / "train.jsonl"),
            [row for row in sft.read_rows(snapshot / "eval.jsonl") if row["question"] not in learned],
            on_progress=check,
        )
    finally:
        engine.shutdown()


def _learned_before(run: TrainingRun) -> frozenset[str]:
    return frozenset(
        row["question"]
        for version in updates.lineage(run.warm_start_from)
        for row in sft.read_rows(version.snapshot.path / "train.jsonl")
    )


def _not_asked_there(bundle: Path) -> frozenset[str]:
    """What the exam of an update left out where it was trained: what that line had learned is not in the bundle."""
    if not json.loads((bundle / "run.json").read_text(encoding="utf-8")).get("warm_start_from"):
        return frozenset()
    report = json.loads((bundle / "exam.json").read_text(encoding="utf-8"))
    held_out = {row["question"] for row in sft.read_rows(bundle / EVAL)}
    return frozenset(held_out - {answer["question"] for answer in report["answers"]})


def _stage(
    run: TrainingRun,
    snapshot: DatasetSnapshot,
    adapter: Path,
    staged: Path,
    result: TrainResult,
    exam: exams.ExamResult,
) -> None:
    """All files of a version in one directory that nobody looks into yet."""
    staged.mkdir()
    shutil.copytree(adapter, staged / "adapter")
    entries = learned_entries(sft.read_rows(snapshot.path / "train.jsonl"))
    lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    (staged / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
    _write_exam(exam, staged)
    _write_json(
        staged / "run.json",
        {
            "run": run.pk,
            "base_model": run.base_model,
            "snapshot": snapshot.sha256,
            "warm_start_from": run.warm_start_from and run.warm_start_from.name,
            "config": run.config,
            "result": {**asdict(result), "train_loss": number(result.train_loss)},
        },
    )
    (staged / "README.md").write_text(_model_card(run, snapshot, exam), encoding="utf-8")


def _write_exam(exam: exams.ExamResult, staged: Path) -> None:
    _write_json(staged / "calibration.json", exam.calibration.to_dict())
    exams.write_report(exam, staged / "exam.json")


def _model_card(run: TrainingRun, snapshot: DatasetSnapshot, exam: exams.ExamResult) -> str:
    metrics = exam.metrics
    asked = "held-out wordings" if exam.is_held_out else "typed variants of learned wordings"
    return (
        f"# Adapter of training run {run.pk}\n\n"
        f"QLoRA adapter for the base model `{run.base_model}`, trained on {snapshot.num_entries} question-answer "
        f"pairs ({snapshot.num_train} wordings, snapshot `{snapshot.sha256[:12]}`), preset {run.preset}.\n\n"
        f"Exam: {metrics.in_scope} {asked}, accuracy {metrics.accuracy}; answered right {metrics.answered_right}, "
        f"wrong {metrics.answered_wrong}, declined {metrics.declined}; {metrics.off_topic} off-topic questions, "
        f"declined {metrics.off_topic_declined}, AUROC {metrics.auroc}.\n\n"
        "It chooses among approved answers with guided decoding; it is not meant for free text.\n"
    )


@contextmanager
def _heartbeat(run: TrainingRun, stop: threading.Event) -> Iterator[None]:
    """Keep saying that the run lives, and set `stop` once it is cancelled or another process owns it."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(runs.HEARTBEAT_SECONDS):
            try:
                if runs.heartbeat(run):
                    stop.set()
            except runs.ClaimLost:
                stop.set()
                return
            except DatabaseError as error:
                logger.warning("training run %s: this heartbeat was not recorded: %s", run.pk, error)
            finally:
                connections.close_all()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")


def _without_paths(text: str) -> str:
    """A traceback without the folders of this machine."""
    return text.replace(str(settings.BASE_DIR) + "/", "")
