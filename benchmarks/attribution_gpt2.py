"""Knowledge-neuron scores of a prompt in GPT-2 small: how much faster than knowledge-neurons, captum and PyTorch?

Random weights, 12 tokens a prompt, all layers, the left sum with 20 points. Ours is compiled for 16 prompts at once and
for a single one; peers treat one prompt a run.
"""

import dataclasses
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.cli.run import experiment


@dataclasses.dataclass(frozen=True)
class AttributionGpt2:
    """Time integrated gradients of all neurons of GPT-2 small against other packages."""

    out: Path = Path("checkpoints/benchmarks")  # folder of attribution_gpt2.json
    quick: bool = False  # a tiny model: shows that the script works
    prompts: int = 16  # in a batch of ours
    tokens: int = 12  # of a prompt
    points: int = 20  # of the quadrature; a multiple of 10, knowledge-neurons' batch
    runs: int = 5  # timed runs of every arm
    adaptive: float = 1e-2  # tolerance of the adaptive rule: a layer's residual as a share of P
    tolerance: float = 1e-5  # between arms, as a share of the largest score

    def __post_init__(self) -> None:
        if self.points < 10 or self.points % 10:
            raise UserError(f"points must be a multiple of 10, got {self.points}")

    def __call__(self) -> None:
        """Runs the benchmark."""
        from attribution_arms import Ours, captum_arm, integration_errors, knowledge_neurons_arm, prompts, torch_arm
        from harness import FLOPS_NOTE, Ratio, benchmark, close
        from peers import KnowledgeNeuronsPackage, ours, published_model, require

        require("torch", "captum", "knowledge_neurons")
        from jaxinterp.attribution.quadrature import Quadrature, quadrature

        small = {"n_layer": 3, "n_embd": 32, "n_head": 2, "vocab_size": 101, "n_positions": 32} if self.quick else {}
        model = published_model("gpt2", **small)
        queries = prompts(model, self.prompts, self.tokens, self.tokens - 1)
        config, params = ours(model)
        left, first = quadrature("left", self.points), queries[0]
        batch, single = Ours(config, params, queries), Ours(config, params, queries[:1])

        # One more way to attribute is one more entry; what it returns is compared with the others' below.
        made = {
            "ours, batch": batch.arm(lambda: batch.scores(left), count=not self.quick),
            "ours, single": single.arm(lambda: single.scores(left), count=not self.quick),
            "ours, batch, adaptive": batch.adaptive_arm(self.adaptive),
            "ours, single, adaptive": single.adaptive_arm(self.adaptive),
            "knowledge-neurons": knowledge_neurons_arm(KnowledgeNeuronsPackage(model), first, self.points),
            "captum": captum_arm(model, first, self.points, self.points),
            "PyTorch by hand": torch_arm(model, first, left),
        }
        arms, scores = ({name: pair[i] for name, pair in made.items()} for i in (0, 1))

        theirs = Quadrature(*KnowledgeNeuronsPackage.rule(self.points))
        _, at_their_points = single.arm(lambda: single.scores(theirs), count=False)
        at_neurons = KnowledgeNeuronsPackage(model, neurons=True)(first, self.points)
        one = scores["ours, single"][:, 0]
        _, exact = single.arm(lambda: single.scores(quadrature("gauss_legendre", 12)), count=False)
        mine = ("ours, batch", "ours, single", "ours, batch, adaptive", "ours, single, adaptive")
        errors = integration_errors(exact[:, 0], {name: scores[name][:, 0] for name in mine})
        checks = {
            "integration error, a share of Σ |score| by Gauss-Legendre with 12 points": errors,
            "batch and single": close(scores["ours, batch"][:, 0], one, tolerance=self.tolerance),
            "PyTorch by hand": close(one, scores["PyTorch by hand"], tolerance=self.tolerance),
            "captum, left sum": close(one, scores["captum"], tolerance=self.tolerance),
            "knowledge-neurons at neurons, its points": close(
                at_their_points[:, 0], at_neurons, tolerance=self.tolerance
            ),
        }
        targets = {"ours, batch": 15.0, "ours, single": 12.0}
        ratios = [Ratio("knowledge-neurons", name, "at_least", target) for name, target in targets.items()]
        ratios += [Ratio("knowledge-neurons", f"{name}, adaptive", "at_least", 50.0) for name in targets]
        ratios += [Ratio(peer, name) for name in targets for peer in ("captum", "PyTorch by hand")]
        ratios += [Ratio("knowledge-neurons", name, of=of) for name in targets for of in ("cpu_seconds", "flops")]
        benchmark(
            "attribution_gpt2",
            self,
            arms,
            ratios,
            self.out,
            runs=self.runs,
            warm_up=0,  # every arm has run once already
            checks=checks,
            notes=[
                "Seconds are those of a prompt.",
                "knowledge-neurons, as it ships, attributes to pre-activations here, by points 0, 1/19, …, 1 of weight "
                "1/20: neither a left nor a right sum. For the check it is pointed at the neurons, and ours has its "
                "points and weights.",
                "PyTorch by hand and captum compute logits at the query alone, knowledge-neurons at all positions.",
                FLOPS_NOTE,
            ],
        )


if __name__ == "__main__":
    experiment(AttributionGpt2)
