"""One neuron as a memory: on the command line, on its page, and in the study that makes pages of all."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from small import WORDS, small_model

from jaxinterp.base.errors import UserError
from jaxinterp.cli.main import main
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.memories.config import CausalConfig, MemoriesConfig
from jaxinterp.memories.memory import memories, value_logits
from jaxinterp.memories.pages import Carried, carried_facts, write_pages
from jaxinterp.memories.study import memories_study
from jaxinterp.models.loading.bundle import save_model

FACTS = FactSet(
    (Relation("after", ("a {subject} b {answer}",), "letters"),),
    tuple(Fact("after", s, a) for s, a in zip("cdef", "efcd", strict=True)),
)
TEXTS = [" ".join(np.random.default_rng(n).choice(WORDS.split(), 11)) for n in range(30)]


@pytest.fixture(scope="module")
def found():
    return memories(small_model(), texts=TEXTS, k=6)


def test_a_memory_by_hand(found):
    memory = found.memory(1, 4, k=3, n_tokens=2)
    model = found.model
    assert (memory.layer, memory.neuron, len(memory.triggers)) == (1, 4, 3)
    logit_V = np.asarray(value_logits(model, 1, np.array([4])))[0]
    assert memory.promotes[0] == (model.tokenizer.token(int(logit_V.argmax())), pytest.approx(logit_V.max()))
    assert memory.suppresses[0][1] == pytest.approx(logit_V.min())
    for trigger in memory.triggers:
        words = TEXTS[trigger.text].split()
        assert words[trigger.position] == trigger.token
        assert trigger.before.split() == words[trigger.position - len(trigger.before.split()) : trigger.position]
        assert words[trigger.position + 1 :][: len(trigger.after.split())] == trigger.after.split()
        start = trigger.position - len(trigger.before.split())
        run = model.run(" ".join(words[start : trigger.position + 1]), capture="mlp_post")
        assert trigger.activation == pytest.approx(float(run.activations["mlp_post"][1, 0, -1, 4]), rel=1e-4)
    assert json.loads(json.dumps(memory.to_json()))["neuron"] == 4
    assert "layer 1, neuron 4" in str(memory) and memory.triggers[0].token in str(memory)


def test_pages_link_facts_with_neurons(found, tmp_path):
    carried = [Carried("a <b> c", [(0, 1), (2, 3)]), Carried("d", [(0, 1)])]
    index = write_pages(tmp_path / "pages", found, [(1, 4)], carried)
    names = {path.name for path in index.parent.iterdir()}
    assert names == {"index.html", "0-1.html", "1-4.html", "2-3.html"}
    pages = {name: (index.parent / name).read_text(encoding="utf-8") for name in names}
    for page in pages.values():
        links = set(re.findall(r'href="([^"#]*)(?:#[^"]*)?"', page)) - {"", "data:,"}
        assert links <= names and "http" not in "".join(links)
        assert len(page) < 60_000  # without the library that draws charts
    assert 'id="fact-0"' in pages["index.html"] and "a &lt;b&gt; c" in pages["index.html"]
    assert 'href="index.html#fact-1"' in pages["0-1.html"] and "Facts that it carries" not in pages["1-4.html"]
    memory = found.memory(1, 4)
    assert f"<mark>{memory.triggers[0].token}</mark>" in pages["1-4.html"]
    with pytest.raises(UserError, match="there is no neuron 99"):
        write_pages(tmp_path / "pages", found, [(0, 99)])


def test_facts_and_their_neurons():
    model = small_model()
    carried = carried_facts(model, FACTS, 2, k=3)
    assert [len(fact.neurons) for fact in carried] == [3, 3] and len({fact.text for fact in carried}) == 2
    assert all(0 <= layer < 3 and 0 <= neuron < model.config.d_mlp for f in carried for layer, neuron in f.neurons)


def run(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    return stop.value.code, out, err.strip().splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and files of facts and of text."""
    path = tmp_path_factory.mktemp("memories")
    save_model(path / "model", small_model())
    (path / "text.txt").write_text("\n".join(TEXTS))
    (path / "strange.txt").write_text("a zebra")
    (path / "no.txt").write_bytes(b"\xff\xfe")
    lines = [
        "relation,subject,answer,prompt",
        *(f"after,{f.subject},{f.answer},a {{subject}} b {{answer}}" for f in FACTS.facts),
    ]
    (path / "facts.csv").write_text("\n".join(lines))
    return path


def test_the_command(folder, capsys):
    model = ["--model", str(folder / "model")]
    code, out, err = run(["neuron", "1", "4", *model, "--text", str(folder / "text.txt"), "--k", "2"], capsys)
    assert code == 0 and "layer 1, neuron 4" in out and "its value promotes" in out, err
    code, out, err = run(["neuron", "1", "4", *model, "--text", str(folder / "text.txt"), "--json"], capsys)
    assert code == 0 and json.loads(out)["layer"] == 1, err
    code, out, err = run(["neuron", "1", "4", *model, "--facts", str(folder / "facts.csv")], capsys)
    assert code == 0 and "layer 1, neuron 4" in out, err


def test_mistakes_on_the_command_line(folder, capsys):
    model = ["--model", str(folder / "model")]
    for words, match in (
        (["3", "0"], "there is no layer 3; give a number from 0 to 2"),
        (["0", "99"], "there is no neuron 99; give a number from 0 to"),
        (["0", "0", "--k", "0"], "--k must be at least 1"),
        (["0", "0", "--text", str(folder / "none")], "cannot read"),
        (["0", "0", "--text", str(folder / "no.txt")], "is no text in UTF-8"),
        (["0", "0", "--text", str(folder / "strange.txt")], "does not know 'zebra'"),
        (["0", "0", "--text", "x", "--facts", "y"], "give --facts or --text, not both"),
        (["0", "0", "--facts", "world:elements"], "is all in the model's vocabulary"),
    ):
        code, _, err = run(["neuron", *words, *model], capsys)
        assert code == 2 and len(err) == 1 and match in err[0], (words, err)


def test_the_study_goes_on_where_it_was(folder, capsys, monkeypatch):
    causal = CausalConfig(neurons=3, triggers=2, tokens=2, batch=8, replicates=20)
    config = MemoriesConfig(
        str(folder / "model"), str(folder / "facts.csv"), plants=0, causal=causal, carried=1, pages=2
    )
    results = memories_study(config, folder / "out")
    saved = json.loads((folder / "out" / "results.json").read_text())
    assert saved["corpus"]["windows"] == 4 and saved["causal"].keys() == {"0", "1", "2", "all"}
    rows = list(csv.DictReader((folder / "out" / "neurons.csv").read_text().splitlines()))
    assert len(rows) == 3 * small_model().config.d_mlp and {row["layer"] for row in rows} == {"0", "1", "2"}
    assert "20 tokens in 4 windows, 13 distinct contexts" in capsys.readouterr().out
    monkeypatch.setattr("jaxinterp.memories.study.effects", None)  # nothing is computed again
    monkeypatch.setattr("jaxinterp.memories.triggers._neurons", None)
    again = memories_study(config, folder / "out")
    assert again["causal"] == results["causal"] and again["labels"] == results["labels"]
    with pytest.raises(UserError, match="another config"):
        memories_study(dataclasses.replace(config, seed=1), folder / "out")
    monkeypatch.undo()
    text = dataclasses.replace(config, text=folder / "texts", pages=1)
    (folder / "texts").mkdir()
    for name, part in (("a.txt", TEXTS[:10]), ("b.txt", TEXTS[10:20]), ("c.txt", TEXTS[20:])):
        (folder / "texts" / name).write_text("\n\n".join(part))
    read = memories_study(text, folder / "of_text")
    assert read["corpus"]["tokens"] > 100
