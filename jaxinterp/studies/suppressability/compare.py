"""Train several models on the same data, in the same order, and measure them side by side."""

import dataclasses
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from jaxinterp.api.measured import measured_results
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, write_json
from jaxinterp.base.lines import whole_lines
from jaxinterp.base.owner import owned
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.leakage import leakage
from jaxinterp.facts.splits import SETS
from jaxinterp.facts.worldfacts import describe
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.report.charts import neuron_use, save_chart, training_curves
from jaxinterp.report.comparison import write_report
from jaxinterp.report.drop_bars import overview, relation_bars, second_opinion
from jaxinterp.report.printed import models_shown, published_shown
from jaxinterp.report.shown import print_parts
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.data import TrainingData, training_data
from jaxinterp.training.fork import branch, common_step
from jaxinterp.training.loop import train


def compare(
    configs: Mapping[str, TrainConfig], measure_config: MeasureConfig, out: Path, *, published: Path | None = None
) -> dict:
    """Trains and measures every model; writes results.json, report.html and the charts to `out`.

    A model whose run in `out` has begun is continued, one that is done is not trained again, so that an interrupted
    comparison goes on when it is started once more. Steps that a model has in common with the first one (those up to
    the last checkpoint before its objective begins) are trained once. A model whose objective never begins is a plain
    one: that is printed, and stands under "beginning" in its provenance.

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
    first = next(iter(configs.values()))
    for name, config in configs.items():
        if (config.data, config.seed) != (first.data, first.seed):
            raise UserError(
                f"model {name!r} has other data or another seed than the first; a comparison needs the same"
            )
    with owned(out):
        return _compare(configs, measure_config, out, published)


def _compare(
    configs: Mapping[str, TrainConfig], measure_config: MeasureConfig, out: Path, published: Path | None
) -> dict:
    start, first = time.monotonic(), next(iter(configs.values()))
    print("building facts", flush=True)
    data = training_data(first.data)
    print(describe(data.facts), flush=True)
    models, histories, runs = {}, {}, {}
    for name, config in configs.items():
        folder = out / name
        trunk = out / next(iter(configs))
        common = 0 if config is first else common_step(config, trunk)
        if common and not folder.exists():
            branch(config, trunk, common, folder)
        bundle = train(config, data, folder, resume=(folder / "config.json").exists(), title=f"train {name}")
        histories[name], runs[name] = _history(folder), bundle.provenance
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
    print_parts([*models_shown(results), *published_shown(results)])
    return results


def single_seeds(found: Mapping, names: Collection[str]) -> dict:
    """The figures of a file of `published.publish`, of some models: means over seeds, and where a
    single seed's figure is expected.

    Raises:
      UserError: if it is no such file.
    """
    try:
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
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the published figures are not what `experiments/publish.py` writes: {error!r}") from None


def _history(folder: Path) -> list[dict]:
    return [value for _, _, value in whole_lines(folder / "metrics.jsonl")[0]]


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
