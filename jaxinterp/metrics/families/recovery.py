"""Whether a fact comes back once its neurons are off: by another wording, by other neurons, by a little training."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.edits import suppress
from jaxinterp.attribution.readout import LanguageModelReadout, answer_log_probability
from jaxinterp.attribution.selection import answer_scores, top_k
from jaxinterp.facts.encoding import EncodedQueries, QueryBatch, query_batch
from jaxinterp.metrics.batching import all_batches, attribution_of, readout_of
from jaxinterp.metrics.columns import Measured, MeasuredSet, column_group, set_group
from jaxinterp.metrics.drops import drop
from jaxinterp.metrics.recall import recalled
from jaxinterp.metrics.registry import Mean, Values, metric
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.likelihood import next_token_nll
from jaxinterp.models.transformer import Edit, forward

STEPS, LEARNING_RATE = 10, 1e-3  # of relearning, by Adam
TEXTS = 64  # a step


@column_group("other_neurons", gives=("restored",), cost="passes")
def _other_neurons(measured: Measured) -> dict[str, Array]:
    """P with an answer's neurons off and the k that then matter most, by gradient × activation, doubled."""
    mask, readout = measured.mask_LRF, measured.readout
    # What doubling a neuron does to first order in the suppressed model; 0 for what is off.
    slope = jax.grad(lambda gates: readout(gates * (1 - mask)).sum())(jnp.ones_like(mask))
    next_mask = top_k(jnp.where(mask > 0, -jnp.inf, measured.of_answers(slope)), measured.k)
    return {"restored": measured.probability(Edit((1 - mask) * (1 + next_mask)))}


@set_group("paraphrase", gives=("paraphrase_suppressed",), cost="attributions")
def _paraphrase(found: MeasuredSet) -> dict[str, Float[np.ndarray, " N"]]:
    """P of an answer after its prompt with the neurons off that another prompt of the same fact chose; NaN where the
    set has no other prompt in which the answer has as many tokens.
    """
    queries = found.queries
    other_N = other_prompts(queries, found.pool)
    index = np.flatnonzero(other_N >= 0)
    column = np.full(len(queries), np.nan)
    if len(index):
        asked, worded = queries[index], found.pool[other_N[index]]

        def step(number: int, batch: QueryBatch, taken: np.ndarray) -> Mapping[str, Array]:
            n_rows = len(batch.weight_R)
            again, _ = query_batch(
                worded[taken],
                n_sequences=n_rows,
                n_rows=n_rows,
                answered=range(len(taken)),
                rng=np.random.default_rng(0),
                n_controls=0,
            )
            readout, _ = readout_of(found.config, found.params, again)
            mask_LRF = answer_neurons(found, readout, again)
            readout, _ = readout_of(found.config, found.params, batch)
            return {"p": _suppressed(readout, mask_LRF, batch)}

        column[index] = all_batches(asked, found.rows, found.seed, step)["p"]
    return {"paraphrase_suppressed": column}


def other_prompts(queries: EncodedQueries, pool: EncodedQueries) -> Int[np.ndarray, " N"]:
    """For each query the first of the pool with the same fact, another prompt and as long an answer; −1 if none."""
    by_fact: dict[int, list[int]] = {}
    for place, fact in enumerate(pool.fact_N.tolist()):
        by_fact.setdefault(fact, []).append(place)

    def fits(place: int, query: int) -> bool:
        return bool(
            pool.prompt_N[place] != queries.prompt_N[query]
            and pool.answer_length_N[place] == queries.answer_length_N[query]
        )

    return np.array(
        [
            next((place for place in by_fact.get(fact, ()) if fits(place, query)), -1)
            for query, fact in enumerate(queries.fact_N.tolist())
        ],
        int,
    )


@jax.jit
def _suppressed(readout, mask_LRF: Array, batch: QueryBatch) -> Float[Array, " N"]:
    p_R = readout(*suppress(mask_LRF))
    return jnp.exp(answer_log_probability(p_R, batch.answer_R, batch.weight_R, batch.answer_weight_N.shape[0]))


@set_group("relearning", gives=("erased", "relearned"), cost="training")
def _relearning(found: MeasuredSet) -> dict[str, Float[np.ndarray, " N"]]:
    """P with the knowledge neurons of all the set's answers taken out for good, before and after `STEPS` steps of Adam
    on half of the facts, of the answers of the other half; each half in turn. Of causal models.
    """
    queries, n = found.queries, len(found.queries)
    columns = {"erased": np.full(n, np.nan), "relearned": np.full(n, np.nan)}
    half_N = halves(queries.fact_N)
    if found.config.attention == "bidirectional" or half_N.min() == half_N.max():
        return columns
    gone = erased_neurons(found)
    keep_LF = jnp.asarray(1 - gone, found.config.dtype)
    params = _without(found.params, keep_LF)
    columns["erased"] = recalled(found.config, params, queries, rows=found.rows)["probability"]
    for half in (0, 1):
        taught, asked = (np.flatnonzero(half_N == which) for which in (half, 1 - half))
        after = _trained(found, params, keep_LF, queries[taught])
        columns["relearned"][asked] = recalled(found.config, after, queries[asked], rows=found.rows)["probability"]
    return columns


def halves(fact_N: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """0 or 1 for each query, by its fact: every other fact of those there are."""
    return np.unique(fact_N, return_inverse=True)[1] % 2


def erased_neurons(found: MeasuredSet) -> Float[np.ndarray, "L F"]:
    """1 for the knowledge neurons of any answer of the set."""
    gone = np.zeros((found.config.n_layers, found.config.d_mlp))

    def step(number: int, batch: QueryBatch, taken: np.ndarray) -> dict:
        readout, _ = readout_of(found.config, found.params, batch)
        mask_RLF = np.asarray(answer_neurons(found, readout, batch)).transpose(1, 0, 2)[batch.weight_R > 0]
        np.maximum(gone, mask_RLF.max(0), out=gone)
        return {}

    all_batches(found.queries, found.rows, found.seed, step)
    return gone


def answer_neurons(found: MeasuredSet, readout: LanguageModelReadout, batch: QueryBatch) -> Float[Array, "L R F"]:
    """1 for the k knowledge neurons of each row's answer."""
    scores_LRF = attribution_of(found.config, readout, found.integral, batch).scores_LRF
    arrays = jnp.asarray(batch.answer_R), jnp.asarray(batch.weight_R)
    return top_k(answer_scores(scores_LRF, *arrays, len(batch.answer_weight_N)), found.k)


def _without(params: Mapping, keep_LF: Float[Array, "L F"]) -> dict:
    """The model whose neurons write nothing where `keep` is 0."""
    layers = dict(params["layers"])
    layers["w_out"] = layers["w_out"] * keep_LF[..., None]
    return {**params, "layers": layers}


def _trained(found: MeasuredSet, params: Mapping, keep_LF: Array, queries: EncodedQueries) -> Mapping:
    """`STEPS` steps on `TEXTS` of the texts; neurons that are gone stay so."""
    step = _relearning_step(found.config)
    state = optax.adam(LEARNING_RATE).init(params)
    rng = np.random.default_rng(found.seed)
    for _ in range(STEPS):
        chosen = rng.choice(len(queries), TEXTS)
        weight = np.arange(queries.tokens_NT.shape[1])[None] < queries.length_N[chosen, None]
        params, state = step(params, state, keep_LF, jnp.asarray(queries.tokens_NT[chosen]), jnp.asarray(weight))
    return params


@functools.lru_cache(maxsize=4)
def _relearning_step(config: ModelConfig) -> Callable:
    transform = optax.adam(LEARNING_RATE)

    @jax.jit
    def step(params: Mapping, state: tuple, keep_LF: Array, tokens_BT: Array, weight_BT: Array) -> tuple:
        def loss(params: Mapping) -> Float[Array, ""]:
            params = _without(params, keep_LF)
            nll = next_token_nll(config, params, forward(config, params, tokens_BT), tokens_BT)
            return (nll * weight_BT[:, 1:]).sum() / weight_BT[:, 1:].sum()

        updates, state = transform.update(jax.grad(loss)(params), state, params)
        return _without(optax.apply_updates(params, updates), keep_LF), state

    return step


@metric(
    "paraphrase_suppressability",
    needs=("probability", "paraphrase_suppressed"),
    title="S by another prompt's neurons",
    unit="%",
    range=(-np.inf, 1.0),
    better="higher",
    source="after Dai et al. 2021, neurons that recur over prompts",
)
def paraphrase_suppressability(mean: Mean) -> Values:
    """Suppressability S with the neurons that were chosen with another prompt of the same fact: whether the neurons
    belong to the fact or to the wording.
    """
    return drop(mean, "paraphrase_suppressed")


@metric(
    "restored",
    needs=("probability", "restored"),
    title="Restored by other neurons",
    unit="%",
    range=(0.0, np.inf),
    better="lower",
    source="after McGrath et al. 2023, self-repair",
)
def restored(mean: Mean) -> Values:
    """Share of the answers' probability that is there when the knowledge neurons are off and the k neurons that then
    matter most are doubled: low if no other neurons can bring the answer back.
    """
    return mean("restored") / mean("probability")


@metric(
    "relearned",
    needs=("probability", "erased", "relearned"),
    title="Relearned",
    unit="%",
    signed=True,
    better="lower",
    masks="hard",
    source="after Deeb and Roger 2024",
)
def relearned(mean: Mean) -> Values:
    """(P after a little training on other facts − P before it) / (untouched P − P before it), with the knowledge
    neurons of all facts taken out: the share of the lost probability that comes back though these facts were not taught
    again.
    """
    return (mean("relearned") - mean("erased")) / (mean("probability") - mean("erased"))
