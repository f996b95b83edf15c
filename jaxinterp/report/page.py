"""The frame of an offline page: sections, tabs, charts, and a policy that forbids every request."""

import base64
import hashlib
import html
import importlib.resources
import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import vl_convert

from jaxinterp.report import charts
from jaxinterp.report.style import WIDTH, chart_config

NARROW_WIDTH = 720  # pixels, of the charts of a narrow window


class Section(NamedTuple):
    """A part of a page."""

    name: str  # of its place in the address
    link: str  # in the page's navigation
    title: str
    body: str  # HTML


def note(text: str) -> str:
    """A remark, or why something is not there."""
    return f"<p class=note>{text}</p>"


def figure(specs: dict, name: str, chart: Callable[..., charts.Chart | None], *data: object) -> str:
    """The place of a chart, whose wide and narrow specs go to `specs`; nothing if there is no chart."""
    wide, narrow = (chart(*data, width=width) for width in (WIDTH, NARROW_WIDTH))
    if wide is None or narrow is None:
        return ""
    specs[name] = {"wide": wide.to_dict(validate=False), "narrow": narrow.to_dict(validate=False)}
    for spec in specs[name].values():
        spec["config"] = chart_config(ink="currentColor", background=None)
    return f'<figure data-chart="{html.escape(name)}"></figure>'


def tabs(name: str, panels: Sequence[tuple[str, str]]) -> str:
    """Panels of which one shows at a time; without JavaScript and on paper, all of them."""
    if not panels:
        return ""
    buttons = "".join(
        f'<button role=tab id="{name}-tab-{i}" aria-controls="{name}-panel-{i}">{html.escape(title)}</button>'
        for i, (title, _) in enumerate(panels)
    )
    bodies = "".join(
        f'<div role=tabpanel id="{name}-panel-{i}" aria-labelledby="{name}-tab-{i}">'
        f"<h3>{html.escape(title)}</h3>{body}</div>"
        for i, (title, body) in enumerate(panels)
    )
    return f"<div class=tabs><div role=tablist>{buttons}</div>{bodies}</div>"


def page(title: str, introduction: str, sections: Sequence[Section], specs: Mapping[str, Mapping]) -> str:
    """The document.

    Args:
      title: plain text.
      introduction: HTML.
      sections: in order.
      specs: Vega-Lite specs of the charts, as `figure` has left them.
    """
    scripts = [vl_convert.javascript_bundle(), _packaged("page.js")]
    if any("</script" in script.lower() or "<!--" in script for script in scripts):
        raise ValueError("a script of the report would end its own element")
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"
    links = "".join(f'<a href="#{section.name}">{section.link}</a>' for section in sections)
    bodies = "".join(
        f'<section id="{section.name}"><h2>{section.title}</h2>{section.body}</section>' for section in sections
    )
    data = json.dumps(specs, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<link rel=icon href="data:,">
<title>{html.escape(title)}</title>
<style>
{_packaged("page.css")}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1>{introduction}<nav>{links}</nav></header>
<main>
{bodies}
</main>
<noscript><p class=note>The charts need JavaScript; the tables do not.</p></noscript>
<script type="application/json" id=charts>{data}</script>
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


def _packaged(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
