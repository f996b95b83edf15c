"""Direct logit attribution: what each part of a model writes towards a logit.

The residual stream that the unembedding reads is a sum: embedding, every head, every FFN, biases. With the final norm's
scale as it is, the logit is linear in that sum (nostalgebraist 2020; Elhage et al. 2021).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.table import Table

from jaxinterp.base.errors import UserError
from jaxinterp.circuits.cells import largest
from jaxinterp.circuits.question import Answer, answer_of, asked_position
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.layers import exact
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward, unembed
from jaxinterp.report.shown import Part, Shown

if TYPE_CHECKING:
    from jaxinterp.report.charts import Chart

SHOWN = 10


class Parts(NamedTuple):
    """What parts of a model add to a logit, or to a difference of two; they sum to it, before a softcap."""

    embedding: Float[Array, ""]  # of the token that is read, and its position
    heads_LH: Float[Array, "L H"]
    attention_bias_L: Float[Array, " L"]  # of attention's output, which belongs to no head
    neurons_LF: Float[Array, "L F"]
    ffn_bias_L: Float[Array, " L"]
    bias: Float[Array, ""]  # of the final norm and the unembedding


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class LogitAttribution(Shown):
    """What each part of a model writes towards an answer. Printed, or in a notebook, it is a table."""

    text: str
    answer: str
    unit: str  # "logit" or "logit difference"
    parts_of: Parts
    logit: float  # the sum of all parts
    own: float  # what the model's head gives: the same, but for a cap on logits and the rounding of short floats

    def components(self) -> list[tuple[str, float]]:
        """Name and contribution of the embedding, of every head and of every FFN as a whole, largest first."""
        found = self.parts_of
        named = [("embedding", float(found.embedding)), ("bias", float(found.bias))]
        for layer, (heads, bias, neurons, ffn_bias) in enumerate(
            zip(found.heads_LH, found.attention_bias_L, found.neurons_LF, found.ffn_bias_L, strict=True)
        ):
            named += [(f"head {layer}.{head}", float(value)) for head, value in enumerate(heads)]
            named += [(f"attention bias {layer}", float(bias)), (f"FFN {layer}", float(neurons.sum() + ffn_bias))]
        return sorted(((name, value) for name, value in named if value != 0), key=lambda pair: -abs(pair[1]))

    def neurons(self, n: int = SHOWN) -> list[tuple[int, int, float]]:
        """The n neurons that add most, in absolute value: layer, number, contribution."""
        return largest(np.asarray(self.parts_of.neurons_LF), n)

    def chart(self) -> "Chart":
        """A heat map of what each head adds, with each layer's FFN in the last column."""
        from jaxinterp.report.heat_maps import one_map  # altair takes a while to import

        found = self.parts_of
        ffn = np.asarray(found.neurons_LF.sum(1) + found.ffn_bias_L)[:, None]
        heads = np.asarray(found.heads_LH)
        columns = (*map(str, range(heads.shape[1])), "FFN")
        title = f"What heads and FFNs add to the {self.unit} of {self.answer!r}"
        return one_map(np.concatenate([heads, ffn], 1), columns, title, columns_title="head")

    def __repr__(self) -> str:
        return f"LogitAttribution({self.text!r} → {self.answer!r}, {self.unit} {self.logit:.3f})"

    def parts(self) -> Sequence[Part]:
        table = Table("part", "adds", title="parts that add most", title_justify="left")
        for name, value in self.components()[:SHOWN]:
            table.add_row(name, f"{value:+.3f}")
        capped = f"; after the model's cap and rounding {self.own:.3f}" if abs(self.own - self.logit) > 1e-3 else ""
        return [f"{self.text!r} → {self.answer!r}: {self.unit} {self.logit:.3f}{capped}", table]


def logit_attribution(
    model: LanguageModel, text: str, answer: str, *, wrong: str | None = None, position: int | None = None
) -> LogitAttribution:
    """Attributes the logit of an answer to what every head, neuron and bias writes into the residual stream.

    A part c adds s ⊙ (c − mean c) / σ · (u_answer − u_wrong), where s and σ are the final norm's weights and the
    standard deviation of what it read (without the mean in RMSNorm), and u unembeddings. Norms on the outputs of
    attention or FFNs are taken with their denominators as they were, likewise. The parts sum to the logit, where a
    model caps its logits to that before the cap; the model's own stands beside it.

    Args:
      model: a language model whose layers add to one residual stream (not one that norms it after each layer, as BERT).
      text: what is read; to a masked model with its mask.
      answer: one token.
      wrong: another one, whose logit is subtracted.
      position: after which token; None is the last one, or a masked model's mask.
    Raises:
      UserError: if the model's stream is no sum, an answer is not one token, or the position is out of range.
    """
    config = model.config
    if config.norm_placement == "post":
        raise UserError("a model that norms its residual stream after each layer, as BERT, has no direct parts")
    if config.head == "transform":
        raise UserError("a model with a layer between stream and unembedding, as ModernBERT, has no direct parts")
    if config.norms_outputs and config.norm == "layernorm":
        raise UserError("a LayerNorm on the outputs of attention and FFN leaves no direct parts")
    asked = answer_of(model, answer, wrong)
    tokens = model.tokens(text, control_tokens=model.tokenizer.mask is not None)
    at = asked_position(model, text, tokens) if position is None else position + len(tokens) * (position < 0)
    if not 0 <= at < len(tokens):
        raise UserError(f"position {position} is out of range: the text has {len(tokens)} tokens")
    found, own = jax.device_get(_parts(model.model, jnp.array([tokens.ids]), jnp.asarray(at), asked))
    total = sum(float(part.sum()) for part in found)
    return LogitAttribution(text, answer, "logit" if wrong is None else "logit difference", found, total, float(own))


@functools.partial(jax.jit, static_argnames="asked")
def _parts(model: Model, tokens_1T: Array, at: Array, asked: Answer) -> tuple[Parts, Float[Array, ""]]:
    """The parts, and the model's own logit or difference of logits."""
    config, layers = model.config, model.params["layers"]
    places = ("embed", "attn_z", "mlp_post")
    result = forward(model, tokens_1T, capture=places)
    here = {name: exact(x[0, at] if name == "embed" else x[:, 0, at]) for name, x in result.activations.items()}
    table = exact(model.params["embedding" if config.tied else "unembedding"])
    token_D, bias = _direction(table, asked), jnp.zeros(())
    norm = model.params["norm_final"]
    final = exact(result.resid_final_BTD[0, at])
    scale = exact(norm["scale"]) * _denominator(config, final)
    if "bias" in norm:
        bias = bias + exact(norm["bias"]) @ token_D
    if config.unembed_bias:
        bias = bias + _direction(exact(model.params["b_unembed"])[:, None], asked)[0]

    def adds(x: Float[Array, "*n D"]) -> Float[Array, "*n"]:
        centred = x - x.mean(-1, keepdims=True) if config.norm == "layernorm" else x
        return centred @ (scale * token_D)

    heads_LHD = jnp.einsum("lhk,lhkd->lhd", here["attn_z"], exact(layers["w_o"]))
    neurons_LF, w_out = here["mlp_post"], exact(layers["w_out"])
    attention_bias_LD = _bias(layers, "b_o", heads_LHD[:, 0])
    ffn_bias_LD = _bias(layers, "b_out", heads_LHD[:, 0])
    if config.norms_outputs:
        # What is added is normed first: linear in its parts, with the norm's denominator as it was.
        attention = _norm_scale(config, layers["norm_attn_out"], heads_LHD.sum(1) + attention_bias_LD)
        written = jnp.einsum("lf,lfd->ld", neurons_LF, w_out) + ffn_bias_LD
        ffn = _norm_scale(config, layers["norm_mlp_out"], written)
        heads_LHD, attention_bias_LD = heads_LHD * attention[:, None], attention_bias_LD * attention
        ffn_bias_LD = ffn_bias_LD * ffn
    else:
        ffn = jnp.ones_like(ffn_bias_LD)
    # [L, F, D] would be as large as the weights; the direction goes through W_out instead.
    direction_LD = ffn * (scale * token_D)[None]
    if config.norm == "layernorm":
        direction_LD = direction_LD - ffn * (scale * token_D).mean()
    by_neuron_LF = neurons_LF * jnp.einsum("lfd,ld->lf", w_out, direction_LD)
    logits_V = unembed(model, result.resid_final_BTD[0, at])
    own = logits_V[asked.right] - (0 if asked.wrong is None else logits_V[asked.wrong])
    parts = (adds(here["embed"]), adds(heads_LHD), adds(attention_bias_LD), by_neuron_LF, adds(ffn_bias_LD), bias)
    return Parts(*parts), own


def _direction(table_VD: Array, asked: Answer) -> Float[Array, " D"]:
    right = table_VD[asked.right]
    return right if asked.wrong is None else right - table_VD[asked.wrong]


def _denominator(config, x: Float[Array, "*L D"]) -> Float[Array, "*L 1"]:
    """1 / σ of a norm's input."""
    centred = x - x.mean(-1, keepdims=True) if config.norm == "layernorm" else x
    return jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + config.norm_eps)


def _norm_scale(config, norm, x_LD: Float[Array, "L D"]) -> Float[Array, "L D"]:
    """What a norm of a layer's output multiplies by, of norms without a mean and without a bias."""
    return exact(norm["scale"]) * _denominator(config, x_LD)


def _bias(layers, name: str, like: Float[Array, "L D"]) -> Float[Array, "L D"]:
    return exact(layers[name]) if name in layers else jnp.zeros_like(like)
