"""Every parameter of a transformer, declared once: the names and sizes of its axes, and the numbers it starts from.

Modules make their parameters from the table of their name. Random numbers follow a table's order, so that another order
would be another model for the same seed. Imports no JAX.
"""

import functools
import math
from typing import NamedTuple

from jaxinterp.models.config import ModelConfig


class Parameter(NamedTuple):
    """One array. It starts as draws of a normal distribution, or as a constant if `stddev` is 0."""

    axes: tuple[str, ...]  # logical names, for sharding rules
    shape: tuple[int, ...]
    stddev: float
    mean: float


Table = dict[str, Parameter]


def transformer(config: ModelConfig) -> Table:
    """All parameters by dotted path. Those under "layers" have a leading axis of that name."""
    table = embeddings(config)
    if config.embed_norm:
        table |= _under("norm_embed", norm(config))
    for name, layer in block(config).items():
        axes, shape = ("layers", *layer.axes), (config.n_layers, *layer.shape)
        table[f"layers.{name}"] = layer._replace(axes=axes, shape=shape)
    if config.norm_placement != "post":
        table |= _under("norm_final", norm(config))
    if config.head == "transform":
        table |= _under("head", head(config) | _under("norm", norm(config)))
    return table


def n_params(config: ModelConfig) -> int:
    """How many numbers the parameters of a model are."""
    return sum(math.prod(parameter.shape) for parameter in transformer(config).values())


def embeddings(config: ModelConfig) -> Table:
    """Embedding and unembedding. The draws are small, so that a tied unembedding starts near uniform predictions."""
    param = functools.partial(_parameter, config)
    table = {"embedding": param("vocab embed", 0.02)}
    if not config.tied:
        table["unembedding"] = param("vocab embed", 0.02)
    if config.unembed_bias:
        table["b_unembed"] = param("vocab")
    if config.position == "learned":
        table["positions"] = param("position embed", 0.02)
    return table


def block(config: ModelConfig) -> Table:
    """One layer by dotted path."""
    table = attention(config) | ffn(config)
    for name, axes in layer_norms(config).items():
        table |= _under(name, norm(config, axes))
    return table


def attention(config: ModelConfig) -> Table:
    """Attention of one layer, without norms."""
    param, (std, out_std) = functools.partial(_parameter, config), _stddevs(config)
    table = {
        "w_q": param("embed heads head", std),
        "w_k": param("embed kv_heads head", std),
        "w_v": param("embed kv_heads head", std),
        "w_o": param("heads head embed", out_std),
    }
    if config.qkv_bias:
        table |= {"b_q": param("heads head"), "b_k": param("kv_heads head"), "b_v": param("kv_heads head")}
    if config.out_bias:
        table["b_o"] = param("embed")
    return table


def ffn(config: ModelConfig) -> Table:
    """The FFN of one layer."""
    param, (std, out_std) = functools.partial(_parameter, config), _stddevs(config)
    table = {}
    for name in ("gate", "in") if config.gated else ("in",):
        table[f"w_{name}"] = param("embed mlp", std)
        if config.mlp_bias:
            table[f"b_{name}"] = param("mlp")
    table["w_out"] = param("mlp embed", out_std)
    if config.mlp_bias:
        table["b_out"] = param("embed")
    return table


def layer_norms(config: ModelConfig) -> dict[str, str]:
    """The norms of one layer, with the axes that each is over."""
    norms = {}
    if config.norm_placement != "output":
        norms |= {"norm_attn": "embed", "norm_mlp": "embed"}
    if config.norms_outputs:
        norms |= {"norm_attn_out": "embed", "norm_mlp_out": "embed"}
    if config.qk_norm:
        all_heads = config.qk_norm_over == "all_heads"
        norms |= {"norm_q": "heads head" if all_heads else "head", "norm_k": "kv_heads head" if all_heads else "head"}
    return norms


def norm(config: ModelConfig, axes: str = "embed") -> Table:
    """One norm."""
    table = {"scale": _parameter(config, axes, mean=1.0)}
    if config.norm == "layernorm" and config.norm_bias:
        table["bias"] = _parameter(config, axes)
    return table


def head(config: ModelConfig) -> Table:
    """BERT's transform before the unembedding, without its norm."""
    return {
        "w_head": _parameter(config, "embed embed_out", _stddevs(config)[0]),
        "b_head": _parameter(config, "embed_out"),
    }


def _stddevs(config: ModelConfig) -> tuple[float, float]:
    """GPT-2's initialisation: of matrices, and of those into the residual stream, smaller the more layers there are.

    Its 0.02 at D = 768 is scaled to the width.
    """
    std = 0.02 * (768 / config.d_model) ** 0.5
    return std, std / (2 * config.n_layers) ** 0.5


def _under(prefix: str, table: Table) -> Table:
    return {f"{prefix}.{name}": parameter for name, parameter in table.items()}


def _parameter(config: ModelConfig, axes: str, stddev: float = 0.0, mean: float = 0.0) -> Parameter:
    sizes = {
        "vocab": config.d_vocab,
        "position": config.n_ctx,
        "embed": config.d_model,
        "embed_out": config.d_model,
        "heads": config.n_heads,
        "kv_heads": config.n_kv_heads,
        "head": config.d_head,
        "mlp": config.d_mlp,
    }
    names = tuple(axes.split())
    return Parameter(names, tuple(sizes[name] for name in names), stddev, mean)
