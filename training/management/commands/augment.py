from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from faq.publication import current_publication
from training.lm.augment import augment


class Command(BaseCommand):
    help = "Show how the wordings of a published entry are varied before they are learned."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", help="of the entry")
        parser.add_argument("--count", type=int, default=5, help="variants of each wording")
        parser.add_argument("--seed", type=int, default=0)

    def handle(self, *args: Any, key: str, count: int, seed: int, **options: Any) -> None:
        if count < 1:
            raise CommandError("--count must be at least 1")
        entries = {entry.key: entry for entry in current_publication().entries}
        if key not in entries:
            raise CommandError(f"no published entry has the key {key!r}")
        for wording in entries[key].wordings:
            self.stdout.write(wording)
            for way in augment(wording, count=count, seed=seed):
                self.stdout.write(f"    {way}")
