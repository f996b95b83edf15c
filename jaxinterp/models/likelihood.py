"""What a language model gives to the tokens that are there, without an array of all logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

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

    def nll(resid: Array, target: Array) -> Array:
        logits = unembed(model, resid)
        # Not by `log_softmax`, which would be a second array as large as the logits.
        return jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, target[..., None], -1)[..., 0]

    return _in_chunks(model, nll, result.resid_final_BTD[:, :-1], tokens_BT[:, 1:])


def drawn_tokens(model: Model, result: Forward, tokens_BT: Int[Array, "B T"], key: PRNGKeyArray) -> Int[Array, "B T"]:
    """The tokens, of which all but the first are replaced by draws from what the model predicts there.

    The draw is the first token whose cumulative probability is above a uniform number, one for each position, so that
    it does not depend on how logits are cut into chunks.

    Args:
      model: a causal one.
      result: of its `forward` on the tokens; of it the final residual stream is read.
      tokens_BT: token ids.
      key: consumed.
    Returns:
      Token ids. They are constants to derivatives.
    """

    def token(resid: Array, level: Array) -> Array:
        upto = jnp.cumsum(jax.nn.softmax(unembed(model, resid)), -1)
        # Sums end at 1 but for rounding: a share of the last one is always reached.
        drawn = (upto <= level[..., None] * upto[..., -1:]).sum(-1, dtype=tokens_BT.dtype)
        return jnp.minimum(drawn, upto.shape[-1] - 1)

    model, resid = jax.lax.stop_gradient((model, result.resid_final_BTD[:, :-1]))
    drawn = _in_chunks(model, token, resid, jax.random.uniform(key, resid.shape[:2]))
    return jnp.concatenate([tokens_BT[:, :1], drawn], 1)


def _in_chunks(
    model: Model, function: Callable[[Array, Array], Array], resid: Float[Array, "B S D"], of_each: Array
) -> Array:
    """A function of residual streams and an array [B, S], with a value for each position, in chunks of positions."""
    n_sequences, n_all = of_each.shape
    n_positions = chunk_positions(model.config, max(1, n_sequences // batch_devices(n_sequences)), n_all)
    if n_positions >= n_all:
        return function(resid, of_each)

    def chunks(x: Array) -> Array:
        padding = ((0, 0), (0, -x.shape[1] % n_positions)) + ((0, 0),) * (x.ndim - 2)
        padded = jnp.pad(x, padding)
        return jnp.moveaxis(padded.reshape(x.shape[0], -1, n_positions, *x.shape[2:]), 1, 0)

    found_CBS = jax.lax.map(lambda chunk: jax.checkpoint(function)(*chunk), (chunks(resid), chunks(of_each)))
    return jnp.moveaxis(found_CBS, 0, 1).reshape(n_sequences, -1)[:, :n_all]


def chunk_positions(config: ModelConfig, n_sequences: int, n_positions: int) -> int:
    """Positions of a chunk: as few chunks as `CHUNK_BYTES` allows, all of a size."""
    tokens = max(CHUNK_BYTES // (4 * config.d_vocab), LEAST_TOKENS)
    most = max(tokens // n_sequences, 1)
    n_chunks = -(-n_positions // most)
    return -(-n_positions // max(n_chunks, 1))
