"""A model, or anything else that can be read, measured on facts."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.progress import progress
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.source import load_facts
from jaxinterp.facts.splits import SETS
from jaxinterp.metrics import measure as metrics_measure
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.examples import ReadoutExamples
from jaxinterp.metrics.held_out import with_text
from jaxinterp.metrics.intervals import Estimate
from jaxinterp.metrics.measure import Measurement, measure_examples, measure_facts, wanted
from jaxinterp.metrics.results import model_results
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.report.printed import metrics_shown, models_shown
from jaxinterp.report.shown import Part, Shown
from jaxinterp.training.data import TrainingData, data_from_provenance
from jaxinterp.training.texts import windows_of

if TYPE_CHECKING:
    from jaxinterp.report.charts import Chart

EXAMPLES = "examples"  # the set of what is no language model


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Measurements(Shown):
    """Metrics of one model on sets of facts, with 95 % intervals. Printed, or in a notebook, it is a table.

    `measurements["suppressability"]` has the estimate of each set, by the set's name.
    """

    name: str  # of the model, in tables and charts
    measurement: Measurement  # all estimates, by set and metric, overall and for each relation
    config: MeasureConfig
    notes: tuple[str, ...]  # what was left out, and how one of the texts was read
    results: Mapping  # the plain numbers

    def __getitem__(self, metric: str) -> dict[str, Estimate]:
        """The estimate of a metric for each set that has it; UserError, with the known names, if none has."""
        sets = self.measurement.sets
        found = {set_name: metrics[metric].overall for set_name, metrics in sets.items() if metric in metrics}
        if not found:
            raise unknown("measured metric", metric, sorted({name for metrics in sets.values() for name in metrics}))
        return found

    @property
    def table(self) -> Table:
        """Metrics by set."""
        return next(part for part in self.parts() if isinstance(part, Table))

    def chart(self) -> "Chart":
        """Bars of the shares of the answers' probability that are lost, in a panel for each set.

        Raises:
          UserError: if none of these shares was measured.
        """
        from jaxinterp.report.drop_bars import overview  # altair takes a while to import

        chart = overview(self._named())
        if chart is None:
            raise UserError("nothing to draw: the chart shows suppressability and the drops beside it; measure them")
        return chart

    def to_json(self) -> dict:
        """The value as plain numbers and texts, as `jaxinterp measure --json` writes it."""
        return json.loads(json.dumps(self.results))

    def __repr__(self) -> str:
        sets = self.measurement.sets
        n_metrics = len({metric for metrics in sets.values() for metric in metrics})
        return f"Measurements({self.name}, {n_metrics} metrics on {', '.join(sets)})"

    def parts(self) -> Sequence[Part]:
        if not self.config.metrics:
            return [*self.notes, *models_shown(self._named())]
        measured = {metric for metrics in self.measurement.sets.values() for metric in metrics}
        return [*self.notes, *metrics_shown(self._named(), [name for name in wanted(self.config) if name in measured])]

    def _named(self) -> dict:
        return {"models": {self.name: self.results}}


def measure(
    model: LanguageModel | ReadoutExamples,
    facts: FactSet | str | Path | None = None,
    config: MeasureConfig | None = None,
    *,
    name: str = "model",
    relations: Sequence[str] = (),
    **fields: object,
) -> Measurements:
    """Measures suppressability, control drops and other metrics.

    Args:
      model: a language model; or examples of anything else that has a readout, as one set called "examples".
      facts: what a language model is measured on: facts, or what `load_facts` takes. None is the four sets of facts
        that it was trained with, for a model that was trained here.
      config: how; None is the defaults of `jaxinterp.metrics.config.MeasureConfig`.
      name: of the model, in tables and charts.
      relations: names of the relations that `ReadoutExamples.relation_N` numbers; () calls them by their numbers.
      fields: fields of the config that differ from it, such as queries=100 or metrics=("gini",).
    Raises:
      UserError: if a field is out of range, the facts cannot be had, or nothing can be measured.
    """
    known = {field.name for field in dataclasses.fields(MeasureConfig)}
    if other := sorted(fields.keys() - known):
        raise unknown("field of the measurement", other[0], known)
    config = dataclasses.replace(config or MeasureConfig(), **fields)
    if not isinstance(model, LanguageModel | ReadoutExamples):
        raise UserError(f"give a language model (ji.load_model) or ji.ReadoutExamples, not {type(model).__name__}")
    if isinstance(model, ReadoutExamples):
        if facts is not None:
            raise UserError("facts are for language models; examples bring what they are measured on")
        return _of_examples(model, config, name, relations)
    more: dict[str, object] = {}
    notes: tuple[str, ...] = ()
    if facts is None:
        if "data" not in model.provenance:
            raise UserError(
                f"{name} is a pretrained model: say with --facts what to measure it on, e.g. --facts world "
                '(in Python, facts="world")'
            )
        data = data_from_provenance(model.provenance)
        source, loaded = None, data.facts
        measurement = _on_own_facts(name, model, data, config)
    else:
        source, loaded = (facts.digest(), facts) if isinstance(facts, FactSet) else (str(facts), load_facts(str(facts)))
        measurement, more, notes = _on_facts(name, model, loaded, config)
    results = model_results(measurement, model, [relation.name for relation in loaded.relations]) | more
    return _value(name, measurement, config, notes, results, {"model": dict(model.provenance), "facts": source})


def measured_results(name: str, model: LanguageModel, data: TrainingData, config: MeasureConfig) -> dict:
    """The entry in results.json of a model on the facts it was trained with; see `metrics.results.model_results`."""
    relations = [relation.name for relation in data.facts.relations]
    return model_results(_on_own_facts(name, model, data, config), model, relations)


def _on_own_facts(name: str, model: LanguageModel, data: TrainingData, config: MeasureConfig) -> Measurement:
    # The number of queries is known only once they are sampled, so the bar counts sets in percent.
    with progress(f"measure {name}, percent", 100) as report:

        def advance(set_name: str, done: int, total: int) -> None:
            report(int(100 * (SETS.index(set_name) + done / total) / len(SETS)), set_name.replace("_", " "))

        found = metrics_measure.measure(model, data.facts, data.split, config, progress=advance)
    if data.text is None:
        return found
    length = data.text.held_out_NT.shape[1]
    # In the model's own tokens, whatever tokenizer the data would make today.
    return with_text(found, model, windows_of(data.text.documents, model.tokenizer, length).held_out, config)


def _on_facts(
    name: str, model: LanguageModel, facts: FactSet, config: MeasureConfig
) -> tuple[Measurement, dict[str, object], tuple[str, ...]]:
    """The measurement, more of its plain numbers, and sentences about it."""
    with progress(f"measure {name}, percent", 100) as report:
        stages = ("what it knows", "facts", "known_facts")

        def advance(stage: str, done: int, total: int) -> None:
            report(int(100 * (stages.index(stage) + done / total) / len(stages)), stage.replace("_", " "))

        measurement, left_out, read = measure_facts(model, facts, config, progress=advance)
    first, end = read["answer"]
    tokens = " ".join(map(repr, read["tokens"]))
    none_known = "the model answers none of the facts that it was asked correctly"
    notes = (
        "left out: " + (", ".join(f"{n:,} {reason}" for reason, n in left_out.items()) or "nothing"),
        f"one of the texts, as it was read: {tokens}; answer: tokens {first} to {end - 1}",
        *([] if "known_facts" in measurement.sets else [none_known]),
    )
    return measurement, {"left_out": left_out, "read": read}, notes


def _of_examples(examples: ReadoutExamples, config: MeasureConfig, name: str, relations: Sequence[str]) -> Measurements:
    n_relations = int(examples.relation_N.max()) + 1
    named = list(relations) or [str(number) for number in range(n_relations)]
    if len(named) < n_relations:
        raise UserError(f"relations names {len(named)} relations, but the examples have {n_relations}")
    with progress(f"measure {name}, percent", 100) as report:

        def advance(_: str, done: int, total: int) -> None:
            report(100 * done // total, "")

        measurement = measure_examples({EXAMPLES: examples}, named, config, progress=advance)
    results = model_results(measurement, None, named)
    return _value(name, measurement, config, (), results, {"model": {}, "facts": None})


def _value(
    name: str, measurement: Measurement, config: MeasureConfig, notes: tuple[str, ...], results: dict, about: dict
) -> Measurements:
    about = {**about, "measure": dataclasses.asdict(config), **provenance()}
    return Measurements(name, measurement, config, notes, {**results, "provenance": about})
