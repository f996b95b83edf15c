"""A pretrained model before and after it was fine-tuned to be suppressable."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from jaxinterp.base.files import read_json, write_json
from jaxinterp.base.progress import progress
from jaxinterp.base.provenance import provenance
from jaxinterp.base.run_folder import claim
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.measure import measure_sets
from jaxinterp.metrics.results import model_results
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.report.charts import save_chart, training_curves
from jaxinterp.report.drop_bars import overview, relation_bars
from jaxinterp.report.printed import models_shown
from jaxinterp.report.shown import print_parts
from jaxinterp.training.finetune import finetune, perplexity
from jaxinterp.training.finetune_config import FinetuneConfig
from jaxinterp.training.finetune_data import FinetuneData, finetune_data
from jaxinterp.training.texts import TextData, text_data


def finetuning_study(name: str, config: FinetuneConfig, measure: MeasureConfig, out: Path) -> dict:
    """Measures a model, fine-tunes it, measures it again; writes results.json, charts/ and model/ to `out`.

    Interrupted, it goes on where it was when it is started again with the same arguments.

    Args:
      name: of the model; see `jaxinterp.models.loading.bundle.load_model`.
      config: of the fine-tuning.
      measure: how both models are measured, on `jaxinterp.training.finetune_data.SETS`.
      out: folder.
    Returns:
      What results.json holds: {"provenance", "perplexity" (by model, on held-out text), "models": {name: M}}, M as in
      `metrics.results.model_results`.
    Raises:
      UserError: if the model, facts or text cannot be had, `out` cannot be written or holds another run, or a step is
        not finite.
    """
    whole = {"model": name, **dataclasses.asdict(config), "measure": dataclasses.asdict(measure)}
    original = load_model(name)
    text = text_data(config.text.folder, original.tokenizer, config.text.length)
    claim(whole, out, resume=(out / "config.json").exists())
    with progress("ask what the model knows", 100) as report:
        pieces = text.pieces(config.facts.longest, config.text.tried, config.seed) if config.text_queries else None
        data = finetune_data(original, config.facts, pieces, progress=lambda done, total: report(100 * done // total))
    print(data.describe())
    print(
        f"text: {len(text.training_NT)} windows of {config.text.length} tokens, {len(text.held_out_NT)} held out "
        f"({text.n_shared} paragraphs that both have were cut from the former)"
    )
    results = {"provenance": _provenance(name, config, measure, data, text), "perplexity": {}, "models": {}}
    _measured("original", original, data, text, config, measure, out, results)
    tuned = finetune(config, original, data, text, out)
    save_model(out / "model", tuned)
    _measured("fine-tuned", tuned, data, text, config, measure, out, results)
    write_json(out / "results.json", results)
    _write_charts(results, out)
    print_parts(models_shown(results))
    before, after = results["perplexity"].values()
    print(f"perplexity on held-out text: {before:.3f} before, {after:.3f} after ({after / before - 1:+.2%})")
    return results


def _measured(
    title: str,
    model: LanguageModel,
    data: FinetuneData,
    text: TextData,
    config: FinetuneConfig,
    measure: MeasureConfig,
    out: Path,
    results: dict,
) -> None:
    """Adds a model's measurement to the results; one that an interrupted run has made is read."""
    path = out / f"measured_{title}.json"
    if not path.exists():
        names = list(data.sets)
        with progress(f"measure {title}", 100 * len(names)) as report:

            def advance(set_name: str, done: int, total: int) -> None:
                report(100 * names.index(set_name) + 100 * done // total, set_name.replace("_", " "))

            found = measure_sets(model, data.facts, data.sets, data.sets["objective"], measure, progress=advance)
        windows = text.held_out_NT[: config.text.held_out_windows or None]
        relations = [relation.name for relation in data.facts.relations]
        write_json(path, {"perplexity": perplexity(model, windows), "measured": model_results(found, model, relations)})
    known = read_json(path)
    results["perplexity"][title], results["models"][title] = known["perplexity"], known["measured"]


def _provenance(name: str, config: FinetuneConfig, measure: MeasureConfig, data: FinetuneData, text: TextData) -> dict:
    return {
        **provenance(),
        "model": name,
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "measure": dataclasses.asdict(measure),
        "facts": {"sha256": data.facts.digest(), "asked": data.tried, "left_out": dict(data.dropped)},
        "sets": {set_name: len(queries) for set_name, queries in data.sets.items()},
        "text": {"source": text.source, "sha256": text.digest, "windows": len(text.training_NT)},
    }


def _write_charts(results: Mapping, out: Path) -> None:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    sets = next(iter(results["models"].values()))["by_relation"]
    charts = {
        "overview": overview(results),
        "training": training_curves({"fine-tuned": [json.loads(line) for line in lines]}),
        **{f"relations_{name}": relation_bars(results, name) for name in sets},
    }
    for name, chart in charts.items():
        if chart is not None:
            save_chart(chart, out / "charts", name)
