"""Every answer's neurons, and then each answer against its controls: all columns of a set of examples."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.attribution.adaptive import per_layer_attribution
from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.quadrature import Integral
from jaxinterp.attribution.readout import Readout
from jaxinterp.attribution.registry import METHODS
from jaxinterp.attribution.selection import check_k
from jaxinterp.base.errors import UserError
from jaxinterp.facts.controls import CONTROL_KINDS, KINDS, draw_controls
from jaxinterp.metrics.batching import Batch, columns_of
from jaxinterp.metrics.columns import (
    ATTRIBUTION,
    GROUPS,
    Compared,
    Measured,
    check_text,
    columns_of_groups,
)
from jaxinterp.metrics.examples import Examples, LanguageExamples

# Columns that no group gives: those of every measurement, and those of `jaxinterp.metrics.held_out`
ABILITY = ("correct", "sentence_nll", "sentence_tokens", "text_nll", "text_tokens")


class MeasuredAnswers(NamedTuple):
    """Measured columns of N queries, and their neurons; U = L·F."""

    columns: Mapping[str, Float[np.ndarray, " N"]]
    # How often each neuron was selected, by relation index: [relations, L, F], in answers.
    selected: Float[np.ndarray, "relations L F"]
    activation_NU: Float[np.ndarray, "N U"] | None  # at the query of each answer's first token, if asked for
    selected_NU: Float[np.ndarray, "N U"] | None  # 1 for the neurons of an answer


def measured_answers(
    examples: Examples,
    *,
    k: int,
    n_relations: int,
    integral: Integral,
    groups: tuple[str, ...] = ("answers", "controls"),
    neurons: bool = False,
    n_controls: int = 1,
    rows: int = 64,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> MeasuredAnswers:
    """Measures every answer with per-layer integrated gradients and a fixed budget of k neurons for each.

    Every answer's neurons are found first; then each is compared with its controls, which are drawn from all examples.
    Columns are those of the groups, and those of `Examples.ability`: correct (0 or 1), and of text sentence_nll (nats)
    and sentence_tokens. An answer without a possible control of a kind has NaN where one is needed.

    Args:
      examples: what to measure.
      k: neurons of an answer, out of all layers.
      n_relations: number of relations that `examples.relation_N` indexes.
      integral: of the attribution.
      groups: of columns, see `jaxinterp.metrics.columns`; not those of whole sets.
      neurons: whether each answer's activations and selections are returned.
      n_controls: other facts of each kind whose neurons are switched off, for each answer.
      rows: answer tokens at once.
      seed: of controls and random neurons.
      progress: called with the number of answers done in each batch.
    Raises:
      UserError: if a group is unknown, is one of whole sets, or needs text that there is not; neurons are asked for
        whose activations the readout does not know; or k does not fit the model.
    """
    of_batch, of_compared = _divided(groups, examples)
    n, n_neurons = len(examples), examples.n_neurons
    check_k(k, n_neurons)
    selectors = tuple(dict.fromkeys(name for group in groups for name in GROUPS[group].selectors))
    key = jax.random.key(seed)
    # Of each answer, so that its random neurons do not depend on the batch that it is in.
    key_N = jax.vmap(lambda query: jax.random.fold_in(key, query))(jnp.arange(n))
    chosen = {name: np.zeros((n, k), np.int32) for name in (ATTRIBUTION, *selectors)}
    donors = _Donors(examples) if any(GROUPS[name].donors for name in of_compared) else None
    kept_NU = np.zeros((n, n_neurons), np.float32) if neurons else None

    def measured(number: int, batch: Batch, taken: np.ndarray) -> Mapping[str, Array]:
        readout = examples.readout(batch)
        if neurons and readout.neurons_LRF is None:
            raise UserError("metrics of neurons need activations; give the readout its neurons_LRF")
        attribution = per_layer_attribution(readout, integral)
        batch_key = jax.random.fold_in(key, number)
        scores = {name: _scores(name, readout, batch_key) for name in selectors}
        seen = Measured(batch.answers, readout, attribution, scores, key_N[_padded(taken, batch.answers)], k)
        for name, neurons_NK in _chosen(selectors, seen).items():
            chosen[name][taken] = np.asarray(neurons_NK)[: len(taken)]
        if donors is not None or kept_NU is not None:
            real = batch.answers.weight_R > 0
            activation_RU = np.asarray(readout.neurons_LRF, np.float32).transpose(1, 0, 2)[real].reshape(real.sum(), -1)
            if donors is not None:
                donors.put(taken, batch.answers.answer_R[real], activation_RU)
            if kept_NU is not None:
                kept_NU[taken] = activation_RU[np.asarray(batch.answers.first_R)[real] > 0]
        return {**columns_of_groups(of_batch, seen), **examples.ability(batch)}

    columns = columns_of(examples.batches(rows, seed), n, measured, progress)
    if of_compared:
        compare = _comparison(examples, chosen, donors, n_controls, seed)

        def compared(number: int, batch: Batch, taken: np.ndarray) -> Mapping[str, Array]:
            return columns_of_groups(of_compared, compare(batch.answers, examples.readout(batch), taken))

        columns |= columns_of(examples.batches(rows, seed), n, compared)
    selected_NU = np.zeros((n, n_neurons), np.float32)
    np.put_along_axis(selected_NU, chosen[ATTRIBUTION], 1.0, axis=1)
    selected = np.zeros((n_relations, n_neurons))
    np.add.at(selected, examples.relation_N, selected_NU)
    return MeasuredAnswers(
        columns,
        selected.reshape(n_relations, *examples.shape),
        kept_NU,
        selected_NU if neurons else None,
    )


def _padded(taken: Int[np.ndarray, " n"], answers: Answers) -> Int[np.ndarray, " N"]:
    """The numbers of a batch's answers; padding is any of them."""
    return np.concatenate([taken, np.full(answers.n - len(taken), taken[-1])])


def _divided(groups: tuple[str, ...], examples: Examples) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those that look at a batch alone, and those that look at controls."""
    for name in groups:
        if GROUPS[name].of_set:
            raise UserError(f"the columns {name!r} are those of a whole set; see `measure_sets`")
        check_text(name, examples)
    return tuple(tuple(name for name in groups if GROUPS[name].looks == looks) for looks in ("batch", "compared"))


@functools.partial(jax.jit, static_argnums=0)
def _scores(name: str, readout: Readout, key: PRNGKeyArray) -> Float[Array, "L R F"]:
    return METHODS[name].scores(readout, key)


@functools.partial(jax.jit, static_argnums=0)
def _chosen(selectors: tuple[str, ...], measured: Measured) -> dict[str, Int[Array, "N k"]]:
    """The k neurons of each answer, as numbers layer · F + neuron, by each selector."""
    answers = measured.answers

    def best(scores_LRF: Array) -> Int[Array, "N k"]:
        n_layers, n_rows, n_neurons = scores_LRF.shape
        scores_RU = scores_LRF.transpose(1, 0, 2).reshape(n_rows, n_layers * n_neurons)
        first_N = jnp.searchsorted(jnp.asarray(answers.answer_R), jnp.arange(answers.n))
        return jax.lax.top_k(scores_RU[jnp.minimum(first_N, n_rows - 1)], measured.k)[1]

    others = {name: best(answers.scores(measured.scores[name])) for name in selectors}
    return {ATTRIBUTION: best(measured.scores_LRF), **others}


class _Donors:
    """Activations of all rows of a language model's answers, in their order."""

    def __init__(self, examples: LanguageExamples) -> None:
        self.queries, self.shape = examples.queries, examples.shape
        self.start_N = np.concatenate([[0], np.cumsum(self.queries.answer_length_N)])[:-1]
        self.activation_RU = np.zeros((int(self.queries.answer_length_N.sum()), examples.n_neurons), np.float32)

    def put(
        self, taken: Int[np.ndarray, " n"], answer_R: Int[np.ndarray, " R"], activation_RU: Float[np.ndarray, "R U"]
    ) -> None:
        """Keeps a batch's rows: those of query `taken[answer_R]`, each answer's in order."""
        step_R = np.arange(len(answer_R)) - np.searchsorted(answer_R, answer_R)
        self.activation_RU[self.start_N[taken[answer_R]] + step_R] = activation_RU

    def lent(
        self, partner_R: Int[np.ndarray, " R"], step_R: Int[np.ndarray, " R"]
    ) -> tuple[Float[np.ndarray, "L R F"], Int[np.ndarray, " R"]]:
        """Activations and targets of the partners' rows; one with fewer tokens lends its rows in turn."""
        step_R = step_R % self.queries.answer_length_N[partner_R]
        activation_RU = self.activation_RU[self.start_N[partner_R] + step_R]
        activation_LRF = activation_RU.reshape(len(partner_R), *self.shape).transpose(1, 0, 2)
        return activation_LRF, self.queries.tokens_NT[partner_R, self.queries.answer_start_N[partner_R] + step_R]

    @property
    def mean_LF(self) -> Float[np.ndarray, "L F"]:
        """A mean over all rows."""
        return self.activation_RU.mean(0).reshape(self.shape)


def _comparison(
    examples: Examples,
    chosen: Mapping[str, Int[np.ndarray, "N k"]],
    donors: _Donors | None,
    n_controls: int,
    seed: int,
) -> Callable[[Answers, Readout, np.ndarray], Compared]:
    """The function that makes a batch's `Compared`, of controls that are drawn once for all answers."""
    control_KXN = draw_controls(examples, KINDS, n_controls, np.random.default_rng([seed, 1]))
    control_XN = control_KXN.reshape(-1, len(examples))
    mean_LF = None if donors is None else jnp.asarray(donors.mean_LF)

    def compare(answers: Answers, readout: Readout, taken: np.ndarray) -> Compared:
        index_N = _padded(taken, answers)
        partner_XN = control_XN[:, index_N]
        donor_KLRF = target_KR = None
        if donors is not None:
            step_R = np.arange(len(answers.answer_R)) - np.searchsorted(answers.answer_R, answers.answer_R)
            first_KR = control_KXN[: len(CONTROL_KINDS), 0][:, index_N][:, answers.answer_R]
            lent = [donors.lent(np.maximum(partner_R, 0), step_R) for partner_R in first_KR]
            donor_KLRF, target_KR = (jnp.asarray(np.stack(parts)) for parts in zip(*lent, strict=True))
        return Compared(
            answers,
            readout,
            {name: jnp.asarray(neurons[index_N]) for name, neurons in chosen.items()},
            {name: jnp.asarray(neurons[partner_XN]) for name, neurons in chosen.items()},
            jnp.asarray((partner_XN >= 0) * answers.answer_weight_N[None], jnp.float32),
            donor_KLRF,
            target_KR,
            mean_LF,
        )

    return compare
