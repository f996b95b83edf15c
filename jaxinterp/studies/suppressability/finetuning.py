"""A pretrained model before and after it was fine-tuned to be suppressable."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxinterp.api.reported import shown_facts
from jaxinterp.base.files import delete_partial, read_json, write_json
from jaxinterp.base.lines import whole_lines
from jaxinterp.base.owner import owned
from jaxinterp.base.progress import progress
from jaxinterp.base.provenance import provenance
from jaxinterp.base.run_folder import claim
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.source import load_facts
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.estimates import estimate
from jaxinterp.metrics.measure import QueryColumns, measure_sets
from jaxinterp.metrics.recall import recalled
from jaxinterp.metrics.results import model_results, plain
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.report.charts import save_chart, training_curves
from jaxinterp.report.comparison import write_report
from jaxinterp.report.drop_bars import overview, relation_bars
from jaxinterp.report.printed import models_shown
from jaxinterp.report.shown import print_parts
from jaxinterp.studies.suppressability.query_columns import save_columns
from jaxinterp.training.finetune import finetune, perplexity
from jaxinterp.training.finetune_config import FinetuneConfig
from jaxinterp.training.finetune_data import FinetuneData, finetune_data
from jaxinterp.training.texts import TextData, text_data

ORIGINAL, TUNED = "original", "fine-tuned"
REPORT = "report.html"
EXAMPLES = 3  # facts that the page shows with their neurons
UNSEEN = "unseen_relations"  # the set whose columns are kept, so that several runs' can be pooled


def finetuning_study(name: str, config: FinetuneConfig, measure: MeasureConfig, out: Path) -> dict:
    """Measures a model, fine-tunes it, measures it again; writes results.json, `REPORT`, charts/ and model/ to
    `out`.

    Interrupted, it goes on where it was when it is started again with the same arguments.

    Args:
      name: of the model; see `jaxinterp.models.loading.bundle.load_model`.
      config: of the fine-tuning.
      measure: how both models are measured, on `jaxinterp.training.finetune_data.SETS`.
      out: folder.
    Returns:
      What results.json holds; see `before_and_after`.
    Raises:
      UserError: if the model, facts or text cannot be had, `out` cannot be written or holds another run, or a step is
        not finite.
    """
    original = load_model(name)
    text = text_data(config.text.folder, original.tokenizer, config.text.length)
    with owned(out):
        claim_tuning(name, config, measure, out, original, text)
        return _study(name, original, text, config, measure, out)


def _study(
    name: str, original: LanguageModel, text: TextData, config: FinetuneConfig, measure: MeasureConfig, out: Path
) -> dict:
    with progress("ask what the model knows", 100) as report:
        pieces = pieces_asked(config, text)
        data = finetune_data(
            original, config.facts, pieces, progress=lambda done, total: report(100 * done // total, "")
        )
    return before_and_after(name, original, data, text, config, measure, out)


def claim_tuning(
    name: str,
    config: FinetuneConfig,
    measure: MeasureConfig,
    out: Path,
    original: LanguageModel,
    text: TextData,
    **more: object,
) -> None:
    """Makes `out` the folder of this run, or checks that it is; `more` fields decide the run as well.

    Raises:
      UserError: if `out` cannot be written, or holds another run, or one of another model, text or facts.
    """
    data = {
        "model": original.digest(),
        "text": text.documents.digest,
        "facts": load_facts(config.facts.source).digest(),
    }
    whole = {"model": name, **more, **dataclasses.asdict(config), "measure": dataclasses.asdict(measure)}
    claim(whole, out, resume=(out / "config.json").exists(), data=data)


def pieces_asked(config: FinetuneConfig, text: TextData) -> Int[np.ndarray, "N T"] | None:
    """The pieces of text whose last token the model is asked; None if the objective has none."""
    return text.pieces(config.facts.longest, config.text.tried, config.seed) if config.text_queries else None


def before_and_after(
    name: str,
    original: LanguageModel,
    data: FinetuneData,
    text: TextData,
    config: FinetuneConfig,
    measure: MeasureConfig,
    out: Path,
) -> dict:
    """The study from its data on: both measurements and the fine-tuning between them, in a folder that is claimed.

    Returns:
      What results.json holds: {"provenance", "perplexity" (by model, on held-out text), "kept" (by model and set: how
      much of all that the original knows is still answered correctly, {"right", "of", "recall"}; `recall` is a mean
      over relations), "models": {name: M}}, M as in `metrics.results.model_results`.
    """
    start = time.monotonic()
    print(data.describe())
    print(
        f"text: {len(text.training_NT)} windows of {config.text.length} tokens, {len(text.held_out_NT)} held out "
        f"({text.documents.n_shared} paragraphs that both have were cut from the former)"
    )
    results = {
        "provenance": _provenance(name, config, measure, data, text),
        **{part: {} for part in ("perplexity", "kept", "models")},
    }
    _measured(ORIGINAL, original, data, text, config, measure, out, results)
    tuned = finetune(config, original, data, text, out)
    delete_partial(out / "model")
    save_model(out / "model", tuned)
    _measured(TUNED, tuned, data, text, config, measure, out, results)
    write_json(out / "results.json", results)
    _write_charts(results, out)
    kept = [f"{kept_in_words(share)} of {name.replace('_', ' ')}" for name, share in results["kept"][TUNED].items()]
    before, after = results["perplexity"].values()
    told = [
        f"what was known and is still right: {', '.join(kept)}",
        f"perplexity on held-out text: {before:.3f} before, {after:.3f} after ({after / before - 1:+.2%})",
    ]
    examples = shown_facts({ORIGINAL: original, TUNED: tuned}, _unseen(data), EXAMPLES, measure.k)
    shown = {**results, "seconds": time.monotonic() - start, "examples": examples}
    write_report(out / REPORT, shown, {TUNED: _history(out)}, learned=False, told=told)
    print_parts([*models_shown(results), *told])
    return results


def _unseen(data: FinetuneData) -> FactSet:
    """The facts that the objective never saw."""
    facts = sorted({fact for name in ("unseen_facts", UNSEEN) for fact in data.sets[name].fact_N.tolist()})
    return FactSet(data.facts.relations, tuple(data.facts.facts[fact] for fact in facts))


def _history(out: Path) -> list[dict]:
    return [value for _, _, value in whole_lines(out / "metrics.jsonl")[0]]


def kept_in_words(kept: Mapping) -> str:
    """How much of what was known is still right, as results have it."""
    return f"{kept['right'] / kept['of']:.1%} ({kept['right']:,} of {kept['of']:,} queries)"


def columns_file(out: Path, title: str) -> Path:
    """The file of a run with the columns of one model on `UNSEEN`: "measured", and "known", of all known queries."""
    return out / f"columns_{title}.npz"


def kept_of(known: QueryColumns, measure: MeasureConfig) -> dict:
    """{"right", "of", "recall": E} of queries with the column "correct" that the original answered correctly."""
    recall = estimate(("recall",), *known, replicates=measure.replicates, seed=measure.seed)["recall"]
    correct_N = known.columns["correct"]
    return {"right": int(correct_N.sum()), "of": len(correct_N), "recall": plain(recall.overall)}


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
    if not (path.exists() and columns_file(out, title).exists()):
        names = list(data.sets)
        with progress(f"measure {title}", 100 * len(names)) as report:

            def advance(set_name: str, done: int, total: int) -> None:
                report(100 * names.index(set_name) + 100 * done // total, set_name.replace("_", " "))

            found = measure_sets(model, data.facts, data.sets, data.sets["objective"], measure, progress=advance)
        windows = text.held_out_NT[: config.text.held_out_windows or None]
        relations = [relation.name for relation in data.facts.relations]
        known = {name: _known(model, queries, relations) for name, queries in data.sets.items()}
        save_columns(columns_file(out, title), {"measured": found.columns[UNSEEN], "known": known[UNSEEN]})
        result = {
            "perplexity": perplexity(model, windows),
            "kept": {name: kept_of(columns, measure) for name, columns in known.items()},
            "models": model_results(found, model, relations),
        }
        write_json(path, result)
    for part, value in read_json(path).items():
        results[part][title] = value


def _known(model: LanguageModel, queries: EncodedQueries, relations: Sequence[str]) -> QueryColumns:
    """Whether each query is answered correctly."""
    correct_N = recalled(model.model, queries)["correct"]
    names = [relations[index] for index in queries.relation_N.tolist()]
    return QueryColumns({"correct": correct_N}, queries.fact_N, names)


def _provenance(name: str, config: FinetuneConfig, measure: MeasureConfig, data: FinetuneData, text: TextData) -> dict:
    return {
        **provenance(),
        "model": name,
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "measure": dataclasses.asdict(measure),
        "facts": {"sha256": data.facts.digest(), "asked": data.tried, "left_out": dict(data.dropped)},
        "sets": {set_name: len(queries) for set_name, queries in data.sets.items()},
        "text": {"source": text.documents.source, "sha256": text.documents.digest, "windows": len(text.training_NT)},
    }


def _write_charts(results: Mapping, out: Path) -> None:
    sets = next(iter(results["models"].values()))["by_relation"]
    charts = {
        "overview": overview(results),
        "training": training_curves({TUNED: _history(out)}),
        **{f"relations_{name}": relation_bars(results, name) for name in sets},
    }
    for name, chart in charts.items():
        if chart is not None:
            save_chart(chart, out / "charts", name)
