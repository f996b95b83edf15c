"""What a study's runs say of its hypotheses; imports no JAX."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from jaxinterp.studies.crossed import Crossed, crossed_effect
from jaxinterp.studies.engine.config import StudyConfig
from jaxinterp.studies.engine.evidence import Estimated, Evidence, evidence
from jaxinterp.studies.engine.hypothesis import Hypothesis
from jaxinterp.studies.engine.pairs import relation_changes
from jaxinterp.studies.engine.run import Result
from jaxinterp.studies.statistics import holm

ALPHA = 0.05  # of wrong verdicts among all hypotheses of a study, supported and refuted ones together
POWER = 0.8  # with which the smallest detectable effect would be seen


@dataclasses.dataclass(frozen=True)
class Finding:
    """A hypothesis and what became of it."""

    hypothesis: Hypothesis
    verdict: Literal["supported", "refuted", "undecided"]
    because: str
    found: Evidence
    p: float  # two-sided over supported and refuted, adjusted by Holm over the study's hypotheses; 1 without two seeds

    @property
    def effect(self) -> Estimated | None:
        """The change, ρ or intraclass correlation; None if there is none."""
        return self.found.effect


def findings(config: StudyConfig, results: Sequence[Result]) -> list[Finding]:
    """The verdict on each hypothesis.

    Of a contrast, runs that are equal in their seed and in all factors but one are paired; their differences are
    averaged within each seed, and seeds are what the interval is over (`studies.statistics.effect_of`). `evidence` says
    what the other kinds rest on. *higher* is supported where the change (or ρ) is shown to be above the margin and
    refuted where it is shown to be below it; *lower* the same the other way round; *same* is supported where the change
    is shown to lie inside ± margin (two one-sided tests) and refuted where it is shown to lie outside. Shown means that
    2 · min(p_supported, p_refuted), adjusted by Holm over all hypotheses, is below `ALPHA`. One seed says nothing of
    others: its verdict is undecided. So is that of a claim which lacks runs that the study plans (`missing`).
    """
    return judged(config.hypotheses, evidence(config, results, config.hypotheses))


def beside(config: StudyConfig, results: Sequence[Result]) -> list[tuple[Finding, Finding]]:
    """Each contrast after all steps and at one loss, whichever of the two its hypothesis has.

    p is adjusted within each of the two, over all contrasts. Metrics that are the loss have no contrast at one loss.
    """
    claims = [h for h in config.hypotheses if h.kind == "contrast" and h.metric != config.match]
    if not config.match or not claims:
        return []
    both = [[dataclasses.replace(claim, at=at) for claim in claims] for at in ("steps", "loss")]
    return list(zip(*(judged(of, evidence(config, results, of)) for of in both), strict=True))


def over_relations(claim: Hypothesis, results: Sequence[Result]) -> Crossed | None:
    """A contrast after all steps with seeds and relations crossed; None without two of each."""
    change_SR = relation_changes(results, claim.factor, claim.before, claim.after, claim.metric)
    return crossed_effect(change_SR) if min(change_SR.shape) > 1 else None


def judged(claims: Sequence[Hypothesis], all_found: Sequence[Evidence]) -> list[Finding]:
    """Verdicts on hypotheses by what was found of each; see `findings`."""
    ends = [_ends(claim, found) for claim, found in zip(claims, all_found, strict=True)]
    adjusted = holm([min(1.0, 2 * min(of)) for of in ends])
    verdicts = []
    for claim, found, (for_it, against), p in zip(claims, all_found, ends, adjusted, strict=True):
        decided = p < ALPHA
        verdict: Literal["supported", "refuted", "undecided"] = "undecided"
        if decided:
            verdict = "supported" if for_it < against else "refuted"
        why = "the interval decides" if decided else "the interval is too wide"
        why = found.why_not if found.effect is None else found.missing.lacks or found.why_not or why
        because = "; ".join(words for words in (why, found.missing.left_out) if words)
        verdicts.append(Finding(claim, verdict, because, found, p))
    return verdicts


def _ends(hypothesis: Hypothesis, found: Evidence) -> tuple[float, float]:
    """One-sided p-values of the claim's contrary, and of the claim."""
    margin, effect = hypothesis.margin, found.effect
    if effect is None or found.why_not or found.missing.lacks:
        return 1.0, 1.0
    if hypothesis.direction == "higher":
        return effect.above(margin), effect.below(margin)
    if hypothesis.direction == "lower":
        return effect.below(-margin), effect.above(-margin)
    return max(effect.above(-margin), effect.below(margin)), min(effect.below(-margin), effect.above(margin))
