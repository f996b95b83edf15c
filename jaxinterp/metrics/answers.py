"""What is measured for every answer: its probability untouched, suppressed, under controls, amplified; and more."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.errors import UserError
from jaxinterp.facts.encoding import EncodedQueries, QueryBatch
from jaxinterp.metrics.batching import all_batches, attribution_of, readout_of, whole_sequences_by_length
from jaxinterp.metrics.columns import Measured, column_group, columns_step, get_group
from jaxinterp.metrics.recall import ability_step
from jaxinterp.models.config import ModelConfig
from jaxinterp.quadrature import Integral
from jaxinterp.selection import top_k
from jaxinterp.suppression import amplify, random_mask, suppress

ABILITY = ("correct", "sentence_nll", "sentence_tokens")  # columns of every measurement


class Answers(NamedTuple):
    """Measured columns of N queries, and their neurons; U = L·F."""

    columns: Mapping[str, Float[np.ndarray, " N"]]
    # How often each neuron was selected, by relation index: [relations, L, F], in answer tokens.
    selected: Float[np.ndarray, "relations L F"]
    activation_NU: Float[np.ndarray, "N U"] | None  # at the query of each answer's first token, if asked for
    selected_NU: Float[np.ndarray, "N U"] | None  # share of an answer's tokens


@column_group(
    "answers",
    gives=(
        "probability",
        "suppressed",
        "control",
        "random",
        "amplified",
        "log_probability",
        "suppressed_log_probability",
        "log_odds",
        "suppressed_log_odds",
        "suppressed_ratio",
        "residual",
    ),
    cost="base",
)
def _answers(measured: Measured) -> dict[str, Array]:
    """Probabilities of whole answers, untouched and under the edits of `jaxinterp.suppression`; control is a mean over
    controls. Logarithms in nats. residual is the mean absolute completeness residual.
    """
    mask = measured.mask_LRF
    log_p = measured.log_probability(measured.readout.untouched())
    log_suppressed = measured.log_probability(measured.readout(*suppress(mask)))
    return {
        "probability": jnp.exp(log_p),
        "suppressed": jnp.exp(log_suppressed),
        "control": measured.control(mask),
        "random": measured.probability(suppress(random_mask(measured.key, mask))),
        "amplified": measured.probability(amplify(mask)),
        "log_probability": log_p,
        "suppressed_log_probability": log_suppressed,
        "log_odds": log_odds(log_p),
        "suppressed_log_odds": log_odds(log_suppressed),
        "suppressed_ratio": jnp.exp(log_suppressed - log_p),
        "residual": measured.answer_mean(jnp.abs(measured.attribution.residual_PR).mean(0)),
    }


def measured_answers(
    config: ModelConfig,
    params: Mapping,
    queries: EncodedQueries,
    *,
    k: int,
    n_relations: int,
    integral: Integral,
    groups: tuple[str, ...] = ("answers",),
    neurons: bool = False,
    n_controls: int = 1,
    rows: int = 64,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Answers:
    """Measures every query with per-layer integrated gradients and a fixed budget of k neurons an answer token.

    Columns are those of the groups, and correct (0 or 1), sentence_nll (nats) and sentence_tokens. A query without a
    possible control in its batch has NaN where one is needed.

    Args:
      config, params: the model.
      queries: what to measure.
      k: neurons an answer token, out of all layers.
      n_relations: number of relations that `queries.relation_N` indexes.
      integral: of the attribution.
      groups: of columns, see `jaxinterp.metrics.columns`; those of batches.
      neurons: whether each query's activations and selections are returned.
      n_controls: other facts whose neurons are switched off, for each query.
      rows: answer tokens at once.
      seed: of controls and random neurons.
      progress: called with the number of queries done in each batch.
    Raises:
      UserError: if a group is unknown or is one of whole sets.
    """
    for name in groups:
        if get_group(name).of_set:
            raise UserError(f"the columns {name!r} are those of a whole set; see `measure_sets`")
    step, ability, key = columns_step(groups), ability_step(config), jax.random.key(seed)
    shape = (config.n_layers, config.d_mlp)
    selected = np.zeros((n_relations, *shape))
    kept = [np.zeros((len(queries), config.n_neurons), np.float32) for _ in range(2)] if neurons else [None, None]
    parts = whole_sequences_by_length(config, queries)
    mean_LF = _mean_neurons(config, params, queries, rows, parts) if "interventions" in groups else jnp.zeros(shape)

    def measured(number: int, batch: QueryBatch, taken: np.ndarray) -> Mapping[str, Array]:
        readout, _ = readout_of(config, params, batch)
        attribution = attribution_of(config, readout, integral, batch)
        mask = top_k(attribution.scores_LRF, k)
        relation_N = np.full(len(batch.answer_weight_N), -1)
        relation_N[: len(taken)] = queries.relation_N[taken]
        found = Measured(
            batch, readout, attribution, mask, jnp.asarray(relation_N), mean_LF, jax.random.fold_in(key, number), k
        )
        real = batch.weight_R > 0
        mask_RLF = np.asarray(mask).transpose(1, 0, 2)[real]
        np.add.at(selected, relation_N[batch.answer_R[real]], mask_RLF)
        if neurons:
            first = np.asarray(found.first_R)[real] > 0
            activation = np.asarray(readout.neurons_LRF).transpose(1, 0, 2)[real][first]
            kept[0][taken] = activation.reshape(len(taken), -1)
            share = 1 / np.bincount(batch.answer_R[real])[batch.answer_R[real]]
            np.add.at(kept[1], taken[batch.answer_R[real]], share[:, None] * mask_RLF.reshape(len(share), -1))
        return {**step(found), **ability(params, batch)}

    columns = all_batches(queries, rows, seed, measured, progress, n_controls, parts)
    return Answers(columns, selected, *kept)


def _mean_neurons(
    config: ModelConfig,
    params: Mapping,
    queries: EncodedQueries,
    rows: int,
    parts: Mapping[int, Int[np.ndarray, " n"]] | None,
) -> Float[Array, "L F"]:
    """Mean activation of every neuron over all rows."""
    total, n = jnp.zeros((config.n_layers, config.d_mlp)), 0.0

    def add(number: int, batch: QueryBatch, taken: np.ndarray) -> dict:
        nonlocal total, n
        neurons_LRF = readout_of(config, params, batch)[0].neurons_LRF
        total = total + jnp.einsum("lrf,r->lf", neurons_LRF, jnp.asarray(batch.weight_R))
        n += batch.weight_R.sum()
        return {}

    all_batches(queries, rows, 0, add, parts=parts)
    return total / n


def log_odds(log_p: Float[Array, " N"]) -> Float[Array, " N"]:
    """log P/(1 − P), in nats, kept finite where P rounds to 1."""
    return log_p - jnp.log(jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).eps))
