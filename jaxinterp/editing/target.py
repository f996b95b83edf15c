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
from jaxinterp.editing.likelihood import answer_logits, nll
from jaxinterp.editing.places import AT, At, Texts, batches, key_position, texts_of
from jaxinterp.editing.request import Request
from jaxinterp.facts.facts import SUBJECT, Text
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.rerun import after_ffn, ffn_output, run_whole
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
    layer: int  # whose FFN writes v
    model: str  # digest of the model


def targets(
    model: LanguageModel, requests: Sequence[Request], layer: int, config: TargetConfig, prefixes: Sequence[str] = ()
) -> list[Target]:
    """v* of each request in a layer, by Adam from δ = 0 (Meng et al. 2022, eq. 4).

        minimise  mean_j −log P(new | x_j + prompt; v + δ) / tokens + KL · kl + weight_decay · ‖δ‖² / ‖v‖²

    over texts x_j before the prompt, of which one is none; v + δ stands at the last token of the subject (or
    of the prompt, without the term of the essence). ‖δ‖ is at most clamp · ‖v‖. Their code has ‖δ‖ / ‖v‖² in the last
    term. z is MEMIT's target of the layer (Meng et al. 2023).

    Every request has a search of its own, in an untouched model; some of them run side by side.

    Args:
      model: a causal one.
      requests: what to edit.
      layer: whose FFN writes v.
      config: of the search.
      prefixes: texts x_j, with what separates them from the prompt.
    Raises:
      UserError: if a text cannot be encoded.
    """
    befores = ("", *prefixes)
    asked = [Text(before + request.prompt, request.new, request.after) for request in requests for before in befores]
    at = [key_position(model, request, config.at, before) for request in requests for before in befores]
    texts, at_NQ = texts_of(model, asked), np.array(at).reshape(len(requests), len(befores))
    texts = jax.tree.map(lambda x: x.reshape(*at_NQ.shape, *x.shape[1:]), texts)
    if layer == model.config.n_layers - 1 and (unread := (at_NQ < texts.read_QA[..., 0]).any(1)).any():
        raise UserError(
            f"nothing reads what the last layer ({layer}) writes at the subject of "
            f"{requests[unread.argmax()].prompt!r}; take an earlier layer, or at='prompt'"
        )
    weight = config.kl if config.essence and config.at == "subject" else 0.0
    settings = (layer, config.steps, config.step_size, config.weight_decay, config.clamp, weight, config.enough)
    essence, essence_at_N = _essences(model, requests, config)
    found = []
    for part in batches(len(requests), len(befores)):
        given = jax.tree.map(lambda x: x[part], (texts, at_NQ, essence, essence_at_N))  # noqa: B023
        delta_ND, stream_ND, steps_N, loss_N = jax.device_get(_searches(model.model, *given, settings))
        found += zip(delta_ND, stream_ND, steps_N, loss_N, strict=True)
    digest = model.digest()
    return [
        Target(np.asarray(delta, np.float64), np.asarray(stream, np.float64), int(steps), float(loss), layer, digest)
        for delta, stream, steps, loss in found[: len(requests)]
    ]


def _essences(
    model: LanguageModel, requests: Sequence[Request], config: TargetConfig
) -> tuple[Texts, Int[np.ndarray, " N"]]:
    """The essence prompts, and where their subjects end; without one, the prompt stands in and counts nothing."""
    if not config.essence or config.at == "prompt":
        at_N = np.array([key_position(model, request, config.at) for request in requests])
        return texts_of(model, [request.text(request.new) for request in requests]), at_N
    start = config.essence.index(SUBJECT)
    asked = [
        Request(config.essence.replace(SUBJECT, name), (start, start + len(name)), request.new)
        for request in requests
        for name in [request.subject_text]
    ]
    try:
        at_N = np.array([key_position(model, one, "subject") for one in asked])
        return texts_of(model, [one.text(one.new) for one in asked]), at_N
    except UserError as error:
        raise UserError(f"{error}; set the target's essence to words that the model knows, or to ''") from None


class _Place(NamedTuple):
    """One layer at one position of each of Q texts, and the residual stream after it."""

    mid_QD: Float[Array, "Q D"]
    ffn_QD: Float[Array, "Q D"]  # what its FFN writes
    own_QD: Float[Array, "Q D"]  # the residual stream there
    stream_QTD: Float[Array, "Q T D"]  # and everywhere


def _after(model: Model, layer: int, mid_QD: Array, ffn_QD: Array) -> Float[Array, "Q D"]:
    layer_Q = jnp.full(mid_QD.shape[:1], layer)
    return after_ffn(model.config, model.params["layers"], layer_Q, mid_QD, ffn_QD)


def _place(model: Model, tokens_QT: Array, at_Q: Array, layer: int) -> _Place:
    run = forward(model, tokens_QT, capture=("resid_mid", "mlp_post", "resid_post")).activations
    row = jnp.arange(tokens_QT.shape[0])
    mid, post = (run[name][layer, row, at_Q] for name in ("resid_mid", "mlp_post"))
    own = jax.tree.map(lambda x: x[layer][None], model.params["layers"])
    ffn = ffn_output(model.config, own, post[None])[0]
    # Made as it is for any δ, so that δ = 0 is the untouched model.
    return _Place(mid, ffn, _after(model, layer, mid, ffn), run["resid_post"][layer])


def _shifted(model: Model, layer: int, at_Q: Array, place: _Place, delta_D: Array) -> tuple[Array, Array]:
    """The residual stream after the last layer with v + δ, and what δ changes after the layer itself."""
    shift_QD = _after(model, layer, place.mid_QD, place.ffn_QD + delta_D[None]) - place.own_QD
    here_QT = jnp.arange(place.stream_QTD.shape[1])[None] == at_Q[:, None]
    stream_QTD = place.stream_QTD + here_QT[..., None] * shift_QD[:, None]
    return run_whole(model, stream_QTD, start=layer + 1), shift_QD


@functools.partial(jax.jit, static_argnums=5)
def _searches(
    model: Model, texts: Texts, at_NQ: Array, essence: Texts, essence_at_N: Array, settings: tuple
) -> tuple[Array, Array, Array, Array]:
    """The search for each of N requests."""
    essence = jax.tree.map(lambda x: jnp.asarray(x)[:, None], essence)  # a text each
    given = jax.tree.map(jnp.asarray, (texts, at_NQ, essence, jnp.asarray(essence_at_N)[:, None]))
    return jax.vmap(lambda *one: _search(model, *one, settings))(*given)


def _search(
    model: Model, texts: Texts, at_Q: Array, essence: Texts, essence_at_1: Array, settings: tuple
) -> tuple[Array, Array, Array, Array]:
    layer, steps, step_size, weight_decay, clamp, kl, enough = settings
    place = _place(model, texts.tokens_QT, at_Q, layer)
    essence_place = _place(model, essence.tokens_QT, essence_at_1, layer) if kl else None
    exact = jnp.promote_types(place.ffn_QD.dtype, jnp.float32)
    start = jnp.zeros(place.ffn_QD.shape[1], exact)
    size = jnp.linalg.norm(place.ffn_QD[0].astype(exact))

    def kind(delta: Array) -> Float[Array, "V"]:
        resid_1TD, _ = _shifted(model, layer, essence_at_1, essence_place, delta)
        return jax.nn.log_softmax(answer_logits(model, essence, resid_1TD)[0, 0])

    log_kind_V = kind(start.astype(place.ffn_QD.dtype)) if kl else None

    def loss(delta: Array) -> Float[Array, ""]:
        moved = delta.astype(place.ffn_QD.dtype)
        resid_QTD, _ = _shifted(model, layer, at_Q, place, moved)
        total = nll(answer_logits(model, texts, resid_QTD), texts)
        if kl:
            total = total + kl * (jnp.exp(log_kind_V) * (log_kind_V - kind(moved))).sum()
        return total + weight_decay * jnp.square(delta).sum() / jnp.square(size)

    def within(delta: Array) -> Float[Array, " D"]:
        return delta * jnp.minimum(1, clamp * size / jnp.maximum(jnp.linalg.norm(delta), jnp.finfo(exact).tiny))

    adam = optax.adam(step_size * size / start.size**0.5)
    delta, number = descended(loss, start, adam, within, steps=steps, enough=enough)
    moved = _shifted(model, layer, at_Q, place, delta.astype(place.ffn_QD.dtype))[1][0]
    return delta, place.own_QD[0] + moved, number, loss(delta)
