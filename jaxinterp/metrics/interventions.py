"""Other ways to take a fact's neurons away than setting them to zero, and what they carry when they are moved."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.metrics.columns import Measured, column_group
from jaxinterp.metrics.drops import drop
from jaxinterp.metrics.registry import Mean, Values, metric
from jaxinterp.suppression import set_value


@column_group(
    "interventions",
    gives=("mean_ablated", "resampled", "resampled_control", "interchanged", "interchange_base"),
    cost="passes",
)
def _interventions(measured: Measured) -> dict[str, Array]:
    """P with the knowledge neurons at their mean activation over all queries; with them, or with another fact's, at the
    other fact's activation; and the probability of another answer of the relation, untouched and with both facts'
    neurons as that answer's prompt has them.
    """
    neurons, mask = measured.readout.neurons_LRF, measured.mask_LRF
    mean = jnp.broadcast_to(measured.mean_LF[:, None], neurons.shape)
    control_R = jnp.asarray(measured.batch.control_XR)[0]
    has_control = jnp.asarray(measured.batch.control_weight_XN)[0] > 0
    resampled, of_control = (
        jnp.where(has_control, measured.probability(set_value(chosen, neurons[:, control_R])), jnp.nan)
        for chosen in (mask, mask[:, control_R])
    )
    return {
        "mean_ablated": measured.probability(set_value(mask, mean)),
        "resampled": resampled,
        "resampled_control": of_control,
        **_interchanged(measured),
    }


def _interchanged(measured: Measured) -> dict[str, Array]:
    """Of first tokens: P(the partner's token), untouched and with both's neurons as the partner's prompt has them."""
    batch, mask = measured.batch, measured.mask_LRF
    partner_R, there_R = partners(measured)
    readout = measured.readout.aimed_at(jnp.asarray(batch.target_R)[partner_R])
    if readout is None:
        nothing = jnp.full(measured.n_answers, jnp.nan)
        return {"interchanged": nothing, "interchange_base": nothing}
    both = jnp.maximum(mask, mask[:, partner_R])
    edit = set_value(both, measured.readout.neurons_LRF[:, partner_R])

    def of_answers(p_R: Array) -> Array:
        p_N = jax.ops.segment_sum(p_R * measured.first_R, jnp.asarray(batch.answer_R), measured.n_answers)
        there_N = jax.ops.segment_sum(there_R * measured.first_R, jnp.asarray(batch.answer_R), measured.n_answers)
        return jnp.where(there_N > 0, p_N, jnp.nan)

    return {"interchanged": of_answers(readout(*edit)), "interchange_base": of_answers(readout.untouched())}


def partners(measured: Measured) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """For each row the next row of the batch that is the first of an answer of the same relation with another token,
    and 1 if there is one.
    """
    batch = measured.batch
    relation_R = measured.relation_N[jnp.asarray(batch.answer_R)]
    target_R, n_rows = jnp.asarray(batch.target_R), batch.target_R.shape[0]
    fits = (relation_R[:, None] == relation_R[None]) & (target_R[:, None] != target_R[None])
    fits = fits & (measured.first_R[None] > 0)
    index = jnp.arange(n_rows)
    distance = jnp.where(fits, (index[None] - index[:, None]) % n_rows, n_rows)
    partner = jnp.argmin(distance, axis=1)
    return partner, (distance.min(1) < n_rows).astype(measured.first_R.dtype)


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
    """Suppressability with the knowledge neurons at their mean activation instead of off: what depends on the fact
    itself, not on the neurons' being there.
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
    """Suppressability with the knowledge neurons at the activations that they have for another fact."""
    return drop(mean, "resampled")


@metric(
    "resample_selective",
    needs=("probability", "resampled", "resampled_control"),
    title="S − C by resampling",
    unit="%",
    better="higher",
    source="Chan et al. 2022, resampling ablation",
)
def resample_selective(mean: Mean) -> Values:
    """The same less what it costs to give the other fact's knowledge neurons the activations of that other fact."""
    return drop(mean, "resampled") - drop(mean, "resampled_control")


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
    """Suppressability by zeros less that by resampling: what is lost because zero is a value that the network never
    sees.
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
    """What the probability of another answer of the relation gains when the knowledge neurons of both facts take the
    activations that they have for that answer: whether the neurons carry the fact, or the answer merely needs them.
    First tokens alone.
    """
    return mean("interchanged") - mean("interchange_base")
