"""How well scores find the neurons that are known to carry a fact. Ties count as a random order would, on average."""

from collections.abc import Mapping

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.intervals import Estimate, interval_of_facts, leaving_out

Columns = Mapping[str, Float[np.ndarray, " R"]]

# Column -> what it is.
MEASURES = {
    "precision": "share of true neurons among the k highest scores, k the number of true ones",
    "precision_at_1": "share of rows whose highest score is a true neuron's",
    "auroc": "probability that a true neuron scores higher than another one, ties counted half",
}


def auroc(scores_N: Float[np.ndarray, " N"], true_N: Bool[np.ndarray, " N"]) -> float:
    """P(score of a true neuron > score of another one) + ½ P(equal), in [0, 1]; ½ is chance.

    The Mann-Whitney statistic divided by the number of pairs, which is the area under the ROC curve (Hanley and McNeil
    1982).

    Raises:
      UserError: if no neuron is true, or all are, or a score is NaN.
    """
    _check(scores_N, true_N)
    true, others = scores_N[true_N].astype(float), scores_N[~true_N].astype(float)  # scipy counts in their precision
    return float(scipy.stats.mannwhitneyu(true, others, method="asymptotic").statistic / len(true) / len(others))


def precision(scores_N: Float[np.ndarray, " N"], true_N: Bool[np.ndarray, " N"], k: int) -> float:
    """Share of true neurons among the k highest scores, in [0, 1]; of equal scores at the edge, the expected share.

    Raises:
      UserError: if k is not in [1, N], no neuron is true, or all are, or a score is NaN.
    """
    _check(scores_N, true_N)
    if not 1 <= k <= len(scores_N):
        raise UserError(f"k must lie between 1 and the number of neurons ({len(scores_N)}), got {k}")
    edge = np.sort(scores_N)[-k]
    above, tied = scores_N > edge, scores_N == edge
    return float((true_N[above].sum() + (k - above.sum()) * true_N[tied].mean()) / k)


def judged(scores_LRF: Float[np.ndarray, "L R F"], mask_LRF: Float[np.ndarray, "L R F"]) -> Columns:
    """The `MEASURES` of every row; k is the row's number of true neurons.

    Args:
      scores_LRF: of a method; higher is more responsible.
      mask_LRF: 1 where a neuron is true, else 0.
    Raises:
      UserError: if a row has no true neuron, or only such, or a score is NaN.
    """
    rows = list(zip(_by_row(scores_LRF), _by_row(mask_LRF) > 0, strict=True))
    columns = {
        "precision": [precision(scores, true, max(int(true.sum()), 1)) for scores, true in rows],
        "precision_at_1": [precision(scores, true, 1) for scores, true in rows],
        "auroc": [auroc(scores, true) for scores, true in rows],
    }
    return {name: np.array(values, float) for name, values in columns.items()}


def mean_over_facts(
    value_R: Float[np.ndarray, " R"], fact_R: Int[np.ndarray, " R"], *, level: float = 0.95
) -> Estimate:
    """The mean over rows of a share, with the interval of its facts, each with all its rows; see
    `jaxinterp.metrics.intervals.interval_of_facts`.

    Args:
      value_R, fact_R: a value between 0 and 1, and a fact, for every row.
      level: coverage of the interval.
    Raises:
      UserError: if there are no rows.
    """
    if not len(value_R):
        raise UserError("there are no rows to average over; give at least one fact")
    facts, cluster = np.unique(fact_R, return_inverse=True)
    weights = leaving_out(len(facts), len(facts))[:, cluster]
    with np.errstate(invalid="ignore"):
        values = weights @ value_R / weights.sum(1)  # NaN without the only fact
    return interval_of_facts(values, (0.0, 1.0), level, len(facts))


def _by_row(x_LRF: np.ndarray) -> Float[np.ndarray, "R N"]:
    return np.asarray(x_LRF).transpose(1, 0, 2).reshape(x_LRF.shape[1], -1)


def _check(scores_N: np.ndarray, true_N: np.ndarray) -> None:
    if np.isnan(scores_N).any():
        raise UserError(f"{int(np.isnan(scores_N).sum())} of {len(scores_N)} scores are NaN; a ranking needs numbers")
    if true_N.all() or not true_N.any():
        raise UserError(f"{int(true_N.sum())} of {len(true_N)} neurons are true; a ranking needs true ones and others")
