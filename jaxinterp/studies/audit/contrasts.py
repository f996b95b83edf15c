"""What each gradient adds: arms that differ by one thing, pair by pair of seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from jaxinterp.base.tables import print_table
from jaxinterp.report.labels import metric_label, set_label
from jaxinterp.studies.audit.config import AuditConfig
from jaxinterp.studies.audit.models import Measured
from jaxinterp.studies.audit.words import with_interval
from jaxinterp.studies.statistics import paired_effect

# What the second arm has and the first one lacks.
CONTRASTS: Mapping[str, tuple[str, str]] = {
    "a gradient through the mask": ("detached", "straight_through"),
    "one through the scores": ("detached", "detached_scores"),
    "both": ("detached", "suppressable"),
    "the mask's, beside the scores'": ("detached_scores", "suppressable"),
    "concentration alone": ("detached", "concentration"),
    "margin alone": ("detached", "margin"),
    "attribution, instead of random neurons": ("random", "detached"),
    "attribution of the fact, not of another": ("other_fact", "detached"),
}
# What is printed: by the objective's own measure, by others, and at what price.
SHOWN = (
    *("suppressability", "control_drop", "selective", "drop_at_1", "ablation_selective", "insertion_area"),
    *("edit_kept_relation", "edit_kept_subject", "hub_share", "probability", "recall", "bypass"),
)


def contrasts(config: AuditConfig, measured: Mapping[str, Sequence[Measured | None]]) -> dict:
    """The mean change from the first arm of each of `CONTRASTS` to the second, on the seeds that both have.

    Returns:
      {set: {contrast: {metric: {"value", "low", "high", "p", "before", "after", "seeds"}}}}, in the metric's unit, of
      contrasts whose arms have two seeds or more, and of metrics that all of their models have.
    """
    found: dict = {name: {} for name in config.sets}
    for contrast, (first, second) in CONTRASTS.items():
        arms = (measured.get(first, ()), measured.get(second, ()))
        pairs = [(a, b) for a, b in zip(*arms, strict=False) if a is not None and b is not None]
        if len(pairs) < 2:
            continue
        for name in config.sets:
            found[name][contrast] = {
                metric: _effect([(a[name][metric], b[name][metric]) for a, b in pairs], config.criteria.level)
                for metric in config.metrics
                if all(metric in model[name] for pair in pairs for model in pair)
            }
    return found


def _effect(pairs: Sequence[tuple], level: float) -> dict[str, float | int]:
    n = min(len(samples) for pair in pairs for samples in pair)
    before, after = (np.stack([pair[place][:n] for pair in pairs]) for place in (0, 1))
    effect = paired_effect(before, after, level=level)
    means = {name: float(side[:, 0].mean()) for name, side in (("before", before), ("after", after))}
    about = {field: float(getattr(effect, field)) for field in ("value", "low", "high", "p")}
    return {**about, **means, "seeds": len(pairs)}


def print_contrasts(found: Mapping[str, Mapping]) -> None:
    """A table for each set: what each contrast changes."""
    for name, by_contrast in found.items():
        if not by_contrast:
            continue
        metrics = [metric for metric in SHOWN if any(metric in of for of in by_contrast.values())]
        table = Table("what is added", *(metric_label(metric).title for metric in metrics), title=set_label(name).title)
        for contrast, of in by_contrast.items():
            table.add_row(contrast, *(with_interval(of[metric]) if metric in of else "–" for metric in metrics))
        print_table(table)
