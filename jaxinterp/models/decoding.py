"""Continuing texts: one forward of the prompts, then one token at a time against what it left behind."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.base.errors import UserError
from jaxinterp.models.attention import KVCache, Past, Where
from jaxinterp.models.block import Block
from jaxinterp.models.edit import after, at_positions
from jaxinterp.models.layers import layer_constants
from jaxinterp.models.model import Model
from jaxinterp.models.places import Changes, changed, of_neurons
from jaxinterp.models.transformer import embed, forward, unembed


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How the next token is chosen: drawn from softmax(logits / temperature), cut to the most probable tokens."""

    temperature: float = 0.0  # 0 is the most probable token (greedy)
    top_k: int = 0  # no more than so many tokens are drawn from; 0 is all
    # No more than the most probable tokens whose probabilities add up to this; the first that reaches it is one of them
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UserError(f"temperature must be at least 0, got {self.temperature}")
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise UserError(f"top_k must be at least 0 (0 is all), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must lie in (0, 1], got {self.top_p}")

    def cut(self, logits: Float[Array, "*B V"]) -> Float[Array, "*B V"]:
        """Logits at the temperature, −∞ where no token is drawn from. Of equal logits at the edge all are kept."""
        logits = logits / self.temperature
        if self.top_k and self.top_k < logits.shape[-1]:
            least = jax.lax.top_k(logits, self.top_k)[0][..., -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        if self.top_p < 1:
            down = -jnp.sort(-logits, axis=-1)
            p = jax.nn.softmax(down)
            before = jnp.cumsum(p, -1) - p
            least = jnp.where(before < self.top_p, down, jnp.inf).min(-1, keepdims=True)
            logits = jnp.where(logits < least, -jnp.inf, logits)
        return logits

    def next(self, logits: Float[Array, "B V"], key: PRNGKeyArray) -> Int[Array, " B"]:
        """One token for each text; consumes `key`. A text's draw does not depend on the others."""
        if self.temperature == 0:
            return logits.argmax(-1)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(logits.shape[0]))
        return jax.vmap(jax.random.categorical)(keys, self.cut(logits))


GREEDY = Sampler()


def decode(
    model: Model,
    cache: KVCache,
    token_B: Int[Array, " B"],
    position_B: Int[Array, " B"],
    changes: Changes | None = None,
) -> tuple[Float[Array, "B D"], KVCache]:
    """The residual stream after the last layer at one position of each text, and the position's keys and values.

    Args:
      model: a causal model.
      cache: keys and values of T positions, of which those before `position` count.
      token_B: the token at `position`.
      position_B: in 0, …, T − 1.
      changes: at the position, arrays [L, B, 1, …] that broadcast; none of "attn_pattern".
    Returns:
      What the forward of the whole texts has there, and keys and values [L, B, 1, KV, K].
    """
    where = Where(layer_constants(model.config), position_B[:, None])
    visible_BT = jnp.arange(cache.keys.shape[2])[None] < position_B[:, None]
    resid = changed(changes, "embed", embed(model, token_B[:, None], position_B[:, None]), None)
    of_layers = {place: change for place, change in (changes or {}).items() if place != "embed"}

    def step(resid: Array, x: tuple) -> tuple[Array, KVCache]:
        weights, constants, past, change = x
        here = where._replace(constants=constants)
        resid, (new, _) = Block(model.config).apply(
            {"params": weights}, resid, change, here, past=Past(past, visible_BT)
        )
        return resid, new

    xs = (model.params["layers"], where.constants, cache, of_layers)
    resid, new = jax.lax.scan(step, resid, xs)
    return resid[:, 0], new


@functools.partial(jax.jit, static_argnames=("n_tokens", "sampler"))
def continued(
    model: Model,
    tokens_BT: Int[Array, "B T"],
    length_B: Int[Array, " B"],
    ends_V: Bool[Array, " V"],
    key: PRNGKeyArray,
    changes: Changes | None = None,
    reading: NeuronEdit | None = None,
    *,
    n_tokens: int,
    sampler: Sampler,
) -> tuple[Int[Array, "B T"], Int[Array, " B"]]:
    """Continues prompts by `n_tokens` tokens each, or until one that ends a text, or to the last position.

    Args:
      model: a causal model.
      tokens_BT: prompts, with room on the right for what is to come.
      length_B: tokens of each prompt, at least 1.
      ends_V: whether a token ends a text; it is not part of it.
      key: of the draws; the same key gives the same texts.
      changes: at any positions of the T, old and new, as `forward` takes them, but none of "attn_pattern".
      reading: of the neurons at the position from which a next token is read, arrays [L, B, F], while all that comes
        later reads what the model would have written without it.
      n_tokens, sampler: how many, and how they are chosen.
    Returns:
      The tokens, and the length of each text.
    """
    rows = jnp.arange(tokens_BT.shape[0])
    cache = forward(model, tokens_BT, edit=changes, length_B=length_B).cache
    state = (jnp.asarray(0), tokens_BT, length_B, jnp.zeros_like(length_B, bool), cache)

    def going(state: tuple) -> Array:
        number, _, _, ended_B, _ = state
        return (number < n_tokens) & ~ended_B.all()

    def step(state: tuple) -> tuple:
        number, tokens_BT, length_B, ended_B, cache = state
        at = length_B - 1
        here = None if changes is None else at_positions(dict(changes), at)
        token_B = tokens_BT[rows, at]
        resid, new = decode(model, cache, token_B, at, here)
        cache = jax.tree.map(lambda whole, one: whole.at[:, rows, at].set(one[:, :, 0]), cache, new)
        if reading is not None:
            both = {**(here or {}), **of_neurons(reading)}
            if here and "mlp_post" in here:
                both["mlp_post"] = after(here["mlp_post"], both["mlp_post"])
            resid, _ = decode(model, cache, token_B, at, both)
        chosen_B = sampler.next(unembed(model, resid), jax.random.fold_in(key, number))
        ended_B = ended_B | ends_V[chosen_B] | (length_B == tokens_BT.shape[1])
        place = jnp.minimum(length_B, tokens_BT.shape[1] - 1)
        kept_B = jnp.where(ended_B, tokens_BT[rows, place], chosen_B.astype(tokens_BT.dtype))
        return number + 1, tokens_BT.at[rows, place].set(kept_B), length_B + ~ended_B, ended_B, cache

    _, tokens_BT, length_B, _, _ = jax.lax.while_loop(going, step, state)
    return tokens_BT, length_B
