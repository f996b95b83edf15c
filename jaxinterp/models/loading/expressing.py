"""The family whose config.json can say a config of ours: what a family writes is read again, and the two compared."""

import dataclasses
from collections.abc import Sequence

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.models.config import ModelConfig, RopeScaling
from jaxinterp.models.families.family import Family, TensorFile
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.registry import FAMILIES, all_families

CONFIG = "config.json"


def writable_families() -> tuple[Family, ...]:
    """Families whose layout has a way back, in the order in which they are tried; those of plug-ins come last."""
    ordered = sorted(all_families(), key=lambda family: family not in FAMILIES)
    return tuple(family for family in ordered if family.hf.fields is not None)


def family_for(config: ModelConfig, origin: str | None = None) -> Family:
    """The family that can express a config: the one that the model is from, or else the first of all.

    Args:
      config: the model's.
      origin: the name of the family that the model was loaded from, if it was.
    Raises:
      UserError: if no family can; it says which fields none has.
    """
    families = sorted(writable_families(), key=lambda family: family.name != origin)
    lacking: dict[str, set[str]] = {}
    refused = ""
    for family in families:
        try:
            lacking[family.name] = inexpressible(config, family)
        except UserError as error:  # what it wrote is no model at all
            refused = refused or str(error).removeprefix(f"{CONFIG}: ")
            continue
        if not lacking[family.name]:
            return family
    nowhere = set.intersection(*lacking.values()) if lacking and not refused else set()
    if nowhere:
        raise UserError(f"no family of transformers has {_named(config, nowhere)}; such a model cannot be exported")
    nearest = min(lacking, key=lambda name: len(lacking[name])) if lacking else None
    reasons = [refused] if refused else []
    reasons += [f"the nearest, {nearest}, lacks {_named(config, lacking[nearest])}"] if nearest else []
    raise UserError(f"no family of transformers has all that this model has; {'; '.join(reasons)}")


def family_named(config: ModelConfig, name: str) -> Family:
    """The family of that name, if it can express the config.

    Raises:
      UserError: if it is unknown, or cannot.
    """
    by_name = {family.name: family for family in reversed(writable_families())}
    if name not in by_name:
        raise unknown("family", name, by_name)
    try:
        lacking = inexpressible(config, by_name[name])
        reason = f"it does not have {_named(config, lacking)}" if lacking else ""
    except UserError as error:
        reason = str(error).removeprefix(f"{CONFIG}: ")
    if reason:
        raise UserError(f"the family {name} cannot express this model: {reason}; name no family to have one found")
    return by_name[name]


def inexpressible(config: ModelConfig, family: Family) -> set[str]:
    """The fields of a config that come back as something else from a family's config.json.

    Raises:
      UserError: if what the family writes is nothing that it reads.
    """
    fields = Fields(published(config, family), CONFIG, aliases=family.hf.aliases)
    back = canonical(family.hf.config(fields, TensorFile()))
    wanted = canonical(config)
    return {f.name for f in dataclasses.fields(wanted) if getattr(wanted, f.name) != getattr(back, f.name)}


def published(config: ModelConfig, family: Family) -> dict[str, object]:
    """The fields of config.json, without those of the tokenizer and of the file's type."""
    if family.hf.fields is None:
        raise UserError(f"models of the family {family.name} are read alone; it has no way back to {CONFIG}")
    fields = {family.hf.aliases.get(name, name): value for name, value in family.hf.fields(config).items()}
    return {"architectures": [family.architectures[0]], "model_type": family.model_types[0], **fields}


def canonical(config: ModelConfig) -> ModelConfig:
    """The config of the same function whose fields have their defaults where they mean nothing.

    The type and the kernel of arithmetic are not part of the function.
    """
    default = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
    idle = ["dtype", "attention_kernel"]
    changes: dict[str, object] = {}
    if config.norm == "rmsnorm":
        idle += ["norm_bias"]
    theta = config.rope_theta if config.rope_theta_local is None else config.rope_theta_local
    rotary = config.position == "rotary"
    same_angles = not rotary or (theta == config.rope_theta and config.rope_scaling is None)
    if not config.local_layers or (same_angles and config.window is not None and config.window >= config.n_ctx):
        idle += ["local_layers", "window", "rope_theta_local"]
    elif theta == config.rope_theta:
        idle += ["rope_theta_local"]
    if rotary:
        # Only whole coordinates turn; half of one more is none, and 1e-9 keeps rounding from losing one.
        changes["rope_share"] = (config.d_rotary + 1e-9) / config.d_head if config.rope_share < 1 else 1.0
        changes["rope_scaling"] = None if config.rope_scaling is None else _canonical_scaling(config.rope_scaling)
    else:
        idle += ["rope_theta", "rope_share", "rope_scaling", "rope_theta_local"]
    if config.attn_scale == config.d_head**-0.5:
        idle += ["attn_scale"]
    if config.embed_scale == 1:
        idle += ["embed_scale"]
    return dataclasses.replace(config, **changes, **{name: default[name] for name in idle})


def _canonical_scaling(scaling: RopeScaling) -> RopeScaling:
    matters = {"linear": (), "llama3": ("low_freq_factor", "high_freq_factor", "original_n_ctx")}
    matters["yarn"] = ("original_n_ctx", "beta_fast", "beta_slow", "whole_pairs", "amplitude")
    return RopeScaling(scaling.kind, scaling.factor, **{name: getattr(scaling, name) for name in matters[scaling.kind]})


def _named(config: ModelConfig, fields: set[str]) -> str:
    ordered: Sequence[str] = [field.name for field in dataclasses.fields(config) if field.name in fields]
    shown = [f"model.{name} {_short(getattr(config, name))}" for name in ordered[:3]]
    return ", ".join(shown) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def _short(value: object) -> str:
    text = value.kind if isinstance(value, RopeScaling) else str(value)
    return text if len(text) <= 20 else f"{text[:19]}…"
