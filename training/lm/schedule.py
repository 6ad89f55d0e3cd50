"""Who waits for the engine, who is under way, and who goes into the next forward.

Knows requests as generators (decoding.py) on trees of tokens. Does not know what they are about, or any model.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from training.lm.decisions import EngineBusy, EngineDied, Stopped
from training.lm.packing import Expected, TokenTree

Steps = Generator[list[int], Expected, Any]

# What a question adds to its prompt in its first forward, more or less.
TYPICAL_BRANCH_TOKENS = 16


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way through the engine.

    Attributes:
        steps: asks what is expected after some tokens of the tree, and is sent that.
        stop: may be set by anybody at any time.
        turn: when it went into a forward last, or came.
        asked: the tokens after which it wants to know more; None before it has begun.
    """

    version: str
    tree: TokenTree
    steps: Steps
    stop: threading.Event
    turn: int
    future: Future[Any] = field(default_factory=Future)
    asked: list[int] | None = None

    def begin(self) -> None:
        self.asked = next(self.steps)

    def advance(self, expected: Expected) -> None:
        self.asked = self.steps.send(expected)


class Schedule:
    """A bounded queue before the jobs under way. Versions take turns: the one that has waited longest comes next.

    Args:
        max_waiting: jobs that may wait to be let in; more are refused.
        max_under_way: jobs let in at once, which bounds the memory for what they have read.
        max_forward_tokens: tokens in one forward; a job that alone has more goes alone.
    """

    def __init__(self, *, max_waiting: int, max_under_way: int, max_forward_tokens: int) -> None:
        self._max_waiting = max_waiting
        self._max_under_way = max_under_way
        self._max_forward_tokens = max_forward_tokens
        self._turns = count()
        # Guards what other threads touch. What is under way is the engine's thread's alone.
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._errands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._is_closed = False
        self._under_way: list[Job] = []

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_under_way(self) -> int:
        return len(self._under_way)

    def add(self, version: str, tree: TokenTree, steps: Steps, stop: threading.Event) -> Future[Any]:
        """
        Raises:
            EngineBusy: too many wait already.
            EngineDied: nobody is let in any more.
        """
        with self._changed:
            self._check_room()
            job = Job(version, tree, steps, stop, next(self._turns))
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def check_room(self) -> None:
        """Raise what `add` would raise now."""
        with self._changed:
            self._check_room()

    def _check_room(self) -> None:
        self._check_open()
        if len(self._waiting) >= self._max_waiting:
            raise EngineBusy

    def add_errand(self, errand: Callable[[], None]) -> Future[None]:
        """Something else for the engine's thread to do, before its next forward.

        Raises:
            EngineDied: it does nothing any more.
        """
        done: Future[None] = Future()
        with self._changed:
            self._check_open()
            self._errands.append((errand, done))
            self._changed.notify()
        return done

    def place_of(self, future: Future[Any]) -> int:
        """How many jobs are let in before this one; 0 for one that has been let in."""
        with self._changed:
            return next((place for place, job in enumerate(self._waiting) if job.future is future), 0)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineDied("the engine has ended")

    # On the engine's thread from here on.

    def wait(self) -> bool:
        """Until there is something to do; False if that will never be."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._errands or self._waiting or self._under_way)
            return not self._is_closed

    def run_errands(self) -> None:
        while self._errands:
            errand, done = self._errands[0]
            if not is_over(done, errand):
                done.set_result(None)
            self._errands.popleft()

    def drop_stopped(self) -> None:
        with self._changed:
            # Looked at once: it may be set while this is being worked out.
            stopped = [job for job in (*self._under_way, *self._waiting) if job.stop.is_set()]
            gone = set(map(id, stopped))
            self._waiting = deque(job for job in self._waiting if id(job) not in gone)
        self.leave(stopped)
        for job in stopped:
            job.steps.close()
        self._fail(stopped, Stopped())

    def next_version(self) -> str | None:
        """The version whose jobs have waited longest since their last forward, or for their first."""
        is_full = len(self._under_way) >= self._max_under_way
        with self._changed:
            everyone = [*self._under_way, *(() if is_full else self._waiting)]
        return min(everyone, key=lambda job: job.turn).version if everyone and not self._is_closed else None

    def next_jobs(self, version: str) -> list[Job]:
        """The version's jobs for the next forward: those that have waited longest, as many as it holds."""
        self._admit(version)
        jobs: list[Job] = []
        room = self._max_forward_tokens
        turn = next(self._turns)
        for job in sorted(self._under_way, key=lambda job: job.turn):
            if job.version != version or (jobs and job.tree.num_unread > room):
                continue
            room -= job.tree.num_unread
            jobs.append(job)
            job.turn = turn
        return jobs

    def leave(self, jobs: Sequence[Job]) -> None:
        """These are under way no more."""
        gone = set(map(id, jobs))
        self._under_way = [job for job in self._under_way if id(job) not in gone]

    def fail_version(self, version: str, error: Exception) -> None:
        """Tell everyone who asked for this version."""
        with self._changed:
            jobs = [job for job in (*self._under_way, *self._waiting) if job.version == version]
            self._waiting = deque(job for job in self._waiting if job.version != version)
        self.leave(jobs)
        self._fail(jobs, error)

    def abandon(self) -> int:
        """Nobody must wait for a thread that has ended. How many did, if nobody had closed the queue."""
        with self._changed:
            was_closed, self._is_closed = self._is_closed, True
            jobs = [*self._under_way, *self._waiting]
            errands = list(self._errands)
            self._waiting.clear()
            self._errands.clear()
        self._under_way = []
        error = EngineDied("the engine has ended")
        if was_closed:
            for job in jobs:
                job.future.cancel()
        self._fail([job for job in jobs if not job.future.done()], error)
        for _, done in errands:
            if not done.done():
                done.set_exception(error)
        return 0 if was_closed else len(jobs)

    def _admit(self, version: str) -> None:
        """Let in as many new jobs for this version as there is room for beside those under way."""
        room = self._max_forward_tokens
        room -= sum(job.tree.num_unread for job in self._under_way if job.version == version)
        admitted: list[Job] = []
        left: deque[Job] = deque()
        with self._changed:
            for job in self._waiting:
                is_full = len(self._under_way) + len(admitted) >= self._max_under_way
                if job.version != version or room <= 0 or is_full:
                    left.append(job)
                    continue
                room -= job.tree.num_unread + TYPICAL_BRANCH_TOKENS
                if job.future.set_running_or_notify_cancel():
                    admitted.append(job)
            self._waiting = left
            self._under_way += admitted
        for job in admitted:
            if is_over(job.future, job.begin):
                self.leave([job])

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            if job.future.running() or job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)


def is_over(future: Future[Any], step: Callable[[], None]) -> bool:
    """Do one step of what somebody waits for, and tell them if that was the last one.

    The boundary of the engine's thread: whatever is wrong with one request must not end the others.
    """
    try:
        step()
    except StopIteration as done:
        future.set_result(done.value)
    except Exception as error:  # noqa: BLE001
        future.set_exception(error)
    else:
        return False
    return True
