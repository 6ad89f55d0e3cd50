from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from training import versions
from training.going_live import go_live


class Command(BaseCommand):
    help = "Make a version live."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("version_name", metavar="VERSION", help="its number or name")
        parser.add_argument("--note", default="", help="why")
        parser.add_argument(
            "--despite-critical", action="store_true", help="although it breaks a critical answer; needs --note"
        )

    def handle(self, *args: Any, version_name: str, note: str, despite_critical: bool, **options: Any) -> None:
        if despite_critical and not note:
            raise CommandError("--despite-critical needs a --note that says why.")
        try:
            version = versions.find(version_name)
            activation = go_live(version, note=note, despite_critical=despite_critical)
        except versions.VersionError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{activation.version.name} is live.")
