"""Ways to score neurons, by name: what metrics choose neurons by, and what planted ground truth judges."""

import dataclasses
from collections.abc import Callable

from jaxtyping import Array, Float, PRNGKeyArray

from jaxinterp.attribution.readout import Readout
from jaxinterp.base.registry import Registry

Scores = Callable[[Readout, PRNGKeyArray], Float[Array, "L R F"]]


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to score neurons; higher is more responsible."""

    name: str
    title: str  # for people
    scores: Scores  # pure and traceable; consumes its key
    causal: bool  # whether it asks what the neurons do to P, rather than how active they are


METHODS: Registry[Method] = Registry("attribution method", folder="jaxinterp.attribution.methods")


def method(name: str, *, title: str, causal: bool) -> Callable[[Scores], Scores]:
    """Registers a function (readout, key) -> scores [L, R, F]; its docstring says what it computes."""

    def register(scores: Scores) -> Scores:
        METHODS.add(name, Method(name, title, scores, causal), scores.__module__)
        return scores

    return register
