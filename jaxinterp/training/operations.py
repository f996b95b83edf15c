"""The first operation whose numbers are not finite: a traced computation, run one operation after another."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

_ABOVE = Path(__file__).parents[2]  # the package's folder, which paths are told without


@dataclasses.dataclass(frozen=True)
class BadOperation:
    """An operation that makes what is not finite out of what is."""

    name: str  # of JAX's primitive, such as "exp" or "dot_general"
    where: str  # file, line and function that call it
    shape: tuple[int, ...]  # of its result
    dtype: str
    kind: str  # "NaN" or "infinite"
    n_bad: int  # numbers of the result
    inputs: tuple[str, ...]  # shape, dtype and range of each operand
    loop: str  # "" outside loops, else the iteration

    def describe(self) -> str:
        """In one line."""
        of = " × ".join(map(str, self.shape)) or "scalar"
        given = "; ".join(self.inputs) or "nothing"
        return f"{self.name} at {self.where}{self.loop}: {self.n_bad} {self.kind} in {self.dtype} [{of}], from {given}"


class _Found(Exception):
    """Ends the search."""

    def __init__(self, bad: BadOperation) -> None:
        self.bad = bad


def first_bad_operation(function: Callable, *arguments: Any) -> BadOperation | None:
    """Runs a function one operation at a time, and stops at the first whose result is worse than its operands.

    That is a NaN where no operand has one, or an infinite number where no operand has one or a NaN. What is infinite on
    purpose, as a mask, is a constant and therefore an operand. Loops and calls are run through: the operation is the
    one inside.

    Args:
      function: of arrays; it is traced, and its derivatives are seen as JAX takes them.
      arguments: pytrees of arrays.
    Returns:
      The operation; None if there is none.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    try:
        _run(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), "")
    except _Found as found:
        return found.bad
    return None


def _run(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], loop: str) -> list[Any]:
    values: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    values |= dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        name, params = equation.primitive.name, equation.params
        if name in _LOOPS:
            results = _LOOPS[name](params, operands, loop)
        elif (inner := _called(params)) is not None:
            results = _run(inner.jaxpr, inner.consts, operands, loop)
        else:
            bound = equation.primitive.get_bind_params(params)
            functions, bound = bound if isinstance(bound, tuple) else ((), bound)  # JAX before and from 0.10
            results = equation.primitive.bind(*functions, *operands, **bound)
            results = results if equation.primitive.multiple_results else [results]
            _check(equation, operands, results, loop)
        values |= dict(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _called(params: dict) -> ClosedJaxpr | None:
    """What a call runs: that of `jit`, `checkpoint`, a custom derivative."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if isinstance(inner := params.get(name), ClosedJaxpr | Jaxpr):
            return _closed(inner)
    return None


def _closed(inner: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def _scan(params: dict, operands: list, loop: str) -> list[Any]:
    consts, carry, over = _scan_operands(params, operands)
    n_carry, body = len(carry), _closed(params["jaxpr"])
    length = params["length"]
    steps = range(length)[::-1] if params["reverse"] else range(length)
    collected: dict[int, list] = {}
    for i in steps:
        here = f"{loop}, iteration {i + 1} of {length}"
        found = _run(body.jaxpr, body.consts, [*consts, *carry, *(x[i] for x in over)], here)
        carry, collected[i] = found[:n_carry], found[n_carry:]
    stacked = [jnp.stack(parts) for parts in zip(*(collected[i] for i in range(length)), strict=True)]
    return [*carry, *stacked]


def _scan_operands(params: dict, operands: list) -> tuple[list, list, list]:
    """A loop's constants, what it carries, and what it runs over."""
    if "num_consts" in params:
        n_consts, n_carry = params["num_consts"], params["num_carry"]
        return operands[:n_consts], operands[n_consts : n_consts + n_carry], operands[n_consts + n_carry :]
    consts, carry, over = params["ft_in"].update(operands).unpack()  # JAX from 0.12
    return list(consts), list(carry), list(over)


def _while(params: dict, operands: list, loop: str) -> list[Any]:
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    of_cond, of_body, carry = operands[:n_cond], operands[n_cond : n_cond + n_body], operands[n_cond + n_body :]
    cond, body, number = _closed(params["cond_jaxpr"]), _closed(params["body_jaxpr"]), 0
    while bool(_run(cond.jaxpr, cond.consts, [*of_cond, *carry], loop)[0]):
        number += 1
        carry = _run(body.jaxpr, body.consts, [*of_body, *carry], f"{loop}, iteration {number}")
    return carry


def _cond(params: dict, operands: list, loop: str) -> list[Any]:
    branches = params["branches"]
    chosen = _closed(branches[int(np.clip(int(operands[0]), 0, len(branches) - 1))])
    return _run(chosen.jaxpr, chosen.consts, operands[1:], loop)


_LOOPS = {"scan": _scan, "while": _while, "cond": _cond}


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else np.result_type(x)


def _is_number(x: Any) -> bool:
    return jnp.issubdtype(_dtype(x), jnp.inexact)


def _check(equation: Any, operands: list, results: list, loop: str) -> None:
    nan_before = any(_is_number(x) and bool(jnp.isnan(x).any()) for x in operands)
    infinite_before = nan_before or any(_is_number(x) and bool(jnp.isinf(x).any()) for x in operands)
    for result in results:
        if not _is_number(result):
            continue
        for kind, bad, before in (("NaN", jnp.isnan, nan_before), ("infinite", jnp.isinf, infinite_before)):
            if not before and (n := int(bad(result).sum())):
                where = jex.source_info_util.summarize(equation.source_info).replace(f"{_ABOVE}/", "")
                raise _Found(
                    BadOperation(
                        equation.primitive.name,
                        where or "JAX's own code",
                        tuple(result.shape),
                        str(result.dtype),
                        kind,
                        n,
                        tuple(_in_words(x) for x in operands),
                        loop,
                    )
                )


def _in_words(x: Any) -> str:
    shape = f"{_dtype(x)}{list(np.shape(x))}"
    if not np.size(x) or not jnp.issubdtype(_dtype(x), jnp.number):
        return shape
    values = np.asarray(x).astype(np.float64)
    return f"{shape} from {values.min():.3g} to {values.max():.3g}"
