"""Offline pages from jinja2 templates: every value is escaped, charts are embedded, and every request is forbidden.

A page extends report/page.html and sets `sections`, (place in the address, link, heading, body) each; one whose body is
empty is left out. The macros of report/tables.html make its tables.
"""

import base64
import hashlib
import math
import re
from collections.abc import Callable, Mapping

import jinja2
import markupsafe
import vl_convert

from jaxinterp.base.tables import printable
from jaxinterp.metrics.registry import Label
from jaxinterp.metrics.results import has_interval, is_few
from jaxinterp.report.charts import Chart, readable
from jaxinterp.report.labels import metric_label, set_label
from jaxinterp.report.shown import visible
from jaxinterp.report.style import WIDTH, chart_config

NARROW_WIDTH = 720  # pixels, of the charts of a narrow window
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("jaxinterp", ""),
    autoescape=True,
    finalize=lambda value: printable(value) if type(value) is str else value,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
TEMPLATES.globals |= {"metric_label": metric_label, "set_label": set_label}
TEMPLATES.tests |= {"with_interval": has_interval, "few": is_few}


def page(template: str, charts: Mapping[str, Mapping | None], **values: object) -> str:
    """The document.

    Args:
      template: path below the package, with "/".
      charts: name -> `drawn` chart; the template asks whether one that is None is there by `name in charts`.
      values: that the template uses, with "title".
    """
    # A page without charts is one of hundreds, and the library that draws them is most of a page.
    scripts = [vl_convert.javascript_bundle()] if any(charts.values()) else []
    scripts.append(_source("report/page.js"))
    if any("</script" in script.lower() or "<!--" in script for script in scripts):
        raise ValueError("a script of the report would end its own element")
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    return TEMPLATES.get_template(template).render(
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:",
        style=markupsafe.Markup(_source("report/page.css")),
        scripts=[markupsafe.Markup(script) for script in scripts],
        charts={name: specs for name, specs in charts.items() if specs is not None},
        **values,
    )


def drawn(chart: Callable[..., Chart | None], *data: object) -> dict[str, dict] | None:
    """Vega-Lite specs of a chart for a wide and a narrow window; None if it has nothing to show."""
    specs = {}
    for size, width in (("wide", WIDTH), ("narrow", NARROW_WIDTH)):
        found = chart(*data, width=width)
        if found is None:
            return None
        specs[size] = _on_the_page(found)
    return specs


def embedded(chart: Chart) -> dict[str, dict]:
    """Vega-Lite specs of a chart that has one width, for windows of any width."""
    return dict.fromkeys(("wide", "narrow"), _on_the_page(chart))


def number(value: float | int | None, label: Label, *, bare: bool = False) -> str:
    """A value in its unit with a true minus; without the percent sign if bare; a dash if there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    sign = "+" if label.signed else ""
    if label.unit == "%":
        text = f"{100 * value:{sign}.1f}" + ("" if bare else "%")
    elif value == 0 or 0.01 <= abs(value) < 1000:
        text = f"{value:{sign}.3f}"
    else:
        text = f"{value:{sign}.2g}"
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def duration(seconds: float | int) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _on_the_page(chart: Chart) -> dict:
    """Its spec in the page's colours, which follow the reader's light or dark."""
    return readable(chart.to_dict(validate=False)) | {"config": chart_config(ink="currentColor", background=None)}


def subscripted(text: object) -> markupsafe.Markup:
    """The text, escaped, with what follows the underscore of a symbol such as C_other below the line."""
    escaped = str(markupsafe.escape(printable(str(text))))
    return markupsafe.Markup(re.sub(r"\b([A-Z])_(\w+)", r"\1<sub>\2</sub>", escaped))


TEMPLATES.filters |= {"number": number, "duration": duration, "visible": visible, "subscripted": subscripted}


def _source(name: str) -> str:
    return TEMPLATES.loader.get_source(TEMPLATES, name)[0]


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
