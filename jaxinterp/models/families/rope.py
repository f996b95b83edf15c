"""Rotary positions in published configs: the old fields, the nested ones of transformers 5, and GGUF's."""

from jaxinterp.errors import UserError, unknown
from jaxinterp.models.config import RopeScaling
from jaxinterp.models.families.fields import Fields

KINDS = ("default", "linear", "llama3")
LAYER_TYPES = ("full_attention", "sliding_attention")


def hf_rope(fields: Fields, theta: str = "rope_theta", default: float = 10_000.0) -> tuple[float, RopeScaling | None]:
    """Base wavelength and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.

    Raises:
      UserError: if the scaling is of an unsupported kind.
    """
    base = fields.number(theta, default)
    nested = fields.part("rope_parameters")
    return nested.number("rope_theta", base), _scaling(nested) or _scaling(fields.part("rope_scaling"))


def hf_rope_by_layer_type(
    fields: Fields, default: float, default_local: float
) -> tuple[float, RopeScaling | None, float]:
    """Base wavelength and scaling of global layers, base wavelength of local ones.

    Raises:
      UserError: if the scaling is of an unsupported kind, or local layers have one.
    """
    theta = fields.number("rope_theta", default)
    theta_local = fields.number("rope_local_base_freq", default_local)
    scaling = _scaling(fields.part("rope_scaling"))
    nested = fields.part("rope_parameters")
    if "full_attention" not in nested and "sliding_attention" not in nested:
        return nested.number("rope_theta", theta), _scaling(nested) or scaling, theta_local
    everywhere, local = (nested.part(layer_type) for layer_type in LAYER_TYPES)
    if _scaling(local) is not None:
        raise UserError(f"{local.where}: scaled rotary positions in local layers are not supported")
    theta, scaling = everywhere.number("rope_theta", theta), _scaling(everywhere) or scaling
    return theta, scaling, local.number("rope_theta", theta_local)


def _scaling(fields: Fields) -> RopeScaling | None:
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind not in KINDS:
        raise unknown(f"rotary scaling in {fields.where}:", kind, KINDS)
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", fields.number("factor"))
    return RopeScaling(
        "llama3",
        fields.number("factor"),
        fields.number("low_freq_factor"),
        fields.number("high_freq_factor"),
        fields.integer("original_max_position_embeddings"),
    )


def gguf_rope(fields: Fields, default: float = 10_000.0) -> tuple[float, RopeScaling | None]:
    """Base wavelength and scaling from GGUF metadata."""
    fields.only("rope.scaling.attn_factor", 1.0)
    kind = fields.get("rope.scaling.type", "none")
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    fields.integer("rope.scaling.original_context_length", 0)  # means something to yarn alone
    if kind not in ("none", "linear"):
        raise unknown(f"{fields.prefix}rope.scaling.type in {fields.where}:", kind, ("none", "linear"))
    scaled = factor not in (0.0, 1.0) and (kind == "linear" or "rope.scale_linear" in fields)
    return fields.number("rope.freq_base", default), RopeScaling("linear", factor) if scaled else None
