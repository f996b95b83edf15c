"""The costly part of the study: every query's neurons scored by integrated gradients and by their activation."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxinterp.attribution.adaptive import per_layer_attribution
from jaxinterp.attribution.integrated_gradients import activation
from jaxinterp.attribution.quadrature import integral
from jaxinterp.attribution.refining import ACTIVATION_THRESHOLD, THRESHOLD, strong_neurons
from jaxinterp.attribution.selection import top_k
from jaxinterp.base.errors import UserError
from jaxinterp.base.records import Record
from jaxinterp.facts.encoding import EncodedQueries, sentence
from jaxinterp.metrics.batching import of_one_length, query_batches, readout_of
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.studies.by_fact import record_by_fact, short
from jaxinterp.studies.knowledge_neurons.config import KnowledgeNeuronsConfig
from jaxinterp.studies.knowledge_neurons.queries import Asked, rows_of

THRESHOLDS = {"attribution": THRESHOLD, "activation": ACTIVATION_THRESHOLD}  # by method; see `attribution.refining`
METHODS = tuple(THRESHOLDS)


def score(model: LanguageModel, asked: Asked, config: KnowledgeNeuronsConfig, folder: Path) -> Record:
    """Scores every query; what `folder` has of it already is not computed again.

    The record's line of a fact has its queries in order, each with "residual" (mean absolute completeness residual over
    layers and answer tokens) and "tokens": for each answer token and method the neurons (layer · F + neuron), the
    strongest first, and their scores. These are all that are strong by the paper's rule, and the k strongest.

    Raises:
      UserError: if a score is not finite.
    """
    rows = rows_of(asked.queries, config.rows)
    rule = integral(config.rule, config.points, config.tolerance)

    def values(queries: EncodedQueries) -> list[dict]:
        found: list[dict] = [{} for _ in range(len(queries))]
        for batch, taken in query_batches(queries, rows, 0, of_one_length(model.config, queries)):
            readout = readout_of(model.model, batch)
            attribution = per_layer_attribution(readout, rule)
            scores = jax.device_get({"attribution": attribution.scores_LRF, "activation": activation(readout)})
            residual_N = np.asarray(batch.answers.mean(jnp.abs(attribution.residual_PR).mean(0)))
            kept = {method: strongest(scores[method], THRESHOLDS[method], config.k) for method in METHODS}
            for answer, query in enumerate(taken):
                own = np.flatnonzero((batch.answers.answer_R == answer) & (batch.answers.weight_R > 0))
                if not all(np.isfinite(scores[method][:, own]).all() for method in METHODS):
                    text = sentence(asked.facts, int(queries.fact_N[query]), int(queries.prompt_N[query]))
                    raise UserError(f"the scores of {text!r} are not finite; are the model's weights sound?")
                tokens = [{method: kept[method][row] for method in METHODS} for row in own]
                prompt, residual = int(queries.prompt_N[query]), short(residual_N[answer])
                found[query] = {"prompt": prompt, "residual": residual, "tokens": tokens}
        return found

    record = Record(folder / "attributions.jsonl")
    record_by_fact(record, asked.facts, asked.queries, rows, values, "attribute")
    return record


def strongest(scores_LRF: Float[np.ndarray, "L R F"], share: float, k: int) -> list[dict[str, list]]:
    """For each row the neurons from `share` of the highest score on, and the k strongest in any case.

    The strongest stand first, equal ones in the order of layer and neuron.
    """
    kept_LRF = np.asarray(top_k(jnp.asarray(scores_LRF), k)) > 0
    kept_LRF |= strong_neurons(scores_LRF.transpose(1, 0, 2).astype(float), share).transpose(1, 0, 2)
    found = []
    for row in range(scores_LRF.shape[1]):
        scores, (kept,) = scores_LRF[:, row].ravel(), np.nonzero(kept_LRF[:, row].ravel())
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        found.append({"neurons": kept.tolist(), "scores": [short(value) for value in scores[kept]]})
    return found
