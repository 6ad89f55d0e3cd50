"""Who goes into the next forward: no model is needed to know."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import pytest

from training.lm.decisions import EngineBusy, EngineDied, Stopped
from training.lm.packing import TokenTree
from training.lm.schedule import Schedule


def asking() -> Generator[list[int], Any, str]:
    """A request that wants to know one thing."""
    yield [0]
    return "answered"


def schedule(**limits: int) -> Schedule:
    return Schedule(**{"max_waiting": 10, "max_under_way": 10, "max_forward_tokens": 1_000, **limits})


def add(queue: Schedule, version: str = "a", *, num_tokens: int = 5, stop: threading.Event | None = None) -> Any:
    return queue.add(version, TokenTree([1] * num_tokens), asking(), stop or threading.Event())


def test_versions_take_turns_by_how_long_they_have_waited() -> None:
    queue = schedule()
    for version in "abab":
        add(queue, version)

    turns = []
    for _ in range(4):
        longest = queue.next_version()
        assert longest is not None
        turns.append((longest, len(queue.next_jobs(longest))))

    assert turns == [("a", 2), ("b", 2), ("a", 2), ("b", 2)]


def test_a_forward_holds_what_fits_and_whoever_has_waited_longest_comes_first() -> None:
    queue = schedule(max_forward_tokens=12)
    for _ in range(3):
        add(queue, num_tokens=5)

    first, second, third = (queue.next_jobs("a") for _ in range(3))

    assert [len(jobs) for jobs in (first, second, third)] == [1, 2, 2]
    assert third[0] not in second


def test_a_request_that_is_too_long_for_a_forward_goes_alone() -> None:
    queue = schedule(max_forward_tokens=12)
    add(queue, num_tokens=50)

    assert len(queue.next_jobs("a")) == 1


def test_what_is_under_way_is_bounded_and_starves_nobody() -> None:
    """A full house is worked off; a version that waits outside does not keep it from that."""
    queue = schedule(max_under_way=2)
    for version in "aab":
        add(queue, version)
    first = queue.next_jobs("a")
    assert (queue.num_under_way, queue.num_waiting) == (2, 1)

    assert queue.next_version() == "a"

    queue.leave(first[:1])
    assert queue.next_version() == "b"
    assert len(queue.next_jobs("b")) == 1


def test_it_refuses_more_than_may_wait() -> None:
    queue = schedule(max_waiting=1)
    future = add(queue)

    with pytest.raises(EngineBusy):
        add(queue)
    assert queue.place_of(future) == 0


class StoppedMeanwhile(threading.Event):
    """Set by somebody else just after the first look at it."""

    def __init__(self) -> None:
        super().__init__()
        self._num_looks = 0

    def is_set(self) -> bool:
        self._num_looks += 1
        return self._num_looks > 1


def test_a_stop_at_any_moment_loses_nobody() -> None:
    queue = schedule()
    future = add(queue, stop=StoppedMeanwhile())

    queue.drop_stopped()
    queue.drop_stopped()

    assert isinstance(future.exception(0), Stopped)


def test_nobody_waits_for_a_thread_that_has_ended() -> None:
    queue = schedule()
    under_way, waiting = add(queue), add(queue, "b")
    errand = queue.add_errand(lambda: None)
    queue.next_jobs("a")

    assert queue.abandon() == 2

    assert all(isinstance(each.exception(0), EngineDied) for each in (under_way, waiting, errand))
    with pytest.raises(EngineDied):
        add(queue)


def test_closing_cancels_what_waits() -> None:
    queue = schedule()
    waiting = add(queue)
    queue.close()

    assert not queue.wait()
    assert queue.abandon() == 0
    assert waiting.cancelled()
