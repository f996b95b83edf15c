"""What a step needs in the memory of one device of a mesh, by counting shapes: nothing is compiled or allocated.

Letters: a device has b of the B sequences and r of the R rows (B and R over data · fsdp), N = b · T tokens, and of
heads and neurons 1 / tensor: F, H and the key-value heads G below are its own. F counts the units of neurons that have
several. s is the size of a number of the arithmetic; parameters and optimiser are kept in 4 bytes.

What the shapes fix is exact: parameters, optimiser, gradients. What XLA decides (which arrays are there at the same
time) has been counted in compiled programs, and is marked "counted"; `benchmarks/mesh_memory.py` compares.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Literal

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding

from jaxinterp.attribution.integrated_gradients import GROUPS, LEAST
from jaxinterp.attribution.readout import EVALUATION_BYTES
from jaxinterp.base.mesh_asked import AXES
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.likelihood import chunk_positions
from jaxinterp.models.mesh import parameter_shardings, state_shardings
from jaxinterp.models.model import parameter_shapes
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.state import TrainState, initial_state

KEPT = 4  # bytes of a number of parameters and optimiser


@dataclasses.dataclass(frozen=True)
class Work:
    """A step of training, or the attribution of one batch."""

    model: ModelConfig  # its dtype is the arithmetic's
    objective: ObjectiveConfig  # without weights a training step is one of language modelling alone
    sequences: int  # B, all devices together
    tokens: int  # T, of a sequence
    rows: int = 0  # R, answer tokens read, all devices together
    job: Literal["train", "attribute"] = "train"  # attribute: with the objective's path and points, no gradient of it

    @property
    def reads(self) -> bool:
        """Whether there are rows."""
        return self.job == "attribute" or bool(self.objective.weights)

    @property
    def size(self) -> int:
        """s, bytes of a number of the arithmetic."""
        return {"bfloat16": 2, "float32": 4, "float64": 8}[self.model.dtype]

    @property
    def edits(self) -> int:
        """Runs of all rows under an edit, with their backward passes, that a step's terms need at the same time."""
        kinds = len(self.objective.control_kinds)
        return sum(
            {"suppression": 1, "control": kinds, "faithfulness": 1}.get(name, 0) for name in self.objective.weights
        )

    @property
    def points(self) -> int:
        """Evaluations of a row along its path."""
        return self.objective.points * (self.model.n_layers if self.objective.path == "per_layer" else 1)


@dataclasses.dataclass(frozen=True)
class Bytes:
    """In the memory of one device, at the step's worst moment."""

    parameters: int  # as they are kept, and in the arithmetic's dtype if that is another
    optimiser: int  # two means for each parameter
    gradients: int  # of the parameters; with the objective its own besides
    gathered: int  # parameters of a layer and of the unembedding, put together from along fsdp
    activations: int  # of language modelling, kept for the backward pass
    logits: int  # a chunk's, or a layer's passing arrays, whichever is more
    rows: int  # what rows are read from: keys and values, and the places that were captured
    evaluations: int  # of the objective or the attribution: points of the path and edited runs

    @property
    def total(self) -> int:
        """All of them."""
        return sum(dataclasses.astuple(self))


def _mesh(fsdp: int, tensor: int) -> AbstractMesh:
    """A mesh of no devices; "data" divides no parameter."""
    return AbstractMesh((1, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))


@functools.lru_cache(maxsize=8)
def state_shapes(model: ModelConfig) -> TrainState:
    """The shapes of a training state, which is kept in float32."""
    kept = dataclasses.replace(model, dtype="float32", attention_kernel="plain")
    return jax.eval_shape(lambda: initial_state(kept, OptimiserConfig(), 1, 0))


def state_bytes(model: ModelConfig, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Parameters and optimiser on one device: Σ over arrays of a shard's size, as `state_shardings` divides them."""
    return _state_bytes(model, sizes["fsdp"], sizes["tensor"])


@functools.lru_cache(maxsize=256)
def _state_bytes(model: ModelConfig, fsdp: int, tensor: int) -> tuple[int, int]:
    state = state_shapes(model)
    places = state_shardings(_mesh(fsdp, tensor), model, state)

    def held(shapes: object, shardings: object) -> int:
        pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
        return sum(math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize for x, place in pairs)

    return held(state.params, places.params), held(state.opt_state, places.opt_state)


@dataclasses.dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters on one device."""

    own: int  # that it keeps
    along_fsdp: int  # of arrays that fsdp divides, once they are put together
    whole: int  # of the others
    layer: int  # of one layer of those that fsdp divides, put together
    ends: int  # of embedding and unembedding that fsdp divides, put together


def parts(model: ModelConfig, sizes: Mapping[str, int]) -> ParameterCounts:
    """How many numbers lie where, by `parameter_shardings`."""
    return _parts(model, sizes["fsdp"], sizes["tensor"])


@functools.lru_cache(maxsize=256)
def _parts(model: ModelConfig, fsdp: int, tensor: int) -> ParameterCounts:
    shapes = jax.tree_util.tree_leaves_with_path(parameter_shapes(model))
    places: list[NamedSharding] = jax.tree.leaves(parameter_shardings(_mesh(fsdp, tensor), model))
    own = along = whole = layers = 0
    for (path, x), place in zip(shapes, places, strict=True):
        n = math.prod(place.shard_shape(x.shape))
        own += n
        if fsdp > 1 and "fsdp" in place.spec:
            along += n * fsdp
            layers += n * fsdp * (path[0].key == "layers")
        else:
            whole += n
    return ParameterCounts(own, along, whole, layers // model.n_layers, along - layers)


def step_bytes(work: Work, sizes: Mapping[str, int]) -> Bytes:
    """Bytes on one device.

    - gradients: s for each parameter's number; those of the objective are taken inside a condition, and added.
    - gathered: of fsdp alone: two layers (one is used while the next comes) and the unembedding, s each.
    - activations: the forward keeps products with weights (`nn.remat` in `jaxinterp.models.transformer`): of each layer
      and token its input (D), queries, keys, values ((H + 2 G) K), attention's output (D) and the FFN's products (F, or
      2 F if gated). L · N · s times that.
    - logits: of a layer on its way back some 8 F (5 F if not gated) + 5 D numbers a token and two arrays of attention's
      scores, b · H · T² in 4 bytes at least (counted); or 2.2 chunks of logits (counted): the larger of both.
    - rows: keys and values of each row's sequence, 2 L · T · G · K, four times: the arrays, their gradient, and each in
      the layout that products need (counted); once more for all R rows where batches are divided, since a row may be of
      any device's sequence and XLA gathers the rows of all (counted). And half of the captured stacks of all tokens,
      L · N · (2 D + F + 2 G · K) (counted): their gradient is whole, and other passing arrays are gone by then.
      An attribution alone keeps no gradient: keys and values twice, or once for all R rows, and the stacks.
    - evaluations: S = L (21 F + 30 D + 6 H (T + 1)) + 4 V numbers for the second-order gradient of one evaluation of a
      row (counted; F counts 14 if not gated), half as many of a first-order one: an edited run, or a point of an
      attribution that nothing is differentiated through.
      fast keeps all points, flat one; both all edited runs. An attribution on the per-layer path runs its points in
      groups, of at most `EVALUATION_BYTES` on all devices together.
    """
    model, s, objective = work.model, work.size, work.objective
    t, n = sizes["tensor"], sizes["data"] * sizes["fsdp"]
    b, r = work.sequences // n, work.rows // n
    n_layers, d, v, neurons = model.n_layers, model.d_model, model.d_vocab, model.d_mlp // t
    f = neurons * model.ffn_units
    v = v // t if v % t == 0 else v
    heads, pairs = model.n_heads // t, 2 * model.n_kv_heads // t * model.d_head
    tokens, training = b * work.tokens, work.job == "train"
    kept, optimiser = state_bytes(model, sizes)
    of = parts(model, sizes)
    parameters = kept + (s * of.own if s != KEPT else 0) if training else s * of.own
    per_token = 2 * d + heads * model.d_head + pairs + (2 if model.gated else 1) * f
    passing = s * tokens * ((8 if model.gated else 5) * f + 5 * d) + 2 * max(s, 4) * b * heads * work.tokens**2
    chunk = chunk_positions(model, b, max(work.tokens - 1, 1))
    logits = int(2.2 * max(s, 4) * b * chunk * v)
    rows = evaluations = 0
    if work.reads:
        cache = s * n_layers * work.tokens * pairs
        gathered = work.rows * cache if n > 1 else 0
        second = n_layers * ((21 if model.gated else 14) * f + 30 * d + 6 * heads * (work.tokens + 1)) + 4 * v
        if training:
            rows = 4 * r * cache + gathered + s * n_layers * tokens * (2 * d + neurons + pairs) // 2
            held = (1 if objective.memory == "flat" else work.points) + work.edits / 2
            evaluations = int(s * r * second * held)
        else:
            rows = (gathered or 2 * r * cache) + s * n_layers * tokens * (2 * d + neurons)
            groups = min(GROUPS, max(1, work.rows * work.points // LEAST)) if objective.path == "per_layer" else 1
            once = s * r * second // 2
            evaluations = min(-(-work.points // groups) * once, max(EVALUATION_BYTES // n, once))
    return Bytes(
        parameters=parameters,
        optimiser=optimiser if training else 0,
        gradients=s * of.own * (1 + work.reads) if training else 0,
        gathered=s * (2 * of.layer + of.ends),
        activations=s * n_layers * tokens * per_token if training else 0,
        logits=max(passing, logits) if training else 0,
        rows=rows,
        evaluations=evaluations,
    )
