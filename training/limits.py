"""How much one connection may ask for."""

from __future__ import annotations

import math
import time

from django.utils.translation import ngettext


class Allowance:
    """A token bucket: `capacity` at once, `per_second` in the long run."""

    def __init__(self, *, capacity: float, per_second: float) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._left = capacity
        self._counted_at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(self._capacity, self._left + (now - self._counted_at) * self._per_second)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    @property
    def seconds_left(self) -> int:
        """Until the next one is allowed, rounded up."""
        return max(0, math.ceil((1 - self._left) / self._per_second))


def too_fast(seconds: int) -> str:
    """What whoever writes too fast reads, in their language."""
    text = ngettext(
        "You are writing very fast. Please wait %(seconds)d second.",
        "You are writing very fast. Please wait %(seconds)d seconds.",
        seconds,
    )
    return text % {"seconds": seconds}
