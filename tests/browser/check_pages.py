"""Opens every kind of page in headless Chromium with names that are markup, scripts and control characters.

    python tests/browser/check_pages.py [--keep FOLDER]

The names of models and relations, facts, tokens and provenance of made-up results are replaced by hostile ones; pages
are written by the functions that studies use, and opened, hovered over and clicked through. Exit status 0: nothing ran,
nothing was asked for over the network, nothing was logged; 1: something was found, and is printed; 2: no browser.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import queue
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import fabricated
from check_report import Browser, trouble

MARK = "document.documentElement.dataset.pwned=1"
HOSTILE = (
    f"</script><script>{MARK}</script>",
    f"<script>{MARK}</script>",
    f'<img src=x onerror="{MARK}">',
    f"'\"><svg onload={MARK}>",
    f"<style onload={MARK}></style><a href=javascript:{MARK}>x</a>",
    f"--><!--<script>{MARK}</script>",
    f"{{{{ {MARK} }}}} ${{{MARK}}} {{% if 1 %}}",
    f"</title></textarea><body onpageshow={MARK}>",
    f"]]><script>{MARK}</script>",
    "\x1b]0;x\x07 \x00 \uffff \ufdd0 \ud800 \u202e \u2028",
    f"<iframe srcdoc='<script>parent.{MARK}</script>'></iframe>",
    f"<math><mtext><script>{MARK}</script>",
)


def poisoned(value: object, names: Mapping[str, str]) -> object:
    """The value with texts replaced, also those that are keys."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, Mapping):
        return {poisoned(key, names): poisoned(of, names) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(poisoned(of, names) for of in value)
    if dataclasses.is_dataclass(value):
        fields = {field.name: poisoned(getattr(value, field.name), names) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def hostile(*names: str) -> dict[str, str]:
    """A hostile text for each name, none twice."""
    texts = (text + " " * turn for turn in itertools.count() for text in HOSTILE)
    return dict(zip(names, texts, strict=False))


def example(*models: str) -> dict:
    """A fact with its neurons, as `jaxinterp.api.reported.shown_facts` gives it."""
    neuron = {"layer": 1, "neuron": 7, "score": 0.5, "share": 0.9, "alone": 0.1, "promotes": list(HOSTILE)}
    said = [{"token": text, "probability": 0.5} for text in HOSTILE]
    token = {"neurons": [neuron], "says": {"untouched": said, "suppressed": said}}
    seen = {"probability": 0.9, "suppressed": 0.1, "random": 0.8, "tokens": [token]}
    return {"title": HOSTILE[0], "prompt": HOSTILE[1], "answer": HOSTILE[2], "models": dict.fromkeys(models, seen)}


def loaded(path: Path) -> ModuleType:
    """A file of tests as a module: its made-up results."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def write_pages(folder: Path) -> list[Path]:
    """Writes every kind of page and every chart, with hostile names; returns the files."""
    from rich.table import Table

    from jaxinterp.report.charts import neuron_use, save_chart, training_curves
    from jaxinterp.report.comparison import write_report
    from jaxinterp.report.drop_bars import overview, relation_bars, second_opinion
    from jaxinterp.report.sections import Section, write_sections
    from jaxinterp.report.shown import Shown
    from jaxinterp.studies.audit.report import write_audit_report
    from jaxinterp.studies.knowledge_neurons.page import write_page

    results = fabricated.results(("plain", "suppressable"), fabricated.RELATIONS[: len(HOSTILE)])
    tokens = {token for model in results["models"].values() for of in model["neurons"] for token in of["promotes"]}
    names = hostile("plain", "suppressable") | hostile(*fabricated.RELATIONS) | hostile(*sorted(tokens))
    results = poisoned(results, names)
    results["examples"] = [example(*results["models"])]
    results["provenance"] = {text: [text, {text: text}] for text in HOSTILE}
    histories = poisoned(fabricated.histories(), names)
    write_report(folder / "comparison.html", results, histories, told=HOSTILE)

    audit = loaded(HERE.parent / "studies" / "audit" / "test_audit.py").results_of()
    audit["titles"] = dict(zip(audit["titles"], hostile(*audit["titles"]).values(), strict=True))
    audit |= {"examples": [example("plain", "suppressable")], "provenance": results["provenance"]}
    write_audit_report(folder / "audit.html", audit)

    study = loaded(HERE.parent / "studies" / "knowledge_neurons" / "test_charts.py")
    names = hostile("P36", "P1412", "mine", "some-model", "fact above the limit", " Paris", "<a>", "s → a (mine)")
    neurons = dict.fromkeys(study.PROTOCOLS, study.NEURONS)
    write_page(
        folder / "knowledge_neurons",
        poisoned(study.results(), names),
        poisoned(neurons, names),
        [example("some-model")],
    )

    table = Table(HOSTILE[0], *HOSTILE[1:3], title=HOSTILE[3], caption=HOSTILE[4])
    for text in HOSTILE:
        table.add_row(text, text, "1.0")
    chart = overview(results)
    section = Section("s", HOSTILE[0], [*HOSTILE, table], {HOSTILE[1]: chart}, HOSTILE[2])
    write_sections(folder / "sections.html", HOSTILE[0], HOSTILE, [section], results["provenance"], results["examples"])

    class Value(Shown):
        def parts(self):
            return [*HOSTILE, table]

    notebook = f"<!doctype html><meta charset=utf-8><body>{Value()._repr_html_()}</body>"
    (folder / "notebook.html").write_text(notebook, encoding="utf-8")
    charts = {"overview": chart, "opinion": second_opinion(results), "neurons": neuron_use(results)}
    charts |= {"training": training_curves(histories), "relations": relation_bars(results, "objective")}
    for name, own in charts.items():
        save_chart(own, folder / "charts", name)
    return sorted([*folder.rglob("*.html"), *folder.rglob("*.svg")])


def look(browser: Browser, page: Path) -> list[str]:
    """Opens a page, moves over it and clicks what can be clicked; returns what is wrong."""
    browser.events.clear()
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable", session)
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", session, **size)
    browser.call("Page.navigate", session, url=page.resolve().as_uri())

    def value(expression: str) -> object:
        result = browser.call("Runtime.evaluate", session, expression=expression, returnByValue=True)["result"]
        return result.get("value")

    ready = "document.readyState === 'complete' && (document.documentElement.dataset.drawn || !window.vegaEmbed)"
    deadline = time.monotonic() + 90
    while not value(ready) and time.monotonic() < deadline:
        time.sleep(0.1)
    problems = [] if value(ready) else ["the charts were not drawn"]
    # Tooltips are drawn of what the mouse is over, panels of tabs when they are chosen.
    value("document.querySelectorAll('[role=tab], summary').forEach(x => x.click())")
    over = (
        "for (const x of document.querySelectorAll('svg path, svg text')) for (const kind of ['mousemove', 'mouseover',"
    )
    over += " 'pointermove']) x.dispatchEvent(new MouseEvent(kind, {bubbles: true, clientX: 300, clientY: 300}))"
    value(over)
    time.sleep(0.5)
    if value("document.documentElement.dataset.pwned"):
        problems.append("a script of the data ran")
    problems += [text for text in value("[...document.querySelectorAll('.failed')].map(x => x.textContent)")]
    strange = "script:not([type]), iframe, img, [onload], [onerror], [onpageshow], a[href^=javascript]"
    for text in value(f"[...document.querySelectorAll('{strange}')].map(x => x.outerHTML.slice(0, 80))"):
        if not text.startswith("<script>") or "pwned" in text:
            problems.append(f"an element that no page has: {text}")
    dialogs = [event for event in browser.events if event.get("method") == "Page.javascriptDialogOpening"]
    problems += ["a dialog opened"] * len(dialogs) + [found for event in browser.events if (found := trouble(event))]
    browser.call("Target.closeTarget", targetId=target)
    return problems


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder for the pages")
    parser.add_argument("--browser", default="chromium", help="program")
    arguments = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = arguments.keep or Path(scratch) / "pages"
        folder.mkdir(parents=True, exist_ok=True)
        pages = write_pages(folder)
        try:
            browser = Browser(arguments.browser, str(Path(scratch) / "profile"))
        except OSError as error:
            print(f"{arguments.browser}: {error.strerror}; give its path with --browser", file=sys.stderr)
            return 2
        try:
            for page in pages:
                problems = look(browser, page)
                bad += bool(problems)
                print(f"{page.relative_to(folder)}: {'; '.join(problems) or 'nothing ran'}", flush=True)
        except (RuntimeError, queue.Empty, OSError) as error:
            print(f"the browser could not be driven: {error or 'no answer'}", file=sys.stderr)
            return 2
        finally:
            browser.close()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
