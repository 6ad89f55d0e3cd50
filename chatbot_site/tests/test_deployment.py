"""The files that put the project into production agree with each other and with the settings."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

BASE_DIR = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((BASE_DIR / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SCHEMA: dict[str, Any] = json.loads(Path(__file__).with_name("compose_schema.json").read_text(encoding="utf-8"))
DOCKERFILE = (BASE_DIR / "Dockerfile").read_text(encoding="utf-8")
SETTINGS = (BASE_DIR / "chatbot_site" / "settings.py").read_text(encoding="utf-8")
EXAMPLE = (BASE_DIR / ".env.example").read_text(encoding="utf-8")

OWN = {name: service for name, service in SERVICES.items() if name not in {"redis", "postgres"}}
WORKERS = {"worker", "worker-gpu"}
# Compose itself reads this one; no file names it.
READ_BY_COMPOSE = {"COMPOSE_PROFILES"}
# ${NAME}, ${NAME:-default} or ${NAME:?message}; $${NAME} is a container's own.
INTERPOLATION = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?P<operator>:?[-?+])?[^}]*\}")
ASSIGNMENT = re.compile(r"^(?P<comment># )?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)$", re.MULTILINE)
SECRET_NAME = re.compile(r"SECRET|PASSWORD|TOKEN|_KEY$")


def strings(value: object) -> Iterator[str]:
    """Every string in a piece of the compose file, keys left out."""
    if isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def interpolations() -> list[tuple[str, str | None]]:
    found = (match for text in strings(COMPOSE) for match in INTERPOLATION.finditer(text))
    return [(match["name"], match["operator"]) for match in found]


def settings_variables() -> set[str]:
    return set(re.findall(r"""\benv\.\w+\(\s*["'](\w+)["']""", SETTINGS))


def example() -> dict[str, str]:
    """What .env.example says once copied: the lines that are not commented out."""
    return {match["name"]: match["value"] for match in ASSIGNMENT.finditer(EXAMPLE) if not match["comment"]}


def example_names() -> list[str]:
    return [match["name"] for match in ASSIGNMENT.finditer(EXAMPLE)]


def compose_command(service: str) -> list[str]:
    return shlex.split(SERVICES[service]["command"])


def procfile_command(process: str) -> list[str]:
    lines = (BASE_DIR / "Procfile").read_text(encoding="utf-8").splitlines()
    commands = dict(line.split(": ", 1) for line in lines if line)
    return shlex.split(commands[process])


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_it_fits_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(COMPOSE, SCHEMA, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "path",
    [
        ("volumes",),
        ("services", "web", "healthcheck"),
        ("services", "web", "healthcheck", "interval"),
        ("services", "web", "depends_on", "migrate", "condition"),
        ("services", "migrate", "build", "args"),
        ("services", "worker-gpu", "profiles"),
        ("services", "worker-gpu", "deploy", "resources", "reservations"),
    ],
)
def test_it_takes_a_misspelt_key_for_a_mistake(path: tuple[str, ...]) -> None:
    compose = copy.deepcopy(COMPOSE)
    parent = compose
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1] + "s"] = parent.pop(path[-1])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose, SCHEMA, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", SERVICES)
def test_it_waits_only_for_what_can_happen(name: str) -> None:
    for target, dependency in SERVICES[name].get("depends_on", {}).items():
        assert target in SERVICES
        # A service of a profile may be absent, and everything that waits for it with it.
        assert "profiles" not in SERVICES[target]
        if dependency["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[target]
        if dependency["condition"] == "service_completed_successfully":
            assert SERVICES[target]["restart"] == "no"


def test_it_waits_for_the_database_to_be_migrated() -> None:
    for name in {"web", "upkeep"} | WORKERS:
        assert SERVICES[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_it_declares_the_volumes_that_it_mounts() -> None:
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert mounted == set(COMPOSE["volumes"])


def test_it_pins_every_image() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases
    for image in [*bases, *(service["image"] for service in SERVICES.values())]:
        tag = image.rpartition("/")[2].partition(":")[2]
        assert tag not in {"", "latest"}, image


def test_it_runs_one_image_and_builds_it_once() -> None:
    assert {(service["image"], service["pull_policy"]) for service in OWN.values()} == {
        ("customer-chat:local", "never")
    }
    assert [name for name, service in SERVICES.items() if "build" in service] == ["migrate"]


def test_it_gives_the_gpu_to_the_gpu_profile_alone() -> None:
    assert [name for name, service in SERVICES.items() if "deploy" in service] == ["worker-gpu"]
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_it_starts_one_worker_whatever_the_profile() -> None:
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "worker": ["cpu"],
        "worker-gpu": ["gpu"],
    }
    assert example()["COMPOSE_PROFILES"] in {"cpu", "gpu"}


def test_it_trains_alike_with_and_without_gpu() -> None:
    different = {"profiles", "deploy"}
    cpu, gpu = ({k: v for k, v in SERVICES[name].items() if k not in different} for name in sorted(WORKERS))
    assert cpu == gpu


def test_it_checks_the_health_of_everything_that_stays() -> None:
    for name, service in SERVICES.items():
        stays = service["restart"] != "no"
        assert ("healthcheck" in service) == stays, name


def test_it_has_no_default_for_a_secret() -> None:
    required = {name for name, operator in interpolations() if operator == ":?"}
    assert required == {"SECRET_KEY", "POSTGRES_PASSWORD"}
    for name, operator in interpolations():
        assert (operator == ":?") == bool(SECRET_NAME.search(name)), name


def test_it_writes_no_secret_down() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if SECRET_NAME.search(name):
                assert INTERPOLATION.fullmatch(value), name
            if "@" in value:
                assert re.search(r":\$\{\w+:\?[^}]*\}@", value), name
    for name, value in example().items():
        if SECRET_NAME.search(name):
            assert value == "", name


def test_it_documents_every_variable_and_no_other() -> None:
    names = example_names()
    assert len(names) == len(set(names))
    assert settings_variables() > {"SECRET_KEY", "DATABASE_URL", "REDIS_URL"}
    assert set(names) == settings_variables() | {name for name, _ in interpolations()} | READ_BY_COMPOSE


def test_it_explains_every_variable_in_one_line() -> None:
    lines = EXAMPLE.splitlines()
    for before, line in pairwise(lines):
        if ASSIGNMENT.match(line):
            assert before.startswith("# "), line
            assert not ASSIGNMENT.match(before), line


def test_it_offers_settings_that_load_and_are_safe() -> None:
    known = set(example_names())
    environment = {name: value for name, value in os.environ.items() if name not in known}
    code = (
        "from chatbot_site import settings as s; "
        "print(s.DEBUG, '*' in s.ALLOWED_HOSTS, s.DATABASES['default']['ENGINE'].rpartition('.')[2], s.IS_REDIS_GIVEN)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=BASE_DIR,
        # DATABASE_URL only where the example has none, as in compose.
        env={**environment, "DATABASE_URL": "postgres://a:b@c:5432/d", **example(), "SECRET_KEY": "test"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.split() == ["False", "False", "postgresql", "False"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ANSWER_POLICY", "any"),
        ("PERSONAL_DATA", "keep"),
        ("SERVING_PRECISION", "int3"),
        ("RETENTION_CONVERSATIONS_DAYS", "0"),
        ("RETENTION_CONVERSATIONS_DAYS", "-1"),
        ("RETENTION_CONVERSATIONS_DAYS", "for ever"),
        ("RETENTION_CONVERSATIONS_DAYS", "3651"),
        ("RETENTION_CONVERSATIONS_DAYS", ""),
    ],
)
def test_it_says_what_is_wrong_with_a_setting(name: str, value: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", "import chatbot_site.settings"],
        cwd=BASE_DIR,
        env={**os.environ, "SECRET_KEY": "test", name: value},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert f"{name} must be" in process.stderr


@pytest.mark.parametrize("name", OWN)
def test_it_gives_every_process_the_same_database_broker_and_files(name: str) -> None:
    environment = OWN[name]["environment"]
    database = SERVICES["postgres"]["environment"]
    assert environment["DATABASE_URL"].startswith(f"postgres://{database['POSTGRES_USER']}:")
    assert environment["DATABASE_URL"].endswith(f"@postgres:5432/{database['POSTGRES_DB']}")
    assert environment["REDIS_URL"].startswith("redis://redis:6379/")
    assert environment["ARTIFACTS_DIR"].startswith("/data/")
    assert OWN[name]["volumes"] == ["data:/data"]
    assert OWN[name]["env_file"] == ".env"


def test_it_serves_the_same_application_as_the_procfile() -> None:
    compose, procfile = compose_command("web"), procfile_command("web")
    assert compose[:2] == procfile[:2] == ["uvicorn", "chatbot_site.asgi:application"]
    assert option(compose, "--ws-max-size") == option(procfile, "--ws-max-size")


@pytest.mark.parametrize("service", sorted(WORKERS))
def test_it_works_on_the_same_queue_as_the_procfile(service: str) -> None:
    compose, procfile = compose_command(service), procfile_command("worker")
    assert {"celery", "worker"} <= set(compose) & set(procfile)
    for name in ("--app", "--queues", "--concurrency"):
        assert option(compose, name) == option(procfile, name)


def test_it_keeps_the_same_time_as_the_procfile() -> None:
    compose, procfile = compose_command("upkeep"), procfile_command("upkeep")
    assert {"celery", "worker", "--beat"} <= set(compose) & set(procfile)
    for name in ("--app", "--queues", "--concurrency"):
        assert option(compose, name) == option(procfile, name)


def test_every_task_has_a_worker_and_a_training_keeps_nothing_else_waiting() -> None:
    from chatbot_site import celery_app

    celery_app.loader.import_default_modules()
    own = [name for name in celery_app.tasks if not name.startswith("celery.")]
    queues = {name: celery_app.amqp.router.route({}, name)["queue"].name for name in own}
    assert queues.pop("training.tasks.run_training") == option(procfile_command("worker"), "--queues")
    assert set(queues.values()) == {option(procfile_command("upkeep"), "--queues")}


def test_it_calls_in_time_only_tasks_that_there_are() -> None:
    from chatbot_site import celery_app

    celery_app.loader.import_default_modules()
    assert {entry["task"] for entry in celery_app.conf.beat_schedule.values()} <= set(celery_app.tasks)


def test_it_pings_the_app_that_the_worker_runs() -> None:
    ping = shlex.split(SERVICES["worker"]["healthcheck"]["test"][1])
    assert option(ping, "--app") == option(compose_command("worker"), "--app")


def test_it_listens_on_this_machine_alone_unless_told() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["web"]
    assert SERVICES["web"]["ports"] == ["${WEB_BIND:-127.0.0.1}:8000:8000"]
    assert example()["WEB_BIND"] == "127.0.0.1"


def test_it_outlives_the_answers_that_are_being_written() -> None:
    graceful = int(option(compose_command("web"), "--timeout-graceful-shutdown"))
    assert int(SERVICES["web"]["stop_grace_period"].removesuffix("s")) > graceful


def test_it_serves_the_website_unless_told_otherwise() -> None:
    (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert json.loads(command) == compose_command("web")


def test_it_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\d+)", DOCKERFILE, re.MULTILINE)
    assert int(users[-1]) > 0
    assert DOCKERFILE.rindex("USER ") > DOCKERFILE.rindex("RUN ")


def test_it_installs_the_requirements_before_it_copies_the_code() -> None:
    assert DOCKERFILE.index("pip install --no-cache-dir -r requirements.txt") < DOCKERFILE.index("COPY . .")


@pytest.mark.parametrize("path", [".env", ".git/", ".venv/", "var/"])
def test_it_keeps_secrets_and_local_state_out_of_the_image(path: str) -> None:
    assert path in (BASE_DIR / ".dockerignore").read_text(encoding="utf-8").splitlines()
