"""The terms of a training objective, by name.

A term is one file with one decorated function, `Context -> scalar`; importing it in `jaxinterp.training.step` registers
it, and a weight for its name in `ObjectiveConfig.weights` adds it to the loss.
"""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxinterp.errors import unknown
from jaxinterp.objectives.context import Context

Term = Callable[[Context], Float[Array, ""]]
_TERMS: dict[str, Term] = {}


def objective(name: str) -> Callable[[Term], Term]:
    """Registers a term under a name that is not taken."""

    def register(term: Term) -> Term:
        if name in _TERMS:
            raise ValueError(f"an objective named {name!r} exists already")
        _TERMS[name] = term
        return term

    return register


def objective_term(name: str) -> Term:
    """The term of that name.

    Raises:
      UserError: if it is unknown.
    """
    if name not in _TERMS:
        raise unknown("objective", name, _TERMS)
    return _TERMS[name]
