"""The terms of a training objective, by name.

A term is one file of `jaxinterp.objectives.terms` with one decorated function, `Context -> scalar`; a weight for its
name in `ObjectiveConfig.weights` adds it to the loss.
"""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxinterp.base.registry import Registry
from jaxinterp.objectives.context import Context

Term = Callable[[Context], Float[Array, ""]]
TERMS: Registry[Term] = Registry("objective", folder="jaxinterp.objectives.terms")


def objective(name: str) -> Callable[[Term], Term]:
    """Registers a term under a name that is not taken."""

    def register(term: Term) -> Term:
        TERMS.add(name, term, term.__module__)
        return term

    return register
