"""What `make run` prepares and what it says when something is in the way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def start(tmp_path: Path, **values: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "ARTIFACTS_DIR": str(tmp_path / "artifacts"),
        **values,
    }
    command = [sys.executable, "-m", "chatbot_site.local"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("purpose", "variable"), [("the website", "PORT"), ("Redis", "REDIS_PORT")])
def test_it_says_in_one_sentence_that_a_port_is_taken(tmp_path: Path, purpose: str, variable: str) -> None:
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        other = free.getsockname()[1]
        free.close()
        ports = {"PORT": str(other), "REDIS_PORT": str(other + 1), "REDIS_URL": "", variable: str(port)}

        result = start(tmp_path, **ports)

    assert result.returncode == 1
    assert result.stderr.startswith(f"Port {port} for {purpose} is not free")
    assert f"make run {variable}={port + 1}" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_make_says_in_one_sentence_that_python_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.2"; exit 1\n', encoding="utf-8")
    old.chmod(0o755)

    result = make(tmp_path, f"SYSTEM_PYTHON={old}")

    assert result.returncode != 0
    assert result.stdout.strip() == f"Python 3.11 or newer is needed; {old} is Python 3.9.2."


def test_make_says_in_one_sentence_that_python_is_missing(tmp_path: Path) -> None:
    result = make(tmp_path, "SYSTEM_PYTHON=")

    assert result.stdout.strip() == "Python 3.11 or newer is needed and was not found."


def test_make_says_in_one_sentence_that_the_folder_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / ".writable").mkdir()  # what no touch can turn into a file that rm removes: root may write anywhere

    result = make(tmp_path)

    assert result.returncode != 0
    assert result.stdout.strip() == f"This folder cannot be written to: {tmp_path}"


def make(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    command = ["make", "--silent", ".venv/made", *arguments]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
