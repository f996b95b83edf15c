"""One page for each neuron, an index of them, and links from facts to the neurons that carry them; all offline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinterp.base.files import writable_folder, write_text
from jaxinterp.base.progress import progress
from jaxinterp.editing.neurons import request_neurons
from jaxinterp.editing.request import requests_of
from jaxinterp.facts.facts import FactSet
from jaxinterp.memories.memory import Memories, Memory, check_neuron, label_text
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.report.page import page

INDEX = "index.html"
Place = tuple[int, int]  # layer, neuron


class Carried(NamedTuple):
    """A fact and its knowledge neurons, those of the first layer first."""

    text: str  # its sentence
    neurons: Sequence[Place]


def carried_facts(model: LanguageModel, facts: FactSet, n: int, k: int = 8, seed: int = 0) -> list[Carried]:
    """The knowledge neurons of n facts that the model has words for, by integrated gradients of their own answers.

    Args:
      model: a causal one, or a masked one.
      facts: from which they are drawn.
      n: most facts.
      k: neurons of each.
      seed: of the draw.
    """
    asked = facts.answer_last() if model.config.attention == "causal" else facts
    found: list[Carried] = []
    for index in np.random.default_rng([seed, *b"carried"]).permutation(len(asked)).tolist():
        if len(found) == n:
            break
        text = "".join(asked.text(index, 0))
        if model.tokenizer.unknown_word(text) is None and model.tokenizer.spelled_control_token(text) is None:
            [neurons] = request_neurons(model, requests_of(asked, {index: asked.facts[index].answer}), k)
            places = zip(np.asarray(neurons.layer_k).tolist(), np.asarray(neurons.neuron_k).tolist(), strict=True)
            found.append(Carried(text, list(places)))
    return found


def write_pages(
    folder: Path, found: Memories, neurons: Sequence[Place], carried: Sequence[Carried] = (), *, k: int = 25
) -> Path:
    """Writes a page for each neuron, and the index, which links to all of them.

    Args:
      folder: for "2-117.html" of layer 2 and neuron 117, and `INDEX`.
      found: the model's memories.
      neurons: which have a page; those of facts have one as well.
      carried: facts that are linked with their neurons.
      k: triggers of each that are shown.
    Returns:
      The path of the index.
    Raises:
      UserError: if there is no such neuron, or a file cannot be written.
    """
    places = sorted({*neurons, *(place for fact in carried for place in fact.neurons)})
    for place in places:
        check_neuron(found.model, *place)
    writable_folder(folder)
    of_neuron = _by_neuron(carried)
    rows: dict[int, list[dict]] = {}
    labels: dict[Place, str] = {}
    with progress("pages", len(places)) as report:
        for number, place in enumerate(places):
            memory = found.memory(*place, k=k)
            labels[place] = label_text(memory.label)
            near = {"before": places[number - 1 : number], "next": places[number + 1 : number + 2]}
            links = [
                ("all neurons", INDEX),
                *((f"{name}: L{p[0]}.{p[1]}", _file(p)) for name, ps in near.items() for p in ps),
            ]
            write_text(folder / _file(place), _page(memory, labels[place], links, of_neuron.get(place, []), found))
            first = memory.triggers[0] if memory.triggers else None
            row = {"layer": place[0], "neuron": place[1], "label": labels[place], "trigger": first}
            rows.setdefault(place[0], []).append({**row, "promotes": memory.promotes[:5]})
            report(number + 1, "pages")
    facts = [
        (fact.text, f"fact-{n}", [(*place, labels[place]) for place in fact.neurons]) for n, fact in enumerate(carried)
    ]
    lead = (
        f"Each neuron of a feed-forward layer as a key and a value: the tokens that activate it most, out of "
        f"{found.contexts.n:,} distinct contexts, and the tokens that it then promotes. {len(places):,} neurons have a "
        "page."
    )
    layers = sorted(rows.items())
    write_text(
        folder / INDEX,
        page("memories/index.html", {}, title="Memories", lead=lead, facts=facts, layers=layers),
    )
    return folder / INDEX


def _page(memory: Memory, label: str, links: list, facts: list, found: Memories) -> str:
    same = memory.label.same if memory.label else ()
    also = ", ".join(f"{kind} {value!r}" for kind, value in same)
    return page(
        "memories/neuron.html",
        {},
        title=f"Layer {memory.layer}, neuron {memory.neuron}",
        memory=memory,
        label=label,
        label_note=f"The same contexts have: {also}." if also else "",
        links=links,
        facts=facts,
        both_sides=found.model.config.attention != "causal",
    )


def _by_neuron(carried: Sequence[Carried]) -> Mapping[Place, list[tuple[str, str]]]:
    """Neuron -> facts that it carries: text, place in the index."""
    found: dict[Place, list[tuple[str, str]]] = {}
    for number, fact in enumerate(carried):
        for place in fact.neurons:
            found.setdefault(place, []).append((fact.text, f"fact-{number}"))
    return found


def _file(place: Place) -> str:
    return f"{place[0]}-{place[1]}.html"
