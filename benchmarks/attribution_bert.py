"""Knowledge-neuron scores of a prompt in BERT base: how much faster than knowledge-neurons, captum and PyTorch?

Random weights, 12 tokens with [MASK] at the query, all layers, the left sum with 20 points. Also against sequences
padded to 128 tokens, as the code of Dai et al. 2021 has them.
"""

import dataclasses
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.cli.run import experiment

MASK = 4  # any token will do with random weights


@dataclasses.dataclass(frozen=True)
class AttributionBert:
    """Time integrated gradients of all neurons of BERT base against other packages."""

    out: Path = Path("checkpoints/benchmarks")  # folder of attribution_bert.json
    quick: bool = False  # a tiny model: shows that the script works
    prompts: int = 16  # in a batch of ours
    tokens: int = 12  # of a prompt
    padded: int = 128  # tokens of the padded sequences
    points: int = 20  # of the quadrature; a multiple of 10, knowledge-neurons' batch
    runs: int = 5  # timed runs of every arm
    adaptive: float = 1e-2  # tolerance of the adaptive rule: a layer's residual as a share of P
    tolerance: float = 1e-5  # between arms, as a share of the largest score

    def __post_init__(self) -> None:
        if self.points < 10 or self.points % 10:
            raise UserError(f"points must be a multiple of 10, got {self.points}")
        if self.padded < self.tokens:
            raise UserError(f"padded must be at least tokens ({self.tokens}), got {self.padded}")

    def __call__(self) -> None:
        """Runs the benchmark."""
        from attribution_arms import (
            Ours,
            captum_arm,
            integration_errors,
            knowledge_neurons_arm,
            padded,
            prompts,
            torch_arm,
        )
        from harness import FLOPS_NOTE, Ratio, benchmark, close
        from peers import KnowledgeNeuronsPackage, ours, published_model, require

        require("torch", "captum", "knowledge_neurons")
        from jaxinterp.attribution.quadrature import Quadrature, quadrature

        sizes = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
        model = published_model("bert", **(dict(zip(sizes, (3, 32, 64, 2, 101), strict=True)) if self.quick else {}))
        queries = prompts(model, self.prompts, self.tokens, self.tokens // 2, mask=MASK)
        config, params = ours(model)
        left, first = quadrature("left", self.points), queries[0]
        batch, single = Ours(config, params, queries), Ours(config, params, queries[:1])
        package = KnowledgeNeuronsPackage(model, mask=MASK)

        # One more way to attribute is one more entry; what it returns is compared with the others' below.
        made = {
            "ours, batch": batch.arm(lambda: batch.scores(left), count=not self.quick),
            "ours, single": single.arm(lambda: single.scores(left), count=not self.quick),
            "ours, batch, adaptive": batch.adaptive_arm(self.adaptive),
            "ours, single, adaptive": single.adaptive_arm(self.adaptive),
            "knowledge-neurons": knowledge_neurons_arm(package, first, self.points),
            "knowledge-neurons, padded": knowledge_neurons_arm(package, padded(first, self.padded), self.points),
            "captum": captum_arm(model, first, self.points, self.points),
            "PyTorch by hand": torch_arm(model, first, left),
        }
        arms, scores = ({name: pair[i] for name, pair in made.items()} for i in (0, 1))

        theirs = Quadrature(*KnowledgeNeuronsPackage.rule(self.points))
        _, at_their_points = single.arm(lambda: single.scores(theirs), count=False)
        one, tolerance = scores["ours, single"][:, 0], self.tolerance
        _, exact = single.arm(lambda: single.scores(quadrature("gauss_legendre", 12)), count=False)
        mine = ("ours, batch", "ours, single", "ours, batch, adaptive", "ours, single, adaptive")
        errors = integration_errors(exact[:, 0], {name: scores[name][:, 0] for name in mine})
        checks = {
            "integration error, a share of Σ |score| by Gauss-Legendre with 12 points": errors,
            "batch and single": close(scores["ours, batch"][:, 0], one, tolerance=tolerance),
            "PyTorch by hand": close(one, scores["PyTorch by hand"], tolerance=tolerance),
            "captum, left sum": close(one, scores["captum"], tolerance=tolerance),
        } | {
            f"{name}, its points": close(at_their_points[:, 0], scores[name], tolerance=tolerance)
            for name in ("knowledge-neurons", "knowledge-neurons, padded")
        }
        targets = {"knowledge-neurons": 4.0, "knowledge-neurons, padded": 20.0}
        ratios = [Ratio(peer, "ours, batch", "at_least", target) for peer, target in targets.items()]
        ratios += [Ratio(peer, "ours, batch, adaptive") for peer in targets]
        ratios += [Ratio(peer, "ours, batch") for peer in ("captum", "PyTorch by hand")]
        ratios += [Ratio(peer, "ours, single") for peer in (*targets, "captum", "PyTorch by hand")]
        ratios += [Ratio(peer, "ours, batch", of=of) for peer in targets for of in ("cpu_seconds", "flops")]
        benchmark(
            "attribution_bert",
            self,
            arms,
            ratios,
            self.out,
            runs=self.runs,
            warm_up=0,  # every arm has run once already
            checks=checks,
            notes=[
                "Seconds are those of a prompt.",
                "knowledge-neurons has points 0, 1/19, …, 1 of weight 1/20: neither a left nor a right sum. For the "
                "check ours has its points and weights.",
                FLOPS_NOTE,
            ],
        )


if __name__ == "__main__":
    experiment(AttributionBert)
