"""Answers: which rows of a readout make one up, and whose neurons it is compared with.

An answer of several tokens has several rows. Each row's edit acts at that row alone, earlier tokens are the reference
text and untouched, and the answer's probability is the product over its rows. An image or a position of a game is an
answer of one row. Nothing here knows tokens or models.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

AnyArray = Array | np.ndarray


class Answers(NamedTuple):
    """N answers that are read at R rows; both end in padding of weight 0. Rows stand in the order of their answers."""

    answer_R: Int[AnyArray, " R"]  # the answer that each row belongs to
    weight_R: Float[AnyArray, " R"]  # 1 for a row, 0 for padding
    # Rows of X other answers, as many of each kind, kind by kind (see `jaxinterp.facts.controls`); or the row: none
    control_XR: Int[AnyArray, "X R"]
    answer_weight_N: Float[AnyArray, " N"]  # 1 for an answer, 0 for padding
    control_weight_XN: Float[AnyArray, "X N"]  # 1 for an answer that has this control
    # Number of each answer's fact, the same in all batches, negative for what is none, such as text; None: not known
    fact_N: Int[AnyArray, " N"] | None = None

    @property
    def n(self) -> int:
        """N, with padding."""
        return self.answer_weight_N.shape[0]

    @property
    def length_N(self) -> Float[Array, " N"]:
        """Rows of each answer."""
        return self.sum(jnp.ones_like(jnp.asarray(self.weight_R)))

    @property
    def first_R(self) -> Float[Array, " R"]:
        """1 for the first row of an answer."""
        answer_R = jnp.asarray(self.answer_R)
        starts = jnp.concatenate([jnp.ones(1, bool), answer_R[1:] != answer_R[:-1]])
        return starts * jnp.asarray(self.weight_R)

    @property
    def first_row_R(self) -> Int[Array, " R"]:
        """The first row of each row's answer."""
        answer_R = jnp.asarray(self.answer_R)
        return jnp.argmax(answer_R[:, None] == answer_R[None], axis=1)

    @property
    def first_row_N(self) -> Int[Array, " N"]:
        """The first row of each answer; 0 for padding."""
        return jnp.argmax(jnp.asarray(self.answer_R)[None] == jnp.arange(self.n)[:, None], axis=1)

    def sum(self, value_R: Float[Array, "R *F"]) -> Float[Array, "N *F"]:
        """Sum over an answer's rows."""
        weight_R = jnp.asarray(self.weight_R).reshape(-1, *(1,) * (value_R.ndim - 1))
        # Padding belongs to the last answer, and may have no value: 0 · NaN is NaN.
        return jax.ops.segment_sum(jnp.where(weight_R > 0, value_R, 0), jnp.asarray(self.answer_R), self.n)

    def mean(self, value_R: Float[Array, " R"]) -> Float[Array, " N"]:
        """Mean over an answer's rows; 0 for padding."""
        return self.sum(value_R) / jnp.maximum(self.length_N, 1)

    def log_probability(self, probability_R: Float[Array, " R"]) -> Float[Array, " N"]:
        """log P of whole answers, in nats: the sum of log P over an answer's rows. An answer without rows has 0."""
        return self.sum(jnp.log(probability_R + jnp.finfo(probability_R.dtype).tiny))

    def probability(self, probability_R: Float[Array, " R"]) -> Float[Array, " N"]:
        """P of whole answers: the product over an answer's rows."""
        return jnp.exp(self.log_probability(probability_R))

    def scores(self, scores_LRF: Float[Array, "L R F"]) -> Float[Array, "L R F"]:
        """Each row's scores become the sum over its answer's rows: by which the neurons of an answer are chosen."""
        return self.sum(scores_LRF.transpose(1, 0, 2))[jnp.asarray(self.answer_R)].transpose(1, 0, 2)


def whole_rows(n: int, n_rows: int | None = None) -> Answers:
    """n answers of one row each, without controls, padded to `n_rows`."""
    n_rows = n if n_rows is None else n_rows
    weight = (np.arange(n_rows) < n).astype(np.float32)
    answer = np.minimum(np.arange(n_rows), max(n - 1, 0)).astype(np.int32)
    return Answers(answer, weight, np.zeros((0, n_rows), np.int32), weight, np.zeros((0, n_rows), np.float32))
