"""One HTML file that holds a run's numbers, charts and provenance; it opens offline and loads nothing."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import write_text
from jaxinterp.metrics.results import (
    CONTROL_DROPS,
    HEADLINE,
    has_interval,
    is_few,
    is_known,
    missing_controls,
    published_figures,
    remarks,
)
from jaxinterp.report import charts, tables
from jaxinterp.report.labels import METRICS, SETS, term
from jaxinterp.report.page import Section, figure, note, page, tabs

_NUMBERS = ("one", "two", "three", "four", "five", "six")
_INTERVALS = (
    "Brackets, and the thin lines on bars, are 95% intervals. That of a set covers other facts and other "
    "relations of the same kind: its relations are drawn with replacement, each with its facts, and the number is "
    "computed anew, many times; the interval is the number ± the spread of the outcomes times Student's t for so many "
    "relations. Few relations say little of others, so that the interval of two is very wide. For a single relation "
    "each fact, with all its prompts, is left out in turn, and the interval is the number ± the spread of the outcomes "
    "times Student's t for so many facts. C is taken as the largest anew each time. No interval says how "
    "much a number would move if the models were trained again from another seed, which can be more."
)
_CONTROLS = (
    "The <b>control drops</b> are the same share when the neurons of <i>another</i> fact are off. There are three "
    "kinds of other fact: one of the same relation, with another subject and answer (<b>C<sub>relation</sub></b>), one "
    "of the same subject, with another relation and answer (<b>C<sub>subject</sub></b>), and one that has neither in "
    "common (<b>C<sub>other</sub></b>). <b>C</b> is the largest of the three. S near 100% with C near 0% means that "
    "each fact sits in neurons of its own. That is only true with the largest: a model with one bank of neurons for "
    "each relation, and none for facts, has S = 100% and C<sub>other</sub> = 0%, and only its C<sub>relation</sub> of "
    "100% gives it away. <b>C<sub>answer</sub></b>, by a fact of another subject with the same answer, is for "
    "information and no part of C."
)
_HEADLINE = (*HEADLINE, "control_drop_answer", "amplification")
_OPINION = (
    *("suppressability", "control_drop", "selective"),
    *("ablation_suppressability", *(f"ablation_{name}" for name in CONTROL_DROPS), "ablation_control_drop"),
    *("ablation_selective", "ablation_overlap"),
)
_BY_LENGTH = (
    *("suppressability_1_token", "suppressability_2_tokens", "suppressability_3_tokens"),
    *("token_suppressability", "each_suppressability"),
)
_NEW = (
    "A fact has a new answer if no fact in the objective has that answer, and a new subject if no fact in the "
    "objective names it, as its subject or as its answer."
)
_CLEAN = ("suppressability_new_answer", "suppressability_new_subject")


def write_report(path: Path, results: Mapping, histories: Mapping[str, Sequence[Mapping]]) -> None:
    """Writes the report, whole or not at all.

    Args:
      path: of the HTML file.
      results: "provenance", "seconds" and "models", as in results.json, and perhaps "published" and "leakage"; metrics
        that were not measured are left out.
      histories: model -> training records; empty if nothing was trained.
    Raises:
      UserError: if there is no model, or the file cannot be written.
    """
    if not results["models"]:
        raise UserError("a report needs at least one measured model, got none")
    specs: dict[str, dict] = {}
    sections = [
        Section("summary", "Result", "Result", _summary(results)),
        Section("published", "Published range", "This run beside the published range", _published(results)),
        Section("overview", "At a glance", "At a glance", _overview(results, specs)),
        Section("relations", "By relation", "By relation", _relations(results, specs)),
        Section("opinion", "Second opinion", "Second opinion", _second_opinion(results, specs)),
        Section("length", "By length", "By length of the answer", _by_length(results)),
        Section("leakage", "Leakage", "Leakage", _leakage(results)),
        Section("training", "Training", "Training", _training(histories, specs)),
        Section("neurons", "Neurons", "The most used neurons", _neurons(results, specs)),
        Section("definitions", "Definitions", "How each number is defined", _definitions(results)),
        Section("provenance", "Provenance", "Provenance", tables.nested(results["provenance"])),
    ]
    written = [section for section in sections if section.body]
    write_text(path, page(_title(results), _introduction(results), written, specs))


def _title(results: Mapping) -> str:
    names = list(results["models"])
    return f"Suppressability: {', '.join(names)}"


def _introduction(results: Mapping) -> str:
    names = list(results["models"])
    count = _NUMBERS[len(names) - 1] if len(names) <= len(_NUMBERS) else str(len(names))
    models = f"{count.capitalize()} language model{'s' * (len(names) > 1)} ({', '.join(names)})"
    done = f"{models} learned the same facts from the same seed" if len(names) > 1 else f"{models} learned facts"
    was = "were" if len(names) > 1 else "was"
    return (
        f"<p class=lead>{html.escape(done)} and {was} measured by switching off, for every fact, the few neurons that "
        "integrated gradients hold responsible for its answer. <b>Suppressability S</b> is the share of the answers' "
        f"probability that is lost when a fact's own neurons are off.</p><p class=lead>{_CONTROLS}</p>"
        f"<p class=by>What was left of the training, and measuring took {tables.duration(results['seconds'])}.</p>"
    )


def _summary(results: Mapping) -> str:
    models = results["models"]
    whole = {name: {key: model[key] for key in ("cross_entropy", "recall")} for name, model in models.items()}
    groups = [("Untouched model", "", whole, ("cross_entropy", "recall")), *_groups(results, _HEADLINE)]
    return (
        tables.estimates(list(models), groups)
        + _missing(results)
        + _remarks(results)
        + f"<p class=note>{_INTERVALS}</p>"
        + f"<details><summary>All metrics</summary>{tables.estimates(list(models), _groups(results))}</details>"
    )


def _overview(results: Mapping, specs: dict) -> str:
    sets = "; ".join(
        f"<b>{html.escape(term(SETS, name).title)}</b>: {html.escape(term(SETS, name).definition)}"
        for name in _set_names(results)
        if term(SETS, name).definition
    )
    drawn = figure(specs, "overview", charts.overview, results)
    words = note(
        f"C is the longest of the three orange bars. Intervals are drawn no farther than to −25% and 125%. {sets}."
    )
    return drawn + words + _missing(results)


def _missing(results: Mapping) -> str:
    """The sentence about kinds of control that a set cannot have; nothing if every set has all."""
    missing = missing_controls(results)
    if not missing:
        return ""
    sets = "; ".join(
        f"{html.escape(term(SETS, name).title)}: {', '.join(f'C<sub>{kind}</sub>' for kind in kinds)}"
        for name, kinds in missing.items()
    )
    return note(f"– : no answer of the set has such a control ({sets}); C is the largest of the kinds that there are.")


def _remarks(results: Mapping) -> str:
    """Which relations the figures lack, where S and C are over different facts, and what marks say."""
    models = results["models"]
    shown = [value for model in models.values() for metrics in model["sets"].values() for value in metrics.values()]
    return "".join(note(html.escape(sentence) + ".") for sentence in remarks(models)) + _marks(shown)


def _marks(shown: Sequence[Mapping]) -> str:
    marked = any(is_known(value) and (is_few(value) or not has_interval(value)) for value in shown)
    return note(tables.MARKS) if marked else ""


def _published(results: Mapping) -> str:
    """This run beside the published figures; nothing if there are none in the results."""
    figures = published_figures(results)
    if not figures:
        return ""
    first = [figure for figure in figures if figure.metric in HEADLINE]
    known = [figure.inside for figure in first if figure.inside is not None]
    return (
        "<p>The published figures are means over models that were trained from several seeds. The range beside them is "
        "where the figure of a single seed, such as this run's, is expected 95% of the time. Other machines and "
        "versions of libraries give other models from the same seed.</p>"
        + tables.published(first)
        + note(f"{sum(known)} of {len(known)} figures of this run lie inside the published range.")
        + f"<details><summary>All published figures</summary>{tables.published(figures)}</details>"
    )


def _by_length(results: Mapping) -> str:
    """S by the number of an answer's tokens; nothing if it was not measured."""
    if not _measured(results) & set(_BY_LENGTH):
        return ""
    return (
        "<p>An answer is lost as soon as one of its tokens is, so that S grows with the number of tokens if k neurons "
        "are switched off for each of them. Where nothing else is said, here and in every other table, k neurons are "
        "switched off for the whole answer, however many tokens it has.</p>"
        + tables.estimates(list(results["models"]), _groups(results, ("suppressability", *_BY_LENGTH)))
    )


def _leakage(results: Mapping) -> str:
    """How much of each set the objective has seen; nothing if that is not in the results."""
    if not results.get("leakage"):
        return ""
    models, measured = list(results["models"]), _measured(results) & set(_CLEAN)
    named = measured or any("answer_clean_facts" in shares for shares in results["leakage"].values())
    clean = tables.estimates(models, _groups(results, ("suppressability", *_CLEAN))) if measured else ""
    return (
        "<p>How much of each set the objective has seen, under any relation and with any prompt: the share of its "
        f"subjects, of its answers, and of its pairs of a subject and an answer.{f' {_NEW}' if named else ''}</p>"
        + tables.leakage(results["leakage"])
        + clean
    )


def _relations(results: Mapping, specs: dict) -> str:
    panels, complete, shown = [], True, []
    names = [name for name in _HEADLINE if name in _measured(results)]
    for set_name in _set_names(results):
        by_model = {model: value["by_relation"].get(set_name, {}) for model, value in results["models"].items()}
        if not any(by_model.values()):
            continue
        drawn = figure(specs, f"relations-{set_name}", charts.relation_bars, results, set_name)
        numbers = f"<details><summary>Numbers</summary>{tables.relations(by_model, names)}</details>"
        panels.append((term(SETS, set_name).title, drawn + numbers))
        left = {
            relation
            for model in results["models"].values()
            for relation in model.get("left_out_relations", {}).get(set_name, {})
        }
        every = [
            metrics
            for by_relation in by_model.values()
            for relation, metrics in by_relation.items()
            if relation not in left
        ]
        shown += [metrics[name] for metrics in every for name in names if name in metrics]
        complete &= all(is_known(metrics.get(name)) for metrics in every for name in names if name in CONTROL_DROPS)
    if not panels:
        return note("No relation was measured on its own.")
    return (
        tabs("relations", panels)
        + _marks(shown)
        + (
            ""
            if complete
            else note("– : no answer of the relation has such a control; C is the largest of the others.")
        )
    )


def _second_opinion(results: Mapping, specs: dict) -> str:
    drawn = figure(specs, "opinion", charts.second_opinion, results)
    if not drawn:
        return note("Exact ablation was not measured in this run.")
    return (
        "<p>An objective that trains through integrated gradients might only learn to fool them; neurons chosen "
        "another way would then not suppress the facts. Here they are chosen by exact ablation, one neuron switched "
        "off at a time, on a smaller sample of the facts. Both times C is the largest over the three kinds of control."
        "</p>" + drawn + f"<details><summary>Numbers, and the overlap of the two choices</summary>"
        f"{tables.estimates(list(results['models']), _groups(results, _OPINION))}</details>"
    )


def _training(histories: Mapping[str, Sequence[Mapping]], specs: dict) -> str:
    drawn = figure(specs, "training", charts.training_curves, histories)
    words = (
        f"Values of single batches; above {charts.POINTS} records a curve shows the means of equal bins. C is the "
        "largest of the kinds of control in each batch: of so few answers it lies above the largest of their means."
    )
    return drawn + note(words) if drawn else note("No training history was recorded.")


def _neurons(results: Mapping, specs: dict) -> str:
    drawn = figure(specs, "neurons", charts.neuron_use, results)
    if not drawn:
        return note("No neuron was selected.")
    lists = [(name, tables.neurons(model["neurons"])) for name, model in results["models"].items() if model["neurons"]]
    return (
        "<p>How often each neuron was selected for a fact, as a share of all selections, on the facts in the "
        "objective. A few neurons with most of the selections are hubs, not the home of a fact; "
        "C<sub>other</sub> shows them too, and C<sub>relation</sub> shows those of a relation.</p>"
        + drawn
        + tabs("neurons", lists)
    )


def _definitions(results: Mapping) -> str:
    measured = _measured(results)
    items = [(METRICS[name].label, METRICS[name].definition) for name in METRICS if name in measured]
    first = (
        "Knowledge neurons of a fact",
        "The few neurons, a fixed number for each answer out of all layers, with the largest attribution, summed over "
        "the answer's tokens: integrated gradients of the token's probability over multipliers on the feed-forward "
        "neurons at the token before it. Multiplier 1 is the untouched model, 0 switches the neuron off, 2 doubles it.",
    )
    over = (
        "Over relations",
        "A drop is a ratio of mean probabilities inside each relation; the number of a set is the unweighted mean over "
        "its relations. C of a set is the largest of the three means, not the mean of each relation's largest. The "
        "largest of three uncertain numbers lies a little too high where they are close.",
    )
    last = ("n, and intervals", f"n is the number of facts. {_INTERVALS}")
    return "<dl class=definitions>{}</dl>".format(
        "".join(f"<dt>{html.escape(name)}<dd>{html.escape(text)}" for name, text in (first, over, *items, last))
    )


def _measured(results: Mapping) -> set[str]:
    return {name for model in results["models"].values() for metrics in model["sets"].values() for name in metrics}


def _set_names(results: Mapping) -> list[str]:
    return list(dict.fromkeys(name for model in results["models"].values() for name in model["sets"]))


def _groups(results: Mapping, names: Sequence[str] = ()) -> list[tables.Group]:
    """A block of rows a set: these metrics, or all, where one kind of control brings the others."""
    groups = []
    for set_name in _set_names(results):
        by_model = {name: model["sets"].get(set_name, {}) for name, model in results["models"].items()}
        measured = [name for metrics in by_model.values() for name in metrics]
        listed = {*measured, *(CONTROL_DROPS if set(measured) & set(CONTROL_DROPS) else ())}
        shown = names or tuple(name for name in dict.fromkeys([*METRICS, *measured]) if name in listed)
        n = max((metrics[name]["n"] for metrics in by_model.values() for name in shown if name in metrics), default=0)
        groups.append((term(SETS, set_name).title, f"{n:,} facts", by_model, shown))
    return groups
