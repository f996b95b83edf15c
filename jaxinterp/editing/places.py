"""Where things stand: a layer's value rows, a request's answer in tokens, and the last token of its subject."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.editing.request import Request
from jaxinterp.facts.encoding import EncodedQueries, encode_texts
from jaxinterp.facts.facts import Text
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model

# In every family: the matrix [L, F, D] whose rows are what neurons write. Its input is "mlp_post", also where that is
# act(gate) · up, a share of an expert, or behind the layer's gate.
VALUE_ROWS = "layers.w_out"
At = Literal["subject", "prompt"]  # whose last token is edited
AT = get_args(At)
MULTIPLE = 8  # of positions, so that few shapes are compiled
ANSWER = 4  # the same of an answer's tokens
TEXTS = 64  # texts that are run at once


class Texts(NamedTuple):
    """Q texts, each with an answer; places of padding repeat the first one with weight 0."""

    tokens_QT: Int[np.ndarray | Array, "Q T"]
    length_Q: Int[np.ndarray | Array, " Q"]
    read_QA: Int[np.ndarray | Array, "Q A"]  # where the answer's tokens are read: before each, or at its mask
    target_QA: Int[np.ndarray | Array, "Q A"]  # the answer's tokens
    weight_QA: Float[np.ndarray | Array, "Q A"]  # 1 for a token of the answer


def value_rows(model: Model, layer: int | Int[Array, ""]) -> Float[Array, "F D"]:
    """What each neuron of a layer writes, in units of its activation."""
    return model.params["layers"]["w_out"][layer]


def with_value_rows(model: Model, layer: int | Int[Array, ""], rows_FD: Float[Array | np.ndarray, "F D"]) -> Model:
    """The model with other value rows in one layer."""
    layers = dict(model.params["layers"])
    w_out = layers["w_out"]
    layers["w_out"] = w_out.at[layer].set(rows_FD.astype(w_out.dtype))
    return dataclasses.replace(model, params={**model.params, "layers": layers})


def check_layers(model: LanguageModel, layers: Sequence[int]) -> None:
    """UserError if there is no layer, one is not the model's, or they do not go up."""
    n_layers = model.config.n_layers
    if not layers or any(not 0 <= layer < n_layers for layer in layers) or list(layers) != sorted(set(layers)):
        raise UserError(
            f"layers to edit are numbers from 0 to {n_layers - 1}, each once and from the lowest; got {list(layers)}"
        )


def texts_of(model: LanguageModel, texts: Sequence[Text]) -> Texts:
    """Texts with answers as arrays for a causal model.

    Raises:
      UserError: if a text cannot be encoded or does not fit the context, or its answer has no tokens of its own.
    """
    queries = encode_texts(texts, model.tokenizer, n_ctx=model.config.n_ctx)
    missing = -queries.tokens_NT.shape[1] % MULTIPLE
    missing = min(missing, model.config.n_ctx - queries.tokens_NT.shape[1])
    tokens_NT = np.pad(queries.tokens_NT, ((0, 0), (0, missing)), constant_values=model.tokenizer.pad)
    n_tokens = -(-int(queries.answer_length_N.max()) // ANSWER) * ANSWER
    return with_answers(dataclasses.replace(queries, tokens_NT=tokens_NT), n_tokens)


def with_answers(queries: EncodedQueries, n_tokens: int) -> Texts:
    """Encoded texts for a causal model, with so many places for the tokens of an answer."""
    token_A = np.arange(n_tokens)[None]
    within_NA = token_A < queries.answer_length_N[:, None]
    place_NA = queries.answer_start_N[:, None] + np.where(within_NA, token_A, 0)
    target_NA = np.take_along_axis(queries.tokens_NT, place_NA, 1)
    return Texts(queries.tokens_NT, queries.length_N, place_NA - 1, target_NA, within_NA.astype(np.float32))


def prompt_ids(model: LanguageModel, text: str) -> tuple[int, ...]:
    """A prompt's tokens with what the model expects before them; UserError if a word is unknown."""
    ids = model.tokenizer.encode(text)
    if model.tokenizer.unk is not None and model.tokenizer.unk in ids:
        raise UserError(f"the tokenizer does not know {model.tokenizer.unknown_word(text)!r} in {text!r}")
    return (*model.tokenizer.prefix, *ids)


def batches(n: int, width: int = 1) -> Iterator[Int[np.ndarray, " b"]]:
    """0 … n − 1 in batches of `width` texts each, of few sizes; the last one is filled up with its last number."""
    most = max(1, TEXTS // width)
    size = min(most, 1 << (n - 1).bit_length())
    for start in range(0, n, size):
        yield np.minimum(np.arange(start, start + size), n - 1)


def key_position(model: LanguageModel, request: Request, at: At, before: str = "") -> int:
    """The position of the last token that holds a part of the subject, or of the prompt, in a causal model.

    Args:
      model: the model.
      request: with its subject in the prompt.
      at: "subject" or "prompt".
      before: what stands before the prompt.
    Raises:
      UserError: if `at` is unknown, or the subject does not stand before the answer.
    """
    if at not in AT:
        raise unknown("at", at, AT)
    if at == "prompt":
        return (
            int(encode_texts([Text(before + request.prompt, request.new, "")], model.tokenizer).answer_start_N[0]) - 1
        )
    _, end = request.subject
    if end > len(request.prompt):
        raise UserError(f"the subject of {request.prompt!r} stands after the answer, where a causal model sees nothing")
    tokenizer = model.tokenizer
    offsets = tokenizer.backend.encode(before + request.prompt, add_special_tokens=False).offsets
    holding = [place for place, (first, _) in enumerate(offsets) if first < len(before) + end]
    if not holding:
        raise UserError(f"the subject {request.subject_text!r} of {request.prompt!r} has no token of its own")
    return len(tokenizer.prefix) + holding[-1]
