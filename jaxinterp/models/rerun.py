"""What comes after an edit: the later layers alone, from what an untouched forward has left behind.

Edits act at one position of a row, its query. In a causal model the keys and values of earlier positions never change,
so a layer is run for the query alone, against the cache. In a bidirectional model the change spreads to all positions,
but in the first layer that is run only the query's own queries, keys and values differ, and in the last only the query
is read.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.models.attention import KVCache, Past, Where
from jaxinterp.models.block import Block
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.layers import LayerConstants, Norm, layer_constants, row
from jaxinterp.models.model import Model
from jaxinterp.models.places import Changes


class Later(NamedTuple):
    """Where later layers find what the edit did not change: R rows, each with its own query."""

    position_RS: Int[Array, "R S"]  # of the positions that are run: the query alone (S = 1) or the whole sequence
    cache: KVCache  # of an untouched forward, all layers: [L, R, T, KV, K]
    visible_RT: Bool[Array, "R T"]  # which cached positions the query may attend to; never its own, which is run
    # Of bidirectional models, whose whole sequences are run; None in a causal one.
    query_RS: Bool[Array, "R S"] | None = None  # the query's place
    valid_RS: Bool[Array, "R S"] | None = None  # which positions are no padding; None is all
    attn_q_LRSHK: Float[Array, "L R S H K"] | None = None  # queries of the untouched forward


def run_layers(
    model: Model,
    resid_RSD: Float[Array, "R S D"],
    later: Later,
    changes: Changes | None,
    *,
    start: int,
) -> Float[Array, "R D"]:
    """The residual stream at the query after the last layer, from the one before layer `start`.

    Args:
      model: the model.
      resid_RSD: residual stream before layer `start`, as the untouched one is except at the query.
      later: positions and cache.
      changes: of what stands at the query in layers start, ..., L−1, arrays [L − start, R, 1, ...]; None is none.
      start: the first layer to run, 0 … L; L runs none.
    """
    config = model.config
    layers = jax.tree.map(lambda x: x[start:], _per_layer(model, later))
    n_layers = config.n_layers - start

    def scan(run, resid: Array, first: int, last: int) -> Array:
        xs = jax.tree.map(lambda x: x[first:last], (layers, changes))
        return jax.lax.scan(lambda resid, x: (run(config, later, x[0], resid, x[1]), None), resid, xs)[0]

    if later.query_RS is None:
        return scan(_decoded, resid_RSD, 0, n_layers)[:, 0]
    if n_layers <= 1:
        return scan(_decoded, _query(later, resid_RSD), 0, n_layers)[:, 0]
    resid = scan(_changed, resid_RSD, 0, 1)
    resid = scan(_whole, resid, 1, n_layers - 1)
    return _read(config, later, *jax.tree.map(lambda x: x[-1], (layers, resid[None], changes)))[:, 0]


def run_branches(
    model: Model,
    start_NRSD: Float[Array, "N R S D"],
    later: Later,
    layer_NR: Int[Array, "N R"],
) -> Float[Array, "N R D"]:
    """The residual stream at the query after the last layer, for branches that start in different layers.

    Branch (n, r) starts after layer `layer[n, r]`, from start[n, r], a residual stream that is row r's untouched one
    except at the query. All branches go through one scan over the layers, in which those wait that have not started,
    and layers before the first start are passed over. So one compiled program serves any layers, does little more than
    it has to if the branches' layers are near each other, and its compile time does not grow with L.
    """
    config = model.config
    per_layer, number_L = _per_layer(model, later), jnp.arange(config.n_layers)
    first, last = layer_NR.min() + 1, layer_NR.max() + 1

    def together(run):
        """`run` for all N branches of a row, which share its cache."""
        return lambda layer, resid_NRSD: jax.vmap(lambda resid: run(config, later, layer, resid, None))(resid_NRSD)

    def waiting(run, number: Array, layer: _Layer, resid: Array) -> Array:
        return jnp.where((layer_NR < number)[..., None, None], together(run)(layer, resid), resid)

    if later.query_RS is None:

        def step(resid: Array, x: tuple) -> tuple[Array, None]:
            number, layer = x
            on = lambda resid: waiting(_decoded, number, layer, resid)  # noqa: E731
            return jax.lax.cond(number >= first, on, lambda resid: resid, resid), None

        return jax.lax.scan(step, start_NRSD, (number_L, per_layer))[0][:, :, 0]

    def step(resid: Array, x: tuple) -> tuple[Array, None]:
        number, layer = x
        # Passed over; the one start of all branches; anything else.
        case = jnp.where(number < first, 0, jnp.where((number == first) & (first == last), 1, 2))
        options = (lambda resid: resid, lambda resid: together(_changed)(layer, resid))
        return jax.lax.switch(case, (*options, lambda resid: waiting(_whole, number, layer, resid)), resid), None

    resid, _ = jax.lax.scan(step, start_NRSD, jax.tree.map(lambda x: x[:-1], (number_L, per_layer)))
    final = jax.tree.map(lambda x: x[-1], per_layer)
    here = jax.vmap(lambda resid: _query(later, resid))(resid)
    read = jax.lax.cond(
        # If nothing but the query differs before the last layer, its keys and values are all that does in it.
        first >= config.n_layers - 1,
        lambda resid: together(_decoded)(final, here),
        lambda resid: together(_read)(final, resid),
        resid,
    )
    return jnp.where((layer_NR < config.n_layers - 1)[..., None, None], read, here)[:, :, 0]


def run_whole(model: Model, resid_BTD: Float[Array, "B T D"], *, start: int) -> Float[Array, "B T D"]:
    """The residual stream of a causal model after the last layer, from the one before layer `start`, everywhere.

    For streams that differ from the untouched one wherever they like; 0 ≤ start ≤ L.
    """
    position_BT = jnp.broadcast_to(jnp.arange(resid_BTD.shape[1])[None], resid_BTD.shape[:2])
    layers = jax.tree.map(lambda x: x[start:], (model.params["layers"], layer_constants(model.config)))

    # Products with weights are kept for a backward pass, as in a full forward.
    @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
    def step(resid: Array, layer: tuple) -> tuple[Array, None]:
        weights, constants = layer
        return Block(model.config).apply({"params": weights}, resid, None, Where(constants, position_BT))[0], None

    return jax.lax.scan(step, resid_BTD, layers)[0]


class _Layer(NamedTuple):
    """What a layer needs, with or without a leading layer axis."""

    weights: Mapping
    constants: LayerConstants
    cache: KVCache
    attn_q: Array | None


def _per_layer(model: Model, later: Later) -> _Layer:
    return _Layer(model.params["layers"], layer_constants(model.config), later.cache, later.attn_q_LRSHK)


def _query(later: Later, resid_RSD: Array) -> Float[Array, "R 1 D"]:
    if later.query_RS is None:
        return resid_RSD
    return row(resid_RSD, later.query_RS.argmax(-1))


def _where(later: Later, layer: _Layer) -> Where:
    return Where(layer.constants, later.position_RS, later.query_RS, later.valid_RS)


def _decoded(config: ModelConfig, later: Later, layer: _Layer, resid_R1D: Array, changes: Changes | None) -> Array:
    """A layer for the query alone, against the cache."""
    where = _where(later, layer)
    if later.query_RS is not None:
        where = where.at(later.query_RS.argmax(-1))
    past = Past(layer.cache, later.visible_RT)
    return Block(config).apply({"params": layer.weights}, resid_R1D, changes, where, past=past)[0]


def _changed(config: ModelConfig, later: Later, layer: _Layer, resid_RSD: Array, changes: Changes | None) -> Array:
    """The first layer that is run of a bidirectional model: nothing but the query differs before it."""
    where, base = _where(later, layer), (layer.attn_q, layer.cache)
    return Block(config).apply({"params": layer.weights}, resid_RSD, changes, where, base, method="after_change")


def _whole(config: ModelConfig, later: Later, layer: _Layer, resid_RSD: Array, changes: Changes | None) -> Array:
    """A layer for whole sequences."""
    return Block(config).apply({"params": layer.weights}, resid_RSD, changes, _where(later, layer))[0]


def _read(config: ModelConfig, later: Later, layer: _Layer, resid_RSD: Array, changes: Changes | None) -> Array:
    """The last layer of a bidirectional model, where it is read."""
    where = _where(later, layer)
    return Block(config).apply({"params": layer.weights}, resid_RSD, changes, where, method="at_query")


def ffn_output(config: ModelConfig, layers: Mapping, mlp_post_LBF: Float[Array, "L *B F"]) -> Float[Array, "L *B D"]:
    """The output of the FFNs for given neurons; linear in them, up to a bias.

    Args:
      layers: `params["layers"]`, or a slice of its leading axis as long as that of `mlp_post_LBF`.
    """
    return jax.vmap(lambda w, x: Block(config).apply({"params": w}, x, method="ffn_output"))(layers, mlp_post_LBF)


def after_ffn(
    config: ModelConfig,
    layers: Mapping,
    layer_N: Int[Array, "*N"],
    resid_mid_ND: Float[Array, "*N D"],
    mlp_out_ND: Float[Array, "*N D"],
) -> Float[Array, "*N D"]:
    """The residual stream after layers `layer` whose FFN gave `mlp_out`."""
    if config.norms_inputs and not config.norms_outputs:
        return resid_mid_ND + mlp_out_ND
    name = "norm_mlp_out" if config.norms_outputs else "norm_mlp"
    # The norm's few numbers are gathered for every branch; the layers' matrices are not touched.
    norms = jax.tree.map(lambda x: x[layer_N.ravel()], layers[name])
    normed = jax.vmap(lambda norm, x: Norm(config).apply({"params": norm}, x))
    d_model = resid_mid_ND.shape[-1]
    if config.norms_outputs:
        return resid_mid_ND + normed(norms, mlp_out_ND.reshape(-1, d_model)).reshape(mlp_out_ND.shape)
    return normed(norms, (resid_mid_ND + mlp_out_ND).reshape(-1, d_model)).reshape(mlp_out_ND.shape)
