"""The tables of a report, as HTML; everything that comes from data is escaped."""

import html
import math
from collections.abc import Mapping, Sequence

from jaxinterp.metrics.results import CONTROL_DROPS, FEW, PublishedFigure, has_interval, is_few
from jaxinterp.report.labels import METRICS, SETS, Term, term

# Title, note, model -> metric -> estimate, names of the metrics to show: a block of rows.
Group = tuple[str, str, Mapping[str, Mapping[str, Mapping]], Sequence[str]]
_MISSING = "<td class=n>–"
MARKS = (
    f"* : fewer than {FEW} facts are behind the interval. [–] : it was not estimated, for one fact says nothing of "
    "others, and neither do facts that do not differ."
)
_TOP_RELATIONS = 3
# Field of `jaxinterp.facts.leakage.Leakage` -> head of its column; others are named as they are.
_LEAKAGE = {
    "answers_caseless": "answers, any case",
    "pairs_caseless": "pairs, any case",
    "inverse_pairs": "pairs, turned round",
    "answer_clean_facts": "facts with a new answer",
    "subject_clean_facts": "facts with a new subject",
}


def estimates(models: Sequence[str], groups: Sequence[Group]) -> str:
    """Metrics in rows, models in columns; metrics that no model has are left out, but for single kinds of control."""
    head = "".join(f"<th class=n scope=col>{html.escape(name)}" for name in models)
    rows = [f"<thead><tr><th scope=col>{head}</thead>"]
    for title, note, by_model, names in groups:
        measured = {name for metrics in by_model.values() for name in metrics}
        controls = CONTROL_DROPS if measured & {*CONTROL_DROPS, "control_drop"} else ()
        shown = [name for name in names if name in measured or name in controls]
        if not shown:
            continue
        small = f" <small>{html.escape(note)}</small>" if note else ""
        rows.append(
            f'<tbody><tr class=group><th scope=rowgroup colspan="{len(models) + 1}">{html.escape(title)}{small}</tr>'
        )
        for name in shown:
            cells = "".join(_estimate(by_model[model].get(name), term(METRICS, name)) for model in models)
            rows.append(f'<tr data-metric="{html.escape(name)}"><th scope=row>{_metric(name)}{cells}')
        rows.append("</tbody>")
    return f"<div class=scroll><table>{''.join(rows)}</table></div>"


def relations(by_model: Mapping[str, Mapping[str, Mapping]], names: Sequence[str]) -> str:
    """Relations in rows; under every model the named metrics."""
    measured = list(dict.fromkeys(relation for value in by_model.values() for relation in value))
    models = "".join(f'<th class=n scope=colgroup colspan="{len(names)}">{html.escape(name)}' for name in by_model)
    short = [term(METRICS, name) for name in names]
    heads = "".join(f"<th class=n scope=col>{_symbol(about.symbol) or html.escape(about.title)}" for about in short)
    heads *= len(by_model)
    rows = []
    for relation in measured:
        n = max(
            (
                metrics[relation][name]["n"]
                for metrics in by_model.values()
                for name in names
                if name in metrics.get(relation, {})
            ),
            default=0,
        )
        cells = "".join(
            _estimate(value.get(relation, {}).get(name), term(METRICS, name))
            for value in by_model.values()
            for name in names
        )
        rows.append(f"<tr><th scope=row>{html.escape(relation)}<td class=n>{n:,}{cells}")
    return (
        f"<div class=scroll><table class=wide><thead><tr><th rowspan=2 scope=col>relation"
        f"<th class=n rowspan=2 scope=col>facts{models}<tr>{heads}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def published(figures: Sequence[PublishedFigure]) -> str:
    """This run's figures beside the published ones, a row each."""
    rows = []
    for figure in figures:
        about = term(METRICS, figure.metric)
        inside = {True: "yes", False: "<b>no</b>", None: "not measured"}[figure.inside]
        rows.append(
            f"<tr><th scope=row>{html.escape(figure.model)}<td>{html.escape(term(SETS, figure.set_name).title)}"
            f"<td>{_metric(figure.metric)}{_estimate(figure.measured, about)}{_estimate(figure.published, about)}"
            f"<td class=n>{inside}"
        )
    return (
        "<div class=scroll><table><thead><tr><th scope=col>model<th scope=col>set<th scope=col>metric"
        "<th class=n scope=col>this run <small>[95% interval]</small>"
        "<th class=n scope=col>published mean <small>[95% of seeds]</small><th class=n scope=col>inside</thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def leakage(by_set: Mapping[str, Mapping[str, float | int | None]]) -> str:
    """Shares by set, a row each; "facts" is a count."""
    columns = list(dict.fromkeys(name for shares in by_set.values() for name in shares))
    heads = "".join(f"<th class=n scope=col>{html.escape(_LEAKAGE.get(name, name))}" for name in columns)
    rows = []
    for set_name, shares in by_set.items():
        cells = "".join(f"<td class=n>{_leaked(name, shares.get(name))}" for name in columns)
        rows.append(f"<tr><th scope=row>{html.escape(term(SETS, set_name).title)}{cells}")
    return (
        f"<div class=scroll><table class=dense><thead><tr><th scope=col>set{heads}</thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _leaked(name: str, value: float | int | None) -> str:
    if name == "facts" and value is not None:
        return f"{value:,}"
    return number(value, Term("", "", unit="%"))


def neurons(entries: Sequence[Mapping]) -> str:
    """The most used neurons: name, use, relations and the tokens that they promote."""
    rows = []
    for entry in entries:
        ordered = sorted(entry["relations"].items(), key=lambda item: -item[1])
        used_by = ", ".join(
            f"{html.escape(name)} <small>{share:.0%}</small>" for name, share in ordered[:_TOP_RELATIONS]
        )
        more = len(ordered) - _TOP_RELATIONS
        used_by += f" <small>and {more} more</small>" if more > 0 else ""
        tokens = " ".join(f"<code>{html.escape(_visible(token))}</code>" for token in entry["promotes"])
        rows.append(
            f"<tr><th class=n scope=row>{entry['layer']}.{entry['neuron']}<td class=n>{entry['share']:.2%}"
            f"<td class=n>{entry['selections']:,}<td class=text>{used_by}<td class=text>{tokens}"
        )
    return (
        "<div class=scroll><table class=wide><thead><tr><th class=n scope=col>layer.neuron<th class=n scope=col>share"
        "<th class=n scope=col>selections<th scope=col>relations <small>share of the neuron's selections</small>"
        f"<th scope=col>promotes</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def nested(value: object) -> str:
    """A nested mapping as nested lists of names and values."""
    if isinstance(value, Mapping):
        if not value:
            return "<span class=none>none</span>"
        items = "".join(f"<dt>{html.escape(str(key))}<dd>{nested(item)}" for key, item in value.items())
        return f"<dl class=nested>{items}</dl>"
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, Mapping) for item in value):
            return nested({str(index): item for index, item in enumerate(value)})
        return ", ".join(map(nested, value)) or "<span class=none>none</span>"
    if value is None or value == "":
        return f"<span class=none>{'none' if value is None else 'empty'}</span>"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return html.escape(str(value))


def duration(seconds: float | int) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _metric(name: str) -> str:
    about = term(METRICS, name)
    symbol = f" {_symbol(about.symbol)}" if about.symbol else ""
    unit = f" <small>{html.escape(about.unit)}</small>" if about.unit not in ("", "%") else ""
    return f'<span title="{html.escape(about.definition)}">{html.escape(about.title)}</span>{symbol}{unit}'


def _symbol(symbol: str) -> str:
    """The symbol with what follows an underscore below the line; nothing if there is none."""
    main, _, below = symbol.partition("_")
    return f"<i>{html.escape(main)}</i>" + (f"<sub>{html.escape(below)}</sub>" if below else "") if symbol else ""


def _estimate(value: Mapping | None, about: Term) -> str:
    if value is None:
        return _MISSING
    middle = number(value["value"], about)
    if middle == "–":
        return _MISSING
    facts = f' title="{value["n"]:,} fact{"s" * (value["n"] != 1)}"' if "n" in value else ""
    if not has_interval(value):
        return f"<td class=n{facts}>{middle} <small>[–]</small>"
    ends = f"{number(value['low'], about, bare=True)}, {number(value['high'], about, bare=True)}"
    return f"<td class=n{facts}>{middle} <small>[{ends}]{'*' * is_few(value)}</small>"


def number(value: float | int | None, about: Term, *, bare: bool = False) -> str:
    """A value in its unit with a true minus; without the percent sign if bare; a dash if there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    sign = "+" if about.signed else ""
    if about.unit == "%":
        text = f"{100 * value:{sign}.1f}" + ("" if bare else "%")
    elif value == 0 or 0.01 <= abs(value) < 1000:
        text = f"{value:{sign}.3f}"
    else:
        text = f"{value:{sign}.2g}"
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def _visible(token: str) -> str:
    """The token with a leading space shown ("Ġ" and "▁" are spaces too) and unprintable characters spelled out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)
    return "␣" + shown[1:] if shown.startswith((" ", "Ġ", "▁")) else shown or "∅"
