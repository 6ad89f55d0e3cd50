"""The rules that keep the house in order: which app may import which, and what the web server may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# faq <- training <- chat; training.lm is below all of them; nobody imports chatbot_site.
ALLOWED = {
    "faq": {"faq"},
    "training/lm": {"training.lm"},
    "training": {"faq", "training"},
    "chat": {"faq", "training", "chat"},
    "chatbot_site": {"faq", "training", "chat", "chatbot_site"},
}
HOUSE = {"faq", "training", "chat", "chatbot_site", "bench"}


def modules(app: str) -> list[Path]:
    files = [path for path in (ROOT / app).rglob("*.py") if "tests" not in path.parts]
    return [path for path in files if app != "training" or "lm" not in path.relative_to(ROOT).parts]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("app", ALLOWED)
def test_it_imports_only_downwards(app: str) -> None:
    assert modules(app)
    for path in modules(app):
        for name in imported(path):
            if name.split(".")[0] in HOUSE:
                is_allowed = any(name == each or name.startswith(f"{each}.") for each in ALLOWED[app])
                assert is_allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_language_model_code_needs_no_django() -> None:
    for path in modules("training/lm"):
        for name in imported(path):
            assert name.split(".")[0] not in {"django", "celery", "channels"}, f"{path.relative_to(ROOT)}: {name}"


def test_the_web_server_starts_without_torch() -> None:
    program = (
        "import sys, chatbot_site.asgi; from django.urls import get_resolver; get_resolver().url_patterns; "
        "heavy = {'torch', 'transformers', 'sklearn', 'peft', 'trl'} & set(sys.modules); print(sorted(heavy))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_worker_starts_without_torch() -> None:
    program = (
        "import sys; from chatbot_site import celery_app; celery_app.loader.import_default_modules(); "
        "print(sorted(celery_app.tasks), 'torch' in sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "training.tasks.run_training" in loaded.stdout
    assert loaded.stdout.strip().endswith("False")


def test_no_file_hides_behind_an_empty_name() -> None:
    vague = {"utils.py", "helpers.py", "common.py", "misc.py", "services.py"}
    assert not [path for app in ALLOWED for path in modules(app) if path.name in vague]


def test_only_six_places_catch_everything() -> None:
    """The boundaries of the task, of the reply, of the engine's thread, and of the two loops that join processes.

    There one request or one event must harm only itself. And foreign code that reads a foreign file.
    """
    broad = []
    for app in ALLOWED:
        for path in modules(app):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "Exception"):
                    broad.append(path.relative_to(ROOT).as_posix())
    assert sorted(broad) == [
        "chat/replies.py",
        *["chatbot_site/layers.py"] * 2,
        "faq/spreadsheets.py",
        "training/lm/schedule.py",
        "training/pipeline.py",
    ]
