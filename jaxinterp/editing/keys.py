"""Keys of requests: what a layer's W_out reads where a request is edited, and what stands after the layer."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinterp.base.errors import UserError
from jaxinterp.editing.places import MULTIPLE, At, batches, key_position, prompt_ids, texts_of
from jaxinterp.editing.request import Request
from jaxinterp.facts.facts import Text
from jaxinterp.models.decoding import Sampler
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.rerun import after_ffn, ffn_output
from jaxinterp.models.transformer import forward
from jaxinterp.models.windows import padded

BEGINNINGS = ("The", "Therefore", "Because", "I", "You")  # of the texts before a prompt, as in the code of MEMIT


def request_keys(
    model: LanguageModel,
    requests: Sequence[Request],
    layer: int,
    prefixes: Sequence[str] = (),
    at: At = "subject",
) -> Float[np.ndarray, "N F"]:
    """k* of each request: the mean of a layer's neurons over the prompt after nothing and after each prefix.

    Keys are read at the last token of the subject, or of the prompt.

    The same k* serves wherever ROME's formula has a key (r-ROME; Gupta et al. 2024): with the key of the bare prompt in
    one place, some edits ruin the model.

    Raises:
      UserError: if a text cannot be encoded.
    """
    return _captured(model, requests, layer, prefixes, ("mlp_post",), at)[0].mean(1)


def prompt_keys(model: LanguageModel, prompts: Sequence[str], layer: int) -> Float[np.ndarray, "N F"]:
    """A layer's neurons at the last token of prompts, where what follows is read.

    Raises:
      UserError: if a prompt cannot be encoded.
    """
    ids = [prompt_ids(model, prompt) for prompt in prompts]
    longest = max(map(len, ids))
    width = min(-(-longest // MULTIPLE) * MULTIPLE, model.config.n_ctx)
    if longest > width:
        long = max(zip(map(len, ids), prompts, strict=True))[1]
        raise UserError(f"the prompt {long[:60]!r} has more tokens than the model's context of {width}; shorten it")
    tokens_NT, length_N = padded(ids, width, model.tokenizer.pad)
    parts = [
        np.asarray(_at(model.model, tokens_NT[part], length_N[part] - 1, layer, ("mlp_post",))[0])
        for part in batches(len(ids))
    ]
    return np.concatenate(parts)[: len(ids)].astype(np.float64)


def request_streams(
    model: LanguageModel, requests: Sequence[Request], layer: int, at: At = "subject"
) -> Float[np.ndarray, "N D"]:
    """The residual stream after a layer where each request is edited, in its prompt alone."""
    return _captured(model, requests, layer, (), ("resid_post",), at)[0][:, 0]


def ffn_changes(
    model: LanguageModel, requests: Sequence[Request], layer: int, stream_ND: Float[np.ndarray, "N D"], at: At
) -> Float[np.ndarray, "N D"]:
    """What the FFN has to write more, so that so much is added to the residual stream after the layer.

    It is the same, but where what the FFN writes is normed first (Gemma 2 and 3, OLMo 2): there it is the least change
    by the norm's derivative, so that it is right to first order, and what a norm cannot give is left out.
    """
    if not model.config.norms_outputs:
        return stream_ND
    changes = []
    mid_N1D, post_N1F = _captured(model, requests, layer, (), ("resid_mid", "mlp_post"), at)
    for mid_D, post_F, wanted_D in zip(mid_N1D[:, 0], post_N1F[:, 0], stream_ND, strict=True):
        slope_DD = np.asarray(_norm_slope(model.model, jnp.asarray(mid_D), jnp.asarray(post_F), layer), np.float64)
        changes.append(np.linalg.lstsq(slope_DD, wanted_D, rcond=1e-4)[0])
    return np.stack(changes)


def sampled_prefixes(
    model: LanguageModel,
    lengths: Sequence[tuple[int, int]] = ((5, 10), (10, 10)),
    beginnings: Sequence[str] = BEGINNINGS,
    seed: int = 0,
) -> list[str]:
    """Texts to put before prompts, as the model goes on after a few words.

    Args:
      model: a causal one.
      lengths: (tokens, number of texts) of each length; the default is ROME's.
      beginnings: words that texts begin with, in turn.
      seed: of the draws, out of the 5 most probable tokens.
    Returns:
      Texts that end in ". ", so that a prompt can follow.
    """
    found: list[str] = []
    for n_tokens, number in lengths:
        begun = [beginnings[index % len(beginnings)] for index in range(number)]
        sampler = Sampler(temperature=1.0, top_k=5)
        more = model.generate(begun, n_tokens, sampler=sampler, seed=seed + len(found))
        found += [f"{one}{rest}. " for one, rest in zip(begun, more, strict=True)]
    return found


def check_causal(model: LanguageModel, method: str) -> None:
    """UserError if the model is not causal."""
    if model.config.attention != "causal":
        raise UserError(f"{method} is for causal models; this one is {model.config.attention}; take update or erase")


def _captured(
    model: LanguageModel,
    requests: Sequence[Request],
    layer: int,
    prefixes: Sequence[str],
    places: tuple[str, ...],
    at: At,
) -> list[Float[np.ndarray, "N Q _"]]:
    """What stands at places of a layer, where requests are edited, after nothing and after each prefix."""
    befores = ("", *prefixes)
    asked = [(request, before) for request in requests for before in befores]
    texts = texts_of(model, [Text(before + request.prompt, request.new, request.after) for request, before in asked])
    at_Q = np.array([key_position(model, request, at, before) for request, before in asked])
    parts = [
        jax.device_get(_at(model.model, texts.tokens_QT[part], at_Q[part], layer, places))
        for part in batches(len(asked))
    ]
    found = [np.concatenate(part)[: len(asked)].astype(np.float64) for part in zip(*parts, strict=True)]
    return [values.reshape(len(requests), len(befores), -1) for values in found]


@functools.partial(jax.jit, static_argnums=4)
def _at(
    model: Model, tokens_QT: Array, at_Q: Array, layer: Array, places: tuple[str, ...]
) -> list[Float[Array, "Q _"]]:
    found = forward(model, tokens_QT, capture=places).activations
    return [found[place][layer, jnp.arange(tokens_QT.shape[0]), at_Q] for place in places]


@jax.jit
def _norm_slope(model: Model, mid_D: Array, post_F: Array, layer: Array) -> Float[Array, "D D"]:
    layers = model.params["layers"]
    own = jax.tree.map(lambda x: x[layer][None], layers)
    dtype = layers["w_out"].dtype
    ffn_D = ffn_output(model.config, own, post_F.astype(dtype)[None, None])[0, 0]
    mid_D = mid_D.astype(dtype)

    def after(ffn_D: Array) -> Array:
        return after_ffn(model.config, layers, jnp.asarray(layer)[None], mid_D[None], ffn_D[None])[0]

    return jax.jacfwd(after)(ffn_D)
