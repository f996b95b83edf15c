"""The Jacobian lens: what later layers make of a change in the residual stream, on average over texts.

The method is that of Gurnee, Sofroniew, Lindsey et al. 2026 ("Verbalizable Representations Form a Global Workspace in
Language Models"): J_l is the mean over texts and source positions t of Σ over target positions t' ≥ t of ∂h_final,t' /
∂h_l,t, and a vector of layer l is read as the unembedding of J_l h. It is computed exactly, a coordinate of h_final at
a time, by one backward pass for all layers.

Deviations. Of a text only the first `skip` positions are left out, not 16: sentences are short. A value vector goes
through J_l as a residual stream does; the final norm's division is left out, as in all lenses here. The lens
"jacobian_same" takes t' = t alone, the paper's other estimator: it asks for the next token, as agreement does.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.base.progress import progress
from jaxinterp.memories.corpus import Corpus
from jaxinterp.memories.lens import Lens, lens_kind
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change
from jaxinterp.models.transformer import forward

TARGETS = ("later", "same")


@dataclasses.dataclass(frozen=True)
class JacobianConfig:
    """What a mean Jacobian is a mean of."""

    # Which target positions count for a source position t: later takes t' ≥ t (of a bidirectional model, all), same t
    targets: Literal["later", "same"] = "later"
    windows: int = 64  # windows of the corpus, drawn without replacement; all if there are fewer
    skip: int = 1  # positions at the beginning of a window that are neither source nor target: <bos> takes attention
    batch: int = 8  # windows at once
    at_once: int = 32  # coordinates of the final residual stream at once

    def __post_init__(self) -> None:
        check_numbers(self, "jacobian.")
        if self.targets not in TARGETS:
            raise unknown("jacobian.targets", self.targets, TARGETS)
        if min(self.windows, self.batch, self.at_once) < 1 or self.skip < 0:
            raise UserError("jacobian.windows, batch and at_once must be at least 1, and jacobian.skip at least 0")


def mean_jacobian(
    model: Model, corpus: Corpus, config: JacobianConfig = JacobianConfig(), seed: int = 0
) -> Float[Array, "L D D"]:
    """J_l transposed, so that h @ J is what a change h after layer l adds to the final residual stream.

    J_l = mean over (window, t) of Σ_t' ∂h_final,t' / ∂h_l,t, with t' and t of `config`; of the last layer it is the
    identity.

    Args:
      model: the model.
      corpus: texts.
      config: what is averaged over. Of "same", each window has one position, which is drawn, and counts as often as it
        has positions.
      seed: of the windows and positions that are drawn.
    Raises:
      UserError: if no window has a position that counts.
    """
    rng = np.random.default_rng([seed, 0])
    length_N = np.asarray(corpus.length_N)
    window_W = rng.permutation(np.flatnonzero(length_N > config.skip))[: config.windows]
    if not len(window_W):
        raise UserError(f"no text of the corpus has more than {config.skip} tokens; give longer texts or a lower skip")
    source_WT, target_WT = _weights(config, length_N[window_W], corpus.tokens_NT.shape[1], rng)
    total, weight = 0.0, float(source_WT.sum())
    with progress("mean Jacobian, windows", len(window_W)) as report:
        for start in range(0, len(window_W), config.batch):
            of = slice(start, start + config.batch)
            short = config.batch - len(window_W[of])
            # The first window again, without weight: all batches have one shape.
            window_B = np.concatenate([window_W[of], np.repeat(window_W[:1], short)])
            source_BT, target_BT = (np.pad(x[of], ((0, short), (0, 0))) for x in (source_WT, target_WT))
            arrays = (np.asarray(corpus.tokens_NT)[window_B], length_N[window_B], source_BT, target_BT)
            total = total + _sum(model, *arrays, min(config.at_once, model.config.d_model))
            report(min(start + config.batch, len(window_W)), "")
    return total / weight


@lens_kind("jacobian")
def jacobian(model: Model, corpus: Corpus, seed: int = 0) -> Lens:
    """v · J_l · diag(s) · E, J_l the mean Jacobian of the final residual stream with respect to that after layer l: a
    mean over texts and positions of the sum over the same and all later positions of a text (Gurnee et al. 2026).
    What the neuron does to the next and to later tokens by way of all later layers, to first order and on average.
    """
    return Lens("jacobian", matrix_LDD=mean_jacobian(model, corpus, JacobianConfig(), seed))


@lens_kind("jacobian_same")
def jacobian_same(model: Model, corpus: Corpus, seed: int = 0) -> Lens:
    """v · J_l · diag(s) · E, with J_l the mean over texts and positions of the Jacobian of the final residual stream
    with respect to that after layer l at the same position. What the neuron does to the next token by way of all later
    layers, to first order and on average.
    """
    config = JacobianConfig(targets="same", windows=256)
    return Lens("jacobian_same", matrix_LDD=mean_jacobian(model, corpus, config, seed))


def _weights(
    config: JacobianConfig, length_W: Int[np.ndarray, " W"], n_positions: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "W T"], Float[np.ndarray, "W T"]]:
    """What each position counts for as a source and as a target."""
    position_T = np.arange(n_positions)
    valid_WT = (position_T[None] >= config.skip) & (position_T[None] < length_W[:, None])
    if config.targets == "later":
        return valid_WT.astype(np.float32), valid_WT.astype(np.float32)
    drawn_W = rng.integers(config.skip, length_W)
    one_WT = (position_T[None] == drawn_W[:, None]).astype(np.float32)
    return one_WT * valid_WT.sum(1, keepdims=True), one_WT


@functools.partial(jax.jit, static_argnames="at_once")
def _sum(
    model: Model, tokens_BT: Array, length_B: Array, source_BT: Array, target_BT: Array, at_once: int
) -> Float[Array, "L D D"]:
    """Σ source_t target_t' ∂h_final,t' / ∂h_l,t over a batch; the first axis of a matrix is that of h_l."""
    config, dtype = model.config, jnp.dtype(model.config.dtype)

    def final(shift_LBTD: Array) -> Float[Array, "B T D"]:
        changes = {"resid_post": Change(shift=shift_LBTD)}
        return forward(model, tokens_BT, edit=changes, length_B=length_B).resid_final_BTD

    zero = jnp.zeros((config.n_layers, *tokens_BT.shape, config.d_model), dtype)
    _, pulled_back = jax.vjp(final, zero)

    def row_LD(coordinate: Array) -> Float[Array, "L D"]:
        one_hot_D = jnp.arange(config.d_model) == coordinate
        (slope_LBTD,) = pulled_back((target_BT[..., None] * one_hot_D[None, None]).astype(dtype))
        return jnp.einsum("lbtd,bt->ld", slope_LBTD, source_BT)

    rows_DLD = jax.lax.map(row_LD, jnp.arange(config.d_model), batch_size=at_once)
    return rows_DLD.transpose(1, 2, 0)
