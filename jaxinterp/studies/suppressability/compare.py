"""Train several models on the same data, in the same order, and measure them side by side."""

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from pathlib import Path

from rich.table import Table

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, writable_folder, write_json
from jaxinterp.base.progress import print_table, progress
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.leakage import leakage
from jaxinterp.facts.splits import SETS
from jaxinterp.facts.worldfacts import describe
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.measure import measure
from jaxinterp.metrics.results import (
    CONTROL_DROPS,
    HEADLINE,
    has_interval,
    is_few,
    is_known,
    marks_sentence,
    missing_sentence,
    model_results,
    published_figures,
    remarks,
)
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.report.charts import neuron_use, save_chart, training_curves
from jaxinterp.report.comparison import write_report
from jaxinterp.report.drop_bars import overview, relation_bars, second_opinion
from jaxinterp.report.labels import metric_label
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.data import TrainingData, training_data
from jaxinterp.training.fork import branch, common_step
from jaxinterp.training.loop import train

FIGURES = {  # of the printed table
    "suppressability": "S",
    **{name: name.replace("control_drop", "C") for name in CONTROL_DROPS},
    "control_drop": "C, the largest of them",
    "selective": "S − C",
    "random_drop": "random neurons",
    "control_drop_answer": "C_answer, for information",
    "amplification": "amplified",
    "ablation_suppressability": "S, by exact ablation",
    "ablation_control_drop": "C, by exact ablation",
    "ablation_selective": "S − C, by exact ablation",
    "recall": "recall",
}


def compare(
    configs: Mapping[str, TrainConfig], measure_config: MeasureConfig, out: Path, *, published: Path | None = None
) -> dict:
    """Trains and measures every model; writes results.json, report.html and the charts to `out`.

    A model whose run in `out` has begun is continued, one that is done is not trained again, so that an interrupted
    comparison goes on when it is started once more. Steps that a model has in common with the first one (those before
    its objective starts) are trained once.

    Args:
      configs: by model name; they must share data and seed, so that only what is compared differs.
      measure_config: how all of them are measured.
      out: folder; a run's files are in `out`/name.
      published: file of `published.publish`, whose figures are set beside this run's; None: none.
    Returns:
      What results.json holds: {"provenance", "seconds" (of this call), "models": {name: M}, "leakage": {set: shares
      that the objective has seen}, "published": {name: {set: {metric: figure}}}}, M as `metrics.results.model_results`
      gives it.
    Raises:
      UserError: if the configs do not share data and seed, `out` cannot be written, or holds runs of other configs.
    """
    start = time.monotonic()
    first = next(iter(configs.values()))
    for name, config in configs.items():
        if (config.data, config.seed) != (first.data, first.seed):
            raise UserError(
                f"model {name!r} has other data or another seed than the first; a comparison needs the same"
            )
    writable_folder(out)
    print("building facts", flush=True)
    data = training_data(first.data)
    print(describe(data.facts), flush=True)
    models, histories, runs = {}, {}, {}
    for name, config in configs.items():
        folder = out / name
        common = 0 if config is first else common_step(config, first)
        if common and not folder.exists():
            branch(config, out / next(iter(configs)), common, folder)
        bundle = train(config, data, folder, resume=(folder / "config.json").exists(), title=f"train {name}")
        own = _history(folder)
        before = [line for line in histories[next(iter(configs))] if line["step"] < own[0]["step"]] if common else []
        histories[name], runs[name] = [*before, *own], bundle.provenance
        models[name] = measured_results(name, bundle, data, measure_config)
    results = {
        "provenance": _provenance(runs, measure_config, data),
        "seconds": round(time.monotonic() - start, 1),
        "models": models,
        "leakage": {name: found.to_json() for name, found in leakage(data.facts, data.split).items()},
        "published": {} if published is None else single_seeds(read_json(published), configs),
    }
    write_json(out / "results.json", results)
    write_report(out / "report.html", results, histories)
    _write_charts(results, histories, out)
    print_models(results)
    print_published(results)
    return results


def single_seeds(found: Mapping, names: Collection[str]) -> dict:
    """The figures of a file of `published.publish`, of some models: means over seeds, and where a
    single seed's figure is expected.
    """
    return {
        name: {
            set_name: {
                metric: {"value": figure["value"], "low": figure["from"], "high": figure["to"]}
                for metric, figure in metrics.items()
            }
            for set_name, metrics in sets.items()
        }
        for name, sets in found["models"].items()
        if name in names
    }


def measured_results(name: str, model: LanguageModel, data: TrainingData, config: MeasureConfig) -> dict:
    """Measures a model with a progress bar; returns its entry in results.json, see `metrics.results.model_results`."""
    # The number of queries is known only once they are sampled, so the bar counts sets in percent.
    with progress(f"measure {name}", 100 * len(SETS)) as report:

        def advance(set_name: str, done: int, total: int) -> None:
            report(100 * SETS.index(set_name) + 100 * done // total, set_name.replace("_", " "))

        measurement = measure(model, data.facts, data.split, config, progress=advance)
    return model_results(measurement, model, [relation.name for relation in data.facts.relations])


def _history(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _provenance(runs: Mapping[str, Mapping], measure_config: MeasureConfig, data: TrainingData) -> dict:
    return {
        **provenance(),
        "facts": {"kept": len(data.facts), "dropped": dict(data.facts.dropped)},
        "sets": {name: len(getattr(data.split, name)) for name in ("training", *SETS)},
        "measure": dataclasses.asdict(measure_config),
        "models": dict(runs),
    }


def _write_charts(results: Mapping, histories: Mapping, out: Path) -> None:
    charts = {
        "overview": overview(results),
        "second_opinion": second_opinion(results),
        "training": training_curves(histories),
        "neurons": neuron_use(results),
        **{f"relations_{set_name}": relation_bars(results, set_name) for set_name in SETS},
    }
    for name, chart in charts.items():
        if chart is not None:
            save_chart(chart, out / "charts", name)


def print_models(results: Mapping) -> None:
    """Prints models by metric and set, with 95 % intervals; metrics that no model has are left out."""
    models = results["models"]
    sets = list(dict.fromkeys(set_name for model in models.values() for set_name in model["sets"]))
    measured = {name for model in models.values() for metrics in model["sets"].values() for name in metrics}
    shown = shown_figures(measured)
    title = "k neurons off, % of the answers' probability [95 % interval over facts and relations]"
    table = Table("model", "", *(set_name.replace("_", " ") for set_name in sets), title=title)
    for name, model in models.items():
        for metric, label in shown.items():
            cells = (_percent(model["sets"].get(set_name, {}).get(metric)) for set_name in sets)
            table.add_row(name if metric == next(iter(shown)) else "", label, *cells)
        table.add_section()
    print_table(table)
    if missing := missing_sentence(results):
        print(missing)
    print_remarks(results)
    for name, model in models.items():
        entropy = model.get("cross_entropy")
        words = [f"cross-entropy {entropy['value']:.4f} nats a token"] if entropy else []
        print(f"{name}: " + ", ".join([*words, f"recall {_percent(model['recall'])}"]))


def print_remarks(results: Mapping) -> None:
    """Prints, of each model, which relations its figures lack, where S and C are over different facts, and what marks
    in its table say.
    """
    models = results["models"]
    for sentence in remarks(models):
        print(sentence)
    shown = [value for model in models.values() for metrics in model["sets"].values() for value in metrics.values()]
    if marks := marks_sentence(shown):
        print(marks)


def shown_figures(measured: Set[str]) -> dict[str, str]:
    """Those of `FIGURES` that were measured, and with one kind of control all, so that what is missing is seen."""
    controls = CONTROL_DROPS if measured & set(CONTROL_DROPS) else ()
    return {name: label for name, label in FIGURES.items() if name in measured or name in controls}


def print_published(results: Mapping) -> None:
    """Prints this run's headline figures beside the published ones, and whether they lie inside; nothing if none is."""
    figures = [figure for figure in published_figures(results) if figure.metric in HEADLINE]
    if not figures:
        return
    headers = ("model", "set", "metric", "this run", "published: mean, 95 % of seeds", "inside")
    table = Table(*headers, title="This run beside the published range; % if not said otherwise")
    for figure in figures:
        about = metric_label(figure.metric)
        unit = f", {about.unit}" if about.unit not in ("", "%") else ""
        inside = {True: "yes", False: "no", None: "not measured"}[figure.inside]
        cells = (_in_unit(figure.measured, about.unit), _in_unit(figure.published, about.unit), inside)
        table.add_row(figure.model, figure.set_name.replace("_", " "), str(about) + unit, *cells)
    print_table(table)
    known = [figure.inside for figure in figures if figure.inside is not None]
    print(f"{sum(known)} of {len(known)} figures of this run lie inside the published range, as 95 % of seeds would")


def print_metrics(results: Mapping, names: Sequence[str]) -> None:
    """Prints named metrics, a row each, by set, with 95 % intervals."""
    for name, model in results["models"].items():
        sets = model["sets"]
        table = Table("metric", "unit", *(set_name.replace("_", " ") for set_name in sets), title=name)
        for metric in names:
            about = metric_label(metric)
            cells = (_in_unit(of.get(metric), about.unit) for of in sets.values())
            table.add_row(str(about), about.unit, *cells)
        print_table(table)
    print_remarks(results)


def _in_unit(value: Mapping | None, unit: str) -> str:
    if unit == "%" or not is_known(value):
        return _percent(value)
    return f"{value['value']:.4g} {_interval(value, '{:.4g}'.format)}"


def _percent(value: Mapping | None) -> str:
    if not is_known(value):
        return "–"
    return f"{100 * value['value']:.1f} {_interval(value, lambda end: f'{100 * end:.1f}')}"


def _interval(value: Mapping, text: Callable[[float], str]) -> str:
    """In brackets; a dash where it was not estimated, a star where few facts are behind it."""
    if not has_interval(value):
        return "[–]"
    return f"[{text(value['low'])}, {text(value['high'])}]{'*' * is_few(value)}"
