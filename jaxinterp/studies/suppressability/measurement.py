"""One model measured: the work behind `jaxinterp measure`."""

import dataclasses

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.source import load_facts
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.measure import measure_facts, wanted
from jaxinterp.metrics.results import model_results
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.studies.suppressability.compare import measured_results, print_metrics, print_models
from jaxinterp.training.data import data_from_provenance


def measured_model(name: str, facts: str | None, config: MeasureConfig) -> dict:
    """Measures a model, prints the table, and returns its entry in results.json with its provenance.

    Args:
      name: of the model; see `jaxinterp.models.loading.bundle.load_model`.
      facts: what to measure it on, see `jaxinterp.facts.source.load_facts`; None are those it was trained with.
      config: how.
    Raises:
      UserError: if the model or the facts cannot be had, or nothing can be measured.
    """
    model = load_model(name)
    title = name.rstrip("/").rsplit("/", 1)[-1]
    if facts is not None:
        results = _on_facts(title, model, facts, config)
    elif "data" in model.provenance:
        results = measured_results(title, model, data_from_provenance(model.provenance), config)
    else:
        raise UserError(f"{name} is a pretrained model: say with --facts what to measure it on, e.g. --facts world")
    table = {"models": {title: results}}
    if config.metrics:
        measured = {metric for metrics in results["sets"].values() for metric in metrics}
        print_metrics(table, [name for name in wanted(config) if name in measured])
    else:
        print_models(table)
    about = {"model": dict(model.provenance), "facts": facts, "measure": dataclasses.asdict(config)}
    return {**results, "provenance": {**about, **provenance()}}


def _on_facts(title: str, model: LanguageModel, source: str, config: MeasureConfig) -> dict:
    facts = load_facts(source)
    with progress(f"measure {title}", 300) as report:
        stages = ("what it knows", "facts", "known_facts")

        def advance(stage: str, done: int, total: int) -> None:
            report(100 * stages.index(stage) + 100 * done // total, stage.replace("_", " "))

        measurement, left_out, read = measure_facts(model, facts, config, progress=advance)
    print("left out: " + (", ".join(f"{n:,} {reason}" for reason, n in left_out.items()) or "nothing"))
    first, end = read["answer"]
    print(
        f"one of the texts, as it was read: {' '.join(map(repr, read['tokens']))}; answer: tokens {first} to {end - 1}"
    )
    if "known_facts" not in measurement.sets:
        print("the model answers none of the facts that it was asked correctly")
    return {
        **model_results(measurement, model, [relation.name for relation in facts.relations]),
        "left_out": left_out,
        "read": read,
    }
