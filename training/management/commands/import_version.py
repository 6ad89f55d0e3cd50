from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from training import bundles, runs
from training.bundle_format import BundleError
from training.management.commands.train import summarize


class Command(BaseCommand):
    help = "Bring in a version that export_version wrote elsewhere, and take its exam again in this process."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, file: str, **options: Any) -> None:
        try:
            with Path(file).open("rb") as bundle:
                version = bundles.import_version(bundle)
        except (BundleError, runs.QueueFull, runs.RunInProgress) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error}") from error
        found = bundles.reproduction(version)
        assert found is not None, "its files have just been written"
        if options["json"]:
            summary = {
                **summarize(version.run),
                "origin": found.name,
                "exam_there": found.there,
                "is_reproduced": found.is_exact,
                "answered_otherwise": [asdict(each) for each in found.answered_otherwise],
                "largest_difference": found.largest_difference,
            }
            self.stdout.write(json.dumps(summary, ensure_ascii=False))
            return
        self.stdout.write(f"{found.name} is version {version.name} here.")
        self.stdout.write(in_words(found))
        for each in found.answered_otherwise:
            self.stdout.write(f"  “{each.question}”: there {each.there or 'declined'}, here {each.here or 'declined'}")


def in_words(found: bundles.Reproduction) -> str:
    if found.is_exact:
        return f"Its exam came out as there: accuracy {found.here['accuracy']}, {found.num_asked} answers alike."
    return (
        f"Its exam came out otherwise: accuracy {found.here['accuracy']}, there {found.there['accuracy']}; "
        f"{len(found.answered_otherwise)} of {found.num_asked} answers differ, {found.num_unmatched} were asked once."
    )
