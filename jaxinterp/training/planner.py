"""What a computation will need before it runs, from XLA's analysis of the compiled program, and what then fits."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from jax.stages import Compiled, Wrapped

from jaxinterp.base.errors import UserError
from jaxinterp.base.processes import any_of
from jaxinterp.objectives.config import ObjectiveConfig

SHARE = 0.8  # of the memory that is free now; allocators and other arrays need some


class Cost(NamedTuple):
    """Of one call of a compiled program."""

    peak_bytes: int  # arguments, results and temporary arrays, of which donated ones count once
    # Floating-point operations as XLA counts them: the body of a loop counts once, however often it runs.
    flops: float

    def describe(self) -> str:
        """In words."""
        return f"{self.peak_bytes / 1e9:.2f} GB, {self.flops / 1e9:.3g} GFLOP (loops counted once)"


def cost(compiled: Compiled) -> Cost:
    """The cost of a compiled program, from XLA's memory and cost analysis."""
    memory, operations = compiled.memory_analysis(), compiled.cost_analysis() or {}
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Cost(peak - memory.alias_size_in_bytes, float(operations.get("flops", 0.0)))


def free_bytes() -> int:
    """Memory of the default device that is not taken."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _bytes_here(x: object) -> int:
    """Of an array on one device; of one that is divided, one part."""
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return 0
    part = x.addressable_shards[0].data if isinstance(x, jax.Array) else x
    return getattr(part, "nbytes", 0)


class PlannedStep(NamedTuple):
    """A training step that fits."""

    step: Compiled
    objective: ObjectiveConfig  # with its mode decided
    cost: Cost
    budget: int  # bytes

    def describe(self) -> str:
        """One line for the user."""
        return (
            f"plan: {self.objective.memory} mode, a step needs {self.cost.describe()}; {self.budget / 1e9:.1f} GB free"
        )


def planned_step(
    make: Callable[[ObjectiveConfig], Wrapped],
    objective: ObjectiveConfig,
    arguments: tuple,
    *,
    budget: int | None = None,
) -> PlannedStep:
    """Compiles a training step in the fastest mode of its objective whose predicted memory fits.

    Args:
      make: the jitted step for an objective.
      objective: mode "auto" tries "fast", then "flat"; another is kept.
      arguments: of the step; they count as memory that the step needs, though they are there already.
      budget: bytes; None is `SHARE` of what is free and of the arguments.
    Raises:
      UserError: if no mode fits.
    """
    taken = sum(map(_bytes_here, jax.tree.leaves(arguments)))
    budget = int(SHARE * (free_bytes() + taken)) if budget is None else budget
    modes = ("fast", "flat") if objective.memory == "auto" and objective.weights else (objective.memory,)
    for mode in modes:
        chosen = dataclasses.replace(objective, memory="fast" if mode == "auto" else mode)
        compiled = make(chosen).lower(*arguments).compile()
        found = PlannedStep(compiled, chosen, cost(compiled), budget)
        if not any_of(found.cost.peak_bytes > budget):  # all processes run the same program
            return found
    raise UserError(
        f"a training step needs {found.cost.peak_bytes / 1e9:.2f} GB in {chosen.memory} mode and {budget / 1e9:.2f} GB "
        "are free; lower the batch's sequences or rows, or objective.points"
    )
