"""What a step with the meta-gradient costs: against our plain step, and against PyTorch's double backward.

The joint path, suppression and control with weight 1, one answer a sequence. With --table also over lengths and points.
"""

import dataclasses
from pathlib import Path

from jaxinterp.cli.run import experiment


@dataclasses.dataclass(frozen=True)
class MetaStep:
    """Time a training step with the full objective against a plain one and against PyTorch."""

    out: Path = Path("checkpoints/benchmarks")  # folder of meta_step.json
    quick: bool = False  # a tiny model: shows that the script works
    table: bool = False  # also meta / plain over lengths and points (minutes)
    layers: int = 4
    width: int = 128  # residual width D; 4 heads, 4 D neurons a layer
    vocabulary: int = 4096  # tokens
    length: int = 32  # tokens a sequence
    batch: int = 32  # sequences a step
    points: int = 8  # of integrated gradients
    lengths: tuple[int, ...] = (16, 32, 128, 512)  # of --table
    table_points: tuple[int, ...] = (1, 4, 16, 64)  # of --table
    steps: int = 10  # in a run of ours
    runs: int = 5  # timed runs of every arm
    tolerance: float = 1e-3  # between ours and PyTorch's first step, as a share of the largest value

    def __call__(self) -> None:
        """Runs the benchmark."""
        from harness import FLOPS_NOTE, Ratio, benchmark, close
        from peers import require, torch_flops
        from torch_gpt import TorchGPT, TorchTraining
        from training_arms import OPTIMISER, OurTraining, batch, torch_arm

        require("torch")
        data = batch(self._model().d_vocab, self.batch, self.length)
        plain, meta = (OurTraining(self._model(), self._objective(kind), data) for kind in (None, self.points))

        theirs = {
            name: TorchTraining(TorchGPT(self._model(), meta.params), data, OPTIMISER, objective, meta.offset)
            for name, objective in {"plain": None, "meta": self._objective(self.points)}.items()
        }
        flops = {name: torch_flops(training.step) for name, training in theirs.items()}
        plain.step(), meta.step()
        names = {"plain": ("lm", "gradient_norm"), "meta": ("lm", "suppression", "control", "gradient_norm")}
        checks = {
            f"{kind}, first step: {', '.join(names[kind])}": close(
                [float(our.values[name]) for name in names[kind]],
                [theirs[kind].values[name] for name in names[kind]],
                tolerance=self.tolerance,
            )
            for kind, our in {"plain": plain, "meta": meta}.items()
        }
        arms = {"ours, plain": plain.arm(self.steps), "ours, meta": meta.arm(self.steps)}
        arms |= {f"PyTorch, {name}": torch_arm(training, 1, flops[name]) for name, training in theirs.items()}
        ratios = [
            Ratio("ours, meta", "ours, plain", "at_most", 1.3),
            Ratio("ours, meta", "ours, plain", "at_most", 1.35, of="flops"),
            Ratio("PyTorch, meta", "ours, meta", "at_least", 6.0),
            Ratio("ours, meta", "ours, plain", of="cpu_seconds"),
            Ratio("PyTorch, meta", "ours, meta", of="cpu_seconds"),
            Ratio("PyTorch, meta", "PyTorch, plain"),
            Ratio("PyTorch, meta", "ours, meta", of="flops"),
            Ratio("PyTorch, plain", "ours, plain"),
        ]
        notes = [
            "Seconds are those of a step. PyTorch: eager, fused AdamW; its edited forwards compute logits at the query "
            "alone.",
            FLOPS_NOTE,
        ]
        extra = {"table": self._table()} if self.table and not self.quick else {}
        benchmark("meta_step", self, arms, ratios, self.out, runs=self.runs, checks=checks, notes=notes, extra=extra)

    def _model(self) -> object:
        from jaxinterp.models.config import ModelConfig

        width, layers, vocabulary = (32, 2, 101) if self.quick else (self.width, self.layers, self.vocabulary)
        n_ctx = max(self.length, *self.lengths)
        sizes = {"n_layers": layers, "d_model": width, "d_mlp": 4 * width, "d_head": width // 4}
        return ModelConfig(d_vocab=vocabulary, n_ctx=n_ctx, n_heads=4, n_kv_heads=4, **sizes)

    def _objective(self, points: int | None) -> object:
        from training_arms import META

        from jaxinterp.objectives.config import ObjectiveConfig

        return ObjectiveConfig() if points is None else ObjectiveConfig(weights=META, points=points, path="joint")

    def _table(self) -> list[dict]:
        """Meta / plain, for every length and number of points."""
        from harness import Ratio, alternating, compared
        from rich.console import Console
        from rich.table import Table
        from training_arms import OurTraining, batch

        printed = Table("tokens", "points", "meta / plain", "min … max", "FLOPs", title="meta / plain")
        cells = []
        for length in self.lengths:
            data = batch(self._model().d_vocab, self.batch, length)
            steps = max(1, self.steps * 32 // length // 2)
            plain = OurTraining(self._model(), self._objective(None), data).arm(steps)
            for points in self.table_points:
                arms = {"plain": plain, "meta": OurTraining(self._model(), self._objective(points), data).arm(steps)}
                measured = alternating(arms, self.runs)
                ratios = (Ratio("meta", "plain", of=of) for of in ("seconds", "flops"))
                time_of, flops = (compared(ratio, arms, measured) for ratio in ratios)
                cells.append({"tokens": length, "points": points, "time": time_of, "flops": flops})
                printed.add_row(
                    str(length),
                    str(points),
                    f"{time_of['median']:.2f}",
                    f"{time_of['min']:.2f} … {time_of['max']:.2f}",
                    f"{flops['median']:.2f}" if "median" in flops else "",
                )
        Console(highlight=False).print(printed)
        return cells


if __name__ == "__main__":
    experiment(MetaStep)
