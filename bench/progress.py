"""How soon a page that watches a training shows a step: from the end of the step to the frame that tells it.

    python -m bench.progress [--preset quick]

A real worker, a real web process with a version loaded, a real Redis, the bundled base and a part of the demo shop, in
an instance of its own; a member of staff watches over the websocket of the run's page. A step that is told together
with a later one counts until that frame came. The last line is one JSON object:

    steps, frames              steps that the training took; frames that told of one
    delay_p50, delay_p95, delay_max   seconds from the end of a step to the frame that told it
    step_p50                   seconds from one step to the next, for comparison
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from bench.instance import set_up
from bench.load import quantile
from bench.processes import Redis, Web, running, running_worker
from training.lm.config import TrainConfig

MODULE = "bench.progress"
NUM_ENTRIES = 24
# A version that the web process holds while the next one is trained.
FIRST = TrainConfig(min_steps=4, max_steps=4, num_augmented=0)
PATIENCE_SECONDS = 900


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return
    with tempfile.TemporaryDirectory() as folder, running(Redis()) as redis:
        os.environ |= {"REDIS_URL": redis.url, "STEPS_FILE": f"{folder}/steps", "SMOKE_TEST_QUESTIONS": "0"}
        set_up(Path(folder))
        print(json.dumps(measure(options.preset, Path(folder) / "steps")))


def measure(preset: str, steps_file: Path) -> dict[str, Any]:
    from bench.material import publish_part_of_the_demo
    from training import runs

    publish_part_of_the_demo(NUM_ENTRIES)
    with running_worker(MODULE):
        first = runs.queue_run(config=FIRST, activates_on_success=True)
        while first.is_active:
            time.sleep(0.5)
            first.refresh_from_db()
        steps_file.unlink()
        with running(Web()) as web:
            cookie = signed_in()
            run = runs.queue_run(preset)
            told = asyncio.run(watch(web, cookie, run.pk))
    done = [tuple(map(float, line.split())) for line in steps_file.read_text(encoding="utf-8").splitlines()]
    return report(done, told)


def report(done: list[tuple[float, ...]], told: list[tuple[float, float]]) -> dict[str, Any]:
    """
    Args:
        done: each step and when it ended.
        told: each frame's step and when it came; both on the clock that all processes of a machine share.
    """
    delays = [min(came for step, came in told if step >= number) - ended for number, ended in done]
    waits = [later - earlier for (_n, earlier), (_m, later) in pairwise(done)]
    return {
        "steps": len(done),
        "frames": len({step for step, _came in told}),
        **{
            name: round(value, 3)
            for name, value in (
                ("delay_p50", quantile(delays, 0.5)),
                ("delay_p95", quantile(delays, 0.95)),
                ("delay_max", max(delays)),
                ("step_p50", quantile(waits, 0.5)),
            )
        },
    }


def signed_in() -> str:
    """The cookie of a member of staff."""
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.test import Client

    browser = Client()
    browser.force_login(User.objects.create_superuser("watcher"))
    name = settings.SESSION_COOKIE_NAME
    return f"{name}={browser.cookies[name].value}"


async def watch(web: Web, cookie: str, run_pk: int) -> list[tuple[float, float]]:
    """The steps that the page is told, and when, until the run has ended."""
    address = web.url.replace("http", "ws") + "/ws/training/"
    async with connect(address, origin=web.url, additional_headers={"Cookie": cookie}) as socket:  # type: ignore[arg-type]
        return await asyncio.wait_for(_heard(socket, run_pk), PATIENCE_SECONDS)


async def _heard(socket: ClientConnection, run_pk: int) -> list[tuple[float, float]]:
    told: list[tuple[float, float]] = []
    async for text in socket:
        run = json.loads(text)["run"]
        if run is None or run["id"] != run_pk:
            return told
        if run["step"] and (not told or run["step"] > told[-1][0]):
            told.append((run["step"], time.monotonic()))
    raise ConnectionError("the watching ended before the training")


def work() -> None:
    """A worker as it is shipped, which also notes when a step ended."""
    import django

    django.setup()
    from chatbot_site.celery import app
    from training.lm import sft

    train = sft.train
    steps = Path(os.environ["STEPS_FILE"])

    def noting(*arguments: Any, on_progress: Any, **keywords: Any) -> Any:
        def note(progress: Any) -> None:
            if progress.train_loss is None and progress.eval_loss is None:
                with steps.open("a", encoding="utf-8") as file:
                    file.write(f"{progress.step} {time.monotonic()}\n")
            on_progress(progress)

        return train(*arguments, on_progress=note, **keywords)

    sft.train = noting  # type: ignore[assignment]
    app.worker_main(["--quiet", "worker", "--queues", "training", "--concurrency", "1", "--loglevel", "error"])


if __name__ == "__main__":
    main()
