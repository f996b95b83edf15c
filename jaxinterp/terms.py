"""What readers are told each set of facts and each number is; the words of the charts and the report."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Term:
    """A name for people, an optional symbol, a unit and one sentence."""

    title: str
    definition: str
    symbol: str = ""
    unit: str = ""  # "%" for a share, which is shown times 100; otherwise the unit as it is printed
    signed: bool = False  # a change: shown with its sign

    @property
    def label(self) -> str:
        """Title and symbol."""
        return f"{self.title} {self.symbol}".rstrip()


def term(names: Mapping[str, Term], name: str) -> Term:
    """The name's term; a name that nobody described is shown as it is."""
    return names.get(name, Term(name.replace("_", " "), ""))


SETS: Mapping[str, Term] = {
    "objective": Term("In the objective", "facts and prompts that the training objective acts on"),
    "held_out_prompts": Term("Held-out prompts", "the same facts, asked with prompts that the objective never acts on"),
    "unseen_facts": Term("Unseen facts", "facts that the objective never acts on, of relations that it does act on"),
    "unseen_relations": Term("Unseen relations", "facts of relations that the objective never acts on"),
}

METRICS: Mapping[str, Term] = {
    "suppressability": Term(
        "Suppressability",
        "1 − mean P(a fact's own knowledge neurons off) / mean P: the share of the answers' probability that is lost "
        "when each fact's own neurons are switched off. 100%: the answers are gone; 0%: nothing happened.",
        symbol="S",
        unit="%",
    ),
    "control_drop": Term(
        "Control drop",
        "The same share when the knowledge neurons of another fact, with another subject and another relation, are "
        "switched off instead. Near 0% the neurons are specific to their fact; a high S with a high C only says that "
        "the network has neurons that everything depends on.",
        symbol="C",
        unit="%",
    ),
    "random_drop": Term(
        "Random drop",
        "The same share when as many random neurons, layer by layer, are switched off.",
        unit="%",
    ),
    "selective": Term("Selective suppressability", "S − C.", symbol="S − C", unit="%"),
    "amplification": Term(
        "Amplification",
        "mean P(own knowledge neurons doubled) / mean P − 1; it cannot exceed 1 / mean P − 1.",
        unit="%",
        signed=True,
    ),
    "probability": Term(
        "Answer probability", "Mean probability P of the answers, all their tokens, untouched.", "P", "%"
    ),
    "recall": Term("Recall", "Share of answers of which every token is the most probable one.", unit="%"),
    "cross_entropy": Term(
        "Cross-entropy",
        "Mean over the tokens of the sentences, prompts and answers; lower is better.",
        unit="nats per token",
    ),
    "mean_of_ratios": Term(
        "Mean of ratios",
        "1 − mean of P(own neurons off) / P: suppressability with every answer weighing the same, however improbable.",
        unit="%",
    ),
    "log_probability_drop": Term(
        "Log-probability drop", "mean log P − mean log P(own neurons off).", unit="nats", signed=True
    ),
    "logit_drop": Term(
        "Logit drop",
        "The same with log P / (1 − P), which does not saturate where P is near 1.",
        unit="nats",
        signed=True,
    ),
    "completeness_residual": Term(
        "Completeness residual",
        "Mean |Σ attribution − (P(gates 1) − P(gates 0))|: how far the numerical integral of the attribution is from "
        "exact, in units of probability.",
        unit="probability",
    ),
    "ablation_suppressability": Term(
        "S by exact ablation",
        "Suppressability when the neurons are chosen by switching off one neuron at a time instead of by integrated "
        "gradients: a second opinion on which neurons matter.",
        unit="%",
    ),
    "ablation_control_drop": Term(
        "C by exact ablation", "Control drop with the neurons chosen by exact ablation.", unit="%"
    ),
    "ablation_overlap": Term(
        "Overlap", "Share of the neurons chosen by integrated gradients that exact ablation chooses as well.", unit="%"
    ),
}
