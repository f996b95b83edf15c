"""Path patching: what an answer becomes when one head's values reach given receivers alone from another text's run.

Wang et al. 2022, "Interpretability in the Wild", appendix B; Goldowsky-Dill et al. 2023.
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.circuits.cells import (
    Direction,
    base_and_source,
    batch_size,
    batches,
    captured,
    cell_mask,
    check_scores,
    grid_of,
)
from jaxinterp.circuits.patching import Patching
from jaxinterp.circuits.question import Answer, answer_of, two_texts
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.places import PLACES, Change
from jaxinterp.models.transformer import forward, unembed

INPUTS = ("attn_q", "attn_k", "attn_v")  # of a head, that a path may end in


class Receiver(NamedTuple):
    """The end of a path: what one head reads."""

    place: Literal["attn_q", "attn_k", "attn_v"]
    layer: int
    head: int  # of attn_k and attn_v: a key-value head


def path_patching(
    model: LanguageModel,
    clean: str,
    corrupted: str,
    answer: str,
    *,
    wrong: str | None = None,
    receivers: Sequence[Receiver | tuple[str, int, int]] = (),
    through_ffns: bool = True,
    direction: Direction = "noise",
) -> Patching:
    """Patches the paths from every head to the receivers, one head at a time.

    For a sender, three runs: one of each text; one of the base text in which the sender's mixture of values is the
    source's and all other heads' are the base's, so that its change reaches the receivers directly, or through FFNs;
    and one of the base text in which what the receivers read is taken from that run. Senders that do not come before a
    receiver change nothing.

    Args:
      model, clean, corrupted, answer, wrong: see `jaxinterp.circuits.patching.patching`.
      receivers: heads' inputs, as ("attn_q", layer, head); none means the logits.
      through_ffns: whether paths may pass FFNs; if not, they write what they do in the base run.
      direction: "noise" is the clean text with the corrupted text's values on the path, as in the paper; "denoise" the
        other way round.
    Raises:
      UserError: as `patching`, or if a receiver does not exist.
    """
    base, source = base_and_source(clean, corrupted, direction)
    config = model.config
    if not all(isinstance(receiver, tuple) and len(receiver) == len(Receiver._fields) for receiver in receivers):
        raise UserError('receivers are several (place, layer, head), such as [("attn_q", 2, 0)]')
    ends = tuple(Receiver(*receiver) for receiver in receivers)
    for place, layer, head in ends:
        if place not in INPUTS:
            raise unknown("input of a head", place, INPUTS)
        most = config.n_heads if place == "attn_q" else config.n_kv_heads
        if not (0 <= layer < config.n_layers and 0 <= head < most):
            raise UserError(
                f"receiver {place} of layer {layer}, head {head} does not exist: there are {config.n_layers} layers of "
                f"{most} such heads"
            )
    tokens_2T, at, _ = two_texts(model, base, source)
    asked = answer_of(model, answer, wrong)
    held, scores_2 = captured(model.model, tokens_2T, jnp.asarray(at), asked, places=("attn_z", "mlp_out"))
    scores = check_scores(scores_2, asked.unit)
    grid = grid_of(config.n_layers, config.n_heads)
    frozen = None if through_ffns else held["mlp_out"][:, :1]
    found = [
        _path_patched(model.model, tokens_2T[:1], held["attn_z"], frozen, cells, jnp.asarray(at), asked, ends=ends)
        for cells in batches(grid, batch_size(len(grid), held["attn_z"].size))
    ]
    to = " and ".join(f"{place} of {layer}.{head}" for place, layer, head in ends) or "the logits"
    scores_LH = np.concatenate(found)[: len(grid)].reshape(config.n_layers, config.n_heads)
    heads = tuple(map(str, range(config.n_heads)))
    return Patching(f"attn_z to {to}", "head", heads, scores_LH, *scores, asked.unit)


@functools.partial(jax.jit, static_argnames=("ends", "asked"))
def _path_patched(
    model: Model,
    tokens_1T: Int[Array, "1 T"],
    attn_z_L2SHK: Float[Array, "L 2 S H K"],
    mlp_out_L1SD: Float[Array, "L 1 S D"] | None,
    senders_C2: Int[Array, "C 2"],
    at: Array,
    asked: Answer,
    *,
    ends: tuple[Receiver, ...],
) -> Float[Array, " C"]:
    tokens_CT = jnp.broadcast_to(tokens_1T, (senders_C2.shape[0], tokens_1T.shape[1]))
    own, other = attn_z_L2SHK[:, :1], attn_z_L2SHK[:, 1:]
    mask = cell_mask(senders_C2, ("L", *PLACES["attn_z"]), own.shape, "H")
    none = jnp.zeros((model.config.n_layers, 1, 1, 1))
    frozen = {"attn_z": Change(none[..., None], jnp.where(mask == 1, other, own))}
    if mlp_out_L1SD is not None:
        frozen["mlp_out"] = Change(none, mlp_out_L1SD)
    places = tuple(dict.fromkeys(place for place, _, _ in ends))
    result = forward(model, tokens_CT, edit=frozen, capture=places)
    if ends:
        changes = {}
        for place in places:
            received = result.activations[place]
            mask = jnp.zeros((received.shape[0], 1, 1, received.shape[3], 1))
            for _, layer, head in (end for end in ends if end.place == place):
                mask = mask.at[layer, :, :, head].set(1)
            changes[place] = Change(1 - mask, mask * received)
        result = forward(model, tokens_CT, edit=changes)
    return asked.score(unembed(model, result.resid_final_BTD[:, at]))
