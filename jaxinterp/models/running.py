"""Running a language model on texts: their tokens, what it computes, what it says next, how it goes on."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.decoding import Sampler, continued
from jaxinterp.models.edit import Edit, changes_of
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change, Changes
from jaxinterp.models.run import Run, Tokens
from jaxinterp.models.tokenizers import TextTokenizer
from jaxinterp.models.transformer import forward, unembed

Edits = NeuronEdit | Edit | Sequence[Edit] | None


def tokens_of(model: Model, tokenizer: TextTokenizer, text: str, control_tokens: bool) -> Tokens:
    """A text's tokens with the frame that its model expects.

    Raises:
      UserError: if the text cannot be encoded, has no tokens or does not fit the context.
    """
    ids, suffix = _begun(tokenizer, text, control_tokens), list(tokenizer.suffix)
    if not (control_tokens and suffix and ids[-len(suffix) :] == suffix):  # a text may spell its frame out
        ids += suffix
    if not ids:
        raise UserError("a text has no tokens; give text")
    if len(ids) > model.config.n_ctx:
        raise UserError(f"a text has {len(ids)} tokens, above the model's context of {model.config.n_ctx}")
    return Tokens(tuple(int(id) for id in ids), tuple(tokenizer.token(id) for id in ids))


def run_texts(
    model: Model,
    tokenizer: TextTokenizer,
    texts: str | Sequence[str],
    capture: Sequence[str],
    edit: Edits,
    control_tokens: bool,
) -> Run:
    """See `jaxinterp.models.language_model.LanguageModel.run`."""
    read, tokens_BT, length_B = _batch(model, tokenizer, texts, control_tokens)
    changes = _changes(edit, model.config, tokens_BT, _queries(tokenizer, read), length_B)
    logits_BTV, activations = _run(model, tokens_BT, length_B, changes, capture=tuple(capture))
    return Run(read, tokens_BT, length_B, logits_BTV, activations)


def top_tokens(
    model: Model,
    tokenizer: TextTokenizer,
    texts: str | Sequence[str],
    n: int,
    edit: Edits,
    position: int | None,
    control_tokens: bool,
) -> list[list[tuple[str, float]]]:
    """See `jaxinterp.models.language_model.LanguageModel.top`."""
    check_whole(n=n, position=position)
    if n < 1:
        raise UserError(f"n must be at least 1, got {n}")
    read, tokens_BT, length_B = _batch(model, tokenizer, texts, control_tokens)
    at_B = _queries(tokenizer, read)
    if position is not None:
        at_B = np.array([position + length * (position < 0) for length in length_B.tolist()])
        for row in np.flatnonzero((at_B < 0) | (at_B >= length_B)).tolist():
            raise UserError(f"position {position} is out of range: text {row} has {length_B[row]} tokens")
    changes = _changes(edit, model.config, tokens_BT, at_B, length_B)
    probability_BV = np.asarray(_next(model, tokens_BT, length_B, at_B, changes))
    best_BN = np.argsort(-probability_BV, axis=-1, kind="stable")[:, :n]
    return [
        [(tokenizer.token(int(id)), float(probability[id])) for id in best]
        for probability, best in zip(probability_BV, best_BN, strict=True)
    ]


def generated(
    model: Model,
    tokenizer: TextTokenizer,
    prompts: str | Sequence[str],
    n_tokens: int,
    edit: Edits,
    sampler: Sampler,
    seed: int,
    control_tokens: bool,
) -> list[str]:
    """See `jaxinterp.models.language_model.LanguageModel.generate`."""
    config = model.config
    if config.attention != "causal":
        raise UserError(f"only causal models continue a text; this one is {config.attention}")
    check_whole(n_tokens=n_tokens, seed=seed)
    if n_tokens < 0:
        raise UserError(f"n_tokens must be at least 0, got {n_tokens}")
    read, tokens_BT, length_B = _batch(model, tokenizer, prompts, control_tokens)
    if (longest := int(length_B.max())) >= config.n_ctx:
        raise UserError(f"a prompt has {longest} tokens; give 1 to {config.n_ctx - 1}, the model's context less one")
    room = min(config.n_ctx, longest + n_tokens)
    tokens_BT = np.pad(tokens_BT, ((0, 0), (0, room - longest)), constant_values=tokenizer.pad)
    reading, changes = None, None
    if isinstance(edit, NeuronEdit):
        reading = NeuronEdit(*_one_row(edit, config, len(length_B)))
    elif edit is not None:
        changes = changes_of(edit, config, length_B, room, beyond=True)
        if "attn_pattern" in changes:
            raise UserError("attention patterns cannot be edited while a text is generated; edit attn_z or attn_v")
    ends_V = np.zeros(config.d_vocab, bool)
    ends_V[tokenizer.n_tokens :] = True
    ends_V[[id for id in tokenizer.special if id < config.d_vocab]] = True
    found_BT, whole_B = continued(
        model, tokens_BT, length_B, ends_V, jax.random.key(seed), changes, reading, n_tokens=n_tokens, sampler=sampler
    )
    rows = zip(np.asarray(found_BT).tolist(), np.asarray(whole_B).tolist(), read, strict=True)
    return [tokenizer.text(ids[:whole])[len(tokenizer.text(prompt.ids)) :] for ids, whole, prompt in rows]


def check_whole(**numbers: object) -> None:
    """UserError if a number is given that is not whole."""
    for name, number in numbers.items():
        if number is not None and not isinstance(number, int | np.integer):
            raise UserError(f"{name} must be a whole number, got {number!r}")


def _batch(
    model: Model, tokenizer: TextTokenizer, texts: str | Sequence[str], control_tokens: bool
) -> tuple[tuple[Tokens, ...], np.ndarray, np.ndarray]:
    """Texts as tokens, padded on the right to the longest, and their lengths."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise UserError("no text to run the model on; give at least one")
    read = tuple(tokens_of(model, tokenizer, text, control_tokens) for text in texts)
    length_B = np.array([len(tokens) for tokens in read])
    tokens_BT = np.full((len(read), length_B.max()), tokenizer.pad, np.int32)
    for row, tokens in zip(tokens_BT, read, strict=True):
        row[: len(tokens)] = tokens.ids
    return read, tokens_BT, length_B


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


def read_position(tokenizer: TextTokenizer, ids: Sequence[int]) -> int:
    """Where a text is read: at its first mask token, or at its last token if it has none."""
    return list(ids).index(tokenizer.mask) if tokenizer.mask in ids else len(ids) - 1


def _queries(tokenizer: TextTokenizer, read: Sequence[Tokens]) -> np.ndarray:
    return np.array([read_position(tokenizer, tokens.ids) for tokens in read])


def _changes(
    edit: Edits, config: ModelConfig, tokens_BT: np.ndarray, at_B: np.ndarray, length_B: np.ndarray
) -> Changes | None:
    """Any edit as changes of the batch; one of neurons by arrays acts where the texts are read."""
    if edit is None:
        return None
    if not isinstance(edit, NeuronEdit):
        return changes_of(edit, config, length_B, tokens_BT.shape[1])
    here_BT1 = (np.arange(tokens_BT.shape[1])[None] == at_B[:, None])[..., None]
    gates, shift = (None if x is None else x[:, :, None] for x in _one_row(edit, config, len(length_B)))
    return {
        "mlp_post": Change(jnp.where(here_BT1, gates, 1.0), None if shift is None else jnp.where(here_BT1, shift, 0.0))
    }


def _one_row(edit: NeuronEdit, config: ModelConfig, n_texts: int) -> NeuronEdit:
    """Checks the shape of an edit that acts at one position of each text."""
    for name, array in zip(("gates", "shift"), edit, strict=True):
        if array is None:
            continue
        shape = list(np.shape(array))
        if len(shape) != 3 or [shape[0], shape[2]] != [config.n_layers, config.d_mlp] or shape[1] not in (1, n_texts):
            wanted = [config.n_layers, 1, config.d_mlp]
            raise UserError(
                f"the {name} of an edit have shape {shape}; give one row: {wanted} (of an answer of several tokens, "
                "that of one of them: mask[:, :1])"
            )
    return edit


@functools.partial(jax.jit, static_argnames="capture")
def _run(
    model: Model, tokens_BT: Array, length_B: Array, changes: Changes | None, *, capture: tuple[str, ...]
) -> tuple[Float[Array, "B T V"], dict[str, Array]]:
    result = forward(model, tokens_BT, edit=changes, length_B=length_B, capture=capture)
    return result.logits_BTV, dict(result.activations)


@jax.jit
def _next(model: Model, tokens_BT: Array, length_B: Array, at_B: Array, changes: Changes | None) -> Float[Array, "B V"]:
    result = forward(model, tokens_BT, edit=changes, length_B=length_B)
    resid_BD = result.resid_final_BTD[jnp.arange(tokens_BT.shape[0]), at_B]
    # Not from the logits of all positions: a large vocabulary makes those dear.
    return jax.nn.softmax(unembed(model, resid_BD))
