"""How much all about one thing may ask for, whatever connections they use."""

from __future__ import annotations

import threading
from collections import OrderedDict

from training.limits import Allowance


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
