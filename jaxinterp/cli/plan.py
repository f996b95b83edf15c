"""`jaxinterp plan`: which mesh of devices a model fits on, before there are any."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.mesh_asked import asked_mesh, parse_mesh
from jaxinterp.models.config import parsed_fields, preset
from jaxinterp.objectives.config import ObjectiveConfig

SHOWN = 8  # meshes in the table


@dataclasses.dataclass(frozen=True)
class Plan:
    """Predict a step's memory and time on many devices, mesh by mesh, and pick the fastest that fits. Nothing runs.

    A mesh that --mesh names is shown whether it fits or not.
    """

    preset: str = "7b"  # architecture and size, as of `train`
    model: Mapping[str, str] = dataclasses.field(default_factory=dict)  # fields of the preset to change
    vocabulary: int = 32_000  # tokens that the model knows
    devices: int = 8  # how many there are
    device: str = "h100"  # of which kind: h100, h200, v5p, v5e
    memory: float = 0.0  # GB of each device that a step may take; 0: 80 % of what the device has
    job: Literal["train", "attribute"] = "train"  # a training step, or the attribution of one batch
    batch_size: int = 64  # sequences a step, on all devices together
    tokens: int = 2048  # of a sequence
    rows: int = 64  # answer tokens read for the objective or attributed, on all devices together
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the arithmetic; training keeps parameters in float32
    # Without weights a training step is one of language modelling; `points` and `path` are the attribution's as well
    objective: ObjectiveConfig = ObjectiveConfig()

    def __call__(self) -> None:
        """Runs the command."""
        from rich.table import Column, Table

        from jaxinterp.base.tables import print_table
        from jaxinterp.training.devices import DEVICES
        from jaxinterp.training.mesh_memory import Work
        from jaxinterp.training.mesh_plan import meshes, plan_mesh, planned, plans
        from jaxinterp.training.planner import SHARE

        if self.device not in DEVICES:
            raise unknown("device", self.device, DEVICES)
        for field in ("devices", "batch_size", "tokens", "rows", "vocabulary"):
            if getattr(self, field) < 1:
                raise UserError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.memory < 0:
            raise UserError(f"memory must be at least 0 (0 is 80 % of the device's), got {self.memory}")
        device = DEVICES[self.device]
        room = self.memory * 1e9 or SHARE * device.memory
        sized = {"d_vocab": self.vocabulary, "n_ctx": self.tokens, "dtype": self.dtype}
        model = preset(self.preset, **{**sized, **parsed_fields(self.model)})
        sizes = {"sequences": self.batch_size, "tokens": self.tokens, "rows": self.rows}
        work = Work(model, self.objective, **sizes, job=self.job)
        shown = plans(work, self.devices, device)[:SHOWN]
        asked = parse_mesh(text := asked_mesh())
        if asked is not None and (n := math.prod(asked.values())) > 1:
            if n > self.devices:
                raise UserError(f"the mesh {text!r} needs {n} devices, and there are {self.devices}")
            if asked not in meshes(work, n):
                raise UserError(f"the mesh {text!r} does not divide the batch, the rows, or the model's sizes")
            shown = [planned(work, asked, device), *(plan for plan in shown if plan.sizes != asked)]
        try:
            picked = plan_mesh(
                model,
                self.objective,
                **sizes,
                n_devices=self.devices,
                bytes_per_device=room,
                device=device,
                job=self.job,
            )
        except UserError as error:
            picked, failure = None, error
        if not shown:
            raise failure
        if picked is not None and picked not in shown:
            shown.append(picked)
        table = Table(
            Column("mesh", no_wrap=True),
            *(Column(name, justify="right") for name in ("GB", "state", "activations", "rows", "sends, GB")),
            *(Column(name, justify="right") for name in ("compute, s", "memory, s", "links, s")),
            "mode",
            "",
            title=f"{self.preset} on {self.devices} × {device.name}: one device, one step",
        )
        for plan in shown:
            held = plan.memory
            gigabytes = (
                held.total,
                held.parameters + held.optimiser + held.gradients + held.gathered,
                held.activations + held.logits,
                held.rows + held.evaluations,
                plan.sent,
            )
            note = "picked" if plan == picked else "" if held.total <= room else "does not fit"
            seconds = (f"{value:.3g}" for value in (plan.compute_s, plan.memory_s, plan.link_s))
            mode = plan.objective.memory if work.reads and self.job == "train" else ""
            table.add_row(plan.text, *(f"{value / 1e9:.2f}" for value in gigabytes), *seconds, mode, note)
        print_table(table)
        if picked is None:
            raise failure
        print(
            f"{picked.text}: {picked.memory.total / 1e9:.2f} GB of {room / 1e9:.2f} GB on each device; a step takes "
            f"{picked.seconds:.3g} s at least. Times are predictions for ideal devices, no measurements: the slowest "
            "of computing at peak speed, reading and writing memory, and sending over links."
        )
