"""Whether facts have neurons of their own: overlap of knowledge neurons, and hubs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.metrics.registry import Neurons, metric

TINY = 1e-30


def _selections(neurons: Neurons) -> tuple[Float[Array, "C U"], Float[Array, " C"], Float[Array, ""]]:
    """Selections of each neuron by concept, answers by concept, and neurons an answer."""
    weight_CN = (neurons.concept_N[None] == jnp.arange(neurons.n_concepts)[:, None]) * neurons.weight_N[None]
    k = (neurons.weight_N @ neurons.selected_NU).sum() / jnp.maximum(neurons.weight_N.sum(), TINY)
    return weight_CN @ neurons.selected_NU, weight_CN.sum(1), jnp.maximum(k, TINY)


@metric(
    "overlap_within",
    needs=("selections",),
    title="Overlap inside a relation",
    unit="%",
    range=(0.0, 1.0),
    better="lower",
    masks="hard",
    source="Dai et al. 2021, intra-relation",
)
def overlap_within(neurons: Neurons) -> Array:
    """Share of an answer's knowledge neurons that it has in common with an answer of another fact of its relation. Near
    100%, the relation has neurons, and its facts have none of their own.
    """
    selected_CU, total_C, k = _selections(neurons)
    # Other prompts of a fact are no other fact, and neither is a fact that a replicate draws twice.
    n_answers, weight_N = neurons.weight_N.shape[0], neurons.weight_N
    of_fact_FU = jax.ops.segment_sum(weight_N[:, None] * neurons.selected_NU, neurons.fact_N, n_answers)
    concept_F = jax.ops.segment_max(neurons.concept_N, neurons.fact_N, n_answers)
    weight_CF = (concept_F[None] == jnp.arange(neurons.n_concepts)[:, None]).astype(weight_N.dtype)
    itself_C = weight_CF @ jnp.square(of_fact_FU).sum(1)
    squares_C = weight_CF @ jnp.square(jax.ops.segment_sum(weight_N, neurons.fact_N, n_answers))
    pairs_C, shared_C = jnp.square(total_C) - squares_C, jnp.square(selected_CU).sum(1) - itself_C
    return jnp.where(pairs_C > 0, shared_C / jnp.maximum(pairs_C, TINY) / k, jnp.nan)


@metric(
    "overlap_across",
    needs=("selections",),
    title="Overlap across relations",
    unit="%",
    range=(0.0, 1.0),
    better="lower",
    masks="hard",
    source="Dai et al. 2021, inter-relation",
)
def overlap_across(neurons: Neurons) -> Array:
    """Share of an answer's knowledge neurons that it has in common with an answer of another relation."""
    selected_CU, total_C, k = _selections(neurons)
    rest_CU, rest_C = selected_CU.sum(0)[None] - selected_CU, total_C.sum() - total_C
    pairs_C = total_C * rest_C
    return jnp.where(pairs_C > 0, (selected_CU * rest_CU).sum(1) / jnp.maximum(pairs_C, TINY) / k, jnp.nan)


@metric(
    "hub_share",
    needs=("selections",),
    title="Share of the busiest neurons",
    unit="%",
    range=(0.0, 1.0),
    better="lower",
    masks="hard",
    differentiable=False,
    source="hubs of selections",
)
def hub_share(neurons: Neurons) -> Array:
    """Share of all selections that falls on the k neurons that are selected most: 100% if all answers share
    their knowledge neurons.
    """
    selected_CU, _, k = _selections(neurons)
    count_U = jnp.sort(selected_CU.sum(0))[::-1]
    among = jnp.arange(count_U.shape[0]) < jnp.round(k)
    total = count_U.sum()
    return (count_U * among).sum() / jnp.where(total > 0, total, jnp.nan)
