"""How good the answers are on a FAQ set, through the same commands that staff use, in an instance of its own.

    python -m bench.answers FOLDER [--preset quick|normal|thorough] [--also FILE …]

FOLDER holds `faq.jsonl` and `questions.jsonl` (README, "From the command line"). Every question of the set, and of the
JSON-lines files given with --also, is then asked once more to see that nothing but an approved answer comes out. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.instance import command, set_up


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="normal")
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    if not (options.folder / "faq.jsonl").is_file():
        sys.exit(f"{options.folder} holds no faq.jsonl")
    with tempfile.TemporaryDirectory() as instance:
        set_up(Path(instance))
        print(json.dumps({"set": options.folder.name, "preset": options.preset, **measure(options)}))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    from django.core.management import call_command

    call_command("import_faq", str(options.folder / "faq.jsonl"))
    run = command("train", "--preset", options.preset, "--wait", "--activate")
    result = command("evaluate", str(options.folder / "questions.jsonl"))
    texts = [text for file in (options.folder / "questions.jsonl", *options.also) for text in questions(file)]
    return {"training_seconds": run["seconds"], **result, **count_unapproved(texts)}


def questions(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as lines:
        for line in lines:
            if line.strip():
                values = json.loads(line)
                yield from (text for text in (values.get("question"), *values.get("variants", [])) if text)


def count_unapproved(texts: list[str]) -> dict[str, int]:
    from faq.models import FaqEntry
    from training import serving
    from training.lm.prompts import QuestionTooLong
    from training.versions import live_version

    version = live_version()
    assert version is not None, "it has just been activated"
    approved = {*FaqEntry.objects.published().values_list("answer", flat=True), serving.decline_text()}
    counts = {"asked": 0, "not_approved": 0, "too_long": 0}
    for text in texts:
        servable, future = serving.ask(text, version)
        try:
            entry = servable.entry_for(future.result())
        except QuestionTooLong:
            counts["too_long"] += 1
            continue
        counts["asked"] += 1
        counts["not_approved"] += (entry.answer if entry else serving.decline_text()) not in approved
    return counts


if __name__ == "__main__":
    main()
