"""Where an answer comes from: FFNs at all, which layers of them, and attention.

Suppressability looks at FFN neurons alone. A model could satisfy an objective by moving its answers to where no neuron
is looked at; here is what sees that.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinterp.attribution.edits import suppress
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.metrics.columns import Measured, column_group
from jaxinterp.metrics.drops import drop
from jaxinterp.metrics.registry import Mean, Values, metric
from jaxinterp.models.attention_attribution import whole_attribution

THIRDS = ("early", "middle", "late")  # of the layers; a model of two has no middle, one of one only an early layer
POINTS = 8  # of Gauss–Legendre


@column_group(
    "reliance",
    gives={
        **{f"{third}_off": (0.3, 0.3) for third in THIRDS},
        **{f"own_{third}_off": (0.3, 0.6) for third in THIRDS},
    },
    cost="passes",
)
def _reliance(measured: Measured) -> dict[str, Array]:
    """P with all neurons of a third of the layers off, and with an answer's own neurons off that stand there."""
    columns = {}
    for third, layer_L in thirds(measured.readout.shape[0]).items():
        if not layer_L.any():
            columns |= {f"{third}_off": _nothing(measured), f"own_{third}_off": _nothing(measured)}
            continue
        there_LRF = jnp.asarray(layer_L)[:, None, None] * jnp.ones_like(measured.mask_LRF)
        columns[f"{third}_off"] = measured.probability(suppress(there_LRF))
        columns[f"own_{third}_off"] = measured.probability(suppress(there_LRF * measured.mask_LRF))
    return columns


def thirds(n_layers: int) -> dict[str, Float[np.ndarray, " L"]]:
    """1 for the layers of each third, the first layer in the early one and the last of several in the late one."""
    layer = np.arange(n_layers)
    number = 2 * layer if n_layers == 2 else 3 * layer // n_layers
    return {third: (number == index).astype(np.float32) for index, third in enumerate(THIRDS)}


def _nothing(measured: Measured) -> Array:
    return jnp.full(measured.answers.n, jnp.nan)


@column_group(
    "attention",
    gives={"attention_attribution": (0.3, 0.6), "ffn_attribution": (0.6, 0.3)},
    cost="attributions",
    text=True,
)
def _attention(measured: Measured) -> dict[str, Array]:
    """Sums of the integrated gradients of all layers' attention, and of all their neurons; a mean over an answer's
    tokens.
    """
    found = whole_attribution(measured.readout, quadrature("gauss_legendre", POINTS))
    return {
        "attention_attribution": measured.answers.mean(found.attention_LR.sum(0)),
        "ffn_attribution": measured.answers.mean(found.ffn_LR.sum(0)),
    }


@metric(
    "bypass",
    needs=("probability", "nothing_kept"),
    title="Left without FFNs",
    unit="%",
    range=(0.0, np.inf),
    better="lower",
)
def bypass(mean: Mean) -> Values:
    """Share of the answers' probability that is left when all neurons of all layers are off: what does not come from
    FFNs, which no suppression of neurons reaches.
    """
    return mean("nothing_kept") / mean("probability")


@metric(
    "attention_share",
    needs=("attention_attribution", "ffn_attribution"),
    title="Share of attention",
    unit="%",
    range=(-np.inf, np.inf),
    source="Sundararajan et al. 2017, over attention and neurons together",
)
def attention_share(mean: Mean) -> Values:
    """Share of all integrated gradients that attention has: what all layers write where the answer is read is scaled
    from 0 to 1 together, and the neurons have the rest.
    """
    attention = mean("attention_attribution")
    return attention / (attention + mean("ffn_attribution"))


def _register(third: str) -> None:
    @metric(
        f"{third}_drop",
        needs=("probability", f"{third}_off"),
        title=f"S of all {third} neurons",
        words={"third": third},
        unit="%",
        range=(-np.inf, 1.0),
    )
    def _drop(mean: Mean) -> Values:
        """Share of the answers' probability that is lost by switching off all neurons of the {third} third of the
        layers.
        """
        return drop(mean, f"{third}_off")

    @metric(
        f"own_{third}_drop",
        needs=("probability", f"own_{third}_off"),
        title=f"S of own {third} neurons",
        words={"third": third},
        unit="%",
        range=(-np.inf, 1.0),
    )
    def _own_drop(mean: Mean) -> Values:
        """Share of the answers' probability that is lost by switching off those of an answer's knowledge neurons that
        stand in the {third} third of the layers.
        """
        return drop(mean, f"own_{third}_off")


for _third in THIRDS:
    _register(_third)
