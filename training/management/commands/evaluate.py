from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from training import serving, versions
from training.lm.prompts import QuestionTooLong
from training.management.commands.ask import chosen_version


class Command(BaseCommand):
    help = 'Ask a version the questions of a file, {"question", "expected": key or null} a line, and count.'

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file")
        parser.add_argument(
            "--version", dest="version_name", metavar="V", help="its number or name; default: the live one"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django's own --version gives way to ours.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def handle(self, *args: Any, file: str, version_name: str | None, **options: Any) -> None:
        from training.lm.evaluate import Asked, measure

        questions = read_questions(Path(file))
        asked = []
        try:
            version = chosen_version(version_name)
            serving.prepare(version)
            started = time.monotonic()
            for number, (question, expected) in enumerate(questions, start=1):
                try:
                    asked.append(Asked(question, expected, serving.ask(question, version, is_exact=True)[1].result()))
                except QuestionTooLong as error:
                    raise CommandError(f"question {number}: {error}") from error
        except versions.VersionError as error:
            raise CommandError(str(error)) from error
        summary = {
            "version": version.name,
            **measure(asked).to_dict(),
            "seconds": round(time.monotonic() - started, 2),
        }
        if options["json"]:
            self.stdout.write(json.dumps(summary))
            return
        for name, value in summary.items():
            self.stdout.write(f"{name}: {value}")


def read_questions(path: Path) -> list[tuple[str, str | None]]:
    """
    Raises:
        CommandError: the file cannot be read or a line is not a question; it says which line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            question, expected = values["question"], values["expected"]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise CommandError(f'{path.name} line {number} is not {{"question", "expected"}}') from error
        if not isinstance(question, str) or not question.strip() or not isinstance(expected, str | None):
            raise CommandError(f'{path.name} line {number} is not {{"question", "expected"}}')
        questions.append((question, expected))
    if not questions:
        raise CommandError(f"{path.name} holds no questions")
    return questions
