"""The audit put to the proof: does it convict a model of relation switches, and acquit one of fact neurons?

Both are plants (`jaxinterp.groundtruth.plants.switches`), so that the right verdict is known. They are measured by the
audit's own metrics and judged by its own rule against plain models, which carry the same facts in a distributed way.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.table import Table

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import writable_folder, write_json
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.base.progress import progress
from jaxinterp.base.provenance import provenance
from jaxinterp.base.tables import print_table
from jaxinterp.facts.encoding import encode
from jaxinterp.groundtruth.grid import grid_table, in_words, language_model
from jaxinterp.groundtruth.registry import GRID_D_MLP, GRID_PLANTS, grid_planted
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.measure import measure_sets
from jaxinterp.metrics.registry import METRICS
from jaxinterp.studies.audit.results import scale_of
from jaxinterp.studies.audit.verdict import Audit, Criteria, audited
from jaxinterp.studies.statistics import Effect, paired_effect

PLAIN, SUSPECTS = "plain", ("switches", "fact_neurons")
HEADLINE = (
    *("probability", "suppressability", "control_drop_relation", "control_drop_subject", "control_drop_other"),
    *("control_drop", "selective"),
)
# A fact of a plant has one prompt, so that there is no other whose neurons could be switched off.
NOT_MEASURED = ("paraphrase_suppressability",)

SeedSamples = dict[str, Float[np.ndarray, "seeds samples"]]  # by metric


@dataclasses.dataclass(frozen=True)
class PlantsConfig:
    """How many plants there are, of which facts, and how they are measured and judged."""

    seeds: int = 8  # models of each plant; they have the same facts
    n_subjects: int = 16  # every subject has an answer of its own in every relation
    n_relations: int = 6
    d_mlp: int = GRID_D_MLP  # neurons a layer
    criteria: Criteria = Criteria()
    measure: MeasureConfig = MeasureConfig(
        queries=0, ability_queries=0, ablation_queries=24, points=8, rule="gauss_legendre", replicates=400
    )

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.seeds < 2:
            raise UserError(f"seeds must be at least 2 (one says nothing of what other seeds do), got {self.seeds}")
        for name in ("n_subjects", "n_relations"):
            if getattr(self, name) < 2:
                raise UserError(f"{name} must be at least 2 for every kind of control, got {getattr(self, name)}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that are measured."""
        judged = (self.criteria.trained, *self.criteria.independent, *self.criteria.ability)
        return tuple(name for name in dict.fromkeys((*HEADLINE, *judged)) if name not in NOT_MEASURED)


def plants_audit(config: PlantsConfig, out: Path) -> dict:
    """Measures the plants, judges each suspect against the plain models, prints both; writes results.json to `out`.

    Returns:
      What results.json holds: {"provenance", "seconds", "plants": {name: {"title", "metrics": {metric: E}}},
      "verdicts": {name: {"verdict", "because", "trained": E, "families": {family: {"state", "counted": [metric],
      **E}}, "ability": {metric: E}, "set_aside": {metric: why}}}}, with E = {"value", "low", "high"}: a mean over seeds
      and its interval over seeds and facts. Effects of families are in smallest effects of interest, towards the
      better; see `jaxinterp.studies.audit.verdict.audited`.
    Raises:
      UserError: if `out` cannot be written, or the plants have no room in the models.
    """
    start = time.monotonic()
    writable_folder(out)
    samples = {}
    with progress("plants", config.seeds * (1 + len(SUSPECTS))) as report:
        for place, name in enumerate((PLAIN, *SUSPECTS)):
            measured = []
            for seed in range(config.seeds):
                measured.append(samples_of(config, name, seed))
                report(place * config.seeds + seed + 1, GRID_PLANTS[name].title)
            samples[name] = {metric: np.stack([of[metric] for of in measured]) for metric in config.metrics}
    results = {
        "provenance": {**provenance(), "config": json.loads(json.dumps(dataclasses.asdict(config)))},
        "plants": {
            name: {"title": GRID_PLANTS[name].title, "metrics": {metric: _mean(of[metric]) for metric in of}}
            for name, of in samples.items()
        },
        "verdicts": {name: _verdict(judged(config, samples, name)) for name in SUSPECTS},
        "seconds": round(time.monotonic() - start, 1),
    }
    write_json(out / "results.json", results)
    print_results(results)
    return results


def samples_of(config: PlantsConfig, name: str, seed: int) -> dict[str, Float[np.ndarray, " samples"]]:
    """Value and replicates of every metric of one plant, on all facts of the grid."""
    table = grid_table(0, n_subjects=config.n_subjects, n_relations=config.n_relations)
    facts = in_words(table)
    model = language_model(grid_planted(name, table, seed, d_mlp=config.d_mlp), table, f"{name}, seed {seed}")
    queries = encode(facts, facts.queries(), model.tokenizer, n_ctx=model.config.n_ctx)
    measure = dataclasses.replace(config.measure, metrics=config.metrics)
    found = measure_sets(model, facts, {"facts": queries}, queries, measure).sets["facts"]
    return {metric: found[metric].samples for metric in config.metrics}


def judged(config: PlantsConfig, samples: Mapping[str, SeedSamples], name: str) -> Audit:
    """The audit's verdict on a plant, compared with the plain models."""
    scales = {metric: scale_of(metric) for metric in config.metrics}
    return audited(samples[PLAIN], samples[name], scales, config.criteria)


def _mean(samples: Float[np.ndarray, "seeds samples"]) -> dict[str, float]:
    """A mean over seeds with its interval over seeds and facts, as a change from nothing."""
    return _plain(paired_effect(np.zeros_like(samples), samples))


def _plain(effect: Effect) -> dict[str, float]:
    return {"value": effect.value, "low": effect.low, "high": effect.high}


def _verdict(audit: Audit) -> dict:
    return {
        "verdict": audit.verdict,
        "because": audit.because,
        "trained": _plain(audit.trained),
        "families": {
            name: {"state": family.state, "counted": list(family.counted), **_plain(family.rise or family.change)}
            for name, family in audit.families.items()
        },
        "ability": {name: _plain(effect) for name, effect in audit.ability.items()},
        "set_aside": dict(audit.set_aside),
    }


def print_results(results: Mapping) -> None:
    """The headline table with the verdicts, and what each verdict rests on."""
    heads = [METRICS[name].label.symbol or METRICS[name].label.title for name in HEADLINE]
    table = Table("plant", *heads, "verdict", title="means over seeds, %")
    for name, plant in results["plants"].items():
        cells = (f"{100 * plant['metrics'][metric]['value']:.1f}" for metric in HEADLINE)
        table.add_row(plant["title"], *cells, results["verdicts"].get(name, {}).get("verdict", "–"))
    print_table(table)
    for name, verdict in results["verdicts"].items():
        states = ", ".join(f"{family} {found['state']}" for family, found in verdict["families"].items())
        print(f"{results['plants'][name]['title']}: {verdict['verdict']}, for {verdict['because']} ({states})")
