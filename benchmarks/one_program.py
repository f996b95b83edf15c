"""What training several seeds in one program (`vmap`) costs against training them one after another.

Both take the same steps of the same models on the same batches; the program of one model is compiled once.
"""

import dataclasses
from pathlib import Path

from jaxinterp.cli.run import experiment


@dataclasses.dataclass(frozen=True)
class OneProgram:
    """Time an ensemble's step against as many steps of single models, plain and with the whole objective."""

    out: Path = Path("checkpoints/benchmarks")  # folder of one_program.json
    quick: bool = False  # a tiny model: shows that the script works
    preset: str = "0.7m"
    vocabulary: int = 2048  # tokens in it
    length: int = 16  # tokens a sequence
    batch: int = 32  # sequences a step
    seeds: int = 4  # models
    steps: int = 4  # in a run, of every model
    runs: int = 5  # timed runs of every arm
    tolerance: float = 1e-4  # between the first steps' losses, as a share of the largest

    def __call__(self) -> None:
        """Runs the benchmark."""
        from harness import Ratio, benchmark, close
        from one_program_arms import one_after_another, together
        from training_arms import META, batch

        from jaxinterp.models.config import preset

        name, vocabulary = ("0.5m", 128) if self.quick else (self.preset, self.vocabulary)
        model = preset(name, d_vocab=vocabulary, n_ctx=self.length)
        data = batch(vocabulary, self.batch, self.length)
        arms, ratios, checks = {}, [], {}
        for kind, height in {"plain": 0.0, "objective": 1.0}.items():
            ensemble = together(model, META, height, data, self.seeds, self.steps)
            singles = one_after_another(model, META, height, data, self.seeds, self.steps)
            checks[f"{kind}, losses of the first step"] = close(
                ensemble.losses(), singles.losses(), tolerance=self.tolerance
            )
            names = f"one program, {kind}", f"one after another, {kind}"
            arms |= dict(zip(names, (ensemble.arm(), singles.arm()), strict=True))
            ratios.append(Ratio(*reversed(names)))
        notes = [
            f"Seconds are those of a step of all {self.seeds} models. {name} with {vocabulary} tokens, {self.batch} "
            f"sequences of {self.length} tokens. A ratio above 1 says how many times faster one program is."
        ]
        benchmark("one_program", self, arms, ratios, self.out, runs=self.runs, checks=checks, notes=notes)


if __name__ == "__main__":
    experiment(OneProgram)
