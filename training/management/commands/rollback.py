from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from training import versions
from training.going_live import go_back


class Command(BaseCommand):
    help = "Go back to the version that was live before."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--note", default="")

    def handle(self, *args: Any, note: str, **options: Any) -> None:
        try:
            activation = go_back(note=note)
        except versions.VersionError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{activation.version.name} is live again.")
