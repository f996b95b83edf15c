"""The study's numbers as lines and tables, for the terminal and its page."""

from collections.abc import Mapping

from rich.table import Table

from jaxinterp.facts.controls import CONTROL_KINDS
from jaxinterp.facts.readers.pararel import TITLES
from jaxinterp.metrics.results import (
    FEW,
    has_interval,
    is_few,
    is_known,
    left_out_in_words,
    marks_sentence,
    other_queries_in_words,
)
from jaxinterp.report.shown import Part
from jaxinterp.studies.knowledge_neurons.results import PUBLISHED, Results
from jaxinterp.studies.knowledge_neurons.scores import METHODS
from jaxinterp.studies.knowledge_neurons.sets import PROTOCOLS

TITLE = {"paper": "the paper's rule", "fixed_k": "{k} neurons a token"}
SETS = {"all": "all facts", "known": "answers it gets right"}
# Metric -> heading of its column.
OFF = {
    "suppressability": "S: own",
    **{f"control_drop_{kind}": f"C_{kind}" for kind in CONTROL_KINDS},
    **{"control_drop": "C: largest of these", "selective": "S − C", "random_drop": "random"},
    "control_drop_answer": "C_answer",
}
DOUBLED = {
    "amplification": "own",
    **{f"control_amplification_{kind}": kind for kind in CONTROL_KINDS},
    **{"random_amplification": "random", "control_amplification_answer": "answer"},
}
OF_RELATIONS = {
    **OFF,
    **{"suppressability": "S", "control_drop": "C", "amplification": "doubled"},
    **{f"control_amplification_{kind}": f"{kind} doubled" for kind in CONTROL_KINDS},
}
KNOWN = (
    "known: answers that the model gets right; attribution: integrated gradients; activation: the baseline\n"
    "C_relation: neurons of another fact of the same relation, with another subject and answer; C_subject: of the same "
    "subject, with another relation and answer;\nC_other: of another subject, relation and answer; C_answer, for "
    "information: of another subject with the same answer; –: there is no such fact"
)
PAPERS_NUMBERS = (
    "The paper reports about 4 neurons per fact (bert-base-cased). Its rule covers facts with answers of one token "
    "and at least 3 prompts."
)


def relation_title(name: str) -> str:
    """A relation's name and, if it is one of Wikidata's, what it is called there."""
    return f"{name} {TITLES[name]}" if name in TITLES else name


def protocol_title(results: Results, protocol: str) -> str:
    """The name of a protocol for people."""
    return TITLE[protocol].format(k=results.config["k"])


def asked_shown(results: Results) -> list[Part]:
    """What was asked, and what was left out."""
    asked = results.facts
    residual = results.effects["fixed_k", "all", "attribution"].overall["completeness_residual"]
    told = f"{residual['value']:.2g} (in units of probability)" if is_known(residual) else "unknown"
    tried = asked["tried_for_known"]
    left_out = Table("left out", "number")
    for reason, number in asked["dropped"].items():
        left_out.add_row(reason, f"{number:,}")
    return [
        f"{results.model['name']}: {asked['facts']} facts of {len(asked['relations'])} relations, {asked['queries']} "
        f"queries; it gets {asked['known_queries']} queries of {asked['known_facts']} facts right",
        f"mean absolute completeness residual of the attribution: {told}",
        *([f"{tried} facts were tried to find those that it knows"] if tried else []),
        *([left_out] if asked["dropped"] else []),
    ]


def effects_shown(results: Results) -> list[Part]:
    """The effects of switching off and of doubling, with 95 % intervals."""
    parts: list[Part] = [
        _effects(results, OFF, "lost when neurons are switched off", KNOWN),
        _effects(results, DOUBLED, "gained when neurons are doubled", "other facts' by kind, as above"),
    ]
    for (protocol, name, method), effects in results.effects.items():
        words = [left_out_in_words(effects.left_out)] if effects.left_out else []
        for word in filter(None, [*words, other_queries_in_words(effects.overall)]):
            parts.append(f"{protocol_title(results, protocol)}, {SETS[name]}, {method}: {word}")
    marks = marks_sentence([value for effects in results.effects.values() for value in effects.overall.values()])
    return [*parts, *([marks] if marks else [])]


def relations_shown(results: Results) -> list[Part]:
    """A table of relations for each protocol that treats some fact."""
    return [
        _relations(results, protocol) for protocol in PROTOCOLS if results.effects[protocol, "all", "attribution"].facts
    ]


def neurons_shown(results: Results) -> list[Part]:
    """How many neurons each protocol and method chose."""
    return [_neurons(results)]


def _table(title: str, caption: str, *heads: str) -> Table:
    return Table(*heads, title=title, caption=caption, title_justify="left", caption_justify="left")


def _effects(results: Results, columns: Mapping[str, str], words: str, caption: str) -> Table:
    title = f"% of the answers' probability {words}: mean over relations [95 % interval]"
    table = _table(title, caption, "neurons", "queries", "facts", "found by", *columns.values())
    for protocol in PROTOCOLS:
        for name in SETS:
            for method in METHODS:
                effects = results.effects[protocol, name, method]
                cells = (_percent(effects.overall.get(column)) for column in columns)
                table.add_row(protocol_title(results, protocol), name, f"{effects.facts:,}", method, *cells)
        table.add_section()
    for method in METHODS:
        cells = (f"{100 * PUBLISHED[column][method]:.2f}" if column in PUBLISHED else "" for column in columns)
        table.add_row(f"published: {PUBLISHED['model']}", "–", f"{PUBLISHED['facts']:,}", method, *cells)
    return table


def _neurons(results: Results) -> Table:
    heads = ("neurons", "found by", "facts", "neurons per fact", "facts without", "distinct neurons")
    heads += ("shared by two facts of a relation", "of different relations", "not covered")
    table = _table("Numbers of neurons (per fact: mean over its answer tokens)", PAPERS_NUMBERS, *heads)
    for (protocol, method), one in results.neurons.items():
        table.add_row(
            *(protocol_title(results, protocol), method, f"{one.facts:,}", _number(one.mean), f"{one.without:,}"),
            *(f"{one.distinct:,}", _number(one.shared_inside), _number(one.shared_across)),
            f"{results.not_covered(protocol):,}",
        )
    return table


def _relations(results: Results, protocol: str) -> Table:
    own, baseline = (results.effects[protocol, "all", method].by_relation for method in METHODS)
    table = _table(
        f"By relation, all facts: {protocol_title(results, protocol)}",
        f"*: fewer than {FEW} facts",
        *("relation", "facts", "P %", "neurons", *OF_RELATIONS.values(), "baseline S", "baseline doubled"),
    )
    for relation, metrics in own.items():
        neurons = results.neurons[protocol, "attribution"].by_relation[relation]
        probability = metrics["probability"]["value"]
        table.add_row(
            relation_title(relation),
            f"{neurons['facts']}{'*' * (neurons['facts'] < FEW)}",
            "–" if probability is None else f"{100 * probability:.3g}",
            _number(neurons["mean"]),
            *(_value(metrics, name) for name in OF_RELATIONS),
            *(_value(baseline[relation], name) for name in ("suppressability", "amplification")),
        )
    return table


def _percent(value: Mapping | None) -> str:
    if not is_known(value):
        return "–"
    ends = f"[{_points(value['low'])}, {_points(value['high'])}]" if has_interval(value) else "[–]"
    return f"{_points(value['value'])} {ends}{'*' * (has_interval(value) and is_few(value))}"


def _value(metrics: Mapping, name: str) -> str:
    return _points(metrics[name]["value"]) if is_known(metrics.get(name)) else "–"


def _points(value: float) -> str:
    return f"{100 * value:.1f}" if abs(value) < 1 else f"{100 * value:,.0f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
