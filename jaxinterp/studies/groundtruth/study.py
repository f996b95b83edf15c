"""Attribution methods judged on models whose responsible neurons are known."""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from rich.table import Table

from jaxinterp.attribution.registry import METHODS
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import writable_folder, write_json
from jaxinterp.base.progress import progress
from jaxinterp.base.provenance import provenance
from jaxinterp.groundtruth.circuit import Planted
from jaxinterp.groundtruth.compiled import compiled_table
from jaxinterp.groundtruth.registry import PLANTS, planted
from jaxinterp.groundtruth.routing import RoutingConfig, relation_effects, routed
from jaxinterp.groundtruth.scores import MEASURES, judged, mean_over_facts
from jaxinterp.groundtruth.table import fact_table
from jaxinterp.metrics.results import plain
from jaxinterp.report.charts import save_chart
from jaxinterp.report.sections import Section, write_sections
from jaxinterp.report.shown import Part, print_parts
from jaxinterp.studies.groundtruth.chart import precision_map

# What is not built from a list of neurons: name -> title and what it provokes.
TRAINED = ("trained with gradient routing", "neurons that a model learned to use")
COMPILED = ("compiled by tracr", "nothing: the sanity check by another hand")
REPORT = "report.html"
LEAD = (
    "Attribution methods, judged on models whose responsible neurons are known: written by hand, each to provoke one "
    "kind of mistake, or trained with gradient routing.",
)


class Measured(NamedTuple):
    """What one planted model shows."""

    p_R: Float[Array, " R"]  # untouched
    p_without_R: Float[Array, " R"]  # the true neurons off
    p_without_all_R: Float[Array, " R"]  # those that stand in off as well
    scores: Mapping[str, Float[Array, "L R F"]]  # by method


class _Case(NamedTuple):
    title: str
    provokes: str
    build: Callable[[int], Planted]  # of a seed


@jax.jit
def measured(model: Planted, key: PRNGKeyArray) -> Measured:
    """P with and without the true neurons, and the scores of every method; consumes `key`."""
    readout = model.readout()
    off, all_off = 1 - model.mask_LRF, 1 - jnp.maximum(model.mask_LRF, model.stand_in_LRF)
    scores = {name: METHODS[name].scores(readout, key) for name in METHODS.names()}
    return Measured(readout.untouched(), readout(off), readout(all_off), scores)


def ground_truth_study(seeds: int, out: Path, *, tracr: bool = False) -> dict:
    """Judges every method on every plant and on trained models; writes results.json, `REPORT` and
    charts/ to `out`.

    Args:
      seeds: fact tables, rotations, places, weak neurons and trainings of each.
      out: folder.
      tracr: whether a program compiled by tracr is judged as well.
    Returns:
      What results.json holds: {"provenance", "seconds", "routing": {"own_off", "others_off"}, "methods": {name: title},
      "measures": {name: definition}, "plants": {name: {"title", "provokes", "n_facts", "true_neurons" a fact,
      "neurons" in the model, "p", "p_without", "p_without_all" (see `Measured`; means), "methods": {method:
      {measure: {"value", "low", "high", "n"}}}}}}.
    Raises:
      UserError: if there are no seeds, `out` cannot be written, or tracr is asked for and not installed.
    """
    if seeds < 1:
        raise UserError(f"seeds must be at least 1, got {seeds}")
    start = time.monotonic()
    writable_folder(out)
    effects: list[np.ndarray] = []
    cases = {
        name: _Case(PLANTS[name].title, PLANTS[name].provokes, functools.partial(planted, name))
        for name in PLANTS.names()
    }
    cases["routed"] = _Case(*TRAINED, functools.partial(_routed, effects))
    if tracr:
        cases["tracr"] = _Case(*COMPILED, lambda seed: compiled_table(fact_table(seed)))
    plants = {}
    with progress("judge methods", len(cases) * seeds) as report:
        for index, (name, case) in enumerate(cases.items()):
            found = []
            for seed in range(seeds):
                model = case.build(seed)
                found.append((model, measured(model, jax.random.key(seed))))
                report(index * seeds + seed + 1, case.title)
            plants[name] = {"title": case.title, "provokes": case.provokes, **_summary(found)}
    own = np.mean([np.diag(effect).mean() for effect in effects])
    others = np.mean([effect[~np.eye(len(effect), dtype=bool)].mean() for effect in effects])
    results = {
        "provenance": {**provenance(), "seeds": seeds},
        "seconds": round(time.monotonic() - start, 1),
        "routing": {"own_off": float(own), "others_off": float(others)},
        "methods": {name: METHODS[name].title for name in METHODS.names()},
        "measures": MEASURES,
        "plants": plants,
    }
    write_json(out / "results.json", results)
    chart, parts = precision_map(results), results_shown(results)
    save_chart(chart, out / "charts", "ground_truth")
    meant = [f"{name}: {definition}" for name, definition in MEASURES.items()]
    sections = [Section("methods", "Methods", [*parts, *meant], {"ground_truth": chart})]
    write_sections(out / REPORT, "Planted ground truth", LEAD, sections, results["provenance"])
    print_parts(parts)
    return results


def _routed(effects: list[np.ndarray], seed: int) -> Planted:
    table = fact_table(seed)
    model = routed(table, RoutingConfig(), jax.random.key(seed))
    effects.append(relation_effects(model, table))
    return model


def _summary(found: list[tuple[Planted, Measured]]) -> dict:
    """Means over the facts of all seeds."""
    columns = {
        method: [judged(np.asarray(seen.scores[method]), np.asarray(model.mask_LRF)) for model, seen in found]
        for method in METHODS.names()
    }
    n_facts = sum(len(seen.p_R) for _, seen in found)
    facts = np.arange(n_facts)

    def estimates(parts: list[Mapping[str, np.ndarray]]) -> dict:
        joined = {name: np.concatenate([part[name] for part in parts]) for name in MEASURES}
        return {name: plain(mean_over_facts(values, facts)) for name, values in joined.items()}

    model = found[0][0]
    return {
        "n_facts": n_facts,
        "true_neurons": float(np.mean([model.mask_LRF.sum((0, 2)) for model, _ in found])),
        "neurons": model.model.config.n_neurons,
        "p": float(np.mean([seen.p_R for _, seen in found])),
        "p_without": float(np.mean([seen.p_without_R for _, seen in found])),
        "p_without_all": float(np.mean([seen.p_without_all_R for _, seen in found])),
        "methods": {method: estimates(parts) for method, parts in columns.items()},
    }


def results_shown(results: Mapping) -> list[Part]:
    """Precision at k and AUROC, a row a plant and a column a method."""
    methods = results["methods"]
    table = Table(title="precision at k / AUROC; k: the number of true neurons")
    table.add_column("plant", no_wrap=True)
    for heading in ("k", "P", "P without", *methods.values()):
        table.add_column(heading, justify="right")
    for name, plant in results["plants"].items():
        cells = [plant["methods"][method] for method in methods]
        table.add_row(
            name,
            f"{plant['true_neurons']:.1f}",
            f"{plant['p']:.2f}",
            f"{plant['p_without']:.2f}",
            *(f"{cell['precision']['value']:.2f} / {cell['auroc']['value']:.2f}" for cell in cells),
        )
    own, others = (f"{results['routing'][name]:.2f}" for name in ("own_off", "others_off"))
    return [
        table,
        f"gradient routing: P is {own} with a relation's own neurons off, {others} with another's",
    ]
