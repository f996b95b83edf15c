"""What a plain training step costs against the same model in PyTorch, with a small and a large vocabulary.

PyTorch: eager, its fused attention, cross-entropy, clipping and fused AdamW, all in float32.
"""

import dataclasses
from pathlib import Path

from jaxinterp.cli.run import experiment

CASES = {"3m": 4096, "10m": 32_768}  # preset -> tokens in the vocabulary
QUICK = {"0.5m": 128}


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """Time plain training steps against PyTorch."""

    out: Path = Path("checkpoints/benchmarks")  # folder of train_step.json
    quick: bool = False  # a tiny model: shows that the script works
    length: int = 32  # tokens a sequence
    batch: int = 32  # sequences a step
    steps: int = 2  # in a run
    runs: int = 5  # timed runs of every arm
    tolerance: float = 1e-3  # between the first steps, as a share of the largest value

    def __call__(self) -> None:
        """Runs the benchmark."""
        from harness import FLOPS_NOTE, Ratio, benchmark, close
        from peers import require, torch_flops
        from torch_gpt import TorchGPT, TorchTraining
        from training_arms import OPTIMISER, OurTraining, batch, torch_arm

        require("torch")
        from jaxinterp.models.config import preset
        from jaxinterp.objectives.config import ObjectiveConfig

        arms, ratios, checks = {}, [], {}
        for name, vocabulary in (QUICK if self.quick else CASES).items():
            model = preset(name, d_vocab=vocabulary, n_ctx=max(self.length, 64))
            data = batch(vocabulary, self.batch, self.length)
            our = OurTraining(model, ObjectiveConfig(), data)
            theirs = TorchTraining(TorchGPT(model, our.params), data, OPTIMISER)
            flops = torch_flops(theirs.step)
            our.step()
            checks[f"{name}, first step: lm, gradient_norm"] = close(
                [float(our.values["lm"]), float(our.values["gradient_norm"])],
                [theirs.values["lm"], theirs.values["gradient_norm"]],
                tolerance=self.tolerance,
            )
            arms |= {f"ours, {name}": our.arm(self.steps), f"PyTorch, {name}": torch_arm(theirs, self.steps, flops)}
            ratios += [
                Ratio(f"ours, {name}", f"PyTorch, {name}", "at_most", target, of)
                for of, target in {"seconds": 1.2, "cpu_seconds": None, "flops": None}.items()
            ]
        vocabularies = ", ".join(f"{name} with {size} tokens" for name, size in CASES.items())
        notes = [f"Seconds are those of a step. Models: {vocabularies}.", FLOPS_NOTE]
        benchmark("train_step", self, arms, ratios, self.out, runs=self.runs, checks=checks, notes=notes)


if __name__ == "__main__":
    experiment(TrainStep)
