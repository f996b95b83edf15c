"""How long the package and its command line take to answer."""

import dataclasses
from pathlib import Path

from jaxinterp.cli.run import experiment


@dataclasses.dataclass(frozen=True)
class Startup:
    """Time `import jaxinterp` and `jaxinterp --help` in new processes, beside an empty one and `import jax`."""

    out: Path = Path("checkpoints/benchmarks")  # folder of startup.json
    quick: bool = False  # no targets
    runs: int = 7  # timed runs of every arm

    def __call__(self) -> None:
        """Runs the benchmark."""
        import subprocess
        import sys

        from harness import Arm, Ratio, benchmark

        def process(*arguments: str) -> Arm:
            command = [sys.executable, *arguments]
            return Arm(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))

        arms = {
            "python": process("-c", "pass"),
            "import jax": process("-c", "import jax"),
            "import jaxinterp": process("-c", "import jaxinterp"),
            "jaxinterp --help": process("-c", "from jaxinterp.cli.main import main; main()", "--help"),
        }
        limits = {"import jaxinterp": 1.5, "jaxinterp --help": 1.0}
        ratios = [Ratio(name, None, "at_most", limit) for name, limit in limits.items()]
        ratios += [Ratio(name, base) for name in limits for base in ("import jax", "python")]
        benchmark("startup", self, arms, ratios, self.out, runs=self.runs)


if __name__ == "__main__":
    experiment(Startup)
