"""The memories of a model: triggers of all neurons, their labels, what they do, and a page for each."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from jaxinterp.base.files import read_json, write_json, write_text
from jaxinterp.base.lines import CHECK
from jaxinterp.base.owner import owned
from jaxinterp.base.progress import progress
from jaxinterp.base.records import saying_how_to_go_on
from jaxinterp.base.run_folder import claim
from jaxinterp.editing.files import load_arrays, save_arrays
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.source import load_facts
from jaxinterp.memories.causal import OF, Effects, effects
from jaxinterp.memories.causal import shares as shares_of_triggers
from jaxinterp.memories.config import MemoriesConfig
from jaxinterp.memories.corpus import Corpus
from jaxinterp.memories.figures import memory_figures
from jaxinterp.memories.labels import Label, labels, shares
from jaxinterp.memories.legible import knowledge_neurons, known_queries, legible_facts
from jaxinterp.memories.lens import LENSES, Lens
from jaxinterp.memories.memory import Memories, memories
from jaxinterp.memories.pages import carried_facts, write_pages
from jaxinterp.memories.planted import grade, plantable, plants
from jaxinterp.memories.values import VALUES
from jaxinterp.metrics.results import plain
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.report.shown import Part, print_parts
from jaxinterp.training.texts import documents_of

SHOWN = {"figures": "Memories as of Geva et al.", "legible": "Values of facts' knowledge neurons"}
RESULTS, NEURONS, PAGES = "results.json", "neurons.csv", "pages"


def memories_study(config: MemoriesConfig, out: Path) -> dict:
    """Runs the study, or goes on with it; prints tables and writes results.json, neurons.csv and pages/.

    Args:
      config: of the study.
      out: its folder. The scan and the effects of each layer are kept there; the same study started again goes on.
    Returns:
      What results.json has.
    Raises:
      UserError: if model, facts or text cannot be read, or the folder holds another study.
    """
    model = load_model(config.model)
    facts = load_facts(config.facts) if config.text is None else None
    documents = None if config.text is None else documents_of(config.text)
    texts = [] if documents is None else list(documents.training.values())
    read = {"text_sha256": documents.digest} if facts is None else {"facts_sha256": facts.digest()}
    identity = {"weights_sha256": model.digest(), **read}
    with saying_how_to_go_on(out), owned(out):
        claim({**dataclasses.asdict(config), **identity}, out, resume=(out / "config.json").exists())
        found = memories(
            model,
            facts,
            texts,
            k=config.triggers,
            width=min(config.width, model.config.n_ctx),
            tokens=config.tokens,
            kept=out / "scan",
            seed=config.seed,
        )
        of_neurons = labels(found.triggers, found.contexts)
        results = {
            "config": dataclasses.asdict(config) | {"text": None if config.text is None else str(config.text)},
            "provenance": _provenance(out),
            "corpus": {
                "windows": len(found.corpus.length_N),
                "tokens": int(found.corpus.length_N.sum()),
                "contexts": found.contexts.n,
                "sentences_dropped": found.n_dropped,
            },
            "labels": shares(of_neurons),
            "grades": _grades(found, config),
            "causal": _causal(found, config, out),
            **_of_values(model, facts, found, config, out),
        }
        write_json(out / RESULTS, results)
        write_text(out / NEURONS, _table(found, of_neurons))
        index = _write_pages(model, facts, found, config, out)
    print_parts(shown(results))
    print(f"neurons: {index}   numbers: {out / RESULTS}, {out / NEURONS}")
    return results


def shown(results: Mapping) -> list[Part]:
    """The study's tables."""
    corpus = results["corpus"]
    kinds = sorted({kind for layer in results["labels"] for kind in layer if kind})
    of_labels = Table("layer", *kinds, "no label", title="Share of neurons by what their triggers have in common, %")
    for number, layer in enumerate(results["labels"]):
        of_labels.add_row(str(number), *(f"{100 * layer.get(kind, 0):.1f}" for kind in [*kinds, ""]))
    of_grades = Table("planted", "plants", "right %", "no label %", title="Labels of planted triggers")
    for kind, graded in results["grades"].items():
        share = [f"{100 * graded[name] / graded['n']:.1f}" for name in ("right", "unlabelled")]
        of_grades.add_row(kind or "nothing", str(graded["n"]), *share)
    title = "Share of triggers where a value's tokens rise with its neuron amplified, and fall with it off, %"
    of_causal = Table("layer", "change", *(f"tokens of {of} value" for of in OF), title=title)
    for layer, by_change in results["causal"].items():
        for change, by_value in by_change.items():
            of_causal.add_row(layer, change, *(_interval(by_value[of]) for of in OF))
    words = f"{corpus['tokens']:,} tokens in {corpus['windows']:,} windows, {corpus['contexts']:,} distinct contexts"
    tables = [of_labels, of_grades, of_causal]
    of_values = [_values_shown(results[name], title) for name, title in SHOWN.items() if name in results]
    return [words, *(table for table in [*tables, *of_values] if table.row_count)]


def _values_shown(figures: Mapping, title: str) -> Table:
    """Figures over all layers, by lens: of the model's own values and of both controls."""
    table = Table("figure", "lens", *VALUES, title=title)
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in figures["rows"]:
        if row["by"] == "all" and row["value"] is not None:
            ends = "" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]"
            cells.setdefault((row["figure"], row["lens"]), {})[row["values"]] = f"{row['value']:.3g}{ends}"
    for (figure, lens), by_values in cells.items():
        table.add_row(figures["figures"][figure]["title"], lens, *(by_values.get(name, "") for name in VALUES))
    return table


def _provenance(out: Path) -> dict:
    """What was written when the run began."""
    return {
        name: value for name, value in read_json(out / "config.json").items() if name not in ("config", "data", CHECK)
    }


def _interval(estimate: Mapping) -> str:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    ends = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f}{ends}"


def _grades(found: Memories, config: MemoriesConfig) -> dict[str, dict]:
    """By kind, of plants with noise; "" are plants of nothing, which should get no label."""
    if not config.plants:
        return {}
    graded = {}
    of_kinds = [
        feature.kind
        for feature in found.contexts.features
        if len(plantable(found.contexts, feature, noise=config.noise))
    ]
    for number, kind in enumerate(["", *of_kinds]):
        rng = np.random.default_rng([config.seed, number, *b"plants"])
        result = grade(found.contexts, list(plants(found.contexts, kind, config.plants, rng, noise=config.noise)))
        graded[kind] = {name: getattr(result, name) for name in ("n", "right", "unlabelled")}
    return graded


def _causal(found: Memories, config: MemoriesConfig, out: Path) -> dict[str, dict]:
    """Layer -> change -> whose tokens -> share of triggers; "all" is over the neurons of all layers."""
    by_layer = {}
    for layer in range(found.model.config.n_layers):
        of_layer = _kept_effects(found, config, layer, out / "effects" / f"{layer}.safetensors")
        if of_layer is not None:
            by_layer[str(layer)] = of_layer
    groups = {**{name: [of] for name, of in by_layer.items()}, "all": list(by_layer.values())}
    return {
        name: {
            change: {of: plain(estimate) for of, estimate in by_value.items()}
            for change, by_value in shares_of_triggers(group, config.causal).items()
        }
        for name, group in groups.items()
        if group
    }


def _kept_effects(found: Memories, config: MemoriesConfig, layer: int, path: Path) -> Effects | None:
    """`effects` of a layer, from a file if they are there."""
    if not path.exists():
        computed = effects(found, config.causal, layer)
        if computed is None:
            return None
        path.parent.mkdir(exist_ok=True)
        arrays = {name: np.ascontiguousarray(array) for name, array in computed._asdict().items() if name != "layer"}
        save_arrays(path, "effects of memories", arrays, {"layer": layer})
    arrays, said = load_arrays(path, "effects of memories")
    return Effects(said["layer"], **arrays)


def _lenses(model: LanguageModel, corpus: Corpus, config: MemoriesConfig) -> list[Lens]:
    """Lenses that are best on every other window. The figures are of all windows: those of lenses that are fitted are
    partly of texts that these have seen.
    """
    part = Corpus(*(values[::2] for values in corpus))
    found = []
    with progress("lenses", len(config.lenses)) as report:
        for number, name in enumerate(config.lenses):
            found.append(LENSES[name].fit(model.model, part, config.seed))
            report(number + 1, name)
    return found


def _of_values(model: LanguageModel, facts: FactSet | None, found: Memories, config: MemoriesConfig, out: Path) -> dict:
    """The figures of Geva et al., and whether the neurons that carry facts promote their answers; kept in figures.json,
    and as figures.csv and legible.csv.
    """
    path = out / "figures.json"
    if not config.lenses:
        return {}
    if not path.exists():
        lenses = _lenses(model, found.corpus, config)
        asked = dataclasses.replace(config.figures, n_prefix=len(model.tokenizer.prefix))
        tables = {"figures": memory_figures(model.model, found.corpus, found.triggers, lenses, asked)}
        queries = (
            None if facts is None or not config.legible else known_queries(model, facts, config.legible, config.seed)
        )
        if queries is not None:
            neurons = knowledge_neurons(model.model, queries, seed=config.seed)
            tables["legible"] = legible_facts(model.model, neurons, lenses, seed=config.seed)
        for name, table in tables.items():
            write_text(out / f"{name}.csv", table.csv())
        write_json(path, {name: table.to_json() for name, table in tables.items()})
    return read_json(path)


def _write_pages(
    model: LanguageModel, facts: FactSet | None, found: Memories, config: MemoriesConfig, out: Path
) -> Path:
    carried = [] if facts is None else carried_facts(model, facts, config.carried, seed=config.seed)
    n_layers, d_mlp = model.config.n_layers, model.config.d_mlp
    n = min(config.pages or d_mlp, d_mlp)
    neurons = [(layer, neuron) for layer in range(n_layers) for neuron in range(n)]
    return write_pages(out / PAGES, found, neurons, carried)


def _table(found: Memories, of_neurons: Sequence[Sequence[Label | None]]) -> str:
    """A line for each neuron: its highest activation and its label."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("kind", "value", "share", "base", "n", "p")
    writer.writerow(["layer", "neuron", "highest_activation", *names])
    for layer, of_layer in enumerate(of_neurons):
        for neuron, label in enumerate(of_layer):
            highest = f"{found.triggers.activation_LFK[layer, neuron, 0]:.6g}"
            writer.writerow([layer, neuron, highest, *(getattr(label, name) if label else "" for name in names)])
    return text.getvalue()
