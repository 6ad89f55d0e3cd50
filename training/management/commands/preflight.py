from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from training.preflight import preflight, to_dict


class Command(BaseCommand):
    help = "Say what a training would learn and what is wrong with it. Ends with 1 if it must not be trained on."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        found = preflight()
        if options["json"]:
            self.stdout.write(json.dumps(to_dict(found), ensure_ascii=False))
        else:
            self.stdout.write(
                f"{found.num_entries} answers in {found.num_wordings} wordings, {found.num_examined} of them for the "
                f"exam; {found.num_off_topic} off-topic questions"
            )
            for finding in found.findings:
                self.stdout.write(f"{finding.severity}: {finding.text}")
                for each in finding.concerns:
                    self.stdout.write(f"    {each.key}  {each.detail}".rstrip())
        if found.is_blocked:
            raise CommandError("This must be mended before a training.")
