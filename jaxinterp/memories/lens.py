"""Lenses: what a vector in a layer's residual stream says about the next token.

All lenses are affine. A vector of layer l goes through that layer's map into the residual stream after the last layer,
and is unembedded there. A value vector, a row of W_out, is what a neuron adds to the stream for each unit of its
activation, so that it goes through the linear part alone.

A kind of lens is one file in `jaxinterp.memories.lenses` with one decorated function from a model and a corpus.
"""

import dataclasses
from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.registry import Registry
from jaxinterp.memories.corpus import Corpus
from jaxinterp.models.lens import as_written, resid_as_unembedded, unembedding
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import unembed

AnyArray = Array | np.ndarray
Layer = int | Int[Array, ""]
CHUNK = 512  # vectors whose logits, over the whole vocabulary, are held at once


@flax.struct.dataclass
class Lens:
    """h W_l + b_l for the residual stream h after layer l; what is None is the identity, or 0."""

    name: str = flax.struct.field(pytree_node=False)
    normed: bool = flax.struct.field(default=True, pytree_node=False)  # whether norms on the way count, or are left out
    matrix_LDD: Float[Array, "L D D"] | None = None  # row: what a unit of the layer's stream becomes
    shift_LD: Float[Array, "L D"] | None = None


@dataclasses.dataclass(frozen=True)
class LensKind:
    """A way to make a lens."""

    name: str
    definition: str  # stands alone
    fit: Callable[[Model, Corpus, int], Lens]  # of a model and texts; the number is the seed of what is drawn


LENSES: Registry[LensKind] = Registry("lens", folder="jaxinterp.memories.lenses")


def lens_kind(name: str) -> Callable[[Callable[[Model, Corpus, int], Lens]], Callable[[Model, Corpus, int], Lens]]:
    """Registers a function (model, corpus, seed) -> lens; its docstring is the definition that tables print."""

    def register(fit: Callable[[Model, Corpus, int], Lens]) -> Callable[[Model, Corpus, int], Lens]:
        definition = " ".join((fit.__doc__ or "").split())
        LENSES.add(name, LensKind(name, definition, fit), fit.__module__)
        return fit

    return register


def aimed(model: Model, lens: Lens, layer: Layer, value_ND: Float[AnyArray, "N D"]) -> Float[Array, "N D"]:
    """Vectors that a layer's FFN could write, such that their products with a token's unembedding are its logits by the
    lens: [N, D] in place of [N, V].

    Divisions by a standard deviation, which are the same for all tokens, are left out.
    """
    value_ND = jnp.asarray(value_ND)
    if not lens.normed:
        return value_ND.astype(jnp.promote_types(value_ND.dtype, jnp.float32))
    written_ND = as_written(model, norms_of(model, layer), value_ND)
    if lens.matrix_LDD is not None:
        written_ND = written_ND @ lens.matrix_LDD[layer]
    return resid_as_unembedded(model, written_ND)


def value_logits(model: Model, lens: Lens, layer: Layer, value_ND: Float[AnyArray, "N D"]) -> Float[Array, "N V"]:
    """The logits of vectors that a layer's FFN could write; see `read_values` for many vectors."""
    return aimed(model, lens, layer, value_ND) @ unembedding(model).T


def resid_logits(model: Model, lens: Lens, layer: Layer, resid_ND: Float[AnyArray, "N D"]) -> Float[Array, "N V"]:
    """The logits of whole residual streams of a layer, with all that is constant in the lens and in the unembedding.

    Before or after the layer's FFN alike; by a lens that leaves norms out, products with the unembedding alone.
    """
    resid_ND = jnp.asarray(resid_ND)
    if not lens.normed:
        return resid_ND @ unembedding(model).T
    if lens.matrix_LDD is not None:
        resid_ND = resid_ND @ lens.matrix_LDD[layer]
    if lens.shift_LD is not None:
        resid_ND = resid_ND + lens.shift_LD[layer][None]
    return unembed(model, resid_ND)


def resid_tops(model: Model, lens: Lens, layer: int, resid_ND: Float[AnyArray, "N D"]) -> Int[np.ndarray, " N"]:
    """The token with the highest logit of each residual stream, in bounded memory."""
    return in_chunks(lambda resid_ND: _resid_top(model, lens, layer, resid_ND), resid_ND)


def norms_of(model: Model, layer: Layer) -> Mapping:
    """The parameters of a layer's norms around its FFN."""
    layers = model.params["layers"]
    named = {name: layers[name] for name in ("norm_mlp", "norm_mlp_out") if name in layers}
    return jax.tree.map(lambda x: x[layer], named)


def in_chunks(found: Callable, *arrays: AnyArray, size: int = CHUNK) -> AnyArray | tuple:
    """`found` of rows of arrays, `size` at a time: all chunks have one shape, so that it is compiled once."""
    n = len(arrays[0])
    parts = []
    for start in range(0, max(n, 1), size):
        rows = [np.asarray(array[start : start + size]) for array in arrays]
        short = 0 if n <= size else size - len(rows[0])
        rows = [np.pad(row, ((0, short), *((0, 0),) * (row.ndim - 1))) for row in rows]
        parts.append(jax.tree.map(np.asarray, found(*rows)))
    return jax.tree.map(lambda *part: np.concatenate(part)[:n], *parts)


@jax.jit
def _resid_top(model: Model, lens: Lens, layer: Array, resid_ND: Array) -> Int[Array, " N"]:
    return resid_logits(model, lens, layer, resid_ND).argmax(-1)
