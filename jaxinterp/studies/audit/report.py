"""An audit as one offline page: the verdict first, then what it rests on."""

import html
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxinterp.base.files import write_text
from jaxinterp.metrics import registry
from jaxinterp.report import tables
from jaxinterp.report.labels import METRICS, SETS, term
from jaxinterp.report.page import Section, figure, note, page, tabs
from jaxinterp.studies.audit.charts import FAMILY_TITLES, RESPONSES, doses, forest
from jaxinterp.studies.audit.config import CHEATS, DOSES
from jaxinterp.studies.audit.results import aside_in_words, decided_by, in_words, with_interval
from jaxinterp.studies.audit.verdict_rates import FOUND

MEANS = {
    "improved": "the number rose, so did a majority of the families of metrics that no loss has in it, none of them is "
    "shown to fall, and no ability was lost",
    "Goodharted": "the number rose, and so many families are shown not to rise by their smallest effect of interest "
    "that no majority can, or one is shown to fall by more than that",
    "harmed": "the model lost what it could do",
    "not raised": "the number is shown not to rise by the least that counts",
    "undecided": "the intervals are too wide for any of these",
}
STATES = {
    "rises": "above 0, and not below +1",
    "does not rise": "below +1",
    "falls": "below −1",
    "open": "in none of these places",
}
RATES = {  # two by two
    "improved: wrongly, found": ("improved_wrongly", "improved_found"),
    "Goodharted: wrongly, found": ("Goodharted_wrongly", "Goodharted_found"),
}


def write_audit_report(path: Path, results: Mapping, ground_truth: Mapping | None = None) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: of the HTML file.
      results: as `studies.audit.goodhart_audit` gives them.
      ground_truth: results of `studies.ground_truth.ground_truth_study`, whose table is then on the page.
    Raises:
      UserError: if the file cannot be written.
    """
    specs: dict[str, dict] = {}
    sections = [
        Section("verdict", "Verdict", "Verdict", _verdicts(results)),
        Section("effects", "Effects", "Effects, metric by metric", _effects(results, specs)),
        Section("meta", "Meta-gradient", "What the meta-gradient adds", _meta(results)),
        Section("dose", "Dose", "Dose and response", _doses(results, specs)),
        Section("examples", "Examples", "Three facts", _examples(results)),
        *(
            [Section("truth", "Ground truth", "Attribution methods on planted ground truth", _truth(ground_truth))]
            if ground_truth
            else []
        ),
        Section("definitions", "Definitions", "How each number is defined", _definitions(results)),
        Section("provenance", "Provenance", "Provenance", tables.nested(results["provenance"])),
    ]
    write_text(path, page("Goodhart audit", _introduction(results), sections, specs))


def _introduction(results: Mapping) -> str:
    criteria = results["criteria"]
    trained = html.escape(term(METRICS, criteria["trained"]).label)
    n_metrics = sum(len(names) for names in criteria["families"].values())
    return (
        f"<p class=lead>Models were trained for <b>{trained}</b>, which stops being a measure by that. "
        f"{results['seeds']} seeds of each kind are compared with as many plain models of the same seeds, by "
        f"{n_metrics} metrics that no loss has in it, in {len(criteria['families'])} families. C, wherever it stands, "
        "is the largest of three kinds: what the neurons of another fact of the same relation take away, of the same "
        "subject, and of neither. Some objectives are known to cheat: an audit that does not catch them is worth "
        "nothing.</p>"
    )


def _verdicts(results: Mapping) -> str:
    trained = term(METRICS, results["criteria"]["trained"]).label
    meanings = "; ".join(f"<b>{name}</b>: {text}" for name, text in MEANS.items())
    ability = "; ".join(
        f"{html.escape(results['titles'][group])} {found['recall']:.1%}, {found['cross_entropy']:.3f}"
        for group, found in results["ability"].items()
        if {"recall", "cross_entropy"} <= found.keys()
    )
    families = [_family(name) for name in results["criteria"]["families"]]
    return (
        ("" if results["verdicts"] else note("No verdict: too few seeds."))
        + _by_group(results, ("verdict", trained, *RATES), _verdict_cells)
        + note(f"{meanings}.")
        + note(_rates_in_words(results))
        + note(f"False alarms, plain models told apart from plain models. {_alarms(results)}.{_failed(results)}")
        + _by_group(results, (*families, "set aside"), _family_cells)
        + note(_families_in_words(results["criteria"]))
        + note(f"Recall on the training sentences, and cross-entropy in nats a token: {ability}.")
    )


def _by_group(results: Mapping, heads: Sequence[str], cells: Callable[[Mapping, Mapping], str]) -> str:
    """A table with a row a verdict."""
    rows = []
    for group, by_set in results["verdicts"].items():
        cheat = " <small>known to cheat</small>" if group in CHEATS else ""
        for index, (set_name, found) in enumerate(by_set.items()):
            seeds = f" <small>{found['seeds']} seeds</small>" if found["seeds"] != results["seeds"] else ""
            head = f'<th scope=row rowspan="{len(by_set)}">{html.escape(results["titles"][group])}{cheat}{seeds}'
            rows.append(
                f"<tr>{'' if index else head}<td>{html.escape(term(SETS, set_name).title)}{cells(results, found)}"
            )
    head = "".join(f"<th scope=col>{html.escape(name)}" for name in ("models", "set", *heads))
    return f"<div class=scroll><table><thead><tr>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"


def _verdict_cells(results: Mapping, found: Mapping) -> str:
    why = "; ".join(filter(None, (found["because"], decided_by(found))))
    effect = found["effects"][results["criteria"]["trained"]]
    rates = "".join(f"<td>{'<br>'.join(_rate(found['rates'][name]) for name in pair)}" for pair in RATES.values())
    return (
        f"<td class=text><b>{found['verdict']}</b><br><small>{html.escape(why)}</small>"
        f"<td>{_share(effect['before'])} → {_share(effect['after'])}<br><small>{with_interval(effect)}</small>{rates}"
    )


def _rate(rate: Mapping) -> str:
    return f"{rate['value']:.1%} <small>[{rate['low']:.1%}, {rate['high']:.1%}]</small>"


def _family_cells(results: Mapping, found: Mapping) -> str:
    families = (found["families"].get(name) for name in results["criteria"]["families"])
    cells = "".join(
        "<td>–" if of is None else f"<td><b>{of['state']}</b><br><small>{with_interval(of, digits=1)}</small>"
        for of in families
    )
    return f"{cells}<td><small>{html.escape(aside_in_words(found))}</small>"


def _family(name: str) -> str:
    return FAMILY_TITLES.get(name, name)


def _families_in_words(criteria: Mapping) -> str:
    others = "; ".join(f"{x:g} for {term(METRICS, name).label}" for name, x in criteria["smallest_of"].items())
    states = "; ".join(f"<b>{name}</b>: its interval lies {text}" for name, text in STATES.items())
    smallest = f"{criteria['smallest']:g} in its own unit" + (f" ({html.escape(others)})" if others else "")
    return (
        "Families: the mean change of their metrics towards the better, each divided by its smallest effect of "
        f"interest, {smallest}. {states}. A metric whose plain mean lies within its smallest effect of its best value "
        "has no room, and is set aside for rises."
    )


def _rates_in_words(results: Mapping) -> str:
    n = next(
        (found["rates"]["improved_wrongly"]["n"] for of in results["verdicts"].values() for found in of.values()), 0
    )
    return (
        f"Error rates and power of each verdict, from {n} simulated audits for each with its own seeds, spreads and "
        "correlations, judged by the same rule, with 95% intervals. Improved wrongly: one family less than a majority "
        f"rises for certain, the others not at all; found: all families rise by {FOUND:g} smallest effects. Goodharted "
        "wrongly: a bare majority rises by exactly its smallest effect, the others not at all; found: none rises."
    )


def _alarms(results: Mapping) -> str:
    return "; ".join(
        f"{html.escape(term(SETS, name).title)}: {in_words(alarms)}" for name, alarms in results["false_alarms"].items()
    )


def _failed(results: Mapping) -> str:
    words = "; ".join(f"{html.escape(results['titles'][group])}: {n}" for group, n in results["failed"].items() if n)
    return f" Runs whose numbers stopped being finite, and that are in no figure: {words}." if words else ""


def _effects(results: Mapping, specs: dict) -> str:
    panels = []
    for group, by_set in results["verdicts"].items():
        drawn = figure(specs, f"forest-{group}".replace(".", "-"), forest, results, group)
        panels.append(
            (results["titles"][group], f"{drawn}<details><summary>Numbers</summary>{_numbers(by_set)}</details>")
        )
    words = (
        "Means over seeds, with intervals over seeds and facts, paired by both; to the right is better. In capitals, "
        "families, with the intervals that the verdict goes by; below each its metrics, with 95% intervals. Dashed: a "
        "rise and a fall of one smallest effect."
    )
    return tabs("effects", panels) + note(words)


def _numbers(by_set: Mapping) -> str:
    rows = []
    for set_name, found in by_set.items():
        rows.append(f"<tr class=group><th scope=rowgroup colspan=5>{html.escape(term(SETS, set_name).title)}")
        for family, of in found["families"].items():
            rows.append(
                f"<tr><th scope=row><b>{html.escape(_family(family))}</b> {of['state']}<td><td><td class=n>"
                f"{with_interval(of, digits=2)} <small>smallest effects, {found['level']:.1%}</small><td>"
            )
            rows += [_metric_row(name, found) for name in of["metrics"]]
        in_family = {name for of in found["families"].values() for name in of["metrics"]}
        rows.append("<tr><th scope=row><b>trained, and abilities</b><td><td><td><td>")
        rows += [_metric_row(name, found) for name in found["effects"] if name not in in_family]
    head = "".join(f"<th class=n scope=col>{name}" for name in ("plain", "trained", "change", "p"))
    return (
        f"<div class=scroll><table><thead><tr><th scope=col>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _metric_row(name: str, found: Mapping) -> str:
    aside = f" <small>{found['set_aside'][name]}</small>" if name in found["set_aside"] else ""
    head = f"<tr><th scope=row>{html.escape(term(METRICS, name).label)}{aside}"
    effect = found["effects"].get(name)
    if effect is None:
        return f"{head}<td class=n>–<td class=n>–<td class=n>–<td class=n>–"
    p = "–" if effect["p"] is None else f"{effect['p']:.3g}"
    return (
        f"{head}<td class=n>{_number(effect['before'])}<td class=n>{_number(effect['after'])}<td class=n>"
        f"{with_interval(effect)}<td class=n>{p}"
    )


def _meta(results: Mapping) -> str:
    panels = []
    for set_name, by_metric in results["meta"].items():
        arms = [arm for arm in next(iter(by_metric.values()), {}) if arm != "suppressable"]
        if not {"detached", "other_fact"} & set(arms):
            continue
        rows = [_meta_row(name, found, arms) for name, found in by_metric.items()]
        head = "".join(
            f"<th class=n scope=col>{html.escape(text)}"
            for text in (
                results["titles"]["suppressable"],
                *(word for arm in arms for word in (results["titles"][arm], "gain")),
            )
        )
        table = f"<table><thead><tr><th scope=col>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
        panels.append((term(SETS, set_name).title, f"<div class=scroll>{table}</div>"))
    if not panels:
        return note("Arms without the meta-gradient were not trained in this audit.")
    steps = "; ".join(
        f"{html.escape(results['titles'][arm])}: {_steps(results['steps_to_90'][arm])}"
        for arm in ("suppressable", "detached", "other_fact")
        if arm in results["steps_to_90"]
    )
    return (
        "<p>The same objective with the gradient through attribution and selection; with attribution detached; and "
        "with the neurons of another fact in their place.</p>"
        + tabs("meta", panels)
        + note(
            "gain: the full objective's value less the other arm's, with its 95% interval over seeds and facts. Steps "
            f"until the batches' suppressability is 90%: {steps}."
        )
    )


def _meta_row(name: str, found: Mapping, arms: Sequence[str]) -> str:
    cells = "".join(
        f"<td class=n>{_number(found[arm]['value'])}<td class=n>{with_interval(found[arm], 'gain')}" for arm in arms
    )
    return (
        f"<tr><th scope=row>{html.escape(term(METRICS, name).label)} "
        f"<small>{registry.METRICS[name].better} is better</small>"
        f"<td class=n>{_number(found['suppressable']['value'])}{cells}"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _steps(values: Sequence[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    never = len(values) - len(known)
    words = f"{statistics.median(known):g} ({known[0]:g} … {known[-1]:g})" if known else "never"
    return words + (f", {never} of {len(values)} never" if known and never else "")


def _doses(results: Mapping, specs: dict) -> str:
    drawn = figure(specs, "doses", doses, results, DOSES)
    return (drawn or note("Other weights than the main ones were not trained in this audit.")) + _longer(results)


def _longer(results: Mapping) -> str:
    """Means over seeds of the models that were trained for longer, beside those that were not."""
    titles = results["titles"]
    groups = [group for group in titles if group in ("plain", "suppressable") or "_x" in group]
    if not any("_x" in group for group in groups):
        return ""
    rows = []
    for set_name, by_metric in results["doses"].items():
        rows.append(
            f"<tr class=group><th scope=rowgroup colspan={1 + len(groups)}>{html.escape(term(SETS, set_name).title)}"
        )
        for metric in (name for name in RESPONSES if name in by_metric):
            values = (by_metric[metric].get(group, []) for group in groups)
            cells = "".join(f"<td class=n>{_number(statistics.fmean(of) if of else None)}" for of in values)
            rows.append(f"<tr><th scope=row>{html.escape(term(METRICS, metric).label)}{cells}")
    head = "".join(f"<th class=n scope=col>{html.escape(titles[group])}" for group in groups)
    return (
        f"<div class=scroll><table><thead><tr><th scope=col>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _examples(results: Mapping) -> str:
    """Facts that no objective saw, with their neurons before and after."""
    panels = []
    for example in results["examples"]:
        parts = []
        for group, seen in example["models"].items():
            rows = "".join(
                f"<tr><th class=n scope=row>{neuron['layer']}.{neuron['neuron']}<td class=n>{neuron['score']:+.3f}"
                f"<td class=n>{'–' if neuron['share'] is None else format(neuron['share'], '.0%')}<td class=text>"
                + " ".join(f"<code>{html.escape(token)}</code>" for token in neuron["promotes"])
                for neuron in seen["tokens"][0]["neurons"]
            )
            head = "".join(f"<th class=n scope=col>{name}" for name in ("score", "share")) + "<th scope=col>promotes"
            parts.append(
                f"<h4>{html.escape(results['titles'][group])}</h4><p>P = {seen['probability']:.3f}; own neurons off "
                f"{seen['suppressed']:.3f}, as many random ones off {seen['random']:.3f}</p><div class=scroll><table>"
                f"<thead><tr><th scope=col>neuron{head}</thead><tbody>{rows}</tbody></table></div>"
            )
        name = f"{example['prompt']} {example['answer']}"
        panels.append((name if len(name) < 60 else f"{name[:57]}…", "".join(parts)))
    words = "Of the answer's first token, by integrated gradients; models of the first seed."
    return tabs("examples", panels) + note(words) if panels else note("No fact is shown.")


def _truth(found: Mapping) -> str:
    head = "".join(f"<th class=n scope=col>{html.escape(title)}" for title in found["methods"].values())
    rows = "".join(
        f"<tr><th scope=row>{html.escape(plant['title'])} <small>{html.escape(plant['provokes'])}</small>"
        + "".join(f"<td class=n>{plant['methods'][method]['precision']['value']:.2f}" for method in found["methods"])
        for plant in found["plants"].values()
    )
    return (
        "<p>Share of the true neurons among each method's highest scores, on models whose neurons are known.</p>"
        f"<div class=scroll><table><thead><tr><th scope=col>plant{head}</thead><tbody>{rows}</tbody></table></div>"
    )


def _definitions(results: Mapping) -> str:
    criteria = results["criteria"]
    names = (criteria["trained"], *(name for of in criteria["families"].values() for name in of), *criteria["ability"])
    items = "".join(
        f"<dt>{html.escape(term(METRICS, name).label)}<dd>{html.escape(term(METRICS, name).definition)}"
        for name in dict.fromkeys(names)
    )
    return f"<dl class=definitions>{items}</dl>"
