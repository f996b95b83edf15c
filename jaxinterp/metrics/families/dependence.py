"""How much neurons depend on each other, over answers: linearly, in their squares, and in any way.

A code whose correlations were made sparse may have moved its relations to second order. All metrics here look at the
same pairs, within and across layers: those of `COLUMNS` neurons, drawn once, that vary. Means run over pairs. Two
neurons that respond to one relation are correlated, so that neither way is better by itself.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxinterp.metrics.families.units import DEAD, TINY
from jaxinterp.metrics.registry import Neurons, metric

COLUMNS = 96  # neurons whose pairs are looked at; all if there are fewer
ROWS = 64  # answers, for what looks at pairs of answers as well; all if there are fewer
LINKED = 0.3  # |correlation| above which two neurons are linked
SEED = 0  # of the neurons and of the answers


@metric(
    "mean_correlation",
    needs=("activations",),
    title="Mean |correlation|",
    range=(0.0, 1.0),
    masks="none",
)
def mean_correlation(neurons: Neurons) -> Array:
    """Mean |correlation| of two neurons over answers, over pairs of at most 96 neurons drawn from all layers. Even of
    independent neurons it is about √(2/(πN)) over N answers.
    """
    correlation_UU, live_U = _correlations(_drawn(neurons).activation_NU, neurons.weight_N)
    return _pair_mean(jnp.abs(correlation_UU), live_U)


@metric(
    "correlated_pairs",
    needs=("activations",),
    title="Correlated pairs",
    unit="%",
    range=(0.0, 1.0),
    masks="none",
    differentiable=False,
)
def correlated_pairs(neurons: Neurons) -> Array:
    """Share of the pairs of neurons whose |correlation| over answers is above 0.3 (L0 of correlations), out of pairs of
    at most 96 neurons drawn from all layers.
    """
    correlation_UU, live_U = _correlations(_drawn(neurons).activation_NU, neurons.weight_N)
    return _pair_mean((jnp.abs(correlation_UU) > LINKED).astype(correlation_UU.dtype), live_U)


@metric(
    "square_correlation",
    needs=("activations",),
    title="Mean |correlation of squares|",
    range=(0.0, 1.0),
    masks="none",
    source="Hyvärinen, Hoyer and Inki 2001, correlation of energies",
)
def square_correlation(neurons: Neurons) -> Array:
    """Mean |correlation of z²| of two neurons over answers, with z a neuron's activation less its mean, in standard
    deviations; over pairs of at most 96 neurons drawn from all layers.
    """
    standard_NU, live_U = _standardised(_drawn(neurons).activation_NU, neurons.weight_N)
    correlation_UU, varies_U = _correlations(jnp.square(standard_NU), neurons.weight_N)
    return _pair_mean(jnp.abs(correlation_UU), live_U & varies_U)


@metric(
    "hsic",
    needs=("activations",),
    title="HSIC",
    range=(-1.0, 1.0),
    masks="none",
    source="Song et al. 2012, unbiased estimator",
)
def hsic(neurons: Neurons) -> Array:
    """Hilbert–Schmidt independence criterion of two neurons, 0 in expectation if and only if they are independent: the
    unbiased estimator, with Gaussian kernels as wide as a neuron's standard deviation, over at most 64 answers (the
    prompts of one fact are one, their mean) and pairs of at most 96 neurons drawn from all layers. NaN below 4 facts.
    """
    few = _drawn(neurons, ROWS)
    x_NU, weight_N = _facts(few)
    standard_NU, live_U = _standardised(x_NU, weight_N)
    kernel_UNN = jnp.exp(-jnp.square(_differences(standard_NU)) / 2) * (1 - jnp.eye(weight_N.shape[0]))[None]
    return _pair_mean(_unbiased_hsic(kernel_UNN.astype(x_NU.dtype), weight_N), live_U)


@metric(
    "distance_correlation",
    needs=("activations",),
    title="Distance correlation",
    range=(0.0, 1.0),
    masks="none",
    source="Székely, Rizzo and Bakirov 2007",
)
def distance_correlation(neurons: Neurons) -> Array:
    """Distance correlation of two neurons over at most 64 answers: the root of the distance covariance over the root of
    the product of distance variances, of the empirical distribution, so that it is above 0 for independent neurons,
    too; a mean over pairs of at most 96 neurons drawn from all layers.
    """
    few = _drawn(neurons, ROWS)
    standard_NU, live_U = _standardised(few.activation_NU, few.weight_N)
    share_N = few.weight_N / jnp.maximum(few.weight_N.sum(), TINY)
    distance_UNN = jnp.abs(_differences(standard_NU))
    mean_UN = distance_UNN @ share_N
    centred_UNN = distance_UNN - mean_UN[:, None] - mean_UN[:, :, None] + (mean_UN @ share_N)[:, None, None]
    covariance_UU = _weighted_products(centred_UNN, share_N[:, None] * share_N[None])
    variance_U = jnp.where(live_U, jnp.diagonal(covariance_UU), 1.0)
    ratio_UU = covariance_UU / jnp.sqrt(variance_U[:, None] * variance_U[None])
    return _pair_mean(jnp.sqrt(jnp.maximum(ratio_UU, TINY)), live_U)


def _unbiased_hsic(kernel_UNN: Array, w_N: Array) -> Float[Array, "U U"]:
    """Song et al. 2012, eq. 5, as the U-statistic that it is: E[K_ij L_ij] + E[K_ij L_qr] − 2 E[K_ij L_iq] over facts
    i, j, q, r that all differ, drawn by their weights; the kernels' diagonals are 0.
    """
    p1, p2, p3, p4 = ((w_N**power).sum() for power in (1, 2, 3, 4))
    two = p1**2 - p2
    three = p1**3 - 3 * p1 * p2 + 2 * p3
    four = p1**4 - 6 * p1**2 * p2 + 3 * p2**2 + 8 * p1 * p3 - 6 * p4
    two, three, four = (jnp.where((w_N > 0).sum() >= 4, n, jnp.nan) for n in (two, three, four))
    sum_UN = kernel_UNN @ w_N  # Σ_j w_j K_ij
    all_U = sum_UN @ w_N
    # What two sums have in common is taken out: i = q and so on, and then what was taken out twice put back.
    w_NN, w2_NN = w_N[:, None] * w_N[None], jnp.square(w_N)[:, None] * w_N[None]
    both_NN = w_NN / two + 2 * jnp.square(w_NN) / four + (w2_NN + w2_NN.T) / three
    shared_N = -4 * jnp.square(w_N) / four - 2 * w_N / three
    return (
        _weighted_products(kernel_UNN, both_NN)
        + (sum_UN * shared_N[None]) @ sum_UN.T
        + all_U[:, None] * all_U[None] / four
    )


def _drawn(neurons: Neurons, rows: int | None = None) -> Neurons:
    """Of `COLUMNS` neurons, and of so many answers, drawn once."""
    n, n_neurons = neurons.activation_NU.shape
    rng = np.random.default_rng(SEED)
    column = np.sort(rng.choice(n_neurons, min(COLUMNS, n_neurons), replace=False))
    row = np.sort(rng.choice(n, min(rows or n, n), replace=False))
    x_NU, selected_NU = (x[:, column][row] for x in (neurons.activation_NU, neurons.selected_NU))
    return Neurons(x_NU, selected_NU, *(x[row] for x in neurons[2:5]), neurons.n_concepts)


def _facts(neurons: Neurons) -> tuple[Float[Array, "N U"], Float[Array, " N"]]:
    """Means over the answers of each fact, which stand where its first one did; weights are 0 elsewhere."""
    same_NN = neurons.fact_N[:, None] == neurons.fact_N[None]
    weight_NN = same_NN * neurons.weight_N[None]
    total_N = weight_NN.sum(1)
    means_NU = weight_NN @ neurons.activation_NU / jnp.maximum(total_N, TINY)[:, None]
    first_N = same_NN.argmax(1) == jnp.arange(total_N.shape[0])
    return means_NU, jnp.where(first_N, total_N, 0)


def _standardised(x_NU: Array, weight_N: Array) -> tuple[Float[Array, "N U"], Bool[Array, " U"]]:
    """Activations less their means, in standard deviations, and which neurons vary; the others are 0."""
    share_N = weight_N / jnp.maximum(weight_N.sum(), TINY)
    centred_NU = x_NU - (share_N @ x_NU)[None]
    variance_U = share_N @ jnp.square(centred_NU)
    live_U = variance_U > DEAD**2 * jnp.where(weight_N[:, None] > 0, jnp.square(x_NU), 0).max()
    deviation_U = jnp.sqrt(jnp.where(live_U, variance_U, 1.0))
    return jnp.where(live_U[None], centred_NU / deviation_U[None], 0), live_U


def _correlations(x_NU: Array, weight_N: Array) -> tuple[Float[Array, "U U"], Bool[Array, " U"]]:
    """Correlations over answers, and which neurons vary."""
    standard_NU, live_U = _standardised(x_NU, weight_N)
    share_N = weight_N / jnp.maximum(weight_N.sum(), TINY)
    return (standard_NU * share_N[:, None]).T @ standard_NU, live_U


def _differences(x_NU: Array) -> Float[Array, "U N N"]:
    return x_NU.T[:, :, None] - x_NU.T[:, None]


def _weighted_products(x_UNN: Array, weight_NN: Array) -> Float[Array, "U U"]:
    """Σ_ij weight_ij X_ij Y_ij of every two."""
    flat = x_UNN.reshape(x_UNN.shape[0], -1)
    return (flat * weight_NN.ravel()[None]) @ flat.T


def _pair_mean(values_UU: Array, live_U: Array) -> Float[Array, ""]:
    """Mean over the pairs of different neurons that vary; NaN if there is none."""
    pairs_UU = live_U[:, None] & live_U[None] & ~jnp.eye(live_U.shape[0], dtype=bool)
    total = pairs_UU.sum()
    return jnp.where(pairs_UU, values_UU, 0).sum() / jnp.where(total > 0, total, jnp.nan)
