"""What a transformer is made of, as data; imports no JAX, so that command lines start fast."""

import dataclasses
from typing import Literal

from jaxinterp.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A causal, pre-norm transformer. Sizes are counts; letters are those of `jaxinterp.__doc__`."""

    d_vocab: int  # V, tokens in the vocabulary
    n_ctx: int  # longest sequence, tokens
    n_layers: int = 3  # L
    d_model: int = 96  # D, residual width
    d_mlp: int = 384  # F, neurons a layer
    n_heads: int = 4  # H, query heads
    n_kv_heads: int = 4  # key/value heads; fewer than n_heads is grouped-query attention, 1 is multi-query
    d_head: int = 24  # K, head width
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_eps: float = 1e-5  # added to the variance (LayerNorm) or mean square (RMSNorm)
    position: Literal["learned", "rotary"] = "learned"
    rope_theta: float = 10_000.0  # base wavelength of rotary positions
    ffn: Literal["gelu", "relu", "swiglu"] = "gelu"  # gelu is the tanh approximation; swiglu is silu(gate) * up
    bias: bool = True  # biases in attention, FFN and LayerNorm
    tied: bool = True  # the unembedding is the embedding's transpose
    dtype: Literal["float32", "float64"] = "float32"  # of parameters and arithmetic; float64 needs jax_enable_x64

    def __post_init__(self) -> None:
        for field in ("d_vocab", "n_ctx", "n_layers", "d_model", "d_mlp", "n_heads", "n_kv_heads", "d_head"):
            if getattr(self, field) < 1:
                raise UserError(f"model.{field} must be at least 1, got {getattr(self, field)}")
        for field in dataclasses.fields(self):
            choices = getattr(field.type, "__args__", ())
            if choices and getattr(self, field.name) not in choices:
                raise unknown(f"model.{field.name}", getattr(self, field.name), choices)
        if self.n_heads % self.n_kv_heads:
            raise UserError(
                f"model.n_heads ({self.n_heads}) must be a multiple of model.n_kv_heads ({self.n_kv_heads})"
            )
        if self.position == "rotary" and self.d_head % 2:
            raise UserError(f"rotary positions need an even model.d_head, got {self.d_head}")

    @property
    def n_neurons(self) -> int:
        """FFN neurons in the whole model, L·F."""
        return self.n_layers * self.d_mlp

    @property
    def n_params(self) -> int:
        """Parameters in the whole model."""
        d, bias = self.d_model, int(self.bias)
        attention = d * self.d_head * (2 * self.n_heads + 2 * self.n_kv_heads)
        attention += bias * (self.d_head * (self.n_heads + 2 * self.n_kv_heads) + d)
        matrices = 3 if self.ffn == "swiglu" else 2
        ffn = matrices * d * self.d_mlp + bias * ((matrices - 1) * self.d_mlp + d)
        norm = d * (2 if self.norm == "layernorm" and self.bias else 1)
        embedding = d * self.d_vocab * (1 if self.tied else 2) + (d * self.n_ctx if self.position == "learned" else 0)
        return self.n_layers * (attention + ffn + 2 * norm) + norm + embedding


def _gpt(n_layers: int, d_model: int, n_heads: int) -> dict:
    return {
        "n_layers": n_layers,
        "d_model": d_model,
        "d_mlp": 4 * d_model,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "d_head": d_model // n_heads,
    }


# Named after their size with a vocabulary of 4,096 tokens and 64 positions.
PRESETS: dict[str, dict] = {
    "0.5m": _gpt(4, 64, 4) | {"d_mlp": 384},
    "0.7m": _gpt(3, 96, 4),
    "3m": _gpt(6, 192, 6) | {"d_mlp": 768},
    "10m": _gpt(8, 320, 8),
    "30m": _gpt(10, 480, 8),
    "100m": _gpt(14, 768, 12),
}


def preset(name: str, *, d_vocab: int, n_ctx: int, **changes: object) -> ModelConfig:
    """The preset with this vocabulary and context, and any field changed.

    Raises:
      UserError: if the preset or a field is unknown, or a value does not fit.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    for field in changes:
        if field not in fields:
            raise unknown("model field", field, fields)
    return ModelConfig(**{**PRESETS[name], "d_vocab": d_vocab, "n_ctx": n_ctx, **changes})
