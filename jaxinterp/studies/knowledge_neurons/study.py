"""The protocol of "Knowledge Neurons in Pretrained Transformers" (Dai et al. 2021) on any model and facts.

Every query's neurons are scored by integrated gradients and, as the paper's baseline, by their activation. The paper's
protocol gives each fact one set of neurons by its recurrence rule; the other one gives each query its k strongest. The
neurons are switched off and doubled, as are those of other facts, of every kind of control, and random ones.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxinterp.api.reported import shown_facts
from jaxinterp.attribution.selection import check_k
from jaxinterp.base.files import write_json
from jaxinterp.base.owner import owned
from jaxinterp.base.progress import progress
from jaxinterp.base.records import claim_recorded, saying_how_to_go_on
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.source import load_facts
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.report.shown import print_parts
from jaxinterp.studies.knowledge_neurons.config import KnowledgeNeuronsConfig
from jaxinterp.studies.knowledge_neurons.edits import edited
from jaxinterp.studies.knowledge_neurons.page import REPORT, write_page
from jaxinterp.studies.knowledge_neurons.queries import Asked, choose
from jaxinterp.studies.knowledge_neurons.results import Results, all_effects, asked_counts
from jaxinterp.studies.knowledge_neurons.scores import score
from jaxinterp.studies.knowledge_neurons.sets import Key, selections
from jaxinterp.studies.knowledge_neurons.tables import asked_shown, effects_shown, neurons_shown, relations_shown
from jaxinterp.studies.knowledge_neurons.usage import Usage, described_neurons, neuron_statistics, usage

MOST_USED = 20  # neurons that results.json lists; neurons.json has all
EXAMPLES = 3  # facts that the page shows with their neurons


def study(config: KnowledgeNeuronsConfig, out: Path) -> Results:
    """Runs the protocol, or goes on with it; prints tables and writes results.json, neurons.json, charts/ and
    report.html.

    Args:
      config: of the study.
      out: its folder. What was done there is kept fact by fact; the same study started again goes on.
    Raises:
      UserError: if the model or the facts cannot be read, or the folder holds another study.
    """
    facts = load_facts(config.facts)
    return study_of(load_model(config.model), facts, config, out)


def study_of(model: LanguageModel, facts: FactSet, config: KnowledgeNeuronsConfig, out: Path) -> Results:
    """`study` of a model and facts in memory."""
    n_layers, d_mlp = model.config.n_layers, model.config.d_mlp
    check_k(config.k, model.config.n_neurons)
    # Weights of the same name may have changed since a study began.
    identity = {"facts_sha256": facts.digest(), "weights_sha256": model.digest()}
    whole = {**dataclasses.asdict(config), **identity}
    with saying_how_to_go_on(out), owned(out):
        provenance = claim_recorded(whole, out)
        asked = choose(model, facts, config, out)
        record = score(model, asked, config, out)
        chosen = selections(asked, record, config)
        columns = edited(model, asked, chosen, config)
        recorded = [record[fact]["queries"] for fact in np.unique(asked.queries.fact_N).tolist()]
        residual_N = np.array([query["residual"] for queries in recorded for query in queries])
        columns = {key: {**of, "residual": residual_N} for key, of in columns.items()}
        uses = {key: usage(asked, selection) for key, selection in chosen.items()}
        neurons = _described(model, asked, uses)
        results = Results(
            config=whole,
            provenance=provenance,
            model={"name": config.model, "n_layers": n_layers, "d_mlp": d_mlp},
            facts=asked_counts(asked),
            effects=all_effects(asked, columns, config.replicates, config.seed),
            neurons={key: neuron_statistics(use, asked, model.config) for key, use in uses.items()},
            share={key: dict(selection.share) for key, selection in chosen.items()},
            most_used={protocol: described[:MOST_USED] for protocol, described in neurons.items()},
        )
        write_json(out / "results.json", results.to_json())
        write_json(out / "neurons.json", neurons)
        write_page(out, results, neurons, _examples(model, asked, config))
    print_parts([*asked_shown(results), *effects_shown(results), *neurons_shown(results), *relations_shown(results)])
    print(f"report: {out / REPORT}   numbers: {out / 'results.json'}   neurons: {out / 'neurons.json'}")
    return results


def _examples(model: LanguageModel, asked: Asked, config: KnowledgeNeuronsConfig) -> list[dict]:
    """Facts of the page, of those that the model gets right."""
    known = np.unique(asked.queries.fact_N[asked.correct_N]).tolist()
    if not known:
        return []
    chosen = tuple(asked.facts.facts[fact] for fact in known)
    return shown_facts({config.model: model}, FactSet(asked.facts.relations, chosen), EXAMPLES, config.k)


def _described(model: LanguageModel, asked: Asked, uses: Mapping[Key, Usage]) -> dict[str, list[dict]]:
    """By protocol, every neuron that attribution gives some fact."""
    neurons: dict[str, list] = {}
    of_attribution = {protocol: use for (protocol, method), use in uses.items() if method == "attribution"}
    with progress("describe neurons", sum(len(use.neuron_I) for use in of_attribution.values())) as report:
        for protocol, use in of_attribution.items():
            before = sum(map(len, neurons.values()))
            neurons[protocol] = described_neurons(use, asked, model, lambda n, b=before: report(b + n, "neurons"))
    return neurons
