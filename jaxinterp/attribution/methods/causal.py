"""Methods that ask what the neurons do to P."""

from jaxtyping import Array, PRNGKeyArray

from jaxinterp.attribution.integrated_gradients import gradient_x_activation, integrated_gradients, neuron_ablation
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.attribution.readout import Readout
from jaxinterp.attribution.registry import method

POINTS = 8  # of Gauss-Legendre


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
