"""The smallest change of a fact's own value rows that gives the new answer and keeps what other prompts get."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.editing.deltas import Rows
from jaxinterp.editing.descent import descended
from jaxinterp.editing.likelihood import answer_nll
from jaxinterp.editing.places import Texts, batches, texts_of
from jaxinterp.editing.registry import Given, Neurons, editing_method
from jaxinterp.editing.request import Request
from jaxinterp.editing.rows import neurons_of, row_deltas
from jaxinterp.editing.solutions import kept_spread
from jaxinterp.facts.facts import Text
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward

HALVINGS = 10  # of the interval in which the smallest multiple of the change is looked for that is enough


@dataclasses.dataclass(frozen=True)
class KnSolveConfig:
    """Settings of KN-solve."""

    k: int = 8  # knowledge neurons, if none are given
    # What the mean squared change of what kept prompts get counts against the squared change of the rows, in units of
    # the mean squared length of the request's own activations; None: what kept prompts get does not change at all
    keep: float | None = 100.0
    enough: float = 0.9  # probability of the new answer, a token, at which the search ends
    steps: int = 100  # of the search, at most
    step_size: float = 0.05  # of the search: length of a step, in units of the length of all rows together

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.keep is not None and self.keep < 0:
            raise UserError(f"keep of KN-solve must be at least 0, or None for no change at all, got {self.keep}")
        if not 0 < self.enough < 1:
            raise UserError(f"enough of KN-solve must be above 0 and below 1, got {self.enough}")
        if self.steps < 0 or self.step_size <= 0:
            raise UserError(f"steps must be at least 0 and step_size above 0, got {self.steps} and {self.step_size}")


@editing_method(
    "kn_solve",
    title="KN-solve",
    source="ours",
    settings=KnSolveConfig,
    reads=("neurons", "rephrased", "kept"),
    one_by_one=True,
)
def kn_solve(model: LanguageModel, requests: Sequence[Request], config: KnSolveConfig, given: Given) -> list[Rows]:
    """The cheapest change Δ [k, D] of the value rows of a fact's k neurons that is just enough for the new answer.

        minimise  ‖Δ‖² + keep · mean_o ‖a_o Δ‖² / mean_p ‖a_p‖²   subject to   P(new; W + Δ) = enough,

    layer by layer, with a_p the neurons' activations where the new answer's tokens are read, and a_o those where kept
    prompts end. For any R that a layer's keys K (its rows a_p) are to give more, the cheapest Δ has a closed form,
    S (K S)⁻¹ R with S of `solutions.kept_spread`. R itself is looked for: from 0, by steepest descent of −log P(new) in
    the metric of the cost. P is that of the whole model with the changed rows, at all positions and in all layers, so
    that it counts what changes of lower layers do to the neurons of higher ones. At last Δ is scaled to be just enough.
    Of a request that is rephrased, P is the geometric mean over its prompts, and K has the keys of all of them.

    Three things are not exact. Activations are those of the model before the edit. Of kept prompts, the last position
    alone is looked at. And steepest descent ends near the cheapest R, not at it.
    """
    deltas = []
    rephrased = given.rephrased or [()] * len(requests)
    for request, others, neurons in zip(requests, rephrased, neurons_of(model, requests, config.k, given), strict=True):
        texts = texts_of(model, [one.text(one.new) for one in (request, *others)])
        keys_Pk = _activations(model, texts, neurons)
        # The answer of a kept prompt is not looked at, but encoding asks for one.
        kept = [Text(prompt, request.new, "") for prompt in given.kept]
        kept_Ok = _activations(model, texts_of(model, kept), neurons, first=True) if kept else keys_Pk[:0]
        basis_kk = _basis(neurons, keys_Pk, kept_Ok, config.keep)
        settings = (config.steps, config.step_size, config.enough)
        delta_kD = _search(model.model, texts, neurons, jnp.asarray(basis_kk), settings)
        deltas += row_deltas(neurons, basis_kk @ np.asarray(delta_kD).astype(np.float64))
    return deltas


def _activations(
    model: LanguageModel, texts: Texts, neurons: Neurons, *, first: bool = False
) -> Float[np.ndarray, "P k"]:
    """The neurons' activations wherever a token of an answer is read, or its first one alone."""
    weight_QA = texts.weight_QA * (np.arange(texts.weight_QA.shape[1]) == 0) if first else texts.weight_QA
    row, column = np.nonzero(weight_QA)
    # In batches of few sizes: the number of kept prompts may differ from request to request.
    parts = [np.asarray(_neurons(model.model, texts.tokens_QT[part], *neurons)) for part in batches(len(weight_QA))]
    return np.concatenate(parts).astype(np.float64)[row, texts.read_QA[row, column]]


@jax.jit
def _neurons(model: Model, tokens_QT: Array, layer_k: Array, neuron_k: Array) -> Float[Array, "Q T k"]:
    post_LQTF = forward(model, tokens_QT, capture=("mlp_post",)).activations["mlp_post"]
    return jnp.moveaxis(post_LQTF[layer_k, :, :, neuron_k], 0, -1)


def _basis(
    neurons: Neurons, keys_Pk: Float[np.ndarray, "P k"], kept_Ok: Float[np.ndarray, "O k"], keep: float | None
) -> Float[np.ndarray, "k k"]:
    """B such that Δ = B Z costs ‖Z‖² and is the cheapest change that writes what it writes; it ends in columns of 0.

    Layer by layer: S G^(−½) with the Gram matrix G = A S of its keys A, without directions in which nothing is free.
    """
    size = np.square(keys_Pk).sum(1).mean()
    weight = np.inf if keep is None else keep / size if size else 0.0
    basis_kk, n_columns = np.zeros((keys_Pk.shape[1],) * 2), 0
    for layer in np.unique(neurons.layer_k):
        own = np.flatnonzero(np.asarray(neurons.layer_k) == layer)
        spread_KP = kept_spread(keys_Pk[:, own], kept_Ok[:, own], weight)
        gram_PP = keys_Pk[:, own] @ spread_KP
        value_P, vector_PP = np.linalg.eigh((gram_PP + gram_PP.T) / 2)
        free = value_P > 1e-10 * size
        columns = np.flatnonzero(free)
        place = n_columns + np.arange(len(columns))
        basis_kk[np.ix_(own, place)] = spread_KP @ (vector_PP[:, columns] / np.sqrt(value_P[columns])[None])
        n_columns += len(columns)
    if not n_columns:
        raise UserError(
            "the neurons are not active where the answer is read, or only as kept prompts have them; take other "
            "neurons, fewer kept prompts, or a number for keep"
        )
    return basis_kk


@functools.partial(jax.jit, static_argnums=4)
def _search(model: Model, texts: Texts, neurons: Neurons, basis_kk: Array, settings: tuple) -> Float[Array, "k D"]:
    steps, step_size, probability = settings
    enough = -float(np.log(probability))
    texts = jax.tree.map(jnp.asarray, texts)
    w_out = model.params["layers"]["w_out"]
    exact = jnp.promote_types(w_out.dtype, jnp.float32)  # small steps are lost in 16 bits
    basis_kk, own_kD = basis_kk.astype(exact), w_out[neurons.layer_k, neurons.neuron_k].astype(exact)

    def nll(z_kD: Array) -> Float[Array, ""]:
        rows_kD = own_kD + basis_kk @ z_kD
        edited = w_out.at[neurons.layer_k, neurons.neuron_k].set(rows_kD.astype(w_out.dtype))
        layers = {**model.params["layers"], "w_out": edited}
        changed = dataclasses.replace(model, params={**model.params, "layers": layers})
        return answer_nll(changed, texts)

    length = step_size * jnp.linalg.norm(own_kD)
    downhill = optax.chain(optax.normalize_by_update_norm(), optax.scale(-length))
    z_kD, _ = descended(nll, jnp.zeros_like(own_kD), downhill, steps=steps, enough=enough)

    def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        suffices = nll(middle * z_kD) < enough
        return jnp.where(suffices, low, middle), jnp.where(suffices, middle, high)

    # Where the search has failed, no multiple is enough, and the upper end stays 1.
    return z_kD * jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros(()), jnp.ones(())))[1]
