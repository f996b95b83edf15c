"""Every parameter of a transformer, declared once: the names and sizes of its axes, and the numbers it starts from.

Modules make their parameters from the table of their name. Random numbers follow a table's order, so that another order
would be another model for the same seed. Imports no JAX.
"""

import dataclasses
import math
from typing import NamedTuple

from jaxinterp.models.config import ModelConfig


class Normal(NamedTuple):
    """Numbers drawn from the normal distribution around zero."""

    stddev: float


class Parameter(NamedTuple):
    """One array."""

    axes: tuple[str, ...]  # logical names, for sharding rules
    shape: tuple[int, ...]
    initial: Normal | float  # draws, or a constant


Table = dict[str, Parameter]


def transformer(config: ModelConfig) -> Table:
    """All parameters by dotted path. Those under "layers" have a leading axis of that name."""
    table = embeddings(config)
    if config.embed_norm:
        table |= _under("norm_embed", norm(config))
    for name, (axes, shape, initial) in block(config).items():
        table[f"layers.{name}"] = Parameter(("layers", *axes), (config.n_layers, *shape), initial)
    if config.norm_placement != "post":
        table |= _under("norm_final", norm(config))
    if config.head == "transform":
        table |= _under("head", head(config) | _under("norm", norm(config)))
    return table


def n_params(config: ModelConfig) -> int:
    """Numbers in all parameters."""
    return sum(math.prod(parameter.shape) for parameter in transformer(config).values())


def matched_d_mlp(config: ModelConfig, **changes: object) -> int:
    """The width F at which the config with these changes has as many parameters as it has without, as near as it comes.

    Of a plain neuron that has D + 1 + D parameters, u units make one of (u + 1) D + 2 u + 1: F' ≈ 2 F / (u + 1).

    Args:
      config: what the number of parameters is taken from.
      changes: fields, such as `ffn_units=4`; none of d_mlp.
    Returns:
      A multiple of the number of experts, at least 1.
    """
    least = int(changes.get("experts", config.experts))
    one, two = (n_params(dataclasses.replace(config, **changes, d_mlp=n * least)) for n in (1, 2))
    return least * max(1, round((n_params(config) - one) / (two - one)) + 1)


def embeddings(config: ModelConfig) -> Table:
    """Embedding and unembedding. The draws are small, so that a tied unembedding starts near uniform predictions."""
    return _table(
        config,
        ("embedding", "vocab embed", Normal(0.02)),
        ("unembedding", "vocab embed", Normal(0.02), not config.tied),
        ("b_unembed", "vocab", 0.0, config.unembed_bias),
        ("positions", "position embed", Normal(0.02), config.position == "learned"),
    )


def block(config: ModelConfig) -> Table:
    """One layer by dotted path."""
    table = attention(config) | ffn(config)
    for name, axes in layer_norms(config).items():
        table |= _under(name, norm(config, axes))
    if config.depth_gates:
        table |= _under("depth_gate", depth_gate(config))
    return table


def attention(config: ModelConfig) -> Table:
    """Attention of one layer, without norms."""
    inner, outer = _matrices(config)
    return _table(
        config,
        ("w_q", "embed heads head", inner),
        ("w_k", "embed kv_heads head", inner),
        ("w_v", "embed kv_heads head", inner),
        ("w_o", "heads head embed", outer),
        ("b_q", "heads head", 0.0, config.qkv_bias),
        ("b_k", "kv_heads head", 0.0, config.qkv_bias),
        ("b_v", "kv_heads head", 0.0, config.qkv_bias),
        ("b_o", "embed", 0.0, config.out_bias),
    )


def ffn(config: ModelConfig) -> Table:
    """The FFN of one layer."""
    inner, outer = _matrices(config)
    rich = config.ffn_units > 1
    columns = "mlp unit" if rich else "mlp"
    return _table(
        config,
        ("w_gate", "embed mlp", inner, config.gated),
        ("b_gate", "mlp", 0.0, config.gated and config.mlp_bias),
        ("w_in", f"embed {columns}", inner),
        ("b_in", columns, 0.0, config.mlp_bias),
        ("w_out", "mlp embed", outer),
        ("b_out", "embed", 0.0, config.mlp_bias),
        # He et al. 2015: arguments of the outer activation are then as large as those of the inner ones.
        ("w_unit", "mlp unit", Normal((2 / config.ffn_units) ** 0.5), rich),
        ("b_unit", "mlp", 0.0, rich and config.mlp_bias),
        ("w_router", "embed experts", inner, config.experts > 1),
    )


def ffn_matrices(config: ModelConfig) -> Table:
    """Those of its parameters that connect neurons with the residual stream: w_gate, w_in and w_out.

    Neither what is inside of a neuron of several units, nor the router of experts.
    """
    return {name: of for name, of in ffn(config).items() if name in ("w_gate", "w_in", "w_out")}


def depth_gate(config: ModelConfig) -> Table:
    """The gate of one layer: 0.95 for all tokens at the start."""
    return _table(config, ("weight", "embed", 0.0), ("bias", "", 3.0))


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
    return _table(config, ("scale", axes, 1.0), ("bias", axes, 0.0, config.norm == "layernorm" and config.norm_bias))


def head(config: ModelConfig) -> Table:
    """BERT's transform before the unembedding, without its norm."""
    return _table(config, ("w_head", "embed embed_out", _matrices(config)[0]), ("b_head", "embed_out", 0.0))


def _matrices(config: ModelConfig) -> tuple[Normal, Normal]:
    """GPT-2's draws, with its 0.02 at D = 768 scaled to the width; smaller into the residual stream of many layers."""
    stddev = 0.02 * (768 / config.d_model) ** 0.5
    return Normal(stddev), Normal(stddev / (2 * config.n_layers) ** 0.5)


def _under(prefix: str, table: Table) -> Table:
    return {f"{prefix}.{name}": parameter for name, parameter in table.items()}


def _table(config: ModelConfig, *rows: tuple) -> Table:
    """A table from rows of a name, the names of axes, what it starts from, and whether there is one."""
    sizes = {
        "vocab": config.d_vocab,
        "position": config.n_ctx,
        "embed": config.d_model,
        "embed_out": config.d_model,
        "heads": config.n_heads,
        "kv_heads": config.n_kv_heads,
        "head": config.d_head,
        "mlp": config.d_mlp,
        "unit": config.ffn_units,
        "experts": config.experts,
    }
    rows = [(name, tuple(axes.split()), initial) for name, axes, initial, *there in rows if all(there)]
    return {name: Parameter(axes, tuple(sizes[axis] for axis in axes), initial) for name, axes, initial in rows}
