from __future__ import annotations

import json
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from chat.retention import count_expired, forget_expired


class Command(BaseCommand):
    help = "Delete conversations that are older than they are kept (RETENTION_CONVERSATIONS_DAYS)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        found = count_expired() if dry_run else forget_expired()
        days = settings.RETENTION_DAYS["conversations"]
        if options["json"]:
            summary = {
                "dry_run": dry_run,
                "days": days,
                "conversations": found.num_conversations,
                "messages": found.num_messages,
            }
            self.stdout.write(json.dumps(summary))
            return
        done = "would be deleted" if dry_run else "deleted"
        self.stdout.write(
            f"{found.num_conversations} conversations with {found.num_messages} messages {done}: "
            f"nothing was said in them for {days} days"
        )
