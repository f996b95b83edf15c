"""What single neurons say of concepts (here: relations), and how sparse the activations are.

No gradient and no edit: these see what attribution does not. Activations are those at the query of an answer's first
token. Sparsity metrics rise with dead neurons, so read them beside `dead_fraction`.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxinterp.metrics.registry import Neurons, metric

DEAD = 1e-6  # of the largest activation: a neuron that never exceeds it is dead
TINY = 1e-30


def _by_concept(neurons: Neurons) -> tuple[Float[Array, "C N"], Float[Array, " C"]]:
    """Weights of the answers of each concept, and their sums."""
    of_concept = neurons.concept_N[None] == jnp.arange(neurons.n_concepts)[:, None]
    weight_CN = of_concept * neurons.weight_N[None]
    return weight_CN, weight_CN.sum(1)


def _means(values_NU: Array, weight_CN: Array) -> Float[Array, "C U"]:
    return (weight_CN @ values_NU) / jnp.maximum(weight_CN.sum(1, keepdims=True), TINY)


def _measured(values_C: Array, total_C: Array) -> Float[Array, " C"]:
    """NaN for a concept without answers, or with all of them."""
    inside = (total_C > 0) & (total_C < total_C.sum())
    return jnp.where(inside, values_C, jnp.nan)


def _alive(neurons: Neurons) -> Bool[Array, " U"]:
    size = jnp.where(neurons.weight_N[:, None] > 0, jnp.abs(neurons.activation_NU), 0)
    return size.max(0) > DEAD * size.max()


def _varies(variance: Array, neurons: Neurons) -> Bool[Array, "..."]:
    """Whether activations with this variance differ by more than rounding."""
    return variance > DEAD**2 * jnp.square(neurons.activation_NU).max()


def _best(neurons: Neurons) -> tuple[Float[Array, "C N"], Float[Array, "C N"], Float[Array, " C"]]:
    """For each concept the neuron whose mean inside it is farthest above that outside, in standard deviations: its
    activations; and the concepts' weights. A neuron that does not vary differs by 0, whatever rounding makes of it.
    """
    weight_CN, total_C = _by_concept(neurons)
    rest_CN = neurons.weight_N[None] - weight_CN
    inside, outside = _means(neurons.activation_NU, weight_CN), _means(neurons.activation_NU, rest_CN)
    mean = _means(neurons.activation_NU, neurons.weight_N[None])
    variance = _means(jnp.square(neurons.activation_NU - mean), neurons.weight_N[None])
    difference = jnp.where(_varies(variance, neurons), inside - outside, 0)
    best_C = (difference / jnp.sqrt(variance + TINY)).argmax(1)
    return neurons.activation_NU[:, best_C].T, weight_CN, total_C


@metric(
    "selectivity",
    needs=("activations", "selections"),
    title="Selectivity",
    range=(-1.0, 1.0),
    better="higher",
    masks="none",
    source="Morcos et al. 2018, with absolute values",
)
def selectivity(neurons: Neurons) -> Array:
    """(m − m') / (|m| + |m'|) with m and m' a neuron's mean activation inside and outside a relation; a mean over the
    relation's knowledge neurons, as often as each was selected. 1: they are active for their relation alone.
    """
    weight_CN, total_C = _by_concept(neurons)
    rest_CN = neurons.weight_N[None] - weight_CN
    inside, outside = _means(neurons.activation_NU, weight_CN), _means(neurons.activation_NU, rest_CN)
    index = (inside - outside) / jnp.maximum(jnp.abs(inside) + jnp.abs(outside), TINY)
    chosen_CU = weight_CN @ neurons.selected_NU
    return _measured((chosen_CU * index).sum(1) / jnp.maximum(chosen_CU.sum(1), TINY), total_C)


@metric(
    "purity",
    needs=("activations",),
    title="Purity",
    unit="%",
    range=(0.0, 1.0),
    better="higher",
    masks="none",
    source="share of a unit's positive response on one concept",
)
def purity(neurons: Neurons) -> Array:
    """The largest share of a neuron's positive activation (means inside relations, with equal weight for each)
    that falls on one relation; a mean over the neurons that are not dead and ever positive.
    """
    weight_CN, total_C = _by_concept(neurons)
    response_CU = _means(jnp.maximum(neurons.activation_NU, 0), weight_CN) * (total_C > 0)[:, None]
    total_U = response_CU.sum(0)
    positive = _alive(neurons) & (total_U > 0)
    share_U = response_CU.max(0) / jnp.maximum(total_U, TINY)
    return jnp.where(positive, share_U, 0).sum() / jnp.where(positive.any(), positive.sum(), jnp.nan)


@metric(
    "concept_auroc",
    needs=("activations",),
    title="AUROC of one neuron",
    range=(0.0, 1.0),
    better="higher",
    masks="none",
    differentiable=False,
    source="Hanley and McNeil 1982",
)
def concept_auroc(neurons: Neurons) -> Array:
    """Probability that the best neuron of a relation is more active for an answer of the relation than for one of
    another (ties count half), a mean over relations. The best neuron is the one whose means differ most, in standard
    deviations.
    """
    x_CN, weight_CN, total_C = _best(neurons)
    rest_CN = neurons.weight_N[None] - weight_CN

    def above(x_N: Array, rest_N: Array) -> Array:
        return ((x_N[:, None] > x_N[None]) + 0.5 * (x_N[:, None] == x_N[None])) @ rest_N

    won_CN = jnp.stack([above(x, rest) for x, rest in zip(x_CN, rest_CN, strict=True)])
    return _measured((weight_CN * won_CN).sum(1) / jnp.maximum(total_C * rest_CN.sum(1), TINY), total_C)


@metric(
    "mutual_information",
    needs=("activations",),
    title="Information of one neuron",
    unit="%",
    range=(0.0, 1.0),
    better="higher",
    masks="none",
    differentiable=False,
    source="Cover and Thomas 2006",
)
def mutual_information(neurons: Neurons) -> Array:
    """I(X; Y) / H(Y), with X whether the best neuron of a relation is above its mean, and Y whether the answer is of
    the relation; a mean over relations. The best neuron is the one whose means differ most, in standard deviations.
    """
    x_CN, weight_CN, total_C = _best(neurons)
    weight = neurons.weight_N[None] / jnp.maximum(neurons.weight_N.sum(), TINY)
    on_CN = x_CN > (x_CN * weight).sum(1, keepdims=True)
    inside_CN = weight_CN / jnp.maximum(neurons.weight_N.sum(), TINY)

    def entropy(p: Array) -> Array:
        return -(p * jnp.log(jnp.maximum(p, TINY))).sum(0)

    p_on, p_in = (weight * on_CN).sum(1), inside_CN.sum(1)
    both = (inside_CN * on_CN).sum(1)
    joint = jnp.stack([both, p_on - both, p_in - both, 1 - p_on - p_in + both])
    h_in = entropy(jnp.stack([p_in, 1 - p_in]))
    information = entropy(jnp.stack([p_on, 1 - p_on])) + h_in - entropy(jnp.maximum(joint, 0))
    return _measured(jnp.maximum(information, 0) / jnp.maximum(h_in, TINY), total_C)


@metric(
    "gini",
    needs=("activations",),
    title="Gini coefficient",
    range=(0.0, 1.0),
    better="higher",
    masks="none",
    source="Hurley and Rickard 2009",
)
def gini(neurons: Neurons) -> Array:
    """Gini coefficient of |activation| over the neurons, a mean over answers: 0 if all are equally active, near 1 if
    one alone is.
    """
    size = jnp.sort(jnp.abs(neurons.activation_NU), axis=1)
    n = size.shape[1]
    rank = 2 * jnp.arange(1, n + 1, dtype=size.dtype) - n - 1
    return _answer_mean((size @ rank) / (n * jnp.maximum(size.sum(1), TINY)), neurons)


@metric(
    "hoyer",
    needs=("activations",),
    title="Hoyer sparsity",
    range=(0.0, 1.0),
    better="higher",
    masks="none",
    source="Hoyer 2004",
)
def hoyer(neurons: Neurons) -> Array:
    """(√U − Σ|a| / √Σa²) / (√U − 1) over the U neurons, a mean over answers: 0 if all are equally active, 1 if one
    alone is.
    """
    a = neurons.activation_NU
    root = a.shape[1] ** 0.5
    ratio = jnp.abs(a).sum(1) / jnp.sqrt(jnp.square(a).sum(1) + TINY)
    return _answer_mean((root - ratio) / (root - 1), neurons)


@metric(
    "kurtosis",
    needs=("activations",),
    title="Excess kurtosis",
    range=(-2.0, np.inf),
    better="higher",
    masks="none",
    source="Willmore and Tolhurst 2001, lifetime kurtosis",
)
def kurtosis(neurons: Neurons) -> Array:
    """Fourth central moment over the squared variance, less 3, of a neuron's activations for the answers; a mean over
    the neurons that vary.
    """
    weight = neurons.weight_N[None]
    centred = neurons.activation_NU - _means(neurons.activation_NU, weight)
    second, fourth = (_means(centred**power, weight)[0] for power in (2, 4))
    varies = _varies(second, neurons)
    excess = fourth / jnp.where(varies, jnp.square(second), 1) - 3
    return jnp.where(varies, excess, 0).sum() / jnp.where(varies.any(), varies.sum(), jnp.nan)


@metric(
    "participation_ratio",
    needs=("activations",),
    title="Participation ratio",
    unit="dimensions",
    range=(1.0, np.inf),
    better="neither",
    masks="none",
    source="Gao et al. 2017",
)
def participation_ratio(neurons: Neurons) -> Array:
    """(Σλ)² / Σλ² with λ the eigenvalues of the covariance of activations over answers: how many directions they vary
    in.
    """
    weight = neurons.weight_N[None]
    share = neurons.weight_N / jnp.maximum(neurons.weight_N.sum(), TINY)
    centred = (neurons.activation_NU - _means(neurons.activation_NU, weight)) * jnp.sqrt(share)[:, None]
    gram_NN = centred @ centred.T
    return jnp.square(jnp.trace(gram_NN)) / jnp.square(gram_NN).sum()


@metric(
    "dead_fraction",
    needs=("activations",),
    title="Dead neurons",
    unit="%",
    range=(0.0, 1.0),
    better="lower",
    masks="none",
    differentiable=False,
)
def dead_fraction(neurons: Neurons) -> Array:
    """Share of the neurons whose activation is zero (below a millionth of the largest) for every answer."""
    return 1 - _alive(neurons).mean()


def _answer_mean(values_N: Array, neurons: Neurons) -> Float[Array, ""]:
    total = neurons.weight_N.sum()
    return (values_N * neurons.weight_N).sum() / jnp.where(total > 0, total, jnp.nan)
