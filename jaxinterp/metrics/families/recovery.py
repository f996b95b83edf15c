"""Whether a fact comes back once its neurons are off: by another wording, by other neurons, by a little training."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.edits import NeuronEdit, suppress
from jaxinterp.attribution.readout import Readout
from jaxinterp.attribution.selection import top_k
from jaxinterp.facts.batches import QueryBatch, query_batch
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.metrics.batching import Batch, columns_of, query_batches, readout_of
from jaxinterp.metrics.columns import Measured, MeasuredSet, column_group, set_group
from jaxinterp.metrics.drops import drop
from jaxinterp.metrics.recall import recalled
from jaxinterp.metrics.registry import Mean, Values, metric
from jaxinterp.models.fit import fit
from jaxinterp.models.likelihood import next_token_nll
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward

STEPS, ADAM = 10, optax.adam(1e-3)  # of relearning
TEXTS = 64  # a step


@column_group(
    "other_neurons",
    gives={"restored": (0.06, 0.27)},
    cost="passes",
)
def _other_neurons(measured: Measured) -> dict[str, Array]:
    """P with an answer's neurons off and the k that then matter most, by gradient × activation, doubled."""
    mask, readout = measured.mask_LRF, measured.readout
    # What doubling a neuron does to first order in the suppressed model; 0 for what is off.
    slope = jax.grad(lambda gates: readout(gates * (1 - mask)).sum())(jnp.ones_like(mask))
    next_mask = top_k(jnp.where(mask > 0, -jnp.inf, measured.answers.scores(slope)), measured.k)
    return {"restored": measured.probability(NeuronEdit((1 - mask) * (1 + next_mask)))}


@set_group(
    "paraphrase",
    gives={"paraphrase_suppressed": (0.06, 0.27)},
    cost="attributions",
    text=True,
)
def _paraphrase(measured: MeasuredSet) -> dict[str, Float[np.ndarray, " N"]]:
    """P of an answer after its prompt with the neurons off that another prompt of the same fact chose; NaN where the
    set has no other prompt in which the answer has as many tokens.
    """
    model, queries, pool = measured.examples.model, measured.examples.queries, measured.pool.queries
    other_N = other_prompts(queries, pool)
    index = np.flatnonzero(other_N >= 0)
    column = np.full(len(queries), np.nan)
    if len(index):
        asked, worded = queries[index], pool[other_N[index]]

        def step(number: int, batch: QueryBatch, taken: np.ndarray) -> Mapping[str, Array]:
            n_rows = len(batch.answers.weight_R)
            again, _ = query_batch(
                worded[taken],
                n_sequences=n_rows,
                n_rows=n_rows,
                answered=range(len(taken)),
                rng=np.random.default_rng(0),
                n_controls=0,
            )
            _, mask_LRF = measured.neurons(again)
            return {"p": _suppressed(readout_of(model, batch), mask_LRF, batch.answers)}

        column[index] = columns_of(query_batches(asked, measured.rows, measured.seed), len(asked), step)["p"]
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
def _suppressed(readout: Readout, mask_LRF: Array, answers: Answers) -> Float[Array, " N"]:
    return answers.probability(readout(*suppress(mask_LRF)))


@set_group(
    "relearning",
    gives={"erased": (0.06, 0.03), "relearned": (0.072, 0.27)},
    cost="training",
    text=True,
)
def _relearning(measured: MeasuredSet) -> dict[str, Float[np.ndarray, " N"]]:
    """P with the knowledge neurons of all the set's answers taken out for good, before and after `STEPS` steps of Adam
    on half of the facts, of the answers of the other half; each half in turn. Of causal models.
    """
    model, queries = measured.examples.model, measured.examples.queries
    columns = {name: np.full(len(queries), np.nan) for name in ("erased", "relearned")}
    half_N = halves(queries.fact_N)
    if model.config.attention == "bidirectional" or half_N.min() == half_N.max():
        return columns
    keep_LF = jnp.asarray(1 - erased_neurons(measured), model.config.dtype)
    erased = _without(model, keep_LF)
    columns["erased"] = recalled(erased, queries, rows=measured.rows)["probability"]
    for half in (0, 1):
        taught, asked = (np.flatnonzero(half_N == which) for which in (half, 1 - half))
        after = _trained(erased, keep_LF, queries[taught], measured.seed)
        columns["relearned"][asked] = recalled(after, queries[asked], rows=measured.rows)["probability"]
    return columns


def halves(fact_N: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """0 or 1 for each query, by its fact: every other fact of those there are."""
    return np.unique(fact_N, return_inverse=True)[1] % 2


def erased_neurons(measured: MeasuredSet) -> Float[np.ndarray, "L F"]:
    """1 for the knowledge neurons of any answer of the set."""
    gone = np.zeros(measured.examples.shape)

    def step(batch: Batch, taken: np.ndarray) -> dict:
        _, mask_LRF = measured.neurons(batch)
        mask_RLF = np.asarray(mask_LRF).transpose(1, 0, 2)[batch.answers.weight_R > 0]
        np.maximum(gone, mask_RLF.max(0), out=gone)
        return {}

    measured.each_batch(step)
    return gone


def _without(model: Model, keep_LF: Float[Array, "L F"]) -> Model:
    """The model whose neurons write nothing where `keep` is 0."""
    layers = dict(model.params["layers"])
    layers["w_out"] = layers["w_out"] * keep_LF[..., None]
    return model.replace(params={**model.params, "layers": layers})


def _trained(model: Model, keep_LF: Array, queries: EncodedQueries, seed: int) -> Model:
    """`STEPS` steps on `TEXTS` of the texts; neurons that are gone stay so."""
    chosen_SB = np.random.default_rng(seed).choice(len(queries), (STEPS, TEXTS))
    weight_SBT = np.arange(queries.tokens_NT.shape[1]) < queries.length_N[chosen_SB, None]
    return _fitted(model, keep_LF, queries.tokens_NT[chosen_SB], weight_SBT)


@jax.jit
def _fitted(model: Model, keep_LF: Array, tokens_SBT: Array, weight_SBT: Array) -> Model:
    def loss(params: Mapping, texts: tuple[Array, Array]) -> Float[Array, ""]:
        (tokens_BT, weight_BT), kept = texts, _without(model.replace(params=params), keep_LF)
        nll = next_token_nll(kept, forward(kept, tokens_BT), tokens_BT)
        return (nll * weight_BT[:, 1:]).sum() / weight_BT[:, 1:].sum()

    # Nothing reaches what the neurons that are gone write: their gradient is 0, so that Adam leaves them at 0.
    return model.replace(params=fit(jax.grad(loss), model.params, ADAM, (tokens_SBT, weight_SBT)))


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
