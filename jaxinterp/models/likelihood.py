"""What a language model gives to the tokens that are there, without an array of all logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.layers import batch_devices
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import Forward, unembed

CHUNK_BYTES = 2**25  # of logits at once: more costs memory and, on a CPU, cache misses
LEAST_TOKENS = 128  # of a chunk, whatever the vocabulary: every chunk reads the unembedding and adds to its gradient


def next_token_nll(model: Model, result: Forward, tokens_BT: Int[Array, "B T"]) -> Float[Array, "B T-1"]:
    """−log P(token t + 1 | tokens up to t) = logsumexp(logits_t) − logits_t[token t + 1].

    Logits of more than `CHUNK_BYTES` are made in chunks of positions, of at least `LEAST_TOKENS` tokens and one
    position of all sequences: the forward keeps none of them, and the backward makes each again, which costs a matrix
    product and saves the time that writing and reading them takes. Chunks hold a part of every sequence, so that
    sequences may be on many devices.

    Args:
      model: a causal one.
      result: of its `forward` on the tokens; of it the final residual stream is read.
      tokens_BT: token ids.
    Returns:
      In nats, in float32 at least; padding counts like any token.
    """
    resid, target = result.resid_final_BTD[:, :-1], tokens_BT[:, 1:]
    n_positions = chunk_positions(
        model.config, max(1, target.shape[0] // batch_devices(target.shape[0])), target.shape[1]
    )

    def nll(resid: Array, target: Array) -> Array:
        logits = unembed(model, resid)
        # Not by `log_softmax`, which would be a second array as large as the logits.
        return jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, target[..., None], -1)[..., 0]

    if n_positions >= target.shape[1]:
        return nll(resid, target)

    def chunks(x: Array) -> Array:
        padding = ((0, 0), (0, -x.shape[1] % n_positions)) + ((0, 0),) * (x.ndim - 2)
        padded = jnp.pad(x, padding)
        return jnp.moveaxis(padded.reshape(x.shape[0], -1, n_positions, *x.shape[2:]), 1, 0)

    nll_CBS = jax.lax.map(lambda chunk: jax.checkpoint(nll)(*chunk), (chunks(resid), chunks(target)))
    return jnp.moveaxis(nll_CBS, 0, 1).reshape(target.shape[0], -1)[:, : target.shape[1]]


def chunk_positions(config: ModelConfig, n_sequences: int, n_positions: int) -> int:
    """Positions of a chunk: as few chunks as `CHUNK_BYTES` allows, all of a size."""
    tokens = max(CHUNK_BYTES // (4 * config.d_vocab), LEAST_TOKENS)
    most = max(tokens // n_sequences, 1)
    n_chunks = -(-n_positions // most)
    return -(-n_positions // max(n_chunks, 1))
