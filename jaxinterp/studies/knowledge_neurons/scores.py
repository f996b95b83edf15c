"""The costly part of the study: every query's neurons scored by integrated gradients and by their activation."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from jaxinterp.attribution.adaptive import per_layer_attribution
from jaxinterp.attribution.integrated_gradients import activation
from jaxinterp.attribution.quadrature import integral
from jaxinterp.attribution.refining import ACTIVATION_THRESHOLD
from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.facts.batches import QueryBatch
from jaxinterp.facts.encoding import sentence
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.readout import read
from jaxinterp.studies.knowledge_neurons.config import KnowledgeNeuronsConfig
from jaxinterp.studies.knowledge_neurons.queries import Asked, description
from jaxinterp.studies.knowledge_neurons.records import Record, fill, short

ROWS = 32  # answer tokens at once
KEPT = {"attribution": 0.1, "activation": ACTIVATION_THRESHOLD}  # of a row's highest score: what is recorded, at least
METHODS = tuple(KEPT)


def score(model: LanguageModel, asked: Asked, config: KnowledgeNeuronsConfig, folder: Path) -> Record:
    """Scores every query; what `folder` has of it already is not computed again.

    The record's line of a fact has its queries in order, each with "residual" (mean absolute completeness residual over
    layers and answer tokens) and "tokens": for each answer token and method the neurons (layer · F + neuron), the
    strongest first, and their scores. By attribution these are all from a tenth of the highest score on and 4 k at
    least, by activation all from a half on and k at least.

    Args:
      model: a language model.
      asked: the queries.
      config: the study's.
      folder: of the study.
    Raises:
      UserError: if a score is not finite.
    """
    queries, facts = asked.queries, asked.facts
    most = int(queries.answer_length_N.max())
    rows = config.rows or max(most, ROWS)
    rule = integral(config.rule, config.points, config.tolerance)
    at_least = {"attribution": min(4 * config.k, model.config.n_neurons), "activation": config.k}

    def values(batch: QueryBatch, taken: np.ndarray) -> list[dict]:
        readout, _ = read(model.model, batch.tokens_BT, batch.rows, batch.length_B)
        attribution = per_layer_attribution(readout, rule)
        scores = jax.device_get({"attribution": attribution.scores_LRF, "activation": activation(readout)})
        residual_R = np.abs(attribution.residual_PR).mean(0)
        found = []
        for answer, query in enumerate(taken):
            own = np.flatnonzero((batch.answers.answer_R == answer) & (batch.answers.weight_R > 0))
            if not all(np.isfinite(scores[method][:, own]).all() for method in METHODS):
                text = sentence(facts, int(queries.fact_N[query]), int(queries.prompt_N[query]))
                raise UserError(f"the scores of {text!r} are not finite; are the model's weights sound?")
            tokens = [
                {method: strongest(scores[method][:, row], KEPT[method], at_least[method]) for method in METHODS}
                for row in own
            ]
            prompt = int(queries.prompt_N[query])
            found.append({"prompt": prompt, "residual": short(residual_R[own].mean()), "tokens": tokens})
        return found

    record = Record(folder / "attributions.jsonl")
    mine = np.unique(queries.fact_N).tolist()
    before = sum(fact in record for fact in mine)
    with progress("attribute", len(mine), done=before) as report:
        fill(record, queries, rows, values, lambda fact: description(facts, fact), lambda n: report(n, "facts"))
    return record


def strongest(scores_LF: Float[np.ndarray, "L F"], share: float, at_least: int) -> dict[str, list]:
    """The neurons from `share` of the highest score on, and `at_least` in any case, the strongest first.

    Equal scores are in the order of layer and neuron, as in `selection.top_k`. If no score is positive there is no
    share of it to reach.
    """
    flat = scores_LF.ravel()
    order = np.argsort(-flat, kind="stable")
    highest = flat[order[0]]
    strong = int((flat >= share * highest).sum()) if highest > 0 else 0
    kept = order[: max(strong, at_least)]
    return {"neurons": kept.tolist(), "scores": [short(value) for value in flat[kept]]}
