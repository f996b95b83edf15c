"""The first bad operation, in calls, loops, conditions and derivatives."""

import jax
import jax.numpy as jnp
import pytest

from jaxinterp.training.operations import first_bad_operation

X = jnp.array([1.0, 2.0, 3.0])


def looped(x):
    def step(carry, y):
        return carry - 1.0, jnp.log(carry) * y

    return jax.lax.scan(step, x[1], x)[1].sum()


def repeated(x):
    return jax.lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1] * 1e30), (0, x))[1]


CASES = {
    "call": (lambda x: jax.jit(lambda y: jnp.log(y))(x - 2.0), "log", "NaN", ""),
    "scan": (looped, "log", "infinite", ", iteration 3 of 3"),
    "while": (repeated, "mul", "infinite", ", iteration 2"),
    "condition": (lambda x: jax.lax.cond(x[0] > 0, lambda y: y / 0.0, lambda y: y, x), "div", "infinite", ""),
    "derivative": (jax.grad(lambda x: jnp.sqrt(x - 1.0).sum()), "div", "infinite", ""),
    "checkpoint": (jax.grad(jax.checkpoint(lambda x: jnp.exp(99.0 * x).sum())), "exp", "infinite", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_named_with_its_place(case):
    function, name, kind, loop = CASES[case]
    bad = first_bad_operation(function, X)
    assert (bad.name, bad.kind, bad.loop) == (name, kind, loop)
    assert "test_operations.py" in bad.where
    assert bad.describe().startswith(f"{name} at ") and "float32[" in bad.describe()


def test_nothing_is_found_in_what_is_finite_and_masks_are_no_fault():
    function = lambda x: jax.nn.softmax(jnp.where(x > 1.5, x, -jnp.inf))  # noqa: E731
    assert first_bad_operation(jax.value_and_grad(lambda x: function(x)[1]), X) is None


def test_every_kind_of_loop_computes_what_it_should():
    """A search that ran another computation would name what never happened."""
    from jaxinterp.training import operations

    def function(x):
        total, parts = jax.lax.scan(lambda c, y: (c + y, c * y), jnp.float32(0), x, reverse=True)
        count = jax.lax.fori_loop(0, 3, lambda i, c: c + i, 0)
        return total + count + jax.lax.switch(2, [lambda: 1.0, lambda: 2.0, lambda: 5.0]), parts, jax.grad(looped)(x)

    closed = jax.make_jaxpr(function)(X + 4)
    found = operations._run(closed.jaxpr, closed.consts, [X + 4], "")
    for a, b in zip(found, jax.tree.leaves(function(X + 4)), strict=True):
        assert jnp.allclose(a, b)
