"""Every way to score neurons, by name: what metrics choose neurons by, and what planted ground truth judges."""

import dataclasses
from collections.abc import Callable

from jaxtyping import Array, Float, PRNGKeyArray

from jaxinterp.attribution.integrated_gradients import (
    activation,
    gradient_x_activation,
    integrated_gradients,
    neuron_ablation,
    projection,
    random_scores,
)
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.attribution.readout import Readout
from jaxinterp.base.registry import Registry

Scores = Callable[[Readout, PRNGKeyArray], Float[Array, "L R F"]]

POINTS = 8  # of Gauss-Legendre


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to score neurons; higher is more responsible."""

    name: str
    title: str  # for people
    scores: Scores  # pure and traceable; consumes its key
    causal: bool  # whether it asks what the neurons do to P, rather than how active they are


_METHODS: Registry[Method] = Registry("attribution method")


def method(name: str, *, title: str, causal: bool) -> Callable[[Scores], Scores]:
    """Registers a function (readout, key) -> scores [L, R, F]; its docstring says what it computes."""

    def register(scores: Scores) -> Scores:
        _METHODS.add(name, Method(name, title, scores, causal))
        return scores

    return register


def get_method(name: str) -> Method:
    """The method of that name; UserError if it is unknown."""
    return _METHODS[name]


def method_names() -> tuple[str, ...]:
    """All names, in the order of registration."""
    return _METHODS.names()


@method("integrated_gradients", title="integrated gradients", causal=True)
def _per_layer(readout: Readout, key: PRNGKeyArray) -> Array:
    """Integrated gradients on each layer's own path, Gauss-Legendre with `POINTS` points."""
    return integrated_gradients(readout, quadrature("gauss_legendre", POINTS), path="per_layer").scores_LRF


@method("joint_integrated_gradients", title="integrated gradients, joint path", causal=True)
def _joint(readout: Readout, key: PRNGKeyArray) -> Array:
    """Integrated gradients with all layers' gates on one path."""
    return integrated_gradients(readout, quadrature("gauss_legendre", POINTS), path="joint").scores_LRF


@method("gradient_x_activation", title="gradient × activation", causal=True)
def _gradient(readout: Readout, key: PRNGKeyArray) -> Array:
    """The first-order effect of an ablation."""
    return gradient_x_activation(readout)


@method("ablation", title="exact ablation", causal=True)
def _ablation(readout: Readout, key: PRNGKeyArray) -> Array:
    """P lost when a neuron alone is switched off: L·F evaluations a row."""
    return neuron_ablation(readout)


@method("projection", title="value-vector projection", causal=False)
def _projection(readout: Readout, key: PRNGKeyArray) -> Array:
    """What the neuron writes in the direction of the answer's logit."""
    return projection(readout)


@method("activation", title="activation", causal=False)
def _activation(readout: Readout, key: PRNGKeyArray) -> Array:
    """The activation itself."""
    return activation(readout)


@method("random", title="random", causal=False)
def _random(readout: Readout, key: PRNGKeyArray) -> Array:
    """Uniform numbers."""
    return random_scores(key, readout.shape)
