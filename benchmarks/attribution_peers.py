"""Knowledge-neuron scores of a prompt in BERT base or GPT-2 small: how much faster than the packages for PyTorch?

Random weights, 12 tokens (in BERT with [MASK] at the query), all layers, the left sum with 20 points. Ours is compiled
for 16 prompts at once and for a single one; peers treat one prompt a run. In BERT also against sequences padded to 128
tokens, as the code of Dai et al. 2021 has them.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxinterp.base.errors import UserError
from jaxinterp.cli.run import experiment

MASK = 4  # any token will do with random weights
TINY = {
    "bert": dict(num_hidden_layers=3, hidden_size=32, intermediate_size=64, num_attention_heads=2, vocab_size=101),
    "gpt2": dict(n_layer=3, n_embd=32, n_head=2, vocab_size=101, n_positions=32),
}
PACKAGE, PADDED = "knowledge-neurons", "knowledge-neurons, padded"
OURS = ("ours, batch", "ours, single")
NOTES = {
    "bert": ["For the check ours has its points and weights."],
    "gpt2": [
        "As it ships it attributes to pre-activations here. For the check it is pointed at the neurons, and ours has "
        "its points and weights.",
        "PyTorch by hand and captum compute logits at the query alone, knowledge-neurons at all positions.",
    ],
}


@dataclasses.dataclass(frozen=True)
class AttributionPeers:
    """Time integrated gradients of all neurons against other packages."""

    model: Literal["bert", "gpt2"] = "bert"
    out: Path = Path("checkpoints/benchmarks")  # folder of attribution_MODEL.json
    quick: bool = False  # a tiny model: shows that the script works
    prompts: int = 16  # in a batch of ours
    tokens: int = 12  # of a prompt
    padded: int = 128  # tokens of BERT's padded sequences
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
        from attribution_arms import Ours, captum_arm, integration_errors, knowledge_neurons_arm, prompts, torch_arm
        from attribution_arms import padded as padded_query
        from harness import FLOPS_NOTE, benchmark, close
        from peers import KnowledgeNeuronsPackage, ours, published_model, require

        require("torch", "captum", "knowledge_neurons")
        from jaxinterp.attribution.quadrature import Quadrature, quadrature

        masked = self.model == "bert"
        mask = {"mask": MASK} if masked else {}
        model = published_model(self.model, **(TINY[self.model] if self.quick else {}))
        queries = prompts(model, self.prompts, self.tokens, self.tokens // 2 if masked else self.tokens - 1, **mask)
        config, params = ours(model)
        left, first = quadrature("left", self.points), queries[0]
        batch, single = Ours(config, params, queries), Ours(config, params, queries[:1])
        package = KnowledgeNeuronsPackage(model, **mask)

        # One more way to attribute is one more entry; what it returns is compared with the others' below.
        made = {
            "ours, batch": batch.arm(lambda: batch.scores(left), count=not self.quick),
            "ours, single": single.arm(lambda: single.scores(left), count=not self.quick),
            "ours, batch, adaptive": batch.adaptive_arm(self.adaptive),
            "ours, single, adaptive": single.adaptive_arm(self.adaptive),
            PACKAGE: knowledge_neurons_arm(package, first, self.points),
            "captum": captum_arm(model, first, self.points, self.points),
            "PyTorch by hand": torch_arm(model, first, left),
        }
        if masked:
            made[PADDED] = knowledge_neurons_arm(package, padded_query(first, self.padded), self.points)
        arms, scores = ({name: pair[i] for name, pair in made.items()} for i in (0, 1))

        theirs = Quadrature(*KnowledgeNeuronsPackage.rule(self.points))
        at_their_points = single.arm(lambda: single.scores(theirs), count=False)[1][:, 0]
        package_scores = {name: scores[name] for name in (PACKAGE, PADDED) if masked} or {
            f"{PACKAGE} at neurons": KnowledgeNeuronsPackage(model, neurons=True)(first, self.points)
        }
        _, exact = single.arm(lambda: single.scores(quadrature("gauss_legendre", 12)), count=False)
        mine = {name: scores[name][:, 0] for name in scores if name.startswith("ours")}
        one, same = mine["ours, single"], lambda a, b: close(a, b, tolerance=self.tolerance)
        checks = {
            "integration error, a share of Σ |score| by Gauss-Legendre with 12 points": integration_errors(
                exact[:, 0], mine
            ),
            "batch and single": same(mine["ours, batch"], one),
            "PyTorch by hand": same(one, scores["PyTorch by hand"]),
            "captum, left sum": same(one, scores["captum"]),
            **{f"{name}, its points": same(at_their_points, found) for name, found in package_scores.items()},
        }
        notes = [
            "Seconds are those of a prompt.",
            "knowledge-neurons has points 0, 1/19, …, 1 of weight 1/20: neither a left nor a right sum.",
            *NOTES[self.model],
            FLOPS_NOTE,
        ]
        # Every arm has run once already.
        options = {"runs": self.runs, "warm_up": 0, "checks": checks, "notes": notes}
        benchmark(f"attribution_{self.model}", self, arms, ratios(self.model), self.out, **options)


def ratios(model: str) -> list:
    """What is compared, with the goals."""
    from harness import Ratio

    if model == "gpt2":
        targets = {"ours, batch": 15.0, "ours, single": 12.0}
        compared = [Ratio(PACKAGE, name, "at_least", target) for name, target in targets.items()]
        compared += [Ratio(PACKAGE, f"{name}, adaptive", "at_least", 50.0) for name in OURS]
        compared += [Ratio(peer, name) for name in OURS for peer in ("captum", "PyTorch by hand")]
        return compared + [Ratio(PACKAGE, name, of=of) for name in OURS for of in ("cpu_seconds", "flops")]
    targets = {PACKAGE: 4.0, PADDED: 20.0}
    compared = [Ratio(peer, "ours, batch", "at_least", target) for peer, target in targets.items()]
    compared += [Ratio(peer, "ours, batch, adaptive") for peer in targets]
    compared += [Ratio(peer, "ours, batch") for peer in ("captum", "PyTorch by hand")]
    compared += [Ratio(peer, "ours, single") for peer in (*targets, "captum", "PyTorch by hand")]
    return compared + [Ratio(peer, "ours, batch", of=of) for peer in targets for of in ("cpu_seconds", "flops")]


if __name__ == "__main__":
    experiment(AttributionPeers)
