"""Inputs made ahead: in order, no further than asked, errors in their place, and an end when nobody wants more."""

import contextlib
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from jaxinterp.base.prefetch import prefetched


def test_values_come_in_order_from_one_thread():
    names = set()

    def square(n):
        names.add(threading.current_thread().name)
        time.sleep(0.002 if n % 2 else 0)
        return n * n

    assert list(prefetched(square, range(20), ahead=3)) == [n * n for n in range(20)]
    assert list(prefetched(square, [])) == [] and list(prefetched(square, [3], ahead=5)) == [9]
    assert all(name.startswith("prefetch") for name in names)


def test_the_next_values_are_made_while_one_is_used():
    made, third = [], threading.Event()

    def make(n):
        made.append(n)
        if n == 2:
            third.set()
        return n

    with contextlib.closing(prefetched(make, range(10), ahead=2)) as values:
        assert next(values) == 0
        assert third.wait(10)
        time.sleep(0.02)
        assert made == [0, 1, 2]
        assert next(values) == 1


def test_two_threads_make_two_values_at_once_but_the_first():
    begun, third = [], threading.Event()

    def make(n):
        begun.append(n)
        if n == 0:
            time.sleep(0.05)
            return begun.copy()
        if n == 2:
            third.set()
        return n if n != 1 or third.wait(10) else "alone"

    values = list(prefetched(make, range(6), ahead=1, threads=2))
    assert values == [[0], 1, 2, 3, 4, 5]


def test_settings_are_the_callers():
    def settings(_):
        return jnp.zeros(1).dtype, jax.config.jax_default_matmul_precision, jnp.zeros(1).devices()

    usual, last = settings(0), jax.devices()[-1]
    with jax.enable_x64(True), jax.default_matmul_precision("bfloat16"), jax.default_device(last):
        (found,) = prefetched(settings, [0])
    assert found == (jnp.float64, "bfloat16", {last})
    assert list(prefetched(settings, [0])) == [usual] and usual[0] == jnp.float32


def test_an_error_is_raised_where_its_value_is_asked_for():
    def make(n):
        if n == 2:
            raise ValueError("two")
        return n

    values = prefetched(make, range(10), ahead=4)
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(values)
    assert not prefetching()


def test_an_interruption_ends_the_thread():
    made = []

    def make(n):
        made.append(n)
        time.sleep(0.01)
        return n

    with pytest.raises(KeyboardInterrupt), contextlib.closing(prefetched(make, range(10**6))) as values:
        for value in values:
            if value == 3:
                raise KeyboardInterrupt
    assert not prefetching()
    assert len(made) <= 7


def prefetching() -> bool:
    return any(thread.name.startswith("prefetch") for thread in threading.enumerate())
