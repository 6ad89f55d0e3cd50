from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from training import versions


class Command(BaseCommand):
    help = "Make a version live."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("version_name", metavar="VERSION", help="its number or name")
        parser.add_argument("--note", default="")

    def handle(self, *args: Any, version_name: str, note: str, **options: Any) -> None:
        try:
            activation = versions.activate(versions.find(version_name), note=note)
        except versions.VersionError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{activation.version.name} is live.")
