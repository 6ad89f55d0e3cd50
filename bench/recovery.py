"""What becomes of a training when what it stands on dies: workers killed, messages delivered again, Redis gone.

    python -m bench.recovery [--kills 20]

Real workers, a real Redis, the bundled base and a part of the demo shop, in an instance of its own. Silence is noticed
after three seconds here instead of a minute, which is all that is shortened. The last line is one JSON object:

    kills, resumed               trainings whose worker got SIGKILL at a random step; those that ended well all the same
    max_weight_difference        largest difference of any adapter weight to an undisturbed training with the same seed
    executions                   times that a training was taken up, with two workers, late acknowledgement and a
                                 visibility timeout of two seconds, so that Redis delivers its message again and again
    redis_restart                how the training ended in whose middle Redis was killed and started again
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.instance import set_up
from bench.processes import Redis, kill, running, running_worker
from training.lm.config import TrainConfig

if TYPE_CHECKING:
    from training.models import TrainingRun

MODULE = "bench.recovery"
# Whole answers of few entries, in steps that take long enough to be hit.
CONFIG = TrainConfig(min_steps=30, max_steps=30, save_steps=5, lora_r=8, lora_alpha=8)
NUM_ENTRIES = 12
SILENCE = timedelta(seconds=3)
PATIENCE_SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return
    with tempfile.TemporaryDirectory() as folder, running(Redis()) as redis:
        os.environ["REDIS_URL"] = redis.url
        set_up(Path(folder))
        print(json.dumps(measure(redis, options.kills)))


def measure(redis: Redis, num_kills: int) -> dict[str, Any]:
    from bench.material import publish_part_of_the_demo
    from training import runs

    runs.SILENCE_LIMIT = SILENCE
    publish_part_of_the_demo(NUM_ENTRIES)
    with running_worker(MODULE):
        undisturbed = ended(queued())
    results = [killed_once(undisturbed, random.Random(number)) for number in range(num_kills)]
    return {
        "kills": num_kills,
        "resumed": sum(is_well for is_well, _difference in results),
        "max_weight_difference": max((difference for _is_well, difference in results), default=None),
        "executions": executions_with_a_short_visibility_timeout(),
        "redis_restart": restarted_redis(redis),
    }


def killed_once(undisturbed: TrainingRun, rng: random.Random) -> tuple[bool, float]:
    """Whether the training ended well in its second attempt, and how far its adapter is from the undisturbed one."""
    run = queued()
    step = rng.randrange(1, CONFIG.max_steps)
    with running_worker(MODULE) as worker:
        wait_for(run, lambda: run.step >= step)
        kill(worker)
    with running_worker(MODULE):
        run = ended(run)
    print(f"killed at step {step}: {run.status} in attempt {run.num_attempts}", flush=True)
    if run.status != run.Status.SUCCEEDED:
        return False, float("nan")
    return run.num_attempts == 2, weight_difference(run, undisturbed)


def weight_difference(run: TrainingRun, other: TrainingRun) -> float:
    from safetensors.numpy import load_file

    from training.versions import WEIGHTS

    ours, theirs = (load_file(each.version.path / WEIGHTS) for each in (run, other))
    return max(float(abs(ours[name] - theirs[name]).max()) for name in theirs)


def executions_with_a_short_visibility_timeout() -> int:
    with running_worker(MODULE, VISIBILITY_TIMEOUT="2"), running_worker(MODULE, VISIBILITY_TIMEOUT="2"):
        return ended(queued()).num_attempts


def restarted_redis(redis: Redis) -> str:
    run = queued()
    with running_worker(MODULE):
        wait_for(run, lambda: run.step >= CONFIG.max_steps // 3)
        redis.kill()
        time.sleep(2)
        redis.start()
        run = ended(run)
        # And the worker hears of the next one.
        following = ended(queued())
    return f"{run.status} in attempt {run.num_attempts}, the next {following.status}"


def queued() -> TrainingRun:
    from training import runs

    return runs.queue_run(config=CONFIG)


def ended(run: TrainingRun) -> TrainingRun:
    wait_for(run, lambda: not run.is_active)
    return run


def wait_for(run: TrainingRun, happens: Callable[[], bool]) -> None:
    """Looks at silent runs meanwhile, as beat and every page do."""
    from training import runs

    end = time.monotonic() + PATIENCE_SECONDS
    looked_at = time.monotonic()
    while time.monotonic() < end:
        run.refresh_from_db()
        if happens():
            return
        if time.monotonic() - looked_at > 1:
            looked_at = time.monotonic()
            if runs.sweep():
                runs.wake()
        time.sleep(0.02)
    raise TimeoutError(f"training run {run.pk} is {run.status} at step {run.step} after {PATIENCE_SECONDS} s")


def work() -> None:
    """A worker as it is shipped, but for the silence that it is allowed."""
    import django

    django.setup()
    from chatbot_site.celery import app
    from training import runs

    runs.SILENCE_LIMIT = SILENCE
    runs.HEARTBEAT_SECONDS = 1
    visibility_timeout = os.environ.get("VISIBILITY_TIMEOUT")
    if visibility_timeout:
        app.conf.broker_transport_options = {"visibility_timeout": int(visibility_timeout)}
        app.conf.task_acks_late = True
    app.worker_main(["--quiet", "worker", "--queues", "training", "--concurrency", "1", "--loglevel", "error"])


if __name__ == "__main__":
    main()
