"""Whether neurons fall into groups that are joined among themselves, by their weights alone."""

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Int

from jaxinterp.metrics.columns import MeasuredSet, set_group
from jaxinterp.metrics.registry import Mean, Values, metric
from jaxinterp.models.model import Model

MOST = 2048  # neurons; the time grows with their cube, or worse
LEAST = 1e-6  # by which Q has to rise for a group to be divided


@set_group("modularity", gives={"modularity": (0.45, 0.1)}, cost="passes", text=True)
def _modularity(measured: MeasuredSet) -> dict[str, Float[np.ndarray, " N"]]:
    """The same for every answer: it is the weights'. NaN for one layer, for more neurons than `MOST`, and for models
    whose FFNs read no norm of a sum that earlier FFNs were added to.
    """
    config = measured.examples.model.config
    there = config.n_layers > 1 and config.n_neurons <= MOST and config.norm_placement != "post"
    q = modularity_of(links(measured.examples.model)) if there else np.nan
    return {"modularity": np.full(len(measured.examples), q)}


def links(model: Model) -> Float[np.ndarray, "M F F"]:
    """|⟨what neuron i adds, what neuron j reads⟩| for neurons i of each layer and j of the next, M = L − 1 of those.

    Scales of the norms in between, and LayerNorm's subtraction of the mean, are folded in; divisions by a standard
    deviation, which are the same for all neurons of a token, are left out. A gated neuron reads twice: a sum.
    """
    config, layers = model.config, model.params["layers"]

    def numbers(weights: Array) -> np.ndarray:
        return np.asarray(jnp.asarray(weights, jnp.promote_types(weights.dtype, jnp.float32)))

    adds_LFD = numbers(layers["w_out"])
    reads = [numbers(layers[name]).transpose(0, 2, 1) for name in ("w_in", "w_gate") if name in layers]
    if config.norms_outputs:
        adds_LFD = adds_LFD * numbers(layers["norm_mlp_out"]["scale"])[:, None]
    if config.norms_inputs:
        if config.norm == "layernorm":
            adds_LFD = adds_LFD - adds_LFD.mean(-1, keepdims=True)
        reads = [read_LFD * numbers(layers["norm_mlp"]["scale"])[:, None] for read_LFD in reads]
    return sum(np.abs(adds_LFD[:-1] @ read_LFD[1:].transpose(0, 2, 1)) for read_LFD in reads)


def modularity_of(link_MFF: Float[np.ndarray, "M F F"]) -> float:
    """Q = Σ_l Σ_ij (w_ij − s_i s_j / W_l) [i and j in one group] / Σ_l W_l, with links w from layer l to l + 1.

    s_i is all that leaves i to the next layer, s_j all that reaches j from there, and W_l all links between the two
    layers: Newman's modularity, with links drawn anew only between successive layers (as Barber 2007 does for two
    kinds of nodes). So Q is 0 if all links are equal, however many layers there are. Groups are found by dividing along
    leading eigenvectors (Newman 2006) as long as Q rises.

    Returns:
      At most 1; NaN without links.
    """
    n_gaps, n, _ = link_MFF.shape
    total = float(link_MFF.sum())
    if not total > 0:
        return float("nan")
    excess_UU = np.zeros(((n_gaps + 1) * n,) * 2)
    for gap, link_FF in enumerate(link_MFF.astype(np.float64)):
        expected_FF = np.outer(link_FF.sum(1), link_FF.sum(0)) / max(link_FF.sum(), 1e-300)
        here, after = slice(gap * n, (gap + 1) * n), slice((gap + 1) * n, (gap + 2) * n)
        excess_UU[here, after] = (link_FF - expected_FF) / (2 * total)
        excess_UU[after, here] = excess_UU[here, after].T
    group_U = groups(excess_UU)
    members = [np.flatnonzero(group_U == group) for group in range(group_U.max() + 1)]
    return float(sum(excess_UU[np.ix_(own, own)].sum() for own in members))


def groups(excess_UU: Float[np.ndarray, "U U"]) -> Int[np.ndarray, " U"]:
    """The group of each neuron, 0, 1, …: all are divided by the sign of the leading eigenvector, then each part in
    turn, until none can be divided so that the sum of `excess` inside groups rises.
    """
    group_U, waiting, n = np.zeros(len(excess_UU), int), [np.arange(len(excess_UU))], 1
    while waiting:
        own = waiting.pop()
        inside = excess_UU[np.ix_(own, own)]
        inside = inside - np.diag(inside.sum(1))  # what a division changes
        last = len(own) - 1
        vector = scipy.linalg.eigh(inside, subset_by_index=[last, last])[1][:, 0]
        side = vector > 0
        rise = np.where(side, 1, -1) @ inside @ np.where(side, 1, -1) / 2
        if rise > LEAST:
            group_U[own[side]] = n
            n += 1
            waiting += [own[~side], own[side]]
    return group_U


@metric(
    "modularity",
    needs=("modularity",),
    title="Modularity",
    symbol="Q",
    range=(-1.0, 1.0),
    better="higher",
    masks="none",
    source="Newman 2006; Barber 2007",
)
def modularity(mean: Mean) -> Values:
    """Modularity Q of the graph whose links are |⟨output weights of a neuron, input weights of a neuron of the next
    layer⟩|: the share of links inside groups of neurons, less what it would be if each neuron's links went to neurons
    of the next layer at random. Groups come from dividing by leading eigenvectors. 0: no groups. Of one model it has no
    interval, because it is a property of the weights.
    """
    return mean("modularity")
