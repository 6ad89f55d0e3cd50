from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from faq.importing import import_lines


class Command(BaseCommand):
    help = 'Publish questions and answers from JSON lines {"key", "question", "answer", "variants": […]}.'

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="a JSON-lines file, or - for standard input")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, file: str, **options: Any) -> None:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise CommandError(f"{file} is not UTF-8 text: {error}") from error
        # Not splitlines(): an answer may hold U+2028 and its like inside its JSON string.
        report = import_lines(text.split("\n"))
        if options["json"]:
            rejected = [{"line": each.line, "reason": each.reason} for each in report.rejected]
            summary = {"created": report.created, "updated": report.updated, "rejected": rejected}
            self.stdout.write(json.dumps(summary, ensure_ascii=False))
            return
        self.stdout.write(f"created {report.created}, updated {report.updated}, rejected {len(report.rejected)}")
        for each in report.rejected:
            self.stdout.write(f"  line {each.line}: {each.reason}")
