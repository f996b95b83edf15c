"""What an edit of a fact's knowledge neurons does to other facts: those of its relation, of its subject, and the rest.

An edit changes the value rows of a fact's own k neurons, and nothing else, until the prompt gives another answer.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.metrics.batching import LENGTHS, Batch
from jaxinterp.metrics.columns import MeasuredSet, set_group
from jaxinterp.metrics.edit_plans import ASKED, KINDS, PlannedEdit, planned_edits, reworded
from jaxinterp.metrics.recall import recalled
from jaxinterp.metrics.registry import Mean, Values, metric
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward, unembed

STEPS = 40  # of Adam, at most
STEP_SIZE = 0.1  # of Adam, in units of the root mean square of the rows that are edited
ENOUGH = 0.9  # probability of the new answer at which an edit ends

COLUMNS = ("edit_success", *(f"edit_kept_{kind}" for kind in KINDS))


class Texts(NamedTuple):
    """Q texts and where their answers are read; an answer has at most A tokens."""

    tokens_QT: Int[np.ndarray | Array, "Q T"]
    position_QA: Int[np.ndarray | Array, "Q A"]  # before the answer's token
    target_QA: Int[np.ndarray | Array, "Q A"]  # the answer's token
    weight_QA: Float[np.ndarray | Array, "Q A"]  # 1 for a token of the answer, 0 for padding


class Neurons(NamedTuple):
    """The k neurons of an answer."""

    layer_k: Int[np.ndarray | Array, " k"]
    neuron_k: Int[np.ndarray | Array, " k"]


@set_group(
    "edits",
    gives={
        "edit_success": (0.98, 0.3),
        "edit_kept_relation": (0.95, 0.1),
        "edit_kept_subject": (0.95, 0.1),
        "edit_kept_other": (0.99, 0.4),
    },
    cost="training",
    text=True,
)
def _edits(measured: MeasuredSet) -> dict[str, Float[np.ndarray, " N"]]:
    """For each of at most `EDITS` queries that are answered correctly: whether an edit of the fact's own neurons gives
    the new answer, and the share of other facts that are still answered correctly. NaN for all other queries, where
    no fact of a kind was answered correctly before, and for bidirectional models.
    """
    model, queries, pool = measured.examples.model, measured.examples.queries, measured.pool.queries
    columns = {name: np.full(len(queries), np.nan) for name in COLUMNS}
    if model.config.attention == "bidirectional":
        return columns

    rows = max(measured.rows, int(pool.answer_length_N.max()))  # the pool may have longer answers

    def recall(queries: EncodedQueries) -> Bool[np.ndarray, " n"]:
        return recalled(model, queries, rows=rows)["correct"] > 0

    plans = planned_edits(queries, pool, recall(queries), measured.seed)
    if not plans:
        return columns
    asked = np.unique(np.concatenate([plan.asked[kind] for plan in plans for kind in KINDS]))
    known = np.zeros(len(pool), bool)
    known[asked] = recall(pool[asked])
    neurons = own_neurons(measured, np.array([plan.query for plan in plans]))
    for plan, at in zip(plans, neurons, strict=True):
        success, kept = edited(measured, plan, at, known)
        columns["edit_success"][plan.query] = success
        for kind in KINDS:
            columns[f"edit_kept_{kind}"][plan.query] = kept[kind].mean() if len(kept[kind]) else np.nan
    return columns


def edited(
    measured: MeasuredSet, plan: PlannedEdit, at: Neurons, known: Bool[np.ndarray, " pool"]
) -> tuple[bool, dict[str, Bool[np.ndarray, " _"]]]:
    """Makes an edit: whether the prompt gives the new answer and, by kind, whether each fact that was known is kept.

    Args:
      measured: the model, and its queries.
      plan, at: the edit.
      known: which of the pool's queries the model answers correctly; of those that the plan does not ask, anything.
    """
    model, queries, pool = measured.examples.model, measured.examples.queries, measured.pool.queries
    size = _size(model.config, pool)
    target = texts(reworded(queries[plan.query : plan.query + 1], plan.answer), *size)
    rows_kD = edited_rows(model, target, at)
    known_others = {kind: index[known[index]] for kind, index in plan.asked.items()}
    others = np.concatenate([known_others[kind] for kind in KINDS])
    # One shape for all edits; nobody reads what pads it.
    padded = np.pad(others, (0, ASKED * len(KINDS) - len(others)))
    asked = texts(pool[padded], *size)
    asked = jax.tree.map(lambda *parts: np.concatenate(parts), target, asked)
    correct_Q = np.asarray(correct_after(model, asked, at, rows_kD))
    ends = np.cumsum([1] + [len(known_others[kind]) for kind in KINDS])
    return bool(correct_Q[0]), {
        kind: correct_Q[start:end] for kind, start, end in zip(KINDS, ends[:-1], ends[1:], strict=True)
    }


def own_neurons(measured: MeasuredSet, index: Int[np.ndarray, " E"]) -> list[Neurons]:
    """The k knowledge neurons of the answers of these queries: highest scores, summed over an answer's tokens."""
    chosen = dataclasses.replace(measured, examples=measured.examples[index])
    best = np.zeros((len(index), *measured.examples.shape), bool)

    def step(batch: Batch, taken: np.ndarray) -> dict:
        _, mask_LRF = chosen.neurons(batch)
        first = np.flatnonzero(np.asarray(batch.answers.first_R) > 0)
        best[taken] = np.asarray(mask_LRF).transpose(1, 0, 2)[first] > 0
        return {}

    chosen.each_batch(step)
    return [Neurons(*np.nonzero(mask_LF)) for mask_LF in best]


def _size(config: ModelConfig, pool: EncodedQueries) -> tuple[int, int]:
    """Positions (see `LENGTHS`) and most answer tokens of all texts of a set, so that one shape is compiled for it."""
    n_positions = -(-int(pool.length_N.max()) // LENGTHS) * LENGTHS
    return min(n_positions, config.n_ctx), int(pool.answer_length_N.max())


def texts(queries: EncodedQueries, n_positions: int, n_tokens: int) -> Texts:
    """Queries of a causal model as arrays of that many positions, and answer tokens."""
    tokens_NT = queries.tokens_NT[:, :n_positions]
    tokens_NT = np.pad(tokens_NT, ((0, 0), (0, n_positions - tokens_NT.shape[1])))
    token_A = np.arange(n_tokens)[None]
    within = token_A < queries.answer_length_N[:, None]
    place = np.where(within, queries.answer_start_N[:, None] + token_A, queries.answer_start_N[:, None])
    target = np.take_along_axis(tokens_NT, place, 1)
    return Texts(tokens_NT, place - 1, target, within.astype(np.float32))


def with_rows(model: Model, at: Neurons, rows_kD: Float[Array, "k D"]) -> Model:
    """The model whose neurons have these value rows, rows of w_out, and is otherwise the same."""
    layers = dict(model.params["layers"])
    layers["w_out"] = layers["w_out"].at[at.layer_k, at.neuron_k].set(rows_kD.astype(layers["w_out"].dtype))
    return model.replace(params={**model.params, "layers": layers})


def _logits(model: Model, texts: Texts) -> Float[Array, "Q A V"]:
    resid_QTD = forward(model, texts.tokens_QT).resid_final_BTD
    return unembed(model, jnp.take_along_axis(resid_QTD, jnp.asarray(texts.position_QA)[..., None], 1))


@jax.jit
def edited_rows(model: Model, text: Texts, at: Neurons) -> Float[Array, "k D"]:
    """The value rows of a text's neurons with which the model gives the text's answer.

    Adam on −log P(answer), from the model's own rows, until P(answer) > `ENOUGH` or for `STEPS` steps. The step size is
    `STEP_SIZE` · root mean square of the rows' D · k elements, so that it does not depend on their unit.
    """
    own_kD = model.params["layers"]["w_out"][at.layer_k, at.neuron_k]
    # In float32 at least: a small step is lost in 16 bits.
    own_kD = own_kD.astype(jnp.promote_types(own_kD.dtype, jnp.float32))
    transform = optax.adam(STEP_SIZE * jnp.sqrt(jnp.square(own_kD).mean()))

    def nll(rows_kD: Array) -> Float[Array, ""]:
        log_p_QAV = jax.nn.log_softmax(_logits(with_rows(model, at, rows_kD), text))
        log_p_QA = jnp.take_along_axis(log_p_QAV, jnp.asarray(text.target_QA)[..., None], -1)[..., 0]
        return -(log_p_QA * text.weight_QA).sum()

    def step(progress: tuple) -> tuple:
        number, _, rows_kD, state = progress
        loss, slope = jax.value_and_grad(nll)(rows_kD)
        updates, next_state = transform.update(slope, state)
        enough = loss < -jnp.log(ENOUGH)
        rows_kD = jnp.where(enough, rows_kD, optax.apply_updates(rows_kD, updates))
        return number + 1, enough, rows_kD, next_state

    start = (jnp.zeros((), int), jnp.zeros((), bool), own_kD, transform.init(own_kD))
    return jax.lax.while_loop(lambda progress: (progress[0] < STEPS) & ~progress[1], step, start)[2]


@jax.jit
def correct_after(model: Model, texts: Texts, at: Neurons, rows_kD: Array) -> Bool[Array, " Q"]:
    """Where each token of a text's answer is the most probable one, with these value rows of the neurons."""
    hit_QA = _logits(with_rows(model, at, rows_kD), texts).argmax(-1) == texts.target_QA
    return (hit_QA | (texts.weight_QA == 0)).all(-1)


@metric(
    "edit_success",
    needs=("edit_success",),
    title="Edits that succeed",
    unit="%",
    range=(0.0, 1.0),
    better="higher",
    source="after Dai et al. 2021; Meng et al. 2022, efficacy",
)
def edit_success(mean: Mean) -> Values:
    """Share of edits after which the prompt gives the new answer, every token as the most probable one. An edit takes
    gradient steps on the value rows of a known fact's own knowledge neurons, and on nothing else, until another answer
    of its relation has a probability above 90 %.
    """
    return mean("edit_success")


def _register(kind: str, others: str, whose: str, low: str) -> None:
    @metric(
        f"edit_kept_{kind}",
        needs=(f"edit_kept_{kind}",),
        title=f"Kept by edits, {others}",
        unit="%",
        range=(0.0, 1.0),
        better="higher",
        source="after Dai et al. 2021; Meng et al. 2022, specificity",
        words={"whose": whose, "low": low},
    )
    def _kept(mean: Mean) -> Values:
        """Share of known facts of {whose} that are still answered correctly after the value rows of a fact's own
        knowledge neurons were changed until its prompt gives another answer of the relation.{low}
        """
        return mean(f"edit_kept_{kind}")


_LOW = " Low if those neurons serve the {0} and not the fact."
_register("relation", "same relation", "the same relation and another subject", _LOW.format("relation"))
_register("subject", "same subject", "the same subject and another relation", _LOW.format("subject"))
_register("other", "others", "another relation and another subject", "")
