"""The processes of a small shop for browser tests: web server, worker, database and Redis, all real."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.tests.conftest import SHOP

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Server:
    url: str
    password: str
    environment: dict[str, str]
    web: subprocess.Popen[bytes]

    def set_answer(self, key: str, answer: str) -> None:
        """Edit a published answer, as the admin would."""
        self.run(f"entry = FaqEntry.objects.get(key={key!r}); entry.answer = {answer!r}; entry.save()")

    def train(self) -> None:
        """Make a version live that answers by the words of the question, which takes moments."""
        self.run(
            "from chat.tests.conftest import FAST; from training import pipeline, runs; "
            "version = pipeline.execute(runs.start_in_foreground(config=FAST, activates_on_success=True)); "
            "path = version.path / 'calibration.json'; "
            'path.write_text(\'{"prior_weight": 40.0, "decline_credit": 0.3, "threshold": 0.5}\')'
        )
        self.drop_connections()

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
        program = f"import django; django.setup(); from faq.models import FaqEntry, Paraphrase; {code}"
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=self.environment, check=True)


@contextmanager
def running_server(folder: Path, **settings: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "chatbot_site.settings",
        "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
        "ARTIFACTS_DIR": str(folder / "artifacts"),
        "REDIS_URL": os.environ["REDIS_URL"].removesuffix("/0") + "/3",
        **settings,
    }
    password = secrets.token_urlsafe(12)
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, check=True)
    command = [sys.executable, "-m", "celery", "--app", "chatbot_site", "--quiet", "worker"]
    command += ["--queues", "training", "--concurrency", "1", "--loglevel", "warning"]
    worker = subprocess.Popen(command, cwd=ROOT, env=environment)
    server = Server(url, password, environment, _start_web(url, environment))
    try:
        server.run(_make_shop(password))
        yield server
    finally:
        _stop(server.web)
        _stop(worker)


def _make_shop(password: str) -> str:
    lines = [
        f"from django.contrib.auth.models import User; User.objects.create_superuser('olga', password={password!r})"
    ]
    for key, (question, answer, paraphrases) in SHOP.items():
        lines.append(
            f"e = FaqEntry.objects.create(key={key!r}, question={question!r}, answer={answer!r}, status='published'); "
            f"Paraphrase.objects.bulk_create([Paraphrase(entry=e, text=t) for t in {paraphrases!r}])"
        )
    return "; ".join(lines)


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
    raise RuntimeError("the web server did not start")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
