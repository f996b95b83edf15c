"""Fine-tuning by folds over relations, so that each relation that a pretrained model knows is unseen once."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, rounded, write_json
from jaxinterp.base.owner import owned
from jaxinterp.base.progress import progress
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.folds import SHARE, relation_folds, spelled_out_groups
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.estimates import Estimates
from jaxinterp.metrics.intervals import interval_of_replicates, multiple_of_relations
from jaxinterp.metrics.measure import estimates_of, wanted
from jaxinterp.metrics.results import by_relation, left_out_relations, overall, plain
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.report.charts import save_chart
from jaxinterp.report.drop_bars import overview, relation_bars
from jaxinterp.report.printed import models_shown, spread_shown
from jaxinterp.report.sections import Section, write_sections
from jaxinterp.report.shown import Part, print_parts
from jaxinterp.studies.statistics import spread
from jaxinterp.studies.suppressability.finetuning import (
    ORIGINAL,
    REPORT,
    TUNED,
    UNSEEN,
    before_and_after,
    claim_tuning,
    columns_file,
    kept_in_words,
    kept_of,
    pieces_asked,
)
from jaxinterp.studies.suppressability.query_columns import joined, load_columns
from jaxinterp.studies.suppressability.seeds import spread_of_sets
from jaxinterp.training.finetune_config import FinetuneConfig
from jaxinterp.training.finetune_data import divided
from jaxinterp.training.finetune_known import Asked, ask
from jaxinterp.training.texts import TextData, text_data

LEVEL = 0.95  # of the intervals
PUBLISHED = "published.json"  # file of what pages quote
LEAD = (
    "A pretrained model was fine-tuned to be suppressable, once for each fold of the relations that it knows, and "
    "measured before and after. A fold's relations are unseen: no objective ever had one of their facts.",
    "All folds: every relation once, from the fold in which it is unseen; means and intervals over relations.",
)
HOW = {
    "models": "unseen relations of all folds: every relation counts once, from the fold in which it is unseen, where "
    "both models are measured on the same queries; a value is the mean over relations, C the largest of the kinds' "
    f"means over relations; {LEVEL:.0%} intervals are those of relations that are drawn",
    "change": "fine-tuned − original of the same, paired by relation; metrics that not all relations of both models "
    "have are left out",
    "mean_over_folds": "the other sets, which folds have largely in common: mean and standard deviation over folds of "
    "what each fold has for the set, and no interval; C is the largest kind in each fold",
    "kept": "of all that the original answers correctly in relations that are unseen, counted once: how much is still "
    "right; recall is the mean over relations",
    "perplexity": "of each fold on the same held-out text, and the ratio after / before over folds",
}


def finetuning_folds(name: str, config: FinetuneConfig, measure: MeasureConfig, out: Path, n_folds: int) -> dict:
    """Asks a model once what it knows, fine-tunes it once for each fold of the relations, and pools what is measured.

    A fold's relations are unseen while all others are seen. Relations whose answers spell each other out stay together,
    see `jaxinterp.facts.folds.spelled_out_groups`. `out` gets results.json, `REPORT` and charts/, and a folder foldN
    for each fold, which is that of `finetuning_study` with these unseen relations. Interrupted, it goes on where it was
    when it is started again with the same arguments.

    Args:
      name: of the model; see `jaxinterp.models.loading.bundle.load_model`.
      config: of every fold, but for `facts.unseen_relations`; `facts.seed` deals the folds.
      measure: how the models are measured.
      out: folder.
      n_folds: at least 2.
    Returns:
      What results.json holds: {"provenance", "pooled_how", "apart" (groups that stay together), "folds": [{"folder",
      "unseen_relations", "sets", "perplexity", "kept", "models": {title: {"sets"}}}], "models": {title: {"sets",
      "by_relation", "left_out_relations"}}, "change": {metric: E}, "mean_over_folds": {title: {set: {metric: spread}}},
      "kept": {title: {"right", "of", "recall"}}, "perplexity"}.
    Raises:
      UserError: if unseen relations are named, the model knows too few relations for the folds, or as
        `finetuning_study`.
    """
    if config.facts.unseen_relations:
        raise UserError(
            "with folds every relation is unseen once; leave facts.unseen_relations empty, or set folds to 1"
        )
    original = load_model(name)
    text = text_data(config.text.folder, original.tokenizer, config.text.length)
    with owned(out):
        return _folds(name, original, text, config, measure, out, n_folds)


def _folds(
    name: str,
    original: LanguageModel,
    text: TextData,
    config: FinetuneConfig,
    measure: MeasureConfig,
    out: Path,
    n_folds: int,
) -> dict:
    claim_tuning(name, config, measure, out, original, text, folds=n_folds)
    with progress("ask what the model knows", 100) as report:
        pieces = pieces_asked(config, text)
        asked = ask(original, config.facts, pieces, progress=lambda done, total: report(100 * done // total, ""))
    apart = spelled_out_groups(asked.whole, asked.relations, SHARE)
    folds = relation_folds(asked.relations, n_folds, config.facts.seed, apart)
    print(f"{len(asked.relations)} known relations in {n_folds} folds: {'; '.join(map(', '.join, folds))}")
    if apart:
        print(f"answers spell each other out, and stay together: {'; '.join(map(', '.join, apart))}")
    of_folds = []
    for number, unseen in enumerate(folds, 1):
        print(f"fold {number} of {n_folds}: unseen {', '.join(unseen)}", flush=True)
        own = dataclasses.replace(config, facts=dataclasses.replace(config.facts, unseen_relations=unseen))
        of_folds.append(_fold(name, original, asked, text, own, measure, out / f"fold{number}"))
    results = {
        "provenance": _provenance(name, config, measure, asked, n_folds),
        "apart": {"share": SHARE, "groups": apart},
        **pooled([out / f"fold{number}" for number in range(1, n_folds + 1)], of_folds, folds, measure),
    }
    write_json(out / "results.json", results)
    write_json(out / PUBLISHED, quoted(results), indent=None)
    charts = {"overview": overview(results), f"relations_{UNSEEN}": relation_bars(results, UNSEEN)}
    for title, chart in charts.items():
        if chart is not None:
            save_chart(chart, out / "charts", title)
    sections = [
        Section("pooled", "Unseen relations", _pooled_shown(results), charts),
        Section("folds", "The other sets, over folds", _folds_shown(results)),
        Section("how", "How figures are pooled", [f"{name.replace('_', ' ')}: {text}" for name, text in HOW.items()]),
    ]
    write_sections(out / REPORT, f"{name}, fine-tuned by folds", LEAD, sections, results["provenance"])
    print_parts([LEAD[1], *_pooled_shown(results), *_folds_shown(results)])
    return results


def quoted(results: Mapping) -> object:
    """What pages quote of the pooled results, to five digits, without folders of the machine.

    Returns:
      Parts of the results: {"provenance", "models": {title: {metric: E}} on unseen relations, "change",
      "mean_over_folds", "kept", "perplexity"}.
    """
    provenance = {name: results["provenance"][name] for name in ("revision", "date", "packages", "model", "n_folds")}
    models = {title: model["sets"][UNSEEN] for title, model in results["models"].items()}
    parts = {name: results[name] for name in ("change", "mean_over_folds", "kept", "perplexity")}
    return rounded({"provenance": provenance, "models": models, **parts})


def _fold(
    name: str,
    original: LanguageModel,
    asked: Asked,
    text: TextData,
    config: FinetuneConfig,
    measure: MeasureConfig,
    out: Path,
) -> dict:
    """The results of a fold, read if it is done."""
    claim_tuning(name, config, measure, out, original, text)
    if (out / "results.json").exists():
        return read_json(out / "results.json")
    with progress("ask what the model believes", 100) as report:
        data = divided(original, asked, config.facts, progress=lambda done, total: report(100 * done // total, ""))
    return before_and_after(name, original, data, text, config, measure, out)


def pooled(
    folders: Sequence[Path], of_folds: Sequence[Mapping], folds: Sequence[Sequence[str]], measure: MeasureConfig
) -> dict:
    """All of results.json but where it is from; `HOW` says what is pooled how.

    Args:
      folders: of the folds.
      of_folds: their results.
      folds: their unseen relations.
      measure: how the folds were measured.
    Raises:
      UserError: if a fold's columns cannot be read, or a relation is unseen in two folds.
    """
    estimates, kept = {}, {}
    for title in (ORIGINAL, TUNED):
        files = [columns_file(folder, title) for folder in folders]
        measured, known = (joined([load_columns(file, part) for file in files]) for part in ("measured", "known"))
        estimates[title] = estimates_of(wanted(measure), measured, measure)
        kept[title] = kept_of(known, measure)
    perplexities = [fold["perplexity"] for fold in of_folds]
    return {
        "pooled_how": HOW,
        "folds": [
            {
                "folder": folder.name,
                "unseen_relations": list(unseen),
                "sets": fold["provenance"]["sets"],
                **{part: fold[part] for part in ("perplexity", "kept")},
                "models": {title: {"sets": fold["models"][title]["sets"]} for title in estimates},
            }
            for folder, unseen, fold in zip(folders, folds, of_folds, strict=True)
        ],
        "models": {
            title: {
                "sets": overall({UNSEEN: metrics}),
                "by_relation": {UNSEEN: by_relation(metrics)},
                "left_out_relations": left_out_relations({UNSEEN: metrics}),
            }
            for title, metrics in estimates.items()
        },
        "change": {
            name: change
            for name, before in estimates[ORIGINAL].items()
            if name in estimates[TUNED] and (change := change_of(before, estimates[TUNED][name])) is not None
        },
        "mean_over_folds": {
            title: spread_of_sets([_others(fold["models"][title]) for fold in of_folds]) for title in kept
        },
        "kept": kept,
        "perplexity": {
            "by_fold": perplexities,
            "ratio": spread([fold[TUNED] / fold[ORIGINAL] for fold in perplexities]),
        },
    }


def change_of(before: Estimates, after: Estimates) -> dict | None:
    """after − before with the interval of relations that are drawn, {"value", "low", "high", "n"}.

    Replicates of both draw the same relations, so that differences are paired. None if a relation has the metric in one
    of them alone, or it has no values in relations. Fewer than three relations have no interval.
    """
    relations = [
        {name for name, value in of.by_relation.items() if math.isfinite(value.value)} for of in (before, after)
    ]
    if relations[0] != relations[1] or not relations[0]:
        return None
    m = len(relations[0])
    multiple = multiple_of_relations(LEVEL, m) if m > 2 else math.nan
    n = min(before.overall.n, after.overall.n)
    return plain(interval_of_replicates(after.samples - before.samples, (-math.inf, math.inf), multiple, n))


def _others(model: Mapping) -> dict:
    return {name: metrics for name, metrics in model["sets"].items() if name != UNSEEN}


def _provenance(name: str, config: FinetuneConfig, measure: MeasureConfig, asked: Asked, n_folds: int) -> dict:
    return {
        **provenance(),
        "model": name,
        "n_folds": n_folds,
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "measure": dataclasses.asdict(measure),
        "facts": {
            "sha256": asked.facts.digest(),
            "asked": len(asked.queries),
            "known": len(asked.known),
            "left_out": dict(asked.dropped),
        },
    }


def _pooled_shown(results: Mapping) -> list[Part]:
    change = {"sets": {UNSEEN: results["change"]}}
    shown = {"models": {**results["models"], f"{TUNED} − {ORIGINAL}": change}}
    kept = kept_in_words(results["kept"][TUNED])
    return [*models_shown(shown), f"what was known of unseen relations and is still right: {kept}"]


def _folds_shown(results: Mapping) -> list[Part]:
    ratio = results["perplexity"]["ratio"]
    parts: list[Part] = [spread_shown(results["mean_over_folds"], "model", "folds")]
    for fold in results["folds"]:
        before, after = fold["perplexity"].values()
        parts.append(
            f"perplexity, {fold['folder']}: {before:.3f} before, {after:.3f} after ({after / before - 1:+.2%})"
        )
    overall = f"{ratio['mean'] - 1:+.2%} [{ratio['min'] - 1:+.2%}, {ratio['max'] - 1:+.2%}]"
    return [*parts, f"perplexity, mean over folds and range: {overall}"]
