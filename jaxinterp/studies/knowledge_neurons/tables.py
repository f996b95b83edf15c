"""The study's numbers on the terminal."""

from collections.abc import Mapping

from rich.table import Table

from jaxinterp.base.progress import print_table
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
from jaxinterp.studies.knowledge_neurons.edits import PROTOCOLS
from jaxinterp.studies.knowledge_neurons.scores import METHODS

TITLE = {"paper": "the paper's rule", "fixed_k": "{k} neurons a token"}
SETS = {"all": "all facts", "known": "answers it gets right"}
# Metric -> heading of its column.
OFF = {
    "suppressability": "S: own",
    "control_drop_relation": "C_relation",
    "control_drop_subject": "C_subject",
    "control_drop_other": "C_other",
    "control_drop": "C: largest of these",
    "selective": "S − C",
    "random_drop": "random",
    "control_drop_answer": "C_answer",
}
DOUBLED = {
    "amplification": "own",
    "control_amplification_relation": "relation",
    "control_amplification_subject": "subject",
    "control_amplification_other": "other",
    "random_amplification": "random",
    "control_amplification_answer": "answer",
}
KNOWN = (
    "known: answers that the model gets right; attribution: integrated gradients; activation: the baseline\n"
    "C_relation: neurons of another fact of the same relation, with another subject and answer; C_subject: of the same "
    "subject, with another relation and answer;\nC_other: of another subject, relation and answer; C_answer, for "
    "information: of another subject with the same answer; –: there is no such fact"
)
OF_RELATIONS = {
    **{"suppressability": "S", "control_drop_relation": "C_relation", "control_drop_subject": "C_subject"},
    **{"control_drop_other": "C_other", "control_drop": "C", "selective": "S − C", "random_drop": "random"},
    **{"control_drop_answer": "C_answer", "amplification": "doubled"},
    **{f"control_amplification_{kind}": f"{kind} doubled" for kind in CONTROL_KINDS},
}


def relation_title(name: str) -> str:
    """A relation's name and, if it is one of Wikidata's, what it is called there."""
    return f"{name} {TITLES[name]}" if name in TITLES else name


def protocol_title(found: Mapping, protocol: str) -> str:
    """What a protocol is called; `found` is what results.json holds."""
    return TITLE[protocol].format(k=found["config"]["k"])


def print_tables(found: Mapping) -> None:
    """Prints what was asked and left out, the effects with 95 % intervals, the neurons, and the relations."""
    asked = found["facts"]
    residual = found["completeness_residual"]["value"]
    told = "unknown" if residual is None else f"{residual:.2g} (in units of probability)"
    for line in (
        f"{found['model']['name']}: {asked['facts']} facts of {len(asked['relations'])} relations, {asked['queries']} "
        f"queries; it gets {asked['known_queries']} queries of {asked['known_facts']} facts right",
        f"mean absolute completeness residual of the attribution: {told}",
        *(
            [f"{asked['tried_for_known']} facts were tried to find those that it knows"]
            if asked["tried_for_known"]
            else []
        ),
        *(f"left out: {number:,} × {reason}" for reason, number in asked["dropped"].items()),
    ):
        print(line)
    print_table(_effects(found, OFF, "lost when neurons are switched off", KNOWN))
    print_table(_effects(found, DOUBLED, "gained when neurons are doubled", "other facts' by kind, as above"))
    for sentence in _remarks(found):
        print(sentence)
    print_table(_neurons(found))
    for protocol in PROTOCOLS:
        if found["protocols"][protocol]["sets"]["all"]["attribution"]["facts"]:
            print_table(_relations(found, protocol))


def _remarks(found: Mapping) -> list[str]:
    """Which relations the figures lack, where S and C are over different facts, and what marks say."""
    sentences, shown = [], []
    for protocol in PROTOCOLS:
        for name, title in SETS.items():
            for method in METHODS:
                effects = found["protocols"][protocol]["sets"][name][method]
                shown += effects["overall"].values()
                words = [left_out_in_words(effects["left_out"])] if effects["left_out"] else []
                words += filter(None, [other_queries_in_words(effects["overall"])])
                sentences += [f"{protocol_title(found, protocol)}, {title}, {method}: {word}" for word in words]
    return [*sentences, *filter(None, [marks_sentence(shown)])]


def _effects(found: Mapping, columns: Mapping[str, str], words: str, caption: str) -> Table:
    table = Table(
        *("neurons", "queries", "facts", "found by", *columns.values()),
        title=f"% of the answers' probability {words}: mean over relations [95 % interval]",
        caption=caption,
        title_justify="left",
        caption_justify="left",
    )
    for protocol in PROTOCOLS:
        part = found["protocols"][protocol]
        for name in SETS:
            for method in METHODS:
                effects = part["sets"][name][method]
                cells = (_percent(effects["overall"].get(column)) for column in columns)
                table.add_row(protocol_title(found, protocol), name, f"{effects['facts']:,}", method, *cells)
        table.add_section()
    published = found["published"]
    for method in METHODS:
        table.add_row(
            f"published: {published['model']}",
            "–",
            f"{published['facts']:,}",
            method,
            *(f"{100 * published[c][method]:.2f}" if c in published else "" for c in columns),
        )
    return table


def _neurons(found: Mapping) -> Table:
    table = Table(
        *("neurons", "found by", "facts", "neurons a fact", "facts without", "distinct neurons"),
        *("shared by two facts of a relation", "of different relations", "not covered"),
        title="Numbers of neurons (a fact's, mean over its answer tokens)",
        title_justify="left",
    )
    for protocol in PROTOCOLS:
        part = found["protocols"][protocol]
        for method in METHODS:
            one = part["neurons"][method]
            table.add_row(
                *(protocol_title(found, protocol), method, f"{one['facts']:,}", _number(one["mean"])),
                *(f"{one['without']:,}", f"{one['distinct']:,}", _number(one["shared_inside"])),
                *(_number(one["shared_across"]), f"{part['not_covered']:,}"),
            )
    table.caption = (
        "The paper reports about 4 neurons a fact (bert-base-cased). Its rule covers facts with answers of one token "
        "and at least 3 prompts."
    )
    return table


def _relations(found: Mapping, protocol: str) -> Table:
    part = found["protocols"][protocol]
    own, baseline = (part["sets"]["all"][method]["by_relation"] for method in METHODS)
    table = Table(
        *("relation", "facts", "P %", "neurons", *OF_RELATIONS.values(), "baseline S", "baseline doubled"),
        title=f"By relation, all facts: {protocol_title(found, protocol)}",
        title_justify="left",
        caption=f"*: fewer than {FEW} facts",
        caption_justify="left",
    )
    for relation, metrics in own.items():
        neurons = part["neurons"]["attribution"]["by_relation"][relation]
        table.add_row(
            relation_title(relation),
            f"{neurons['facts']}{'*' * (neurons['facts'] < FEW)}",
            _probability(metrics["probability"]["value"]),
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


def _probability(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g}"


def _value(metrics: Mapping, name: str) -> str:
    value = metrics[name]["value"] if name in metrics else None
    return "–" if value is None else _points(value)


def _points(value: float) -> str:
    return f"{100 * value:.1f}" if abs(value) < 1 else f"{100 * value:,.0f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
