"""Whether the ranking of neurons is faithful: what is lost as the first go, and what is there when only they stay."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.attribution.selection import top_k
from jaxinterp.metrics.columns import Measured, column_group
from jaxinterp.metrics.drops import drop
from jaxinterp.metrics.registry import Mean, Values, metric

# Shares of all neurons that are switched off, or alone kept on: from the k of S to half of them.
SHARES = (1 / 512, 1 / 256, 1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
SOURCE = "DeYoung et al. 2020; Samek et al. 2017"


@column_group(
    "curve",
    gives={
        "deletion_area": (0.06, 0.24),
        "insertion_area": (0.54, 0.03),
        "kept_alone": (0.48, 0.015),
        "nothing_kept": (0.006, 0.003),
    },
    cost="passes",
)
def _curve(measured: Measured) -> dict[str, Array]:
    """Means over `SHARES` of P with that share of neurons off, and with that share alone on, the highest scores first;
    P with the k knowledge neurons alone on; P with all neurons off.
    """
    n_neurons = measured.mask_LRF.shape[0] * measured.mask_LRF.shape[2]
    scores = measured.scores_LRF
    deleted, inserted = [], []
    for n in numbers(n_neurons):
        mask = top_k(scores, n)
        deleted.append(measured.probability(NeuronEdit(1 - mask)))
        inserted.append(measured.probability(NeuronEdit(mask)))
    return {
        "deletion_area": jnp.stack(deleted).mean(0),
        "insertion_area": jnp.stack(inserted).mean(0),
        "kept_alone": measured.probability(NeuronEdit(measured.mask_LRF)),
        "nothing_kept": measured.probability(NeuronEdit(jnp.zeros_like(measured.mask_LRF))),
    }


def numbers(n_neurons: int) -> tuple[int, ...]:
    """Neurons at the `SHARES`: each number once, at least 1 and fewer than all."""
    return tuple(sorted({min(max(round(share * n_neurons), 1), n_neurons - 1) for share in SHARES}))


BUDGETS = (1, 2, 4, 8, 16)  # neurons an answer
# P without them, of 0.6 and 0.3: facts in neurons of their own are gone with the first few, others fade.
_LIKE = dict(zip(BUDGETS, ((0.2, 0.29), (0.1, 0.28), (0.06, 0.27), (0.03, 0.24), (0.01, 0.2)), strict=True))


@column_group(
    "budgets",
    gives={**{f"without_{k}": like for k, like in _LIKE.items()}, "attribution_share": (0.9, 0.1)},
    cost="passes",
)
def _budgets(measured: Measured) -> dict[str, Array]:
    """P with the 1 … 16 neurons of highest score off (at most all but one); and the share of the positive scores that
    the k knowledge neurons have, NaN of an answer with a token that has none.
    """
    scores = measured.scores_LRF
    most = scores.shape[0] * scores.shape[2] - 1
    positive = jnp.maximum(scores, 0)
    total_R = positive.sum((0, 2))
    share_R = (positive * measured.mask_LRF).sum((0, 2)) / jnp.where(total_R > 0, total_R, jnp.nan)
    return {
        **{f"without_{k}": measured.probability(NeuronEdit(1 - top_k(scores, min(k, most)))) for k in BUDGETS},
        "attribution_share": measured.answers.mean(share_R),
    }


def _register(k: int) -> None:
    @metric(
        f"drop_at_{k}",
        needs=("probability", f"without_{k}"),
        title=f"S with {k} neuron{'s' if k > 1 else ''}",
        words={"k": f"{k} neuron{'s' if k > 1 else ''}"},
        unit="%",
        range=(-np.inf, 1.0),
        better="higher",
        source="Dai et al. 2021, with another budget",
    )
    def _drop_at(mean: Mean) -> Values:
        """Share of the answers' probability that is lost by switching off, for each answer, the {k} of highest
        attribution score.
        """
        return drop(mean, f"without_{k}")


for _k in BUDGETS:
    _register(_k)


@metric(
    "drop_area",
    needs=("probability", *(f"without_{k}" for k in BUDGETS)),
    title="S over budgets",
    unit="%",
    range=(-np.inf, 1.0),
    better="higher",
)
def drop_area(mean: Mean) -> Values:
    """Mean of suppressability S with 1, 2, 4, 8 and 16 neurons off per answer: high if one or two suffice."""
    return sum(drop(mean, f"without_{k}") for k in BUDGETS) / len(BUDGETS)


@metric(
    "attribution_share",
    needs=("attribution_share",),
    title="Concentration of attribution",
    unit="%",
    range=(0.0, 1.0),
    better="higher",
    masks="none",
)
def attribution_share(mean: Mean) -> Values:
    """Share of the sum of all positive attribution scores that falls on an answer's k knowledge neurons."""
    return mean("attribution_share")


@metric(
    "deletion_area",
    needs=("probability", "deletion_area"),
    title="Deletion area",
    unit="%",
    range=(0.0, np.inf),
    better="lower",
    source=SOURCE,
)
def deletion_area(mean: Mean) -> Values:
    """Share of the answers' probability that is left when 1/512, 1/256 … 1/2 of all neurons are off, those of highest
    score first; a mean over these shares. It is low if few neurons carry the answer and the scores find them.
    """
    return mean("deletion_area") / mean("probability")


@metric(
    "insertion_area",
    needs=("probability", "insertion_area"),
    title="Insertion area",
    unit="%",
    range=(0.0, np.inf),
    better="higher",
    source=SOURCE,
)
def insertion_area(mean: Mean) -> Values:
    """Share of the answers' probability that is there when only 1/512, 1/256 … 1/2 of all neurons are on, those of
    highest score first; a mean over these shares. It is high if few neurons suffice and the scores find them.
    """
    return mean("insertion_area") / mean("probability")


@metric(
    "comprehensiveness",
    needs=("probability", "deletion_area"),
    title="Comprehensiveness",
    unit="probability",
    range=(-1.0, 1.0),
    better="higher",
    source="DeYoung et al. 2020",
)
def comprehensiveness(mean: Mean) -> Values:
    """Mean P less mean P with 1/512, 1/256 … 1/2 of all neurons off, those of highest score first; a mean over these
    shares.
    """
    return mean("probability") - mean("deletion_area")


@metric(
    "sufficiency",
    needs=("probability", "kept_alone", "nothing_kept"),
    title="Sufficiency",
    unit="%",
    better="higher",
    source="after DeYoung et al. 2020",
)
def sufficiency(mean: Mean) -> Values:
    """(P with the knowledge neurons alone on − P with all off) / (P − P with all off): the share of what all neurons
    bring that the knowledge neurons bring on their own.
    """
    return (mean("kept_alone") - mean("nothing_kept")) / (mean("probability") - mean("nothing_kept"))
