"""Running a language model on texts: what it computes, and what it says next."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.base.errors import UserError
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizers import TextTokenizer
from jaxinterp.models.transformer import forward, unembed


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Run:
    """What a model computed on B texts of at most T tokens; positions from a text's length on are padding."""

    tokens: tuple[tuple[str, ...], ...]  # of each text, without padding
    tokens_BT: Int[np.ndarray, "B T"]
    length_B: Int[np.ndarray, " B"]
    logits_BTV: Float[Array, "B T V"]
    # By name, with a leading layer axis; see `jaxinterp.models.transformer.ACTIVATIONS`
    activations: Mapping[str, Array]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in self.activations.items())
        lengths = f"{len(self.tokens)} texts of at most {self.tokens_BT.shape[1]} tokens"
        return f"Run({lengths}; logits {list(self.logits_BTV.shape)}{', ' * bool(shapes)}{shapes})"


def run(
    model: LanguageModel,
    texts: str | Sequence[str],
    capture: Sequence[str] = ("mlp_post",),
    *,
    control_tokens: bool = False,
) -> Run:
    """Runs a language model on a batch of texts.

    Args:
      model: a language model, as from `load_model`.
      texts: one text or several; each is read as it stands, and padded on the right to the longest.
      capture: names of activations, out of `jaxinterp.models.transformer.ACTIVATIONS`; "mlp_post" are the neurons.
      control_tokens: whether names of control tokens in the texts, as "[MASK]", mean those tokens.
    Raises:
      UserError: if there is no text, a text cannot be encoded or does not fit the context, or a name is unknown.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise UserError("no text to run the model on; give at least one")
    tokenizer = model.tokenizer
    rows = [[*_begun(tokenizer, text, control_tokens), *tokenizer.suffix] for text in texts]
    length_B = np.array([len(row) for row in rows])
    if length_B.min() == 0:
        raise UserError("a text has no tokens; give text")
    tokens_BT = np.full((len(rows), length_B.max()), tokenizer.pad, np.int32)
    for row, tokens in zip(tokens_BT, rows, strict=True):
        row[: len(tokens)] = tokens
    logits_BTV, activations = _run(model.model, jnp.asarray(tokens_BT), jnp.asarray(length_B), tuple(capture))
    tokens = tuple(tuple(tokenizer.token(token) for token in row) for row in rows)
    return Run(tokens, tokens_BT, length_B, logits_BTV, activations)


def generate(
    model: LanguageModel,
    prompt: str,
    n_tokens: int = 20,
    edit: NeuronEdit | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    *,
    control_tokens: bool = False,
) -> str:
    """The text with which a causal model continues a prompt.

    It ends after `n_tokens` tokens, before a control token (such as the one for the end of a text), or where the
    context is full.

    An edit acts at one position at a time, as in `attribute`: the one from which the next token is read, which is the
    last. What is before it (the prompt, and tokens that were generated under the edit) is read by the untouched model.

    Args:
      model: a causal language model, as from `load_model`.
      prompt: text, read as it stands.
      n_tokens: most tokens to add.
      edit: of neurons, arrays [L, 1, F]; `suppress(attributed.mask(8))` switches off the neurons of an answer of one
        token. None is the untouched model.
      temperature: the next token is drawn from softmax(logits / temperature); 0 is the most probable one.
      seed: of the draws.
      control_tokens: whether names of control tokens in the prompt, as "<|im_end|>", mean those tokens.
    Raises:
      UserError: if the model is not causal, the prompt cannot be encoded or fills the context, the edit is of more rows
        than one, or `n_tokens` or `temperature` is below 0.
    """
    config, tokenizer = model.config, model.tokenizer
    if config.attention != "causal":
        raise UserError(f"only causal models continue a text; this one is {config.attention}")
    if not (n_tokens >= 0 and temperature >= 0):
        raise UserError(f"n_tokens and temperature must be at least 0, got {n_tokens} and {temperature}")
    if edit is not None and edit.gates.shape != (shape := (config.n_layers, 1, config.d_mlp)):
        raise UserError(f"the gates of an edit have shape {list(edit.gates.shape)}; give one row: {list(shape)}")
    tokens = [int(token) for token in _begun(tokenizer, prompt, control_tokens)]
    start = len(tokens)
    if not 1 <= start < config.n_ctx:
        raise UserError(f"the prompt has {start} tokens; give 1 to {config.n_ctx - 1}, the model's context less one")
    padded_1T = np.full((1, min(config.n_ctx, start + n_tokens)), tokenizer.pad, np.int32)
    padded_1T[0, :start] = tokens
    rng = np.random.default_rng(seed)
    for last in range(start - 1, padded_1T.shape[1] - 1):
        logits_V = np.asarray(_next_logits(model.model, padded_1T, last, edit), np.float64)
        if temperature:
            logits_V = logits_V / temperature + rng.gumbel(size=logits_V.shape)
        token = int(logits_V.argmax())
        if token in tokenizer.special or token >= tokenizer.n_tokens:
            break
        padded_1T[0, last + 1] = token
        tokens.append(token)
    return tokenizer.text(tokens)[len(tokenizer.text(tokens[:start])) :]


def _begun(tokenizer: TextTokenizer, text: str, control_tokens: bool) -> list[int]:
    """The tokens of a text with what its model expects before it."""
    spelled = None if control_tokens else tokenizer.spelled_control_token(text)
    if spelled is not None:
        raise UserError(f"{text!r} spells out {spelled!r}, a control token; say control_tokens=True if it is meant")
    ids = tokenizer.encode(text, control_tokens=control_tokens)
    if tokenizer.unk is not None and tokenizer.unk in ids:
        raise UserError(f"the tokenizer does not know {tokenizer.unknown_word(text)!r} in {text!r}")
    prefix = list(tokenizer.prefix)
    return ids if control_tokens and prefix and ids[: len(prefix)] == prefix else prefix + ids


@functools.partial(jax.jit, static_argnums=3)
def _run(
    model: Model, tokens_BT: Array, length_B: Array, capture: tuple[str, ...]
) -> tuple[Float[Array, "B T V"], dict[str, Array]]:
    result = forward(model, tokens_BT, length_B=length_B, capture=capture)
    return result.logits_BTV, dict(result.activations)


@jax.jit
def _next_logits(model: Model, tokens_1T: Array, last: Int[Array, ""], edit: NeuronEdit | None) -> Float[Array, " V"]:
    """Logits after position `last`, where the edit acts."""
    result = forward(model, tokens_1T, edit=edit, query_B=None if edit is None else jnp.asarray(last)[None])
    return unembed(model, result.resid_final_BTD[0, last])
