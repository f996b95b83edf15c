"""Does a training step need the memory that the planner predicts, and does the flat mode's not grow with the points?

Every shape is measured in a process of its own: what the process holds at most while a step runs, less what it held
before, plus the step's arguments.
"""

import dataclasses
import json
import sys
from pathlib import Path

from jaxinterp.cli.run import experiment

WORKER = "JAXINTERP_MEMORY_WORKER"
SHAPES = (
    # layers, width, vocabulary, sequences, positions, rows, points, mode
    (4, 128, 4096, 32, 32, 32, 8, "fast"),
    (4, 128, 4096, 32, 32, 32, 64, "fast"),
    (4, 128, 4096, 32, 32, 32, 64, "flat"),
    (6, 192, 8192, 64, 32, 64, 8, "fast"),
    (8, 320, 32768, 32, 64, 32, 4, "fast"),
)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Compare the planner's predicted peak memory of meta steps with what processes take."""

    out: Path = Path("checkpoints/benchmarks")  # folder of memory.json
    quick: bool = False  # the first shape alone
    runs: int = 3  # processes a shape

    def __call__(self) -> None:
        """Runs the benchmark."""
        import statistics
        import subprocess

        from harness import origin
        from rich.console import Console
        from rich.table import Table

        from jaxinterp.base.files import write_json

        console = Console(highlight=False, width=max(Console().width, 110))
        table = Table(
            "L", "D", "V", "B", "T", "R", "M", "mode", "predicted, MB", "measured, MB", "predicted / measured"
        )
        found = []
        for shape in SHAPES[:1] if self.quick else SHAPES:
            lines = []
            for _ in range(self.runs):
                command = [sys.executable, __file__, WORKER, json.dumps(shape)]
                lines.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
            predicted = lines[0]["predicted"]
            measured = statistics.median(line["measured"] for line in lines)
            found.append({"shape": shape, "predicted": predicted, "measured": [line["measured"] for line in lines]})
            row = [*map(str, shape), f"{predicted / 1e6:.0f}", f"{measured / 1e6:.0f}", f"{predicted / measured:.3f}"]
            table.add_row(*row)
        growth = flat_growth()
        console.print(table)
        console.print("Target: within 15 %.")
        console.print(
            f"Temporary memory of the flat mode at 64 points over that at 4, joint path: {growth:.3f} (target ≤ 1.1)"
        )
        self.out.mkdir(parents=True, exist_ok=True)
        record = {"benchmark": "memory", "shapes": found, "flat_64_over_4": growth, "provenance": origin()}
        write_json(self.out / "memory.json", record)
        print(f"numbers: {self.out / 'memory.json'}")


def compiled_step(shape: tuple):
    """The compiled step, its arguments and its predicted cost."""
    import jax.numpy as jnp
    from training_arms import META, OPTIMISER, STEPS, batch

    from jaxinterp.models.config import ModelConfig
    from jaxinterp.objectives.config import ObjectiveConfig
    from jaxinterp.training.planner import planned_step
    from jaxinterp.training.state import initial_state
    from jaxinterp.training.step import train_step

    layers, width, vocabulary, sequences, positions, rows, points, mode = shape
    sizes = {"d_model": width, "d_mlp": 4 * width, "n_heads": 4, "n_kv_heads": 4, "d_head": width // 4}
    model = ModelConfig(vocabulary, positions, n_layers=layers, **sizes)
    data = batch(vocabulary, sequences, positions)
    if rows != sequences:
        raise ValueError(f"one row a sequence: {rows} rows and {sequences} sequences")
    objective = ObjectiveConfig(weights=META, points=points, memory=mode)
    arguments = (initial_state(model, OPTIMISER, STEPS, 0), data, jnp.int32(0))
    planned = planned_step(lambda chosen: train_step(model, chosen, OPTIMISER, STEPS), objective, arguments)
    return planned, arguments


def flat_growth() -> float:
    """Temporary bytes of the flat step at 64 points over those at 4."""
    shape = (4, 128, 4096, 32, 32, 32)
    few, many = (compiled_step((*shape, points, "flat"))[0].step.memory_analysis() for points in (4, 64))
    return many.temp_size_in_bytes / few.temp_size_in_bytes


def worker(shape: tuple) -> None:
    """Runs a step in this process and prints what was predicted and what it took, in bytes."""
    import ctypes

    import jax

    planned, arguments = compiled_step(shape)
    jax.block_until_ready(arguments)
    held = sum(x.nbytes for x in jax.tree.leaves(arguments) if hasattr(x, "nbytes"))
    # What compilation has freed must not be there for the step to use unseen.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
    jax.block_until_ready(planned.step(*arguments))
    print(json.dumps({"predicted": planned.cost.peak_bytes, "measured": status("VmHWM") - before + held}))


def status(field: str) -> int:
    """Bytes of a field of this process's status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        worker(tuple(json.loads(sys.argv[2])))
    else:
        experiment(Memory)
