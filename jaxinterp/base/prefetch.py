"""The next values are made while the current one is used."""

import collections
import concurrent.futures
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax

A = TypeVar("A")
B = TypeVar("B")


def prefetched(make: Callable[[A], B], arguments: Iterable[A], ahead: int = 2, threads: int = 1) -> Iterator[B]:
    """`map(make, arguments)`, computed by other threads up to `ahead` values before they are asked for.

    Values come in order, and one thread makes them in order. What `make` raises is raised where its value is asked
    for. Closing the iterator (`contextlib.closing`) waits for the values that are being made, and makes no more.

    JAX runs the programs of one thread one after the other, and leaves processors idle in parts of each: two threads
    that wait for their programs keep two cores busy. Of several, the others begin when the first value is made, so that
    its program is compiled once. JAX's settings of a `with`, which are a thread's own, are the caller's: 64 bits, the
    precision of products and the device.

    Args:
      make: called in a thread.
      arguments: iterated by the caller's thread, up to `ahead` further than the values.
      ahead: values made in advance, at least 1; so many are held besides the one in use.
      threads: that make values.
    """
    settings = [
        (of, getattr(jax.config, name))
        for of, name in (
            (jax.enable_x64, "jax_enable_x64"),
            (jax.default_matmul_precision, "jax_default_matmul_precision"),
            (jax.default_device, "jax_default_device"),
        )
    ]

    def made(argument: A) -> B:
        with contextlib.ExitStack() as stack:
            for setting, value in settings:
                stack.enter_context(setting(value))
            return make(argument)

    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    try:
        for number, argument in enumerate(arguments):
            waiting.append(pool.submit(made, argument))
            if not number and threads > 1:
                concurrent.futures.wait(waiting)
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
