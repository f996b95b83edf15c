"""Measurements as plain data: what results.json holds and charts and reports read."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.facts.controls import CONTROL_KINDS
from jaxinterp.metrics.estimates import Estimates
from jaxinterp.metrics.intervals import Estimate
from jaxinterp.metrics.measure import Measurement
from jaxinterp.metrics.samples import NOT_FINITE, NOTHING_LEFT
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.lens import as_unembedded, unembedding

# Those of a bidirectional model lack the first; the last is that of a model which was trained on text
ABILITY = ("cross_entropy", "recall", "text_cross_entropy")
MOST_USED = 20  # neurons listed
CONTROL_DROPS = tuple(f"control_drop_{kind}" for kind in CONTROL_KINDS)  # C is the largest of them
FEW = 5  # facts: the interval of fewer is marked, for it rests on little
HEADLINE = ("suppressability", *CONTROL_DROPS, "control_drop", "selective", "random_drop")  # what is said first


class PublishedFigure(NamedTuple):
    """A published figure beside this run's."""

    model: str
    set_name: str
    metric: str
    published: Mapping  # "value", "low", "high": mean over seeds, and where 95 % of single seeds are expected
    measured: Mapping | None  # this run's, with its interval; None if it was not measured
    inside: bool | None  # whether this run's value lies in the published range; None if it was not measured


def model_results(measurement: Measurement, model: LanguageModel | None, relations: list[str]) -> dict:
    """The entry of one model in results.json.

    {of `ABILITY`: E, "sets": {set: {metric: E}}, "by_relation": {set: {relation: {metric: E}}},
    "left_out_relations": {set: {relation: why}}, "neurons": [...], "layers": [...]} with E = {"value", "low", "high",
    "n"}; n counts facts. Null stands for a value that there is none of, and for the ends of an interval that was not
    estimated. A relation is left out of a set's figures where they have no finite value in it, see
    `jaxinterp.metrics.estimates.estimate`.
    """
    return {
        **{name: plain(measurement.ability[name].overall) for name in ABILITY if name in measurement.ability},
        "sets": overall(measurement.sets),
        "by_relation": {set_name: by_relation(metrics) for set_name, metrics in measurement.sets.items()},
        "left_out_relations": left_out_relations(measurement.sets),
        "neurons": most_used_neurons(measurement, model, relations),
        "layers": _shares(measurement.selected.sum((0, 2))),
    }


def overall(sets: Mapping[str, Mapping[str, Estimates]]) -> dict[str, dict[str, dict]]:
    """Set -> metric -> {"value", "low", "high", "n"}."""
    return {
        set_name: {name: plain(values.overall) for name, values in metrics.items()}
        for set_name, metrics in sets.items()
    }


def missing_sentence(results: Mapping | None = None) -> str:
    """What a dash in place of a control drop says, and of which sets; nothing if no set of the results lacks a kind."""
    missing = {} if results is None else missing_controls(results)
    if results is not None and not missing:
        return ""
    sets = "; ".join(
        f"{set_name.replace('_', ' ')}: {', '.join(f'C_{kind}' for kind in kinds)}"
        for set_name, kinds in missing.items()
    )
    where = f" ({sets})" if sets else ""
    return f"–: no answer has such a control{where}; C is the largest of the other kinds"


def missing_controls(results: Mapping) -> dict[str, tuple[str, ...]]:
    """Set -> kinds of control that no answer of the set has; sets that have all three kinds are left out.

    Empty if C and its kinds were not measured.
    """
    measured: dict[str, set[str]] = {}
    for model in results["models"].values():
        for set_name, metrics in model["sets"].items():
            known = {name for name, value in metrics.items() if is_known(value)}
            measured.setdefault(set_name, set()).update(known)
    all_measured = set().union(*measured.values())
    if "control_drop" not in all_measured or not all_measured & set(CONTROL_DROPS):
        return {}
    missing = {
        set_name: tuple(kind for kind, name in zip(CONTROL_KINDS, CONTROL_DROPS, strict=True) if name not in known)
        for set_name, known in measured.items()
    }
    return {set_name: kinds for set_name, kinds in missing.items() if kinds}


def is_known(value: Mapping | None) -> bool:
    """Whether an estimate is there and its value is finite; JSON has null where it is not."""
    return value is not None and _is_finite(value["value"])


def has_interval(value: Mapping | None) -> bool:
    """Whether an estimate is there with an interval: that of one fact is not estimated."""
    return is_known(value) and _is_finite(value.get("low")) and _is_finite(value.get("high"))


def _is_finite(number: float | int | None) -> bool:
    return number is not None and math.isfinite(number)


def is_few(value: Mapping) -> bool:
    """Whether so few facts are behind an estimate that its interval is marked."""
    return value.get("n", FEW) < FEW


def marks_sentence(shown: Collection[Mapping]) -> str:
    """The meaning of the marks on some estimates in a table; nothing if none is marked."""
    few = any(is_known(value) and has_interval(value) and is_few(value) for value in shown)
    none = any(is_known(value) and not has_interval(value) for value in shown)
    words = [f"*: fewer than {FEW} facts are behind the interval"] if few else []
    words += ["[–]: no interval, because there is one fact alone or the facts do not differ"] if none else []
    return "; ".join(words)


def published_figures(results: Mapping) -> list[PublishedFigure]:
    """What results["published"] holds, {model: {set: {metric: figure}}}, beside this run's figures; [] if nothing."""
    figures = []
    for model, sets in results.get("published", {}).items():
        measured_sets = results["models"][model]["sets"] if model in results["models"] else {}
        for set_name, metrics in sets.items():
            for metric, published in metrics.items():
                measured = measured_sets.get(set_name, {}).get(metric)
                inside = None
                if is_known(measured) and has_interval(published):
                    inside = bool(published["low"] <= measured["value"] <= published["high"])
                figures.append(PublishedFigure(model, set_name, metric, published, measured, inside))
    return figures


def most_used_neurons(measurement: Measurement, model: LanguageModel | None, relations: list[str]) -> list[dict]:
    """The neurons selected most often in the objective's set, with the relations they serve and what they promote.

    "share" is of all selections, which are counted by answer: "selections". Without a language model they promote
    nothing.
    """
    total = measurement.selected.sum(0)
    order = np.argsort(-total, axis=None, kind="stable")[:MOST_USED]
    neurons = []
    for layer, neuron in zip(*np.unravel_index(order, total.shape), strict=True):
        if not total[layer, neuron]:
            break
        by_relation = measurement.selected[:, layer, neuron]
        neurons.append(
            {
                "layer": int(layer),
                "neuron": int(neuron),
                "share": float(total[layer, neuron] / total.sum()),
                "selections": int(total[layer, neuron]),
                "relations": {
                    relations[index]: float(by_relation[index] / by_relation.sum())
                    for index in np.argsort(-by_relation, kind="stable")
                    if by_relation[index]
                },
                "promotes": [] if model is None else promoted_tokens(model, int(layer), int(neuron)),
            }
        )
    return neurons


def promoted_tokens(model: LanguageModel, layer: int, neuron: int, n: int = 5, *, activation: float = 1.0) -> list[str]:
    """The n tokens that the neuron's value vector promotes most: the largest of W_out[i] · E; Geva et al. 2021.

    A neuron whose `activation` is negative, as it can be in gated FFNs, promotes what −W_out[i] · E is largest for.

    See `models.lens` for the norms in between.
    """
    layer_params = jax.tree.map(lambda x: jnp.asarray(x[layer]), model.params["layers"])
    value = layer_params["w_out"][neuron] * (-1.0 if activation < 0 else 1.0)
    logits = unembedding(model.model) @ as_unembedded(model.model, layer_params, value[None])[0]
    return [model.tokenizer.token(int(token)) for token in jax.lax.top_k(logits, n)[1]]


def plain(value: Estimate) -> dict:
    """An estimate as JSON has it: None for what is not finite."""
    return {name: number if math.isfinite(number) else None for name, number in dataclasses.asdict(value).items()}


def left_out_relations(sets: Mapping[str, Mapping[str, Estimates]]) -> dict[str, dict[str, str]]:
    """Set -> relation -> why figures of the set lack it: for all that need it, or for which metrics."""
    found: dict[str, dict[str, str]] = {}
    for set_name, metrics in sets.items():
        why: dict[str, str] = {}
        for relation in sorted({relation for values in metrics.values() for relation in values.left_out}):
            names = [name for name, values in metrics.items() if values.left_out.get(relation) == NOT_FINITE]
            nothing = any(values.left_out.get(relation) == NOTHING_LEFT for values in metrics.values())
            why[relation] = NOTHING_LEFT if nothing else f"{NOT_FINITE} of {', '.join(names)}"
        if why:
            found[set_name] = why
    return found


def left_out_sentences(model: Mapping) -> list[str]:
    """A sentence for each set of a model's results that lacks relations."""
    return [
        f"{set_name.replace('_', ' ')}: {left_out_in_words(why)}"
        for set_name, why in model.get("left_out_relations", {}).items()
    ]


def left_out_in_words(why: Mapping[str, str]) -> str:
    """How many relations are left out, and why each."""
    number = f"{len(why)} relation{'s' * (len(why) > 1)} left out"
    return f"{number}: {', '.join(f'{relation} ({reason})' for relation, reason in why.items())}"


def other_queries(metrics: Mapping[str, Mapping]) -> dict[str, int]:
    """Kind of control -> facts of a set that have one, where S is over more; S − C then compares different facts."""
    own = metrics.get("suppressability")
    if not is_known(own):
        return {}
    kinds = {kind: metrics.get(name) for kind, name in zip(CONTROL_KINDS, CONTROL_DROPS, strict=True)}
    return {kind: value["n"] for kind, value in kinds.items() if is_known(value) and value["n"] < own["n"]}


def other_queries_in_words(metrics: Mapping[str, Mapping]) -> str:
    """`other_queries` as a clause; nothing if there are none."""
    counts = other_queries(metrics)
    if not counts:
        return ""
    kinds = ", ".join(f"C_{kind} over {n:,}" for kind, n in counts.items())
    return f"S is over {metrics['suppressability']['n']:,} facts, {kinds} that have such a control"


def remarks(models: Mapping[str, Mapping]) -> list[str]:
    """A sentence for every set whose figures lack relations, or whose S and C are over different facts.

    What holds for all models is said once.
    """
    names: dict[str, list[str]] = {}
    for name, model in models.items():
        sentences = left_out_sentences(model)
        for set_name, metrics in model["sets"].items():
            if words := other_queries_in_words(metrics):
                sentences.append(f"{set_name.replace('_', ' ')}: {words}")
        for sentence in sentences:
            names.setdefault(sentence, []).append(name)
    return [sentence if len(of) == len(models) else f"{', '.join(of)}, {sentence}" for sentence, of in names.items()]


def by_relation(metrics: Mapping[str, Estimates]) -> dict[str, dict[str, dict]]:
    """Relation -> metric -> {"value", "low", "high", "n"}."""
    names = sorted({relation for values in metrics.values() for relation in values.by_relation})
    return {
        relation: {
            name: plain(values.by_relation[relation])
            for name, values in metrics.items()
            if relation in values.by_relation
        }
        for relation in names
    }


def _shares(counts: np.ndarray) -> list[float]:
    return (counts / max(counts.sum(), 1)).tolist()
