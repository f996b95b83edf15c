"""Second opinions on which neurons matter: the same drops with neurons that other methods choose."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinterp.methods import get_method
from jaxinterp.metrics.columns import Measured, column_group
from jaxinterp.metrics.drops import drop
from jaxinterp.metrics.registry import Mean, Values, metric
from jaxinterp.selection import top_k
from jaxinterp.suppression import suppress

CHEAP = ("gradient_x_activation", "activation", "projection")  # methods of a pass each
SOURCE = "Dai et al. 2021, with the selection exchanged"


@column_group(
    "ablation",
    gives=("ablation_suppressed", "ablation_control", "ablation_overlap", "ablation_rank_agreement"),
    cost="ablations",
)
def _ablation(measured: Measured) -> dict[str, Array]:
    """The k neurons whose exact single ablation costs an answer token most: L·F evaluations a token."""
    scores = get_method("ablation").scores(measured.readout, measured.key)
    return {
        **_chosen(measured, scores, "ablation"),
        "ablation_rank_agreement": measured.answer_mean(rank_agreement(scores, measured.attribution.scores_LRF)),
    }


@column_group(
    "selectors",
    gives=tuple(f"{name}_{column}" for name in CHEAP for column in ("suppressed", "control", "overlap")),
    cost="passes",
)
def _selectors(measured: Measured) -> dict[str, Array]:
    """The k neurons that cheap methods choose."""
    found = {}
    for name in CHEAP:
        found |= _chosen(measured, get_method(name).scores(measured.readout, measured.key), name)
    return found


def _chosen(measured: Measured, scores_LRF: Float[Array, "L R F"], name: str) -> dict[str, Array]:
    mask = top_k(scores_LRF, measured.k)
    shared_R = (mask * measured.mask_LRF).sum((0, 2)) / measured.k
    return {
        f"{name}_suppressed": measured.probability(suppress(mask)),
        f"{name}_control": measured.control(mask),
        f"{name}_overlap": measured.answer_mean(shared_R),
    }


def rank_agreement(a_LRF: Float[Array, "L R F"], b_LRF: Float[Array, "L R F"]) -> Float[Array, " R"]:
    """Spearman's correlation of two scores over all neurons of a row, equal scores in the order of the neurons."""

    def ranks(scores: Array) -> Array:
        flat = scores.transpose(1, 0, 2).reshape(scores.shape[1], -1)
        rank = jnp.argsort(jnp.argsort(flat, axis=-1), axis=-1).astype(flat.dtype)
        return rank - rank.mean(-1, keepdims=True)

    a, b = ranks(a_LRF), ranks(b_LRF)
    return (a * b).sum(-1) / jnp.sqrt(jnp.square(a).sum(-1) * jnp.square(b).sum(-1))


@metric(
    "ablation_suppressability",
    needs=("probability", "ablation_suppressed"),
    title="S by exact ablation",
    unit="%",
    range=(-np.inf, 1.0),
    better="higher",
    source=SOURCE,
)
def ablation_suppressability(mean: Mean) -> Values:
    """Suppressability when the neurons are chosen by switching off one neuron at a time instead of by integrated
    gradients: a second opinion on which neurons matter.
    """
    return drop(mean, "ablation_suppressed")


@metric(
    "ablation_control_drop",
    needs=("probability", "ablation_control"),
    title="C by exact ablation",
    unit="%",
    range=(-np.inf, 1.0),
    better="lower",
    source=SOURCE,
)
def ablation_control_drop(mean: Mean) -> Values:
    """Control drop with the neurons chosen by exact ablation."""
    return drop(mean, "ablation_control")


@metric(
    "ablation_selective",
    needs=("probability", "ablation_suppressed", "ablation_control"),
    title="S − C by exact ablation",
    unit="%",
    better="higher",
    source=SOURCE,
)
def ablation_selective(mean: Mean) -> Values:
    """Selective suppressability with the neurons chosen by exact ablation."""
    return drop(mean, "ablation_suppressed") - drop(mean, "ablation_control")


@metric("ablation_overlap", needs=("ablation_overlap",), title="Overlap", unit="%", range=(0.0, 1.0), better="higher")
def ablation_overlap(mean: Mean) -> Values:
    """Share of the neurons chosen by integrated gradients that exact ablation chooses as well."""
    return mean("ablation_overlap")


@metric(
    "ablation_rank_agreement",
    needs=("ablation_rank_agreement",),
    title="Rank agreement with ablation",
    range=(-1.0, 1.0),
    better="higher",
    masks="none",
    source="Spearman 1904",
)
def ablation_rank_agreement(mean: Mean) -> Values:
    """Spearman's correlation of integrated gradients with the effects of exact single ablations, over all neurons."""
    return mean("ablation_rank_agreement")


def _register(name: str) -> None:
    title = get_method(name).title

    @metric(
        f"{name}_suppressability",
        needs=("probability", f"{name}_suppressed"),
        title=f"S by {title}",
        unit="%",
        range=(-np.inf, 1.0),
        better="higher",
        source=SOURCE,
    )
    def _suppressability(mean: Mean) -> Values:
        """Suppressability with the neurons chosen by another method."""
        return drop(mean, f"{name}_suppressed")

    @metric(
        f"{name}_selective",
        needs=("probability", f"{name}_suppressed", f"{name}_control"),
        title=f"S − C by {title}",
        unit="%",
        better="higher",
        source=SOURCE,
    )
    def _selective(mean: Mean) -> Values:
        """The same less what another fact's neurons by that method cost."""
        return drop(mean, f"{name}_suppressed") - drop(mean, f"{name}_control")

    @metric(
        f"{name}_overlap",
        needs=(f"{name}_overlap",),
        title=f"Overlap with {title}",
        unit="%",
        range=(0.0, 1.0),
        better="higher",
    )
    def _overlap(mean: Mean) -> Values:
        """Share of the neurons chosen by integrated gradients that the other method chooses as well."""
        return mean(f"{name}_overlap")


for _name in CHEAP:
    _register(_name)
