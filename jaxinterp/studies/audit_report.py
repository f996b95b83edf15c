"""An audit as one offline page: the verdict first, then what it rests on."""

import html
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxinterp import report_tables as tables
from jaxinterp.files import write_text
from jaxinterp.metrics.registry import get_metric
from jaxinterp.report_page import Section, figure, note, page, tabs
from jaxinterp.studies.audit_charts import RESPONSES, doses, forest
from jaxinterp.studies.audit_config import CHEATS, DOSES
from jaxinterp.studies.audit_results import with_interval
from jaxinterp.terms import METRICS, SETS, term

MEANS = {
    "improved": "the number rose, and so did most of the metrics that no loss has in it",
    "harmed": "the model lost what it could do, and the number was not Goodharted",
    "Goodharted": "the number rose, and most of the metrics that no loss has in it did not",
    "no change": "the number did not rise beyond chance and the least change that counts",
    "worse": "the number fell",
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
    trained = html.escape(term(METRICS, results["criteria"]["trained"]).label)
    return (
        f"<p class=lead>Models were trained for <b>{trained}</b>, which stops being a measure by that. "
        f"{results['seeds']} seeds of each kind are compared with as many plain models of the same seeds, by "
        f"{len(results['criteria']['independent'])} metrics that no loss has in it. Two objectives are built to cheat: "
        "an audit that does not catch them is worth nothing.</p>"
    )


def _verdicts(results: Mapping) -> str:
    trained = results["criteria"]["trained"]
    rows = []
    for group, by_set in results["verdicts"].items():
        cheat = " <small>built to cheat</small>" if group in CHEATS else ""
        for index, (set_name, found) in enumerate(by_set.items()):
            effect = found["effects"][trained]
            seeds = f" <small>{found['seeds']} seeds</small>" if found["seeds"] != results["seeds"] else ""
            votes = [e["vote"] for e in found["effects"].values()]
            head = (
                f'<th scope=row rowspan="{len(by_set)}">{html.escape(results["titles"][group])}{cheat}{seeds}'
                if index == 0
                else ""
            )
            counts = "".join(f"<td class=n>{sum(vote == sign for vote in votes)}" for sign in (1, -1, 0))
            rows.append(
                f"<tr>{head}<td class=text>{html.escape(term(SETS, set_name).title)}<td class=text>"
                f"<b>{found['verdict']}</b><td class=n>{found['resamples'][found['verdict']]:.0%}<td class=n>"
                f"{_share(effect['before'])} → {_share(effect['after'])}<br><small>{with_interval(effect)}</small>"
                + counts
            )
    heads = ("set", "verdict", "of resamples", term(METRICS, trained).label, "better", "worse", "no change")
    head = "".join(f"<th scope=col>{html.escape(name)}" for name in heads)
    alarms = "; ".join(
        f"{html.escape(term(SETS, name).title)}: {found['alarms']} of {found['pairs']}"
        for name, found in results["false_alarms"].items()
    )
    meanings = "; ".join(f"<b>{name}</b>: {text}" for name, text in MEANS.items())
    ability = "; ".join(
        f"{html.escape(results['titles'][group])} {found['recall']:.1%}, {found['cross_entropy']:.3f}"
        for group, found in results["ability"].items()
        if {"recall", "cross_entropy"} <= found.keys()
    )
    return (
        f"<div class=scroll><table><thead><tr><th scope=col>models{head}</thead><tbody>{''.join(rows)}</tbody></table>"
        f"</div><p class=note>{meanings}. The last three columns count independent metrics whose change is beyond "
        "chance after Holm's correction. Resamples draw seeds and facts anew; their share says how sure the verdict "
        f"is.{_left_out(results)}</p><p class=note>False alarms, pairs of plain models of different seeds that the "
        f"rule tells apart: {alarms}.{_failed(results)}</p><p class=note>Recall on the training sentences, and "
        f"cross-entropy in nats a token: {ability}.</p>"
    )


def _failed(results: Mapping) -> str:
    words = "; ".join(f"{html.escape(results['titles'][group])}: {n}" for group, n in results["failed"].items() if n)
    return f" Runs whose numbers stopped being finite, and that are in no figure: {words}." if words else ""


def _left_out(results: Mapping) -> str:
    left_out = {
        (set_name, name) for of in results["verdicts"].values() for set_name, v in of.items() for name in v["left_out"]
    }
    words = "; ".join(
        f"{html.escape(term(METRICS, name).label)} on {html.escape(term(SETS, set_name).title)}"
        for set_name, name in sorted(left_out)
    )
    return f" Not measured, and without a vote: {words}." if words else ""


def _effects(results: Mapping, specs: dict) -> str:
    panels = []
    for group, by_set in results["verdicts"].items():
        drawn = figure(specs, f"forest-{group}".replace(".", "-"), forest, results, group)
        panels.append(
            (results["titles"][group], f"{drawn}<details><summary>Numbers</summary>{_numbers(by_set)}</details>")
        )
    words = "Means over seeds, with 95% intervals over seeds and facts, paired by both; to the right is better."
    return tabs("effects", panels) + note(words)


def _numbers(by_set: Mapping) -> str:
    rows = []
    for set_name, found in by_set.items():
        rows.append(f"<tr class=group><th scope=rowgroup colspan=5>{html.escape(term(SETS, set_name).title)}")
        for name, effect in found["effects"].items():
            adjusted = "" if effect["adjusted"] is None else f"{effect['adjusted']:.3g}"
            rows.append(
                f"<tr><th scope=row>{html.escape(term(METRICS, name).label)}<td class=n>{_number(effect['before'])}"
                f"<td class=n>{_number(effect['after'])}<td class=n>{with_interval(effect)}<td class=n>{adjusted}"
            )
    head = "".join(f"<th class=n scope=col>{name}" for name in ("plain", "trained", "change", "p after Holm"))
    return (
        f"<div class=scroll><table><thead><tr><th scope=col>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
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
        f"<tr><th scope=row>{html.escape(term(METRICS, name).label)} <small>{get_metric(name).better} is better</small>"
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
                f"<td class=n>{neuron['share']:.0%}<td class=text>"
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
    names = (results["criteria"]["trained"], *results["criteria"]["independent"])
    items = "".join(
        f"<dt>{html.escape(term(METRICS, name).label)}<dd>{html.escape(term(METRICS, name).definition)}"
        for name in dict.fromkeys(names)
    )
    return f"<dl class=definitions>{items}</dl>"
