"""What was computed and may be asked for again, within a budget of bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key; the least recently used is forgotten first. For any thread."""

    def __init__(self, budget: int, size: Callable[[K, V], int]) -> None:
        """`size` is what a value takes, in bytes. One that is larger than the budget is not kept."""
        self._budget, self._size = budget, size
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()
        self.bytes = 0

    def __contains__(self, key: K) -> bool:
        with self._lock:
            return key in self._values

    def find(self, key: K) -> V | None:
        """The value, which becomes the youngest."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def keep(self, key: K, value: V) -> None:
        """Keep a value, and forget others until there is room for it."""
        with self._lock:
            if key in self._values:
                self.bytes -= self._size(key, self._values.pop(key))
            self._values[key] = value
            self.bytes += self._size(key, value)
            while self.bytes > self._budget:
                self.bytes -= self._size(*self._values.popitem(last=False))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self.bytes = 0
