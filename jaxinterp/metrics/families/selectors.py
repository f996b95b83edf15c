"""Second opinions on which neurons matter: the same drops with neurons that other methods choose."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxinterp.attribution.edits import active_neurons, suppress
from jaxinterp.attribution.registry import METHODS
from jaxinterp.facts.controls import CONTROL_KINDS
from jaxinterp.metrics.columns import ATTRIBUTION, Compared, Like, Measured, column_group, compared_group
from jaxinterp.metrics.drops import WHOSE, drop
from jaxinterp.metrics.ranks import rank_agreement
from jaxinterp.metrics.registry import Mean, Values, derived, largest, metric

CHEAP = ("gradient_x_activation", "activation")  # methods of a pass each
SOURCE = "Dai et al. 2021, with the selection exchanged"


def _columns(name: str) -> Like:
    controls = {f"{name}_control_{kind}": (0.59, 0.15) for kind in CONTROL_KINDS}
    return {f"{name}_suppressed": (0.06, 0.27), **controls, f"{name}_overlap": (0.9, 0.1)}


@compared_group(
    "ablation",
    gives=_columns("ablation"),
    cost="ablations",
    selectors=("ablation",),
)
def _ablation(compared: Compared) -> dict[str, Array]:
    """The k neurons whose exact single ablations cost an answer's tokens most: L·F evaluations a token."""
    return _chosen(compared, "ablation")


@column_group(
    "ablation_ranks",
    gives={"ablation_rank_agreement": (0.9, 0.1)},
    cost="ablations",
    selectors=("ablation",),
)
def _ablation_ranks(measured: Measured) -> dict[str, Array]:
    """Rank agreement of the attribution with exact single ablations, a mean over an answer's tokens."""
    neurons = measured.readout.neurons_LRF
    active = jnp.ones_like(measured.mask_LRF) if neurons is None else active_neurons(neurons)
    agreement_R = rank_agreement(measured.scores["ablation"], measured.attribution.scores_LRF, active)
    return {"ablation_rank_agreement": measured.answers.mean(agreement_R)}


@compared_group(
    "selectors",
    gives={column: values for name in CHEAP for column, values in _columns(name).items()},
    cost="passes",
    selectors=CHEAP,
)
def _selectors(compared: Compared) -> dict[str, Array]:
    """The k neurons that cheap methods choose."""
    return {column: value for name in CHEAP for column, value in _chosen(compared, name).items()}


@compared_group(
    "projection",
    gives=_columns("projection"),
    cost="passes",
    text=True,
    selectors=("projection",),
)
def _projection(compared: Compared) -> dict[str, Array]:
    """The k neurons whose value vectors add most to the logit of the answer."""
    return _chosen(compared, "projection")


def _chosen(compared: Compared, name: str) -> dict[str, Array]:
    mask, own = compared.mask(compared.chosen[name]), compared.mask(compared.chosen[ATTRIBUTION])
    shared_R = (mask * own).sum((0, 2)) / compared.chosen[name].shape[1]
    controls = compared.by_kind(compared.controlled_XN(name))
    return {
        f"{name}_suppressed": compared.probability(suppress(mask)),
        **{f"{name}_control_{kind}": controls[kind] for kind in CONTROL_KINDS},
        f"{name}_overlap": compared.answers.mean(shared_R),
    }


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
    """Share of the answers' probability that is lost by switching off, for each answer, the k neurons that exact
    ablation (one neuron off at a time) chooses instead of integrated gradients: a second opinion on which neurons
    matter.
    """
    return drop(mean, "ablation_suppressed")


@metric("ablation_overlap", needs=("ablation_overlap",), title="Overlap", unit="%", range=(0.0, 1.0), better="higher")
def ablation_overlap(mean: Mean) -> Values:
    """Share of an answer's k knowledge neurons, chosen by integrated gradients, that exact ablation chooses as well."""
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
    """Spearman's correlation of integrated gradients with the effects of exact single ablations, over the neurons that
    are active; neurons of equal score have their mean rank.
    """
    return mean("ablation_rank_agreement")


def _register_controls(name: str, title: str) -> None:
    """C and S − C with the neurons that a method chooses."""
    for kind in CONTROL_KINDS:

        @metric(
            f"{name}_control_drop_{kind}",
            needs=("probability", f"{name}_control_{kind}"),
            title=f"C ({kind}) by {title}",
            words={"method": title, "whose": WHOSE[kind]},
            unit="%",
            range=(-np.inf, 1.0),
            better="lower",
            source=SOURCE,
        )
        def _drop(mean: Mean, kind: str = kind) -> Values:
            """Share of the answers' probability that is lost when the k neurons that {method} chooses for {whose} are
            off.
            """
            return drop(mean, f"{name}_control_{kind}")

    @derived(
        f"{name}_control_drop",
        of=tuple(f"{name}_control_drop_{kind}" for kind in CONTROL_KINDS),
        every=False,
        title=f"C by {title}",
        words={"method": title},
        unit="%",
        range=(-np.inf, 1.0),
        better="lower",
        source=SOURCE,
    )
    def _largest(values: Mapping[str, Values]) -> Values:
        """The largest, over the three kinds of other fact, of the shares of the answers' probability that are lost when
        the k neurons that {method} chooses for that other fact are off.
        """
        return largest(values)

    @derived(
        f"{name}_selective",
        of=(f"{name}_suppressability", f"{name}_control_drop"),
        title=f"S − C by {title}",
        words={"method": title},
        unit="%",
        better="higher",
        source=SOURCE,
    )
    def _selective(values: Mapping[str, Values]) -> Values:
        """Suppressability S less control drop C, both with the k neurons that {method} chooses."""
        return values[f"{name}_suppressability"] - values[f"{name}_control_drop"]


def _register(name: str) -> None:
    title = METHODS[name].title

    @metric(
        f"{name}_suppressability",
        needs=("probability", f"{name}_suppressed"),
        title=f"S by {title}",
        words={"method": title},
        unit="%",
        range=(-np.inf, 1.0),
        better="higher",
        source=SOURCE,
    )
    def _suppressability(mean: Mean) -> Values:
        """Share of the answers' probability that is lost by switching off, for each answer, the k neurons that {method}
        chooses instead of integrated gradients.
        """
        return drop(mean, f"{name}_suppressed")

    _register_controls(name, title)

    @metric(
        f"{name}_overlap",
        needs=(f"{name}_overlap",),
        title=f"Overlap with {title}",
        words={"method": title},
        unit="%",
        range=(0.0, 1.0),
        better="higher",
    )
    def _overlap(mean: Mean) -> Values:
        """Share of an answer's k knowledge neurons, chosen by integrated gradients, that {method} chooses as well."""
        return mean(f"{name}_overlap")


_register_controls("ablation", "exact ablation")
for _name in (*CHEAP, "projection"):
    _register(_name)
