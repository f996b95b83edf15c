"""One page about any models or measurements."""

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxinterp.api.attribute import attribute
from jaxinterp.api.measured import Measurements, measure
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import writable_folder
from jaxinterp.base.lines import whole_lines
from jaxinterp.base.progress import waiting
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.facts import FactSet, Text
from jaxinterp.facts.source import load_facts
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.examples import ReadoutExamples
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.report import comparison
from jaxinterp.training.data import data_from_provenance

OTHER_FACTS = (
    "the models were measured on different facts, so that their figures do not compare; --facts (in Python, facts=) "
    "measures all of them on the same"
)
TRIED = 60  # facts at most, of which examples are taken


def write_report(
    models: Mapping[str, LanguageModel | ReadoutExamples | Measurements],
    out: str | Path,
    facts: FactSet | str | Path | None = None,
    config: MeasureConfig | None = None,
    *,
    histories: Mapping[str, Sequence[Mapping]] | None = None,
    examples: int = 3,
    **fields: object,
) -> Path:
    """Measures models, unless that is done, and writes one HTML page about them that opens offline.

    Args:
      models: by name: language models, examples of anything else that has a readout, or what `measure` returned.
      out: the file to write.
      facts, config, fields: how models are measured; see `jaxinterp.api.measured.measure`.
      histories: model -> the records of its training, as metrics.jsonl has them.
      examples: facts that are shown with their neurons, of as many relations; only of language models that are measured
        here, and of facts that the first of them answers.
    Returns:
      The file.
    Raises:
      UserError: if there is no model, the file cannot be written, or as `measure`.
    """
    out, start = Path(out), time.monotonic()
    if not models:
        raise UserError("a report needs at least one model, got none")
    writable_folder(out.parent)
    if out.is_dir():
        raise UserError(f"cannot write to {out}: it is a folder; give the name of a file")
    found = {}
    for name, model in models.items():
        of_language = isinstance(model, LanguageModel)
        if isinstance(model, Measurements):
            found[name] = model
        else:
            found[name] = measure(model, facts if of_language else None, config, name=name, **fields)
    language = {name: model for name, model in models.items() if isinstance(model, LanguageModel)}
    shown: list[dict] = []
    if language and examples:
        with waiting("compiling, and showing a few facts with their neurons"):
            shown = shown_facts(language, facts, examples)
    results = {
        "provenance": {**provenance(), "models": {name: of.results["provenance"] for name, of in found.items()}},
        "seconds": round(time.monotonic() - start, 1),
        "models": {name: of.results for name, of in found.items()},
        "examples": shown,
    }
    of_facts = {json.dumps(_measured_on(of.results["provenance"]), sort_keys=True) for of in found.values()}
    told = [] if len(of_facts) == 1 else [OTHER_FACTS]
    for sentence in told:
        print(f"note: {sentence}", file=sys.stderr)
    comparison.write_report(out, json.loads(json.dumps(results)), histories or {}, learned=False, told=told)
    return out


def _measured_on(provenance: Mapping) -> object:
    """What tells the facts of one measurement from those of another."""
    own = provenance.get("model") or {}
    return [provenance.get("facts"), own.get("data") if provenance.get("facts") is None else None]


def shown_facts(
    models: Mapping[str, LanguageModel], facts: FactSet | str | Path | None, n: int, k: int = 8
) -> list[dict]:
    """A few facts of different relations that the first model answers, with their neurons in all of the models.

    Returns:
      [{"title", "prompt", "answer", "models": {name: what `Attributed.to_json` gives}}]; models that cannot read a
      fact's words are left out of it.
    """
    first = next(iter(models.values()))
    if facts is None:
        data = data_from_provenance(first.provenance)
        pairs, known = data.split.unseen_facts.tolist(), data.facts
    else:
        known = facts if isinstance(facts, FactSet) else load_facts(str(facts))
        pairs = [(fact, 0) for fact in range(len(known))]
    # One fact of each relation in turn, so that few are asked.
    by_relation: dict[str, list[tuple[int, int]]] = {}
    for fact, prompt in pairs:
        by_relation.setdefault(known.facts[fact].relation, []).append((fact, prompt))
    queues, shown, tried = list(by_relation.values()), [], 0
    while queues and len(shown) < n and tried < TRIED:
        queue = queues.pop(0)
        text = known.text(*queue.pop(0))
        before, answer, _ = text
        tried += 1
        seen = _seen(models, text, k)
        tokens = seen[next(iter(models))]["tokens"] if next(iter(models)) in seen else []
        if tokens and all(token["predicted"] == token["token"] for token in tokens):
            shown.append({"title": f"{before} …{answer}", "prompt": before, "answer": answer, "models": seen})
        elif queue:
            queues.append(queue)
    return shown


def _seen(models: Mapping[str, LanguageModel], text: Text, k: int) -> dict[str, dict]:
    """By model, the attribution; without models that cannot be asked, such as causal ones before the text's end."""
    found = {}
    for name, model in models.items():
        mask = model.tokenizer.mask
        prompt, answer = text.before, text.answer
        if mask is not None:
            # A mask stands in place of a word; the space before it is the answer's.
            space, answer = answer[: len(answer) - len(answer.lstrip())], answer.lstrip()
            prompt = f"{prompt}{space}{model.tokenizer.token(mask)}{text.after}"
        elif text.after.strip(" ."):
            continue
        try:
            found[name] = attribute(model, prompt, answer, k=k, rule="midpoint").to_json()
        except UserError:  # a vocabulary of words that lacks one
            continue
    return found


@dataclasses.dataclass(frozen=True)
class Named:
    """A model of a command line: its name on the page, and where it is."""

    name: str
    place: str

    @property
    def history(self) -> list[dict]:
        """The records of its training, if the place is a run's folder."""
        return [value for _, _, value in whole_lines(Path(self.place) / "metrics.jsonl")[0]]


def named(places: Sequence[str]) -> list[Named]:
    """Names of models: the last part of each place, or as much of it as tells them apart."""
    parts = [place.rstrip("/").split("/") for place in places]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return [Named(name, place) for name, place in zip(names, places, strict=True)]
    raise UserError(f"the same model is named twice: {', '.join(places)}")
