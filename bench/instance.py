"""An instance of the application for a measurement: a database and files of its own, nothing of the real ones."""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path
from typing import Any


def set_up(folder: Path) -> None:
    """Configure Django for an instance in this folder, which may hold one already. Once in a process."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "chatbot_site.settings",
        "SECRET_KEY": "only-for-a-measurement",
        "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
        "ARTIFACTS_DIR": f"{folder}/artifacts",
        "LOG_LEVEL": "WARNING",
    }
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def command(*arguments: str) -> dict[str, Any]:
    """Run one of the commands that print a JSON object, and read it."""
    from django.core.management import call_command

    out = StringIO()
    call_command(*arguments, "--json", stdout=out)
    result: dict[str, Any] = json.loads(out.getvalue())
    return result
