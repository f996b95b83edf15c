"""The next inputs are made while the current one is used."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A, B = TypeVar("A"), TypeVar("B")


def prefetched(make: Callable[[A], B], arguments: Iterable[A], ahead: int = 2) -> Iterator[B]:
    """`map(make, arguments)`, computed by one thread up to `ahead` values before they are asked for.

    One thread makes all values, in order, so that they are what `map` would give. What `make` raises is raised where
    its value is asked for. Closing the iterator (`contextlib.closing`) waits for the value that is being made, and
    makes no more.

    Args:
      make: called in the thread.
      arguments: iterated by the caller's thread, up to `ahead` further than the values.
      ahead: values made in advance, at least 1; so many are held besides the one in use.
    """
    waiting: collections.deque[Future] = collections.deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        for argument in arguments:
            waiting.append(pool.submit(make, argument))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
