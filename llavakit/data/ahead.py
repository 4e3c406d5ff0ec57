"""Threads that work ahead of whoever reads, and hand over in order.

Threads, not processes: they share the records' index and the tokenizer, and Pillow and PyAV let others run while
they decode. Python code takes turns, so more threads help as far as decoding outweighs text.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


@contextmanager
def pool_of(workers: int) -> Iterator[ThreadPoolExecutor | None]:
    """So many threads, None for none. They are stopped, with what still waits for them, when the block ends."""
    if workers == 0:
        yield None
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="reader")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def map_ahead(
    pool: ThreadPoolExecutor | None, task: Callable[[A], T], arguments: Iterable[A], depth: int
) -> Iterator[T]:
    """`map(task, arguments)`, up to `depth` results made ahead. Order and errors are those of `map`."""
    if pool is None:
        yield from map(task, arguments)
        return
    todo = iter(arguments)
    waiting = deque(pool.submit(task, argument) for argument in islice(todo, depth))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(task, argument) for argument in islice(todo, 1))
        yield result
