"""How much one connection, or all about one thing, may ask for."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict


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


class Allowances:
    """An allowance for each key, in this process. The keys that were used last are remembered."""

    MAX_KEYS = 10_000

    def __init__(self, *, capacity: float, per_second: float) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._by_key: OrderedDict[str, Allowance] = OrderedDict()
        self._lock = threading.RLock()

    def of(self, key: str) -> Allowance:
        with self._lock:
            allowance = self._by_key.pop(key, None) or Allowance(capacity=self._capacity, per_second=self._per_second)
            self._by_key[key] = allowance
            if len(self._by_key) > self.MAX_KEYS:
                self._by_key.popitem(last=False)
            return allowance

    def take(self, key: str) -> int:
        """0 if it is allowed, else how many seconds to wait."""
        with self._lock:
            allowance = self.of(key)
            return 0 if allowance.take() else max(1, allowance.seconds_left)
