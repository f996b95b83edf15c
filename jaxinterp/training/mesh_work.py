"""What a step sends between devices, reads from memory and computes, on one device of a mesh. By counting alone.

Letters are those of `jaxinterp.training.mesh_memory`.
"""

import dataclasses
import math
from collections.abc import Mapping

from jaxinterp.base.mesh_asked import AXES
from jaxinterp.training.cost_model import attribution_flops, forward_flops, training_flops
from jaxinterp.training.mesh_memory import KEPT, Bytes, Work, parts


@dataclasses.dataclass(frozen=True)
class Collective:
    """What the devices along one axis do together, in one step."""

    axis: str  # of the mesh, or "data, fsdp"
    kind: str  # as in `jaxinterp.training.collectives.KINDS`
    what: str  # in words
    count: int
    bytes: int  # of the whole arrays, on each device, all times together; see `collectives.Traffic`


def passes(work: Work) -> tuple[int, int, int]:
    """Runs through all layers that read the rows: those that run one after another, evaluations of a row in all of
    them together, and those that give gradients of parameters.

    A second-order gradient runs the layers forward, back, and each of these back again; an edited run and a point of
    an attribution run forward and back. "fast" runs all points at once; "flat" one after another, and once more in the
    backward pass.
    """
    points, edits = work.points, work.edits
    if work.job == "attribute":
        return 2, 2 * points, 0
    if not work.reads:
        return 0, 0, 0
    at_once = len({"suppression", "control", "faithfulness"} & set(work.objective.weights))
    flat = work.objective.memory == "flat"
    in_turn = 6 * points if flat else 4
    return in_turn + 2 * at_once, 4 * points + 2 * edits, (2 * points if flat else 2) + at_once


def step_collectives(work: Work, sizes: Mapping[str, int]) -> tuple[Collective, ...]:
    """What devices have to send, by theory.

    - fsdp (Rajbhandari et al. 2020, stage 3): a layer's parameters are put together for each pass through it, forward
      and backward, and a reduce-scatter adds up its gradients. Arrays that it does not divide are added up whole.
    - data: one all-reduce of the gradients that a device keeps.
    - tensor (Shoeybi et al. 2019, fig. 3): the outputs of attention and FFN are added up, N · D numbers each, forward,
      and the gradients of their inputs backward; so is the embedding, and the gradient of what the unembedding reads.
      A pass of the rows does the same with D numbers for each evaluation.
    - rows: each device gets the keys and values of its rows' sequences, and sends their gradient back; and the masks
      of other answers, for the control term.
    """
    model, s, training = work.model, work.size, work.job == "train"
    data, fsdp, t = (sizes[axis] for axis in AXES)
    n, n_layers, d = data * fsdp, model.n_layers, model.d_model
    tokens, r, of = work.sequences // n * work.tokens, work.rows // n, parts(model, sizes)
    in_turn, evaluations, learning = passes(work)
    made = [
        (
            "fsdp",
            "all-gather",
            "parameters",
            n_layers * (2 if training else 1),
            s * of.along_fsdp * (2 if training else 1),
        ),
        ("fsdp", "all-gather", "parameters, for rows", n_layers * in_turn, s * n_layers * of.layer * in_turn),
    ]
    if training:
        times = 1 + learning
        made += [
            (
                "fsdp",
                "reduce-scatter",
                "gradients",
                n_layers * times,
                s * (of.along_fsdp + n_layers * of.layer * learning),
            ),
            ("fsdp", "all-reduce", "gradients of what fsdp does not divide", 1, s * of.whole),
            ("data", "all-reduce", "gradients", 1 + work.reads, s * of.own * (1 + work.reads)),
        ]
    layers = (4 if training else 2) * n_layers + (model.d_vocab % t == 0) * (2 if training else 1)
    made += [
        ("tensor", "all-reduce", "residual stream", layers, layers * s * tokens * d),
        (
            "tensor",
            "all-reduce",
            "residual stream of rows",
            2 * n_layers * in_turn,
            2 * n_layers * evaluations * s * r * d,
        ),
    ]
    if work.reads:
        cache = s * n_layers * work.tokens * 2 * model.n_kv_heads // t * model.d_head
        made.append(
            ("data, fsdp", "all-to-all", "keys and values of rows", 2 * (1 + training), r * cache * (1 + training))
        )
        masks = "control" in work.objective.weights and training
        made.append(("data, fsdp", "all-gather", "masks", masks, masks * s * n_layers * work.rows * model.d_mlp // t))
    sizes = {**sizes, "data, fsdp": n}
    return tuple(Collective(*one) for one in made if sizes[one[0]] > 1 and one[-1])


def step_flops(work: Work, sizes: Mapping[str, int]) -> float:
    """Operations of one device, by `jaxinterp.training.cost_model`; every axis divides them."""
    model, points = work.model, work.objective.points
    if work.job == "train":
        n_points = work.points if work.reads else None
        total = training_flops(model, work.tokens, work.sequences, work.rows, n_points)
    elif work.objective.path == "per_layer":
        once = forward_flops(model, work.tokens, logits=False)
        total = work.sequences * once + work.rows * (attribution_flops(model, work.tokens, points) - once)
    else:
        total = training_flops(model, work.tokens, work.sequences, 0, None) / 3
        total += work.rows * points * 2 * forward_flops(model, 1, logits=True)
    return total / math.prod(sizes.values())


def step_traffic(work: Work, sizes: Mapping[str, int], memory: Bytes) -> float:
    """Bytes between a device and its memory, at least.

    Every pass reads the parameters of all layers (three of language modelling: the forward, and the backward for
    activations and for parameters); the optimiser reads parameters, gradients and two means and writes all but the
    gradients; what is kept for a backward pass is written once and read once.
    """
    of = parts(work.model, sizes)
    read = work.size * (of.along_fsdp + of.whole)
    if work.job == "attribute":
        return read * (1 + passes(work)[0]) + 2.0 * (memory.rows + memory.evaluations)
    moved = read * (3 + passes(work)[0]) + KEPT * 6 * of.own + work.size * of.own
    return moved + 2.0 * (memory.activations + memory.logits * work.model.n_layers + memory.rows + memory.evaluations)
