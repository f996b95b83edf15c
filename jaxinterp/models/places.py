"""The named places of a forward, and changes of what stands there."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.base.errors import unknown

# What a forward can return and change, in the order of computation, with its axes; all but the first have a layer axis
# before them. T are the positions that are attended to.
PLACES: Mapping[str, tuple[str, ...]] = {
    "embed": ("B", "S", "D"),  # what the first layer reads: embeddings of tokens (and positions)
    "resid_pre": ("B", "S", "D"),  # the residual stream before the layer
    "attn_q": ("B", "S", "H", "K"),  # queries, rotated if positions are rotary
    "attn_k": ("B", "S", "G", "K"),  # keys, rotated likewise, of G heads that groups of query heads share
    "attn_v": ("B", "S", "G", "K"),  # values
    "attn_pattern": ("B", "H", "S", "T"),  # attention weights
    "attn_z": ("B", "S", "H", "K"),  # each head's mixture of values, which its part of W_o multiplies
    "attn_out": ("B", "S", "D"),  # what attention adds
    "resid_mid": ("B", "S", "D"),  # between attention and FFN
    "mlp_pre": ("B", "S", "F"),  # the argument of the activation function (the gate's, if the FFN is gated)
    "mlp_post": ("B", "S", "F"),  # the neurons: what W_out multiplies
    "mlp_out": ("B", "S", "D"),  # what the FFN adds
    "resid_post": ("B", "S", "D"),  # the residual stream after the layer
}


class Change(NamedTuple):
    """x ← gates · x + shift at a place, arrays that broadcast against x, with or without a leading layer axis."""

    gates: Float[Array, "..."] | None = None  # None is 1
    shift: Float[Array, "..."] | None = None  # None is 0


Changes = Mapping[str, Change]  # by place


def axes_of(place: str) -> tuple[str, ...]:
    """A place's axes, the layers' included.

    Raises:
      UserError: if the place is unknown.
    """
    if place not in PLACES:
        raise unknown("place", place, PLACES)
    return PLACES[place] if place == "embed" else ("L", *PLACES[place])


def of_neurons(edit: NeuronEdit) -> dict[str, Change]:
    """An edit of neurons, arrays [L, B, F], as a change at all positions alike."""
    return {"mlp_post": Change(edit.gates[:, :, None], None if edit.shift is None else edit.shift[:, :, None])}


def changed(
    changes: Changes | None, place: str, x: Float[Array, "B ..."], where_BS: Bool[Array, "B S"] | None
) -> Float[Array, "B ..."]:
    """What stands at a place after its change, if there is one: at the positions of `where`, or at all if it is None.

    The result has x's dtype.
    """
    change = changes.get(place) if changes else None
    if change is None:
        return x
    after = x if change.gates is None else x * change.gates
    after = (after if change.shift is None else after + change.shift).astype(x.dtype)
    if where_BS is None:
        return after
    axes = [axis for axis, name in enumerate(PLACES[place]) if name not in ("B", "S")]
    return jnp.where(jnp.expand_dims(where_BS, axes), after, x)
