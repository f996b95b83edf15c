"""Floating-point operations and bytes of attribution and of training with the objective, by counting matrix products.

For predictions of sizes that nobody has run. Norms, activations and softmax are left out.
"""

from jaxinterp.facts.controls import CONTROL_KINDS
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.parameters import n_params


def decode_flops(config: ModelConfig, n_positions: int, n_layers: int) -> float:
    """One token through `n_layers` layers, against `n_positions` cached ones, and its logits."""
    return n_layers * _token_flops(config, n_positions) + 2.0 * config.d_model * config.d_vocab


def forward_flops(config: ModelConfig, n_positions: int, *, logits: bool) -> float:
    """A sequence through the model; with the logits of all positions, or of none."""
    head = 2.0 * config.d_model * config.d_vocab if logits else 0.0
    return n_positions * (config.n_layers * _token_flops(config, n_positions) + head)


def attribution_flops(config: ModelConfig, n_positions: int, n_points: int) -> float:
    """Integrated gradients of one answer token on the per-layer path, and its probability with neurons switched off.

    A branch is a decode of the layers after its own and a backward pass with respect to activations alone, which costs
    as much.
    """
    branches = sum(decode_flops(config, n_positions, later) for later in range(config.n_layers))
    scores = 2 * config.n_layers * config.d_model * config.d_mlp
    rest = decode_flops(config, n_positions, config.n_layers)
    return forward_flops(config, n_positions, logits=False) + 2 * n_points * branches + scores + rest


def training_flops(config: ModelConfig, n_positions: int, n_sequences: int, n_rows: int, n_points: int | None) -> float:
    """A training step on the joint path with suppression and control; `n_points` None is a plain one.

    A gradient of a gradient takes six decodes a point, an edited pass with its backward three: one without a fact's own
    neurons, and one for a control of each kind.
    """
    plain = 3 * n_sequences * forward_flops(config, n_positions, logits=True)
    if n_points is None:
        return plain
    decodes = 6 * n_points + 3 * (1 + len(CONTROL_KINDS))
    return plain + n_rows * decodes * decode_flops(config, n_positions, config.n_layers)


def training_bytes(config: ModelConfig) -> float:
    """What a training run holds whatever its batch: parameters, their gradients and Adam's two moments in 32 bits."""
    return 16.0 * n_params(config)


def _token_flops(config: ModelConfig, n_positions: int) -> float:
    """A token through a layer: its matrices, and attention's scores and mixture."""
    heads = 2 * config.n_heads + 2 * config.n_kv_heads
    # Into each neuron: two matrices if it is gated, one for each of its units. All experts are computed.
    into = 2 if config.gated else config.ffn_units
    matrices = config.d_model * config.d_head * heads + (into + 1) * config.d_model * config.d_mlp
    if config.ffn_units > 1:
        matrices += config.ffn_units * config.d_mlp
    if config.experts > 1:
        matrices += config.d_model * config.experts
    if config.depth_gates:
        matrices += config.d_model
    return 2.0 * matrices + 4.0 * config.n_heads * config.d_head * n_positions
