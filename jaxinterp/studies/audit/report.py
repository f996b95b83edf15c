"""An audit as one offline page: the verdict first, then what it rests on."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxinterp.base.files import write_text
from jaxinterp.metrics.registry import METRICS
from jaxinterp.report.labels import metric_label, set_label
from jaxinterp.report.page import drawn, number, page
from jaxinterp.studies.audit.arms import CHEATS, DOSES, META
from jaxinterp.studies.audit.charts import FAMILY_TITLES, RESPONSES, doses, forest
from jaxinterp.studies.audit.contrasts import SHOWN
from jaxinterp.studies.audit.rates import FOUND
from jaxinterp.studies.audit.words import aside_in_words, decided_by, in_words, left_out_sentences, with_interval

MEANS = {
    "improved": "The trained number rose, and so did a majority of the families of metrics that appear in no loss. No "
    "family is shown to fall, and no ability was lost.",
    "Goodharted": "The trained number rose, but so many families are shown not to rise by their smallest effect of "
    "interest that a majority cannot, or one is shown to fall by more than that.",
    "harmed": "The models lost some of what they could do.",
    "not raised": "The trained number is shown not to rise by the least that counts.",
    "undecided": "The intervals are too wide for any of these verdicts.",
}
ERRORS = ("improved_wrongly", "improved_found", "Goodharted_wrongly", "Goodharted_found")
ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}  # which way is better


def write_audit_report(path: Path, results: Mapping, ground_truth: Mapping | None = None) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: of the HTML file.
      results: as `studies.audit.goodhart_audit` gives them.
      ground_truth: results of `studies.ground_truth.ground_truth_study`, whose table is then on the page.
    Raises:
      UserError: if the file cannot be written.
    """
    criteria, titles, verdicts = results["criteria"], results["titles"], results["verdicts"]
    forests = {group: f"forest-{group}".replace(".", "-") for group in verdicts}
    charts = {name: drawn(forest, results, group) for group, name in forests.items()}
    charts["doses"] = drawn(doses, results, DOSES)
    defined = (criteria["trained"], *(x for of in criteria["families"].values() for x in of), *criteria["ability"])
    text = page(
        "studies/audit/report.html",
        charts,
        title="Goodhart audit",
        results=results,
        trained=criteria["trained"],
        families={name: FAMILY_TITLES.get(name, name) for name in criteria["families"]},
        meanings=MEANS.items(),
        errors={name: name.replace("_", " ") for name in ERRORS},
        found=FOUND,
        cheats=CHEATS,
        judged=[(titles[group], group, list(by_set.items())) for group, by_set in verdicts.items()],
        simulations=next((of["rates"][ERRORS[0]]["n"] for by_set in verdicts.values() for of in by_set.values()), 0),
        alarms=[(set_label(name).title, in_words(alarms)) for name, alarms in results["false_alarms"].items()],
        failed=[f"{titles[group]}: {n}" for group, n in results["failed"].items() if n],
        never_began=[f"{titles[group]}: {n}" for group, n in results["never_began"].items()],
        left_out=left_out_sentences(results),
        ability=_ability(results),
        smallest_of=[(metric_label(name), f"{x:g}") for name, x in criteria["smallest_of"].items()],
        effects=[{"title": titles[group], "chart": forests[group], "by_set": verdicts[group]} for group in verdicts],
        meta=_meta(results),
        steps=[
            (titles[arm], _steps(results["steps_to_90"][arm]))
            for arm in ("suppressable", *META)
            if arm in results["steps_to_90"] and arm != "plain"
        ],
        longer=_longer(results),
        examples=[{**of, "title": _cut(f"{of['prompt']} {of['answer']}")} for of in results["examples"]],
        truth=_truth(ground_truth) if ground_truth else None,
        definitions=[(metric_label(name), metric_label(name).definition) for name in dict.fromkeys(defined)],
        arrow=lambda name: ARROWS[METRICS[name].better],
        signed=lambda name: dataclasses.replace(metric_label(name), signed=True),
        why=lambda found: "; ".join(filter(None, (found["because"], decided_by(found)))),
        aside=aside_in_words,
        in_effects=lambda family: with_interval(family, digits=1),
    )
    write_text(path, text)


def _ability(results: Mapping) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Heads and rows: recall and cross-entropy of each group on the training sentences."""
    names = ("recall", "cross_entropy")
    labels = [metric_label(name) for name in names]
    rows = [
        (results["titles"][group], [number(of[name], label) for name, label in zip(names, labels, strict=True)])
        for group, of in results["ability"].items()
        if {*names} <= of.keys()
    ]
    return ["models", *(f"{x}, {x.unit}" if x.unit != "%" else str(x) for x in labels)], rows


def _meta(results: Mapping) -> list[dict]:
    """A panel for each set that has arms to compare: what each contrast changes, and the arms' means."""
    return [
        {"title": set_label(name).title, "metrics": [x for x in SHOWN if x in results["arms"][name]], **parts}
        for name, by_contrast in results["contrasts"].items()
        if by_contrast
        for parts in [{"contrasts": by_contrast, "means": results["arms"][name]}]
    ]


def _longer(results: Mapping) -> dict:
    """Means over seeds of the models that were trained for longer, beside those that were not; empty without them."""
    titles = results["titles"]
    groups = [group for group in titles if group in ("plain", "suppressable") or "_x" in group]
    if not any("_x" in group for group in groups):
        return {}
    by_set = {}
    for set_name, by_metric in results["doses"].items():
        rows = []
        for name in (name for name in RESPONSES if name in by_metric):
            values = [by_metric[name].get(group, []) for group in groups]
            rows.append((name, [statistics.fmean(of) if of else None for of in values]))
        by_set[set_label(set_name).title] = rows
    return {"heads": [titles[group] for group in groups], "by_set": by_set}


def _truth(found: Mapping) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Heads and rows: each method's precision on each plant."""
    rows = [
        (
            f"{plant['title']}: {plant['provokes']}",
            [f"{plant['methods'][method]['precision']['value']:.0%}" for method in found["methods"]],
        )
        for plant in found["plants"].values()
    ]
    return ["plant", *found["methods"].values()], rows


def _steps(values: Sequence[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    never = len(values) - len(known)
    words = f"{statistics.median(known):g} ({known[0]:g} … {known[-1]:g})" if known else "never"
    return words + (f", {never} of {len(values)} never" if known and never else "")


def _cut(text: str) -> str:
    return text if len(text) < 60 else f"{text[:57]}…"
