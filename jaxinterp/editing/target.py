"""What an FFN has to write where a request is edited, so that the prompt gives the new answer: v*."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.editing.descent import descended
from jaxinterp.editing.likelihood import answer_logits, answer_nll
from jaxinterp.editing.places import AT, At, Texts, key_position, texts_of
from jaxinterp.editing.request import Request
from jaxinterp.facts.facts import SUBJECT, Text
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change
from jaxinterp.models.rerun import after_ffn, ffn_output
from jaxinterp.models.transformer import forward


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """The search for v*; defaults are those of Meng et al. 2022 for GPT-2 XL, but for the unit of `step_size`."""

    at: At = "subject"  # whose last token is edited; "prompt" is ours: where the answer is read
    steps: int = 20  # of Adam, at most
    step_size: float = 0.5  # of Adam, in units of v's root mean square, so that it does not depend on the model's scale
    weight_decay: float = 0.5  # times ‖δ‖² / ‖v‖²
    clamp: float = 4.0  # largest ‖δ‖, in units of ‖v‖
    kl: float = 0.0625  # weight of KL(P ‖ P edited) after the essence prompt
    essence: str = "{subject} is a"  # asks what the subject is, which is to stay; "" is no such term
    enough: float = 0.05  # loss at which the search ends, in nats

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.at not in AT:
            raise unknown("at", self.at, AT)
        for name in ("steps", "weight_decay", "kl"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} of a target must be at least 0, got {getattr(self, name)}")
        for name in ("step_size", "clamp", "enough"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} of a target must be above 0, got {getattr(self, name)}")
        if self.essence and self.essence.count(SUBJECT) != 1:
            raise UserError(f"essence has to have {SUBJECT} once, or to be empty; got {self.essence!r}")


class Target(NamedTuple):
    """What was found for one request."""

    delta_D: Float[np.ndarray, " D"]  # δ = v* − v, in what the FFN writes (before a norm of that, if there is one)
    stream_D: Float[np.ndarray, " D"]  # z, the residual stream after the layer with v* there, in the prompt alone
    steps: int  # that were taken
    loss: float  # at the end, in nats


def target(
    model: LanguageModel, request: Request, layer: int, config: TargetConfig, prefixes: Sequence[str] = ()
) -> Target:
    """v* of a request in a layer, by Adam from δ = 0 (Meng et al. 2022, eq. 4).

        minimise  mean_j −log P(new | x_j + prompt; v + δ) / tokens + KL · kl + weight_decay · ‖δ‖² / ‖v‖²

    over texts x_j before the prompt, of which one is none; v + δ stands at the last token of the subject (or
    of the prompt, without the term of the essence). ‖δ‖ is at most clamp · ‖v‖. Their code has ‖δ‖ / ‖v‖² in the last
    term. z is MEMIT's target of the layer (Meng et al. 2023).

    Args:
      model: a causal one.
      request: what to edit.
      layer: whose FFN writes v.
      config: of the search.
      prefixes: texts x_j, with what separates them from the prompt.
    Raises:
      UserError: if a text cannot be encoded.
    """
    befores = ("", *prefixes)
    asked = [Text(before + request.prompt, request.new, request.after) for before in befores]
    texts = texts_of(model, asked)
    at_Q = np.array([key_position(model, request, config.at, before) for before in befores])
    if layer == model.config.n_layers - 1 and (at_Q < texts.read_QA[:, 0]).any():
        raise UserError(
            f"nothing reads what the last layer ({layer}) writes at the subject of {request.prompt!r}; take an earlier "
            "layer, or at='prompt'"
        )
    essence, essence_at = _essence(model, request, config)
    weight = config.kl if config.essence and config.at == "subject" else 0.0
    settings = (config.steps, config.step_size, config.weight_decay, config.clamp, weight, config.enough)
    found = _search(model.model, texts, at_Q, essence, essence_at, jnp.asarray(layer), settings)
    delta, stream, steps, loss = jax.device_get(found)
    return Target(np.asarray(delta, np.float64), np.asarray(stream, np.float64), int(steps), float(loss))


def _essence(model: LanguageModel, request: Request, config: TargetConfig) -> tuple[Texts, int]:
    """The essence prompt, and where its subject ends; without one, the prompt stands in and counts nothing."""
    if not config.essence or config.at == "prompt":
        return texts_of(model, [request.text(request.new)]), key_position(model, request, config.at)
    start = config.essence.index(SUBJECT)
    subject = request.subject_text
    prompt = config.essence.replace(SUBJECT, subject)
    asked = Request(prompt, (start, start + len(subject)), request.new)
    try:
        return texts_of(model, [asked.text(asked.new)]), key_position(model, asked, "subject")
    except UserError as error:
        raise UserError(f"{error}; set the target's essence to words that the model knows, or to ''") from None


class _Place(NamedTuple):
    """One layer at one position of each of Q texts."""

    layer: Int[Array, ""]
    mid_QD: Float[Array, "Q D"]
    ffn_QD: Float[Array, "Q D"]  # what its FFN writes
    stream_QD: Float[Array, "Q D"]  # the residual stream after it

    def shift(self, model: Model, delta_D: Float[Array, " D"]) -> Float[Array, "Q D"]:
        """What δ changes in the residual stream after the layer."""
        layer_Q = jnp.full(self.mid_QD.shape[:1], self.layer)
        after = after_ffn(model.config, model.params["layers"], layer_Q, self.mid_QD, self.ffn_QD + delta_D[None])
        return after - self.stream_QD


def _place(model: Model, tokens_QT: Array, at_Q: Array, layer: Int[Array, ""]) -> _Place:
    run = forward(model, tokens_QT, capture=("resid_mid", "mlp_post")).activations
    row = jnp.arange(tokens_QT.shape[0])
    mid, post = (run[name][layer, row, at_Q] for name in ("resid_mid", "mlp_post"))
    layers = model.params["layers"]
    ffn = ffn_output(model.config, jax.tree.map(lambda x: x[layer][None], layers), post[None])[0]
    # Made as it is for any δ, so that δ = 0 is the untouched model.
    stream = after_ffn(model.config, layers, jnp.full(row.shape, layer), mid, ffn)
    return _Place(layer, mid, ffn, stream)


def _written(model: Model, texts: Texts, at_Q: Array, place: _Place, delta_D: Array) -> dict[str, Change]:
    """δ in what the FFN writes, as a change of the residual stream after the layer."""
    here_QT = jnp.arange(texts.tokens_QT.shape[1])[None] == at_Q[:, None]
    shift_QTD = here_QT[..., None] * place.shift(model, delta_D)[:, None]
    own_L = jnp.arange(model.config.n_layers) == place.layer
    return {"resid_post": Change(shift=own_L[:, None, None, None] * shift_QTD[None])}


@functools.partial(jax.jit, static_argnums=6)
def _search(
    model: Model, texts: Texts, at_Q: Array, essence: Texts, essence_at: Array, layer: Array, settings: tuple
) -> tuple[Array, Array, Array, Array]:
    steps, step_size, weight_decay, clamp, kl, enough = settings
    texts, essence, at_Q = jax.tree.map(jnp.asarray, (texts, essence, at_Q))
    place, essence_at_Q = _place(model, texts.tokens_QT, at_Q, layer), jnp.asarray(essence_at)[None]
    essence_place = _place(model, essence.tokens_QT, essence_at_Q, layer)
    exact = jnp.promote_types(place.ffn_QD.dtype, jnp.float32)
    start = jnp.zeros(place.ffn_QD.shape[1], exact)
    size = jnp.linalg.norm(place.ffn_QD[0].astype(exact))

    def kind(delta: Array) -> Float[Array, "V"]:
        change = _written(model, essence, essence_at_Q, essence_place, delta)
        return jax.nn.log_softmax(answer_logits(model, essence, change)[0, 0])

    log_kind_V = kind(start.astype(place.ffn_QD.dtype)) if kl else None

    def loss(delta: Array) -> Float[Array, ""]:
        moved = delta.astype(place.ffn_QD.dtype)
        total = answer_nll(model, texts, _written(model, texts, at_Q, place, moved))
        if kl:
            total = total + kl * (jnp.exp(log_kind_V) * (log_kind_V - kind(moved))).sum()
        return total + weight_decay * jnp.square(delta).sum() / jnp.square(size)

    def within(delta: Array) -> Float[Array, " D"]:
        return delta * jnp.minimum(1, clamp * size / jnp.maximum(jnp.linalg.norm(delta), jnp.finfo(exact).tiny))

    adam = optax.adam(step_size * size / start.size**0.5)
    delta, number = descended(loss, start, adam, within, steps=steps, enough=enough)
    stream = place.stream_QD[0] + place.shift(model, delta.astype(place.ffn_QD.dtype))[0]
    return delta, stream, number, loss(delta)
