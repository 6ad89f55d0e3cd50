from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from faq.importing import import_lines, import_off_topic, read_json_lines
from faq.models import FaqEntry

DEMO_DIR = Path(__file__).resolve().parents[2] / "demo"


class Command(BaseCommand):
    help = "Load the demo shop's questions and answers, unless there are some already."

    def handle(self, *args: Any, **options: Any) -> None:
        if FaqEntry.objects.exists():
            self.stdout.write("There are questions and answers already; the demo shop is not loaded.")
            return
        report = import_lines((DEMO_DIR / "shop_es.jsonl").read_text(encoding="utf-8").split("\n"))
        num_off_topic = import_off_topic(line["question"] for line in read_json_lines(DEMO_DIR / "off_topic_es.jsonl"))
        self.stdout.write(f"Demo shop loaded: {report.created} answers, {num_off_topic} off-topic questions.")
