"""Which mesh is fastest among those that fit, from shapes alone: no array is made and nothing is compiled.

A step takes as long as the slowest of three things that can go on at the same time, after the roofline model (Williams,
Waterman and Patterson 2009): operations / peak, bytes of memory / bandwidth, and bytes sent / link. It is a prediction
of a model for ideal devices, to compare meshes by; real steps take longer.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import jax

from jaxinterp.base.errors import UserError
from jaxinterp.base.mesh_asked import AXES
from jaxinterp.base.processes import least_of
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.mesh import BATCH
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.collectives import SENT
from jaxinterp.training.devices import OTHER, Device, device_of
from jaxinterp.training.mesh_memory import Bytes, Work, step_bytes
from jaxinterp.training.mesh_work import Collective, step_collectives, step_flops, step_traffic
from jaxinterp.training.planner import SHARE, free_bytes

Sizes = dict[str, int]  # of the axes of a mesh
LATENCY = 1e-5  # seconds that any collective takes; an assumption, about that of a small one inside a node
MOST_DEVICES = 4096  # up to which an answer to "on how many would it fit" is looked for


@dataclasses.dataclass(frozen=True)
class MeshPlan:
    """A step on a mesh. Seconds are predictions of a model, not measurements."""

    sizes: Sizes
    objective: ObjectiveConfig  # with its memory mode decided
    memory: Bytes  # of each device
    collectives: tuple[Collective, ...]  # of one step
    compute_s: float  # seconds of operations at the device's peak
    memory_s: float  # seconds of reading and writing memory
    link_s: float  # seconds of sending

    @property
    def seconds(self) -> float:
        """A step's, if all three overlap."""
        return max(self.compute_s, self.memory_s, self.link_s)

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step, on rings of many devices."""
        return sum(SENT[one.kind] * one.bytes for one in self.collectives)

    @property
    def text(self) -> str:
        """As `jaxinterp.models.mesh.make_mesh` reads it: "data=8,tensor=8"; "data=1" is one device."""
        return ",".join(f"{axis}={n}" for axis, n in self.sizes.items() if n > 1) or "data=1"

    @property
    def order(self) -> tuple:
        """The smallest is best: the fastest; of equally fast ones that with least to do in all, and fewest ways."""
        together = self.compute_s + self.memory_s + self.link_s
        return self.seconds, together, self.sizes["tensor"], self.sizes["fsdp"]


def meshes(work: Work, n_devices: int) -> Iterator[Sizes]:
    """Every data · fsdp · tensor = n that divides the work: sequences and rows by data · fsdp, d_model by fsdp; heads,
    key-value heads and neurons by tensor. What an axis does not divide would lie, and be computed, everywhere.
    """
    model = work.model
    for tensor in _divisors(n_devices):
        if any(size % tensor for size in (model.n_heads, model.n_kv_heads, model.d_mlp)):
            continue
        batches = n_devices // tensor
        if work.sequences % batches or (work.reads and work.rows % batches):
            continue
        for fsdp in _divisors(batches):
            if model.d_model % fsdp == 0:
                yield {"data": batches // fsdp, "fsdp": fsdp, "tensor": tensor}


def planned(work: Work, sizes: Sizes, device: Device) -> MeshPlan:
    """What a step needs on one mesh, whether it fits or not."""
    memory, sent = step_bytes(work, sizes), step_collectives(work, sizes)
    return MeshPlan(
        sizes=sizes,
        objective=work.objective,
        memory=memory,
        collectives=sent,
        compute_s=step_flops(work, sizes) / device.flops,
        memory_s=step_traffic(work, sizes, memory) / device.bandwidth,
        link_s=sum(_seconds(one, sizes, device) for one in sent),
    )


def plans(work: Work, n_devices: int, device: Device) -> list[MeshPlan]:
    """All meshes, the best first, each with the objective in "fast" and, unless its mode is given, in "flat" mode."""
    modes = ("fast", "flat") if work.objective.memory == "auto" and work.reads and work.job == "train" else ("fast",)
    if work.objective.memory != "auto":
        modes = (work.objective.memory,)
    works = [dataclasses.replace(work, objective=dataclasses.replace(work.objective, memory=mode)) for mode in modes]
    return sorted(
        (planned(one, sizes, device) for one in works for sizes in meshes(one, n_devices)), key=lambda plan: plan.order
    )


def plan_mesh(
    model: ModelConfig,
    objective: ObjectiveConfig,
    *,
    sequences: int,
    tokens: int,
    rows: int = 0,
    n_devices: int,
    bytes_per_device: float,
    device: Device | None = None,
    job: Literal["train", "attribute"] = "train",
) -> MeshPlan:
    """The fastest mesh whose step fits into each device's memory.

    Args:
      model: whose dtype is that of the arithmetic; parameters and optimiser are kept in float32.
      objective: whose path, points and memory mode count; without weights a training step is plain.
      sequences, tokens: of a batch, over all devices.
      rows: answer tokens that the objective or the attribution reads, over all devices.
      n_devices: of the mesh; all are used.
      bytes_per_device: that the step may take on each.
      device: its rates; None is what JAX calls this machine's devices.
      job: a training step, or the attribution of a batch by `objective.points` points on `objective.path`.
    Raises:
      UserError: if no mesh divides the work, or none fits, with what is missing.
    """
    work = Work(model, objective, sequences, tokens, rows, job)
    device = (device_of(jax.devices()[0].device_kind) or OTHER) if device is None else device
    ordered = plans(work, n_devices, device)
    if not ordered:
        raise UserError(
            f"no mesh of {n_devices} devices divides {sequences} sequences{f', {rows} rows' if work.reads else ''}, "
            f"{model.n_heads} heads and {model.d_mlp} neurons; choose numbers that {n_devices} divides"
        )
    if found := next((plan for plan in ordered if plan.memory.total <= bytes_per_device), None):
        return found
    least = min(ordered, key=lambda plan: plan.memory.total)
    more = _where_it_fits(work, n_devices, bytes_per_device, device)
    raise UserError(
        f"{'a training step' if job == 'train' else 'an attribution'} needs {least.memory.total / 1e9:.2f} GB on each "
        f"of {n_devices} devices (mesh {least.text}), {(least.memory.total - bytes_per_device) / 1e9:.2f} GB more than "
        f"the {bytes_per_device / 1e9:.2f} GB that there are; "
        + (
            f"it fits on {more}"
            if more
            else f"with this batch it fits on no number up to {MOST_DEVICES}: lower its size"
        )
    )


def automatic(model: ModelConfig, objective: ObjectiveConfig, *, sequences: int, tokens: int, rows: int, n: int) -> str:
    """The mesh that "auto" stands for in training on n devices of this machine: the fastest whose step fits what is
    free, by prediction; all along data where none fits or divides the work.

    Args:
      model, objective, sequences, tokens, rows: of `plan_mesh`.
      n: devices.
    """
    if n == 1:
        return "one"
    # Devices that are threads of one processor share its memory.
    room = SHARE * least_of(float(free_bytes())) / (n if jax.default_backend() == "cpu" else 1)
    try:
        sizes = {"sequences": sequences, "tokens": tokens, "rows": rows if objective.weights else 0}
        return plan_mesh(model, objective, **sizes, n_devices=n, bytes_per_device=room).text
    except UserError:
        return f"data={n}"


def _where_it_fits(work: Work, n_devices: int, bytes_per_device: float, device: Device) -> int:
    """The first doubling of the devices on which a mesh fits; 0 if there is none."""
    while (n_devices := 2 * n_devices) <= MOST_DEVICES:
        if any(plan.memory.total <= bytes_per_device for plan in plans(work, n_devices, device)):
            return n_devices
    return 0


def _seconds(one: Collective, sizes: Sizes, device: Device) -> float:
    """Of a collective on a ring of n: (n − 1) / n of the bytes, for an all-reduce twice.

    Devices that follow each other stand on one island; the last axis of a mesh is the innermost. An axis that leaves
    the island goes at the network's speed.
    """
    axes = BATCH if one.axis not in AXES else (one.axis,)
    n = math.prod(sizes[axis] for axis in axes)
    inner = math.prod(sizes[axis] for axis in AXES[AXES.index(axes[-1]) + 1 :])
    rate = device.link if n * inner <= device.island else device.network
    return one.count * LATENCY + SENT[one.kind] * one.bytes * (n - 1) / n / rate


def _divisors(n: int) -> list[int]:
    return [size for size in range(1, n + 1) if n % size == 0]
