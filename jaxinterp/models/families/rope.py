"""Rotary positions in published configs: the old fields, the nested ones of transformers 5, and GGUF's."""

import math
from collections.abc import Sequence

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.models.config import RopeScaling
from jaxinterp.models.families.fields import REQUIRED, Fields

KINDS = ("default", "dynamic", "linear", "llama3", "yarn")
KINDS_BY_LAYER_TYPE = ("default", "linear", "llama3")
LAYER_TYPES = ("full_attention", "sliding_attention")


def rope_parameters(fields: Fields) -> Fields:
    """The nested object that counts: `rope_scaling`, if it is there, replaces `rope_parameters` as a whole.

    Raises:
      UserError: if there are parameters for each type of layer, which this family does not have.
    """
    old, new = fields.part("rope_scaling"), fields.part("rope_parameters")
    counts = old if old.values else new
    for name in LAYER_TYPES:
        if name in counts.values:
            raise UserError(f"{counts.where}: {name} is given, but layers of this family share their rotary positions")
    for name, value in new.values.items() if counts is old else ():
        if old.values.get(name) == value:
            new.get(name, None)  # said twice, so nothing is lost
    return counts


def hf_rope(fields: Fields, theta: str = "rope_theta", default: float = 10_000.0) -> tuple[float, RopeScaling | None]:
    """Base wavelength and scaling.

    Args:
      theta: the field of the base, which counts where the nested object has none.
      default: base if there is none at all.
    Raises:
      UserError: if the scaling is of an unsupported kind.
    """
    nested = rope_parameters(fields)
    return _positive(nested, "rope_theta", _positive(fields, theta, default)), _scaling(nested, KINDS, fields)


def hf_rope_share(fields: Fields, name: str = "partial_rotary_factor", default: float = 1.0) -> float:
    """The share of a head's coordinates that rotate; the nested object comes before the field `name`."""
    return rope_parameters(fields).number("partial_rotary_factor", fields.number(name, default))


def hf_rope_by_layer_type(
    fields: Fields, default: float, default_local: float
) -> tuple[float, RopeScaling | None, float]:
    """Base wavelength and scaling of global layers, base wavelength of local ones.

    `rope_parameters` has an object for each type of layer; what `rope_scaling` has comes before its global one.

    Raises:
      UserError: if the scaling is of an unsupported kind, or local layers have one.
    """
    theta = _positive(fields, "rope_theta", default)
    theta_local = _positive(fields, "rope_local_base_freq", default_local)
    nested, old = fields.part("rope_parameters"), fields.part("rope_scaling")
    for name in nested.values:
        if name not in LAYER_TYPES:
            raise UserError(
                f"{nested.where}: {name} is given for all layers; this family has {' and '.join(LAYER_TYPES)} apart"
            )
    everywhere, local = (nested.part(layer_type) for layer_type in LAYER_TYPES)
    for part in (everywhere, local, old):
        part.only("partial_rotary_factor", 1.0)
    fields.only("original_max_position_embeddings")  # counts where layers share their parameters, alone
    if "type" in old and "rope_type" not in old:
        raise UserError(f"{old.where}: type is {old.get('type')!r}; implementations read rope_type alone here, give it")
    merged = Fields({**everywhere.values, **old.values}, old.where if old.values else everywhere.where)
    scaling = _scaling(merged, KINDS_BY_LAYER_TYPE)
    theta = _positive(merged, "rope_theta", theta)
    for part in (everywhere, old):
        part.took_part_in(merged)
    if _scaling(local, KINDS_BY_LAYER_TYPE) is not None:
        raise UserError(f"{local.where}: scaled rotary positions in local layers are not supported")
    return theta, scaling, _positive(local, "rope_theta", theta_local)


def _positive(fields: Fields, name: str, default: object = REQUIRED) -> float:
    value = fields.number(name, default)
    if value <= 0:
        raise fields.wrong(name, value, "a number above 0")
    return value


def _scaling(nested: Fields, kinds: Sequence[str], shared: Fields | None = None) -> RopeScaling | None:
    """The scaling of a nested object; `shared` is the config whose layers all share it, and its context counts."""
    kind = nested.get("rope_type", nested.get("type", "default"))
    if kind not in kinds:
        raise unknown(f"rotary scaling in {nested.where}:", kind, kinds)
    if kind == "default":
        return None
    factor = _positive(nested, "factor")
    if kind == "dynamic":
        # It changes frequencies from the first token after max_position_embeddings on, and no longer text is read.
        return None
    if kind == "linear":
        return RopeScaling("linear", factor)
    context = nested.integer("original_max_position_embeddings", REQUIRED if shared is None else None)
    if shared is not None:
        # Where the config itself has the context of pretraining, transformers lets it come before the nested one.
        context = shared.integer("original_max_position_embeddings", context)
        context = shared.integer("max_position_embeddings") if context is None else context
    if kind == "llama3":
        return RopeScaling(
            "llama3", factor, nested.number("low_freq_factor"), nested.number("high_freq_factor"), context
        )
    return RopeScaling(
        "yarn",
        factor,
        original_n_ctx=context,
        beta_fast=nested.number("beta_fast", 32.0) or 32.0,
        beta_slow=nested.number("beta_slow", 1.0) or 1.0,
        whole_pairs=nested.flag("truncate", True),
        amplitude=nested.number("attention_factor", _yarn_amplitude(nested, factor)),
    )


def _yarn_amplitude(nested: Fields, factor: float) -> float:
    scale, all_dims = nested.number("mscale", 0.0), nested.number("mscale_all_dim", 0.0)
    if scale and all_dims:
        return yarn_amplitude(factor, scale) / yarn_amplitude(factor, all_dims)
    return yarn_amplitude(factor)


def yarn_amplitude(factor: float, scale: float = 1.0) -> float:
    """YaRN's factor of rotated coordinates, 0.1 · scale · ln(factor) + 1, so that longer contexts are as sharp."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def gguf_rope(fields: Fields, default: float = 10_000.0) -> tuple[float, RopeScaling | None]:
    """Base wavelength and scaling from GGUF metadata."""
    kind = fields.get("rope.scaling.type", "linear")
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0)) or 1.0
    context = fields.integer("rope.scaling.original_context_length", None)  # means something to yarn alone
    fields.get("rope.scaling.finetuned", None)  # says how the model was trained
    if kind not in ("none", "linear", "yarn"):
        raise unknown(f"{fields.prefix}rope.scaling.type in {fields.where}:", kind, ("none", "linear", "yarn"))
    for name in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
        fields.only(f"rope.scaling.{name}", 1.0)
    fields.only("rope.scaling.yarn_log_multiplier", 0.0)
    theta = _positive(fields, "rope.freq_base", default)
    if kind == "yarn":
        return theta, RopeScaling(
            "yarn",
            factor,
            original_n_ctx=fields.integer("context_length") if context is None else context,
            beta_fast=fields.number("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1.0),
            amplitude=yarn_amplitude(factor),
        )
    return theta, RopeScaling("linear", factor) if kind == "linear" and factor != 1.0 else None
