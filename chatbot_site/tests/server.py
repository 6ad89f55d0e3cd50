"""The processes of a small shop for browser tests: web server, worker, database and Redis, all real.

A shop is a folder with a database and artifacts. It is made once; each server works on a copy of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Olga's, who owns every shop.
PASSWORD = secrets.token_urlsafe(12)

BEGIN = """
import django
django.setup()
from faq.models import FaqEntry, Paraphrase
"""
EMPTY = f"""
from django.contrib.auth.models import User
from django.core.management import call_command
from training.tests.shop import SHOP
call_command("migrate", verbosity=0)
User.objects.create_superuser("olga", password={PASSWORD!r})
for key, (question, answer, paraphrases) in SHOP.items():
    entry = FaqEntry.objects.create(key=key, question=question, answer=answer, status="published")
    Paraphrase.objects.bulk_create([Paraphrase(entry=entry, text=text) for text in paraphrases])
"""
# A version that answers by the words of the question, which takes moments.
TRAINED = """
from chat.tests.conftest import FAST
from training import pipeline, runs
version = pipeline.execute(runs.start_in_foreground(config=FAST, activates_on_success=True))
(version.path / "calibration.json").write_text('{"prior_weight": 40.0, "decline_credit": 0.3, "threshold": 0.5}')
"""
RESTORE = """
for entry in FaqEntry.objects.filter(key__in=BEFORE):
    entry.answer = BEFORE[entry.key]
    entry.save()
BEFORE.clear()
"""
# Carries out what it is told in lines of JSON, and answers each with the trace of what went wrong, or nothing.
SHELL = """
import json, sys, traceback
BEFORE = {}
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    try:
        exec(json.loads(line))
    except Exception:
        print(json.dumps(traceback.format_exc()), file=answers, flush=True)
    else:
        print(json.dumps(""), file=answers, flush=True)
"""


@dataclass
class Server:
    url: str
    environment: dict[str, str]
    web: subprocess.Popen[bytes]
    shell: subprocess.Popen[str]
    password: str = PASSWORD
    is_edited: bool = False

    def set_answer(self, key: str, answer: str) -> None:
        """Edit a published answer, as the admin would, until the test is over."""
        self.run(
            f"entry = FaqEntry.objects.get(key={key!r}); BEFORE.setdefault({key!r}, entry.answer); "
            f"entry.answer = {answer!r}; entry.save()"
        )
        self.is_edited = True

    def restore_answers(self) -> None:
        """What `set_answer` has changed."""
        if self.is_edited:
            self.run(RESTORE)
            self.is_edited = False

    def make_unsure(self) -> None:
        """Let the live version find nothing sure enough to be said."""
        self.run(
            "from training.versions import live_version; path = live_version().path / 'calibration.json'; "
            "import json; values = json.loads(path.read_text()); "
            "path.write_text(json.dumps(values | {'threshold': 1.1, 'suggestion_threshold': 0.05}))"
        )
        self.drop_connections()

    def drop_connections(self) -> None:
        """Restart the web server, which is what a lost connection looks like from a browser."""
        _stop(self.web)
        self.web = _start_web(self.url, self.environment)

    def run(self, code: str) -> None:
        """
        Raises:
            RuntimeError: what went wrong in the code, as a trace.
        """
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        print(json.dumps(code), file=self.shell.stdin, flush=True)
        if trace := json.loads(self.shell.stdout.readline()):
            raise RuntimeError(trace)


@contextmanager
def running_server(shop: Path, *, has_worker: bool = False, **settings: str) -> Iterator[Server]:
    """
    Args:
        shop: the folder of one that no process works on any more.
        has_worker: whether somebody carries out what is asked for in the admin.
        settings: of the environment.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(shop, folder, dirs_exist_ok=True)
        environment = environment_of(Path(folder)) | settings
        server = Server(url, environment, _start_web(url, environment), _start_shell(environment))
        worker = _start_worker(environment) if has_worker else None
        try:
            yield server
        finally:
            _kill(server.web)
            _kill(server.shell)
            if worker is not None:
                _stop(worker)


def make_empty_shop(folder: Path) -> None:
    """One with published entries and no version."""
    run_in(folder, EMPTY)


def make_trained_shop(folder: Path, empty_shop: Path) -> None:
    """One whose version is live."""
    shutil.copytree(empty_shop, folder, dirs_exist_ok=True)
    run_in(folder, TRAINED)


def run_in(shop: Path, code: str) -> None:
    """In a process that has ended afterwards."""
    subprocess.run([sys.executable, "-c", BEGIN + code], cwd=ROOT, env=environment_of(shop), check=True)


def environment_of(shop: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "chatbot_site.settings",
        "DATABASE_URL": f"sqlite:///{shop / 'db.sqlite3'}",
        "ARTIFACTS_DIR": str(shop / "artifacts"),
        "REDIS_URL": os.environ["REDIS_URL"].removesuffix("/0") + "/3",
    }


def _start_shell(environment: dict[str, str]) -> subprocess.Popen[str]:
    """A process that is ready for whatever a test wants done; to start one each time took longer than most of it."""
    command = [sys.executable, "-c", BEGIN + SHELL]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _start_worker(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "--app", "chatbot_site", "--quiet", "worker"]
    command += ["--queues", "training", "--concurrency", "1", "--loglevel", "warning"]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def _start_web(url: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "uvicorn", "chatbot_site.asgi:application", "--port", url.rpartition(":")[2]]
    web = subprocess.Popen(
        [*command, "--log-level", "warning", "--timeout-graceful-shutdown", "1"], cwd=ROOT, env=environment
    )
    for _ in range(200):
        try:
            urllib.request.urlopen(url + "/health/", timeout=1)  # noqa: S310 - our own address
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return web
    _kill(web)
    raise RuntimeError("the web server did not start")


def _stop(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        _kill(process)


def _kill(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait()
