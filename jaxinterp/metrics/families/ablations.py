"""Other ways to take a fact's neurons away than setting them to zero, and what they carry when they are moved."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.edits import set_to
from jaxinterp.facts.controls import CONTROL_KINDS, KINDS, Kind
from jaxinterp.metrics.columns import ATTRIBUTION, Compared, compared_group
from jaxinterp.metrics.drops import WHOSE, drop
from jaxinterp.metrics.registry import Mean, Values, derived, largest, metric


@compared_group(
    "interventions",
    gives={
        "mean_ablated": (0.06, 0.29),
        "resampled": (0.036, 0.29),
        **{f"resampled_control_{kind}": (0.59, 0.21) for kind in CONTROL_KINDS},
        "interchanged": (0.54, 0.006),
        "interchange_base": (0.006, 0.003),
    },
    cost="passes",
    text=True,
    donors=True,
)
def _interventions(compared: Compared) -> dict[str, Array]:
    """P with the knowledge neurons at their mean activation over all queries; with them at the activations that they
    have for a control, a mean over the kinds; with that control's neurons at those; and the probability of another
    answer of the relation, untouched and with both facts' neurons as that answer's prompt has them.
    """
    mask = compared.mask(compared.chosen[ATTRIBUTION])
    resampled, of_control = [], {}
    for place, kind in enumerate(CONTROL_KINDS):
        there, donor_LRF = compared.has_kind(kind) > 0, compared.donor_KLRF[place]
        theirs = compared.mask(_first(compared, kind))
        given = [compared.probability(set_to(chosen, donor_LRF)) for chosen in (mask, theirs)]
        own, of_control[kind] = (jnp.where(there, p, jnp.nan) for p in given)
        resampled.append(own)
    mean_LRF = jnp.broadcast_to(compared.mean_LF[:, None], mask.shape)
    return {
        "mean_ablated": compared.probability(set_to(mask, mean_LRF)),
        "resampled": _mean_of_known(jnp.stack(resampled)),
        **{f"resampled_control_{kind}": value for kind, value in of_control.items()},
        **_interchanged(compared, mask),
    }


def _first(compared: Compared, kind: Kind) -> Int[Array, "N k"]:
    """The neurons of each answer's first control of a kind."""
    control_XNk = compared.control[ATTRIBUTION]
    return control_XNk[KINDS.index(kind) * (control_XNk.shape[0] // len(KINDS))]


def _mean_of_known(values_KN: Float[Array, "K N"]) -> Float[Array, " N"]:
    known = jnp.isfinite(values_KN)
    return jnp.where(known, values_KN, 0).sum(0) / jnp.where(known.any(0), known.sum(0), jnp.nan)


def _interchanged(compared: Compared, mask_LRF: Float[Array, "L R F"]) -> dict[str, Array]:
    """P of another answer's first token, of the relation, untouched and with both's neurons as its prompt has them."""
    place = CONTROL_KINDS.index("relation")
    readout = compared.readout.aimed_at(compared.donor_target_KR[place])
    both = jnp.maximum(mask_LRF, compared.mask(_first(compared, "relation")))
    edit = set_to(both, compared.donor_KLRF[place])

    def of_answers(p_R: Array) -> Array:
        p_N = compared.answers.sum(p_R * compared.answers.first_R)
        return jnp.where(compared.has_kind("relation") > 0, p_N, jnp.nan)

    return {"interchanged": of_answers(readout(*edit)), "interchange_base": of_answers(readout.untouched())}


@metric(
    "mean_ablation_drop",
    needs=("probability", "mean_ablated"),
    title="S by mean ablation",
    unit="%",
    range=(-np.inf, 1.0),
    better="higher",
    source="Wang et al. 2023, mean ablation",
)
def mean_ablation_drop(mean: Mean) -> Values:
    """Share of the answers' probability that is lost when a fact's own knowledge neurons are set to their mean
    activation over all queries instead of to zero: what depends on this fact, rather than on the neurons being active
    at all.
    """
    return drop(mean, "mean_ablated")


@metric(
    "resample_drop",
    needs=("probability", "resampled"),
    title="S by resampling",
    unit="%",
    range=(-np.inf, 1.0),
    better="higher",
    source="Chan et al. 2022, resampling ablation",
)
def resample_drop(mean: Mean) -> Values:
    """Share of the answers' probability that is lost when a fact's own knowledge neurons take the activations that they
    have for another fact; a mean over the three kinds of other fact.
    """
    return drop(mean, "resampled")


for _kind in CONTROL_KINDS:

    @metric(
        f"resample_control_drop_{_kind}",
        needs=("probability", f"resampled_control_{_kind}"),
        title=f"C ({_kind}) by resampling",
        words={"whose": WHOSE[_kind]},
        unit="%",
        range=(-np.inf, 1.0),
        better="lower",
        source="Chan et al. 2022, resampling ablation",
    )
    def _resample_control(mean: Mean, kind: str = _kind) -> Values:
        """Share of the answers' probability that is lost when the knowledge neurons of {whose} take the activations
        that they have for that other fact.
        """
        return drop(mean, f"resampled_control_{kind}")


@derived(
    "resample_control_drop",
    of=tuple(f"resample_control_drop_{kind}" for kind in CONTROL_KINDS),
    every=False,
    title="C by resampling",
    unit="%",
    range=(-np.inf, 1.0),
    better="lower",
    source="Chan et al. 2022, resampling ablation",
)
def resample_control_drop(values: Mapping[str, Values]) -> Values:
    """The largest, over the three kinds of other fact, of the shares of the answers' probability that are lost when the
    other fact's knowledge neurons take the activations that they have for that other fact.
    """
    return largest(values)


@derived(
    "resample_selective",
    of=("resample_drop", "resample_control_drop"),
    title="S − C by resampling",
    unit="%",
    better="higher",
    source="Chan et al. 2022, resampling ablation",
)
def resample_selective(values: Mapping[str, Values]) -> Values:
    """S by resampling less C by resampling: the share of the answers' probability that is lost when a fact's own
    knowledge neurons are resampled, less the share that is lost when those of the worst kind of other fact are.
    """
    return values["resample_drop"] - values["resample_control_drop"]


@metric(
    "zero_resample_gap",
    needs=("probability", "suppressed", "resampled"),
    title="Zero less resampled",
    unit="%",
    signed=True,
    better="lower",
    source="Chan et al. 2022",
)
def zero_resample_gap(mean: Mean) -> Values:
    """Suppressability S, by setting neurons to zero, less S by resampling: what is lost because zero is a value that
    the network never sees.
    """
    return drop(mean, "suppressed") - drop(mean, "resampled")


@metric(
    "interchange",
    needs=("interchanged", "interchange_base"),
    title="Interchange",
    unit="%",
    signed=True,
    range=(-1.0, 1.0),
    better="higher",
    source="Geiger et al. 2021, interchange interventions",
)
def interchange(mean: Mean) -> Values:
    """Probability that another answer of the relation gains when the knowledge neurons of the fact and of the other
    fact take the activations that they have for the other fact: whether the neurons carry the fact, or the answer
    merely needs them. First tokens alone.
    """
    return mean("interchanged") - mean("interchange_base")
