from __future__ import annotations

import json
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from training import runs, updates, versions
from training.models import AdapterVersion, TrainingRun
from training.preflight import NotReady, require_ready

WAIT_SECONDS = 1


class Command(BaseCommand):
    help = "Train an adapter on what is published. Queues the run for a worker, or with --wait sees it to its end."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--preset", choices=TrainingRun.Preset.values, default="normal")
        parser.add_argument(
            "--wait", action="store_true", help="run it here if no worker does, after those that wait before it"
        )
        parser.add_argument("--activate", action="store_true", help="make the version live after its exam")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, preset: str, wait: bool, activate: bool, **options: Any) -> None:
        try:
            require_ready()
            if preset == TrainingRun.Preset.UPDATE:
                updates.version_to_update()
            start = self._train_here if wait else runs.queue_run
            run = start(preset, activates_on_success=activate)
        except (NotReady, updates.CannotUpdate, runs.QueueFull, versions.VersionError) as error:
            raise CommandError(str(error)) from error
        summary = summarize(run)
        self.stdout.write(json.dumps(summary, ensure_ascii=False) if options["json"] else in_words(summary))
        if run.status == TrainingRun.Status.FAILED:
            raise CommandError(run.error)

    def _train_here(self, preset: str, *, activates_on_success: bool) -> TrainingRun:
        started = time.monotonic()
        run = runs.create_run(preset, activates_on_success=activates_on_success)
        try:
            self._work_until_over(run)
        except KeyboardInterrupt:
            runs.request_cancel(run.pk)
            raise
        self.stderr.write(f"{time.monotonic() - started:.0f} seconds in all")
        return run

    def _work_until_over(self, run: TrainingRun) -> None:
        """Carry out what waits before the run and the run itself, unless a worker does."""
        # Heavy libraries only where a training really runs.
        from training.pipeline import execute

        told = None
        while run.is_active:
            runs.sweep()
            claimed = runs.claim_next(up_to=run.pk)
            other = claimed or runs.running()
            if other is not None and other.pk not in (run.pk, told):
                told = other.pk
                self.stderr.write(f"training {other} was asked for before and goes first")
            if claimed is None:
                time.sleep(WAIT_SECONDS)
            else:
                execute(claimed)
            run.refresh_from_db()


def summarize(run: TrainingRun) -> dict[str, Any]:
    version = AdapterVersion.objects.filter(run=run).select_related("exam").first()
    exam = version.exam if version else None
    return {
        "run": run.pk,
        "version": version.name if version else None,
        "status": run.status,
        "seconds": round(run.seconds, 1) if run.seconds is not None else None,
        "exam": exam
        and {
            "in_scope": exam.num_in_scope,
            "accuracy": exam.accuracy,
            "answered_right": exam.answered_right,
            "answered_wrong": exam.answered_wrong,
            "declined": exam.declined,
            "off_topic": exam.num_off_topic,
            "off_topic_declined": exam.off_topic_declined,
            "auroc": exam.auroc,
            "threshold": exam.threshold,
            "held_out": exam.is_held_out,
        },
    }


def in_words(summary: dict[str, Any]) -> str:
    words = f"Run {summary['run']}: {summary['status']}"
    if summary["version"]:
        exam = summary["exam"]
        words += f" in {summary['seconds']} s, version {summary['version']}; exam: accuracy {exam['accuracy']:.0%}"
    return words
