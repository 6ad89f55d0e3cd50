from __future__ import annotations

import json
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from training import serving, versions
from training.lm.prompts import QuestionTooLong
from training.models import AdapterVersion


class Command(BaseCommand):
    help = "Ask the live version, or another one, a question."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("text")
        parser.add_argument(
            "--version", dest="version_name", metavar="V", help="its number or name; default: the live one"
        )
        parser.add_argument("--after", default="", metavar="TEXT", help="what was asked before, for a follow-up")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django's own --version gives way to ours.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def handle(self, *args: Any, text: str, version_name: str | None, after: str, **options: Any) -> None:

        if not text.strip():
            raise CommandError("the question is empty")
        try:
            version = chosen_version(version_name)
            serving.prepare(version)
            started = time.monotonic()
            servable, future = serving.ask(text, version, context=after, is_exact=True)
            decision = future.result()
        except (versions.VersionError, QuestionTooLong) as error:
            raise CommandError(str(error)) from error
        seconds = time.monotonic() - started
        entry = servable.entry_for(decision)
        suggestions = servable.suggestions_for(decision)
        answer = entry.answer if entry else serving.suggest_text() if suggestions else serving.decline_text()
        if not options["json"]:
            self.stdout.write("\n".join([answer, *(f"- {question}" for question in suggestions)]))
            return
        summary = {
            "answer": answer,
            "entry": entry.key if entry else None,
            "declined": decision.is_declined,
            "suggestions": suggestions,
            "confidence": round(decision.confidence, 4),
            "coverage": round(decision.coverage, 4),
            "version": version.name,
            "seconds": round(seconds, 4),
            "forwards": decision.num_forwards,
        }
        self.stdout.write(json.dumps(summary, ensure_ascii=False))


def chosen_version(name: str | None) -> AdapterVersion:
    """
    Raises:
        VersionError: no such version, or none is live.
    """
    if name:
        return versions.find(name)
    live = versions.live_version()
    if live is None:
        raise versions.VersionError("no version is live yet: run “train --wait --activate” first")
    return live
