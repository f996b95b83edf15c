"""How long a run stands still for a checkpoint, and what it does to steps while its thread writes.

`Checkpoints.save` copies the state and has a thread write it, while the run goes on; against it stands a run that
waits for the writing.
"""

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxinterp.cli.run import experiment

ARRAYS = 20  # of the large state, for the parameters and for each of Adam's means


@dataclasses.dataclass(frozen=True)
class CheckpointTimes:
    """Time saving a checkpoint and going on against saving and waiting, for a small and a large state."""

    out: Path = Path("checkpoints/benchmarks")  # folder of checkpoints.json
    quick: bool = False  # tiny states: shows that the script works
    preset: str = "0.7m"  # the small model, whose steps are timed
    vocabulary: int = 2048  # tokens in it
    millions: int = 50  # parameters of the large state; with Adam's means three times as many numbers
    batch: int = 32  # sequences a step
    length: int = 32  # tokens a sequence
    steps: int = 20  # in a run of steps
    runs: int = 7  # timed runs of every arm

    def __call__(self) -> None:
        """Runs the benchmark."""
        import jax
        from harness import Arm, Ratio, benchmark
        from training_arms import OurTraining, batch

        from jaxinterp.models.config import preset
        from jaxinterp.objectives.config import ObjectiveConfig
        from jaxinterp.training.checkpoint import Checkpoints

        name, vocabulary, millions = ("0.5m", 128, 1) if self.quick else (self.preset, self.vocabulary, self.millions)
        data = batch(vocabulary, self.batch, self.length)
        model = preset(name, d_vocab=vocabulary, n_ctx=self.length)
        training = OurTraining(model, ObjectiveConfig(), data, count=False)
        large = _state(millions)
        steps = training.arm(self.steps).run
        number = itertools.count()

        def arm(*parts: Callable[[], object], units: int = 1) -> Arm:
            return Arm(lambda: [part() for part in parts], units)

        with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as opened:
            of_small, of_large = (
                opened.enter_context(contextlib.closing(Checkpoints(Path(scratch) / kind, keep=1)))
                for kind in ("small", "large")
            )

            def save_small() -> None:
                of_small.save(next(number), training.state)

            def save_large() -> None:
                of_large.save(next(number), large)

            # In this order: the writing that one arm begins ends in the next or in the one after it.
            arms = {
                "small: save": arm(save_small),
                "small: what is left of its writing": arm(of_small.wait),
                "small: save and wait": arm(save_small, of_small.wait),
                "large: save": arm(save_large),
                "step, while the large one is written": arm(steps, units=self.steps),
                "large: what is left of its writing": arm(of_large.wait),
                "large: save and wait": arm(save_large, of_large.wait),
                "step": arm(steps, units=self.steps),
                "step, with a small checkpoint": arm(save_small, steps, of_small.wait, units=self.steps),
                "step, with a small checkpoint that is waited for": arm(
                    save_small, of_small.wait, steps, units=self.steps
                ),
            }
            ratios = [Ratio(f"{kind}: save and wait", f"{kind}: save") for kind in ("small", "large")]
            ratios += [Ratio(name, "step") for name in arms if name.startswith("step,")]
            sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(of)) / 1e6 for of in (training.state[:2], large)]
            notes = [
                f"The small state has {sizes[0]:.1f} MB ({name}), the large one {sizes[1]:.0f} MB. A run of steps has "
                f"{self.steps} of the small model ({self.batch} sequences of {self.length} tokens), with one "
                "checkpoint or none; one with a small checkpoint ends when that is written."
            ]
            extra = {"megabytes": dict(zip(("small", "large"), sizes, strict=True))}
            benchmark("checkpoints", self, arms, ratios, self.out, runs=self.runs, notes=notes, extra=extra)


def _state(millions: int) -> dict[str, Any]:
    """Parameters and Adam's means of random numbers, which do not shrink when they are compressed."""
    import jax

    shape = (millions * 1_000_000 // ARRAYS,)
    keys = jax.random.split(jax.random.key(0), (3, ARRAYS))
    kinds = zip(("params", "mu", "nu"), keys, strict=True)
    state = {kind: {f"w{n}": jax.random.normal(key, shape) for n, key in enumerate(of)} for kind, of in kinds}
    return jax.block_until_ready(state)


if __name__ == "__main__":
    experiment(CheckpointTimes)
