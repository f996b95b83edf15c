"""The terms of a training objective, by name.

A term is one file with one decorated function, `Context -> scalar`; importing it in `jaxinterp.training.step` registers
it, and a weight for its name in `ObjectiveConfig.weights` adds it to the loss.
"""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxinterp.base.registry import Registry
from jaxinterp.objectives.context import Context

Term = Callable[[Context], Float[Array, ""]]
_TERMS: Registry[Term] = Registry("objective")


def objective(name: str) -> Callable[[Term], Term]:
    """Registers a term under a name that is not taken."""

    def register(term: Term) -> Term:
        _TERMS.add(name, term)
        return term

    return register


def objective_term(name: str) -> Term:
    """The term of that name; UserError if it is unknown."""
    return _TERMS[name]
