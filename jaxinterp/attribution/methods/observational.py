"""Methods that look at the neurons without asking what they do to P."""

from jaxtyping import Array, PRNGKeyArray

from jaxinterp.attribution.integrated_gradients import activation, projection, random_scores
from jaxinterp.attribution.readout import Readout
from jaxinterp.attribution.registry import method


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
