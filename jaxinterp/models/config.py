"""What a transformer is made of, as data; imports no JAX, so that command lines start fast."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Literal, get_args, get_origin

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_numbers

LARGEST = 2**31 - 1  # sizes and positions are counted in 32 bits


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than those of pretraining."""

    # linear divides all; llama3 and yarn (Peng et al. 2023) divide long wavelengths, keep short ones and blend between
    kind: Literal["linear", "llama3", "yarn"]
    factor: float  # by which frequencies are divided
    low_freq_factor: float = 1.0  # llama3: wavelengths above original_n_ctx / this are divided
    high_freq_factor: float = 4.0  # llama3: wavelengths below original_n_ctx / this are kept
    original_n_ctx: int = 8192  # llama3, yarn: context of pretraining, tokens
    beta_fast: float = 32.0  # yarn: a pair that turns this often over original_n_ctx is the last one that is kept
    beta_slow: float = 1.0  # yarn: a pair that turns this often over original_n_ctx is the first one that is divided
    whole_pairs: bool = True  # yarn: the blend begins and ends at whole pairs, rounded outwards
    amplitude: float = 1.0  # yarn: factor of rotated coordinates, of queries and of keys

    def __post_init__(self) -> None:
        check_numbers(self, "model.rope_scaling.")
        if self.kind not in ("linear", "llama3", "yarn"):
            raise unknown("model.rope_scaling.kind", self.kind, ("linear", "llama3", "yarn"))
        for field in ("factor", "original_n_ctx", "beta_fast", "beta_slow", "amplitude"):
            if getattr(self, field) <= 0:
                raise UserError(f"model.rope_scaling.{field} must be above 0, got {getattr(self, field)}")
        for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
            if getattr(self, low) >= getattr(self, high):
                raise UserError(
                    f"model.rope_scaling.{high} must be above {low}, got {getattr(self, high)} and {getattr(self, low)}"
                )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A transformer. Sizes are counts; letters are those of `jaxinterp.__doc__`. The defaults are a small GPT."""

    d_vocab: int  # V, tokens in the vocabulary
    n_ctx: int  # longest sequence, tokens
    n_layers: int = 3  # L
    d_model: int = 96  # D, residual width
    d_mlp: int = 384  # F, neurons a layer
    n_heads: int = 4  # H, query heads
    n_kv_heads: int = 4  # key/value heads; fewer than n_heads is grouped-query attention, 1 is multi-query
    d_head: int = 24  # K, head width
    attention: Literal["causal", "bidirectional"] = "causal"  # bidirectional: a masked language model
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_bias: bool = True  # of LayerNorm; RMSNorm has none
    norm_eps: float = 1e-5  # added to the variance (LayerNorm) or mean square (RMSNorm)
    # pre: x + f(norm(x)) and a final norm; post (BERT): norm(x + f(x)); sandwich (Gemma): pre with x + norm(f(norm(x)))
    # output (OLMo 2): pre with x + norm(f(x))
    norm_placement: Literal["pre", "post", "sandwich", "output"] = "pre"
    first_attn_norm: bool = True  # without it, attention of the first layer reads its input as it is (ModernBERT)
    parallel: bool = False  # attention and FFN both read the layer's input (GPT-NeoX)
    qk_norm: bool = False  # RMSNorm of queries and keys
    # what one such norm is over: a head's coordinates, or those of all heads at once (OLMo 2)
    qk_norm_over: Literal["head", "all_heads"] = "head"
    position: Literal["learned", "rotary"] = "learned"
    rope_theta: float = 10_000.0  # base wavelength of rotary positions
    rope_share: float = 1.0  # share of a head's coordinates that rotate, from the first
    rope_scaling: RopeScaling | None = None  # not in local layers
    # positions that a local layer attends to, its own included; on either side, if attention is bidirectional
    window: int | None = None
    local_layers: tuple[int, ...] = ()  # layers that attend to a window
    rope_theta_local: float | None = None  # base wavelength in local layers; None is rope_theta
    attn_scale: float | None = None  # factor of attention scores; None is K^-1/2
    attn_softcap: float | None = None  # c · tanh(scores / c)
    logit_softcap: float | None = None  # c · tanh(logits / c)
    # gelu is the tanh approximation, gelu_exact is not; swiglu is silu(gate) * up, geglu is gelu(gate) * up, and
    # geglu_exact is gelu_exact(gate) * up; relu2, solu, topk and bilinear: see `jaxinterp.models.activations`
    ffn: Literal[
        "gelu", "gelu_exact", "relu", "relu2", "solu", "topk", "swiglu", "geglu", "geglu_exact", "bilinear"
    ] = "gelu"
    ffn_k: int | None = None  # topk: neurons of a layer that a token activates at most, 1 … d_mlp − 1
    # u, units that a neuron is made of, an FFN of its own: neuron = act(Σ_u c_u · act(w_u · x + b_u) + c_0); 1 is a
    # plain neuron, act(w · x + b)
    ffn_units: int = 1
    # E, groups of F / E neurons (mixture of experts), each multiplied by a router's share; all are computed. 1 is none
    experts: int = 1
    experts_active: int = 1  # experts of a token and layer whose share is above 0, 1 … experts
    # each layer multiplies its heads and neurons by one number for each token, σ(w · x + b); x is what attention reads
    depth_gates: bool = False
    qkv_bias: bool = True  # biases of queries, keys and values
    out_bias: bool = True  # bias of attention's output
    mlp_bias: bool = True  # biases of the FFN
    embed_norm: bool = False  # norm of the embeddings (BERT)
    embed_scale: float | None = None  # factor of token embeddings; None is 1
    tied: bool = True  # the unembedding is the embedding's transpose
    unembed_bias: bool = False
    head: Literal["linear", "transform"] = "linear"  # transform: dense, activation, norm before the unembedding (BERT)
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"  # of arithmetic; float64 needs jax_enable_x64
    # cudnn: attention of whole sequences by cuDNN's fused kernel; NVIDIA GPUs and bfloat16 alone
    attention_kernel: Literal["plain", "cudnn"] = "plain"

    def __post_init__(self) -> None:
        # JSON has no tuples.
        object.__setattr__(self, "local_layers", tuple(self.local_layers))
        if isinstance(self.rope_scaling, Mapping):
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        check_numbers(self, "model.")
        sizes = ("d_vocab", "n_ctx", "n_layers", "d_model", "d_mlp", "n_heads", "n_kv_heads", "d_head")
        for field in (*sizes, "ffn_units", "experts"):
            if getattr(self, field) < 1:
                raise UserError(f"model.{field} must be at least 1, got {getattr(self, field)}")
            if getattr(self, field) > LARGEST:
                raise UserError(f"model.{field} must be at most {LARGEST}, got {getattr(self, field)}")
        for field in dataclasses.fields(self):
            if get_origin(field.type) is Literal and getattr(self, field.name) not in get_args(field.type):
                raise unknown(f"model.{field.name}", getattr(self, field.name), get_args(field.type))
        if self.n_heads % self.n_kv_heads:
            raise UserError(
                f"model.n_heads ({self.n_heads}) must be a multiple of model.n_kv_heads ({self.n_kv_heads})"
            )
        if not 0 < self.rope_share <= 1:
            raise UserError(f"model.rope_share must be above 0 and at most 1, got {self.rope_share}")
        if self.position == "rotary" and self.d_rotary % 2:
            raise UserError(f"rotary positions need an even model.d_head · model.rope_share, got {self.d_rotary}")
        if self.local_layers and (self.window is None or not 1 <= self.window <= LARGEST):
            raise UserError(f"model.local_layers need a model.window of 1 … {LARGEST}, got {self.window}")
        if self.local_layers and self.rope_scaling is not None and self.rope_scaling.kind == "yarn":
            raise UserError("model.local_layers together with model.rope_scaling.kind yarn is not supported")
        if any(not 0 <= layer < self.n_layers for layer in self.local_layers):
            raise UserError(f"model.local_layers must lie in 0 … {self.n_layers - 1}, got {self.local_layers}")
        if self.parallel and self.norm_placement != "pre":
            raise UserError(f"model.parallel needs norm_placement pre, got {self.norm_placement}")
        if self.attention_kernel == "cudnn" and (self.local_layers or self.attn_softcap is not None):
            raise UserError("model.attention_kernel cudnn has no model.local_layers, no model.attn_softcap; use plain")
        if self.qk_norm_over != "head" and not self.qk_norm:
            raise UserError(f"model.qk_norm_over {self.qk_norm_over} needs model.qk_norm")
        if (self.ffn == "topk") != (self.ffn_k is not None):
            raise UserError(f"model.ffn topk and model.ffn_k go together, got ffn {self.ffn} and ffn_k {self.ffn_k}")
        if self.ffn_k is not None and not 1 <= self.ffn_k < self.d_mlp:
            raise UserError(f"model.ffn_k must lie in 1 … d_mlp − 1 = {self.d_mlp - 1}, got {self.ffn_k}")
        if self.head == "transform" and self.ffn in ("solu", "topk", "bilinear"):
            raise UserError(f"model.head transform has no activation of its own and cannot take model.ffn {self.ffn}")
        if self.ffn_units > 1 and (self.gated or self.ffn in ("solu", "topk")):
            raise UserError(f"model.ffn_units above 1 needs model.ffn gelu, gelu_exact, relu or relu2, got {self.ffn}")
        if self.experts > 1 and self.ffn in ("solu", "topk"):
            raise UserError(f"model.experts needs neurons that do not look at each other's, got model.ffn {self.ffn}")
        if self.d_mlp % self.experts:
            raise UserError(f"model.d_mlp ({self.d_mlp}) must be a multiple of model.experts ({self.experts})")
        if not 1 <= self.experts_active <= self.experts:
            raise UserError(f"model.experts_active must lie in 1 … experts = {self.experts}, got {self.experts_active}")
        if not self.first_attn_norm and not self.norms_inputs:
            raise UserError(f"norm_placement {self.norm_placement} has no model.first_attn_norm to leave out")

    @property
    def d_rotary(self) -> int:
        """Coordinates of a head that rotate."""
        return int(self.d_head * self.rope_share)

    @property
    def gated(self) -> bool:
        """Whether a neuron is act(gate) · up."""
        return self.ffn in ("swiglu", "geglu", "geglu_exact", "bilinear")

    @property
    def norms_inputs(self) -> bool:
        """Whether attention and FFN read a norm of the residual stream."""
        return self.norm_placement in ("pre", "sandwich")

    @property
    def norms_outputs(self) -> bool:
        """Whether what attention and FFN add to the residual stream is normed."""
        return self.norm_placement in ("sandwich", "output")

    @property
    def n_neurons(self) -> int:
        """FFN neurons in the whole model, L·F."""
        return self.n_layers * self.d_mlp


def _gpt(n_layers: int, d_model: int, n_heads: int) -> dict:
    return {
        "n_layers": n_layers,
        "d_model": d_model,
        "d_mlp": 4 * d_model,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "d_head": d_model // n_heads,
    }


_LLAMA = {"norm": "rmsnorm", "position": "rotary", "ffn": "swiglu", "tied": False}
_LLAMA |= {"qkv_bias": False, "out_bias": False, "mlp_bias": False}

# Named after their size with a vocabulary of 4,096 tokens and 64 positions.
PRESETS: dict[str, dict] = {
    "0.5m": _gpt(4, 64, 4) | {"d_mlp": 384},
    "0.7m": _gpt(3, 96, 4),
    "3m": _gpt(6, 192, 6) | {"d_mlp": 768},
    "10m": _gpt(8, 320, 8),
    "30m": _gpt(10, 480, 8),
    "100m": _gpt(14, 768, 12),
    # The sizes of Llama 7B (Touvron et al. 2023, table 2), and what it is made of; it has a vocabulary of 32,000.
    "7b": _gpt(32, 4096, 32) | {"d_mlp": 11008} | _LLAMA,
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


def parsed_fields(texts: Mapping[str, str]) -> dict[str, object]:
    """Fields of a `ModelConfig` from text, as a command line has them; the name of an unknown field is kept.

    Raises:
      UserError: if a text is none of its field's type.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(ModelConfig)}
    found: dict[str, object] = {}
    for name, text in texts.items():
        kind = kinds.get(name)
        if isinstance(kind, types.UnionType):  # a number or none
            kind = get_args(kind)[0]
        try:
            found[name] = {int: int, float: float, bool: _boolean}.get(kind, str)(text)
        except ValueError:
            raise UserError(f"model.{name} must be of type {kind.__name__}, got {text!r}") from None
    return found


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
