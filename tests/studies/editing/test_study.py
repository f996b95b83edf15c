"""The study of ways to edit, and the command for one fact, on a tiny model that knows a few facts."""

import csv
import dataclasses
import json
import math

import pytest
from knowing import knowing, table

from jaxinterp.base.errors import UserError
from jaxinterp.cli.main import main
from jaxinterp.editing.change import apply, stack
from jaxinterp.editing.change_file import load_change
from jaxinterp.editing.protocol.columns import COLUMNS
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.studies.editing import study as of_study
from jaxinterp.studies.editing.config import EditingConfig
from jaxinterp.studies.editing.posed import facts_of, posed
from jaxinterp.studies.editing.ways import WAYS

ONE = ("no_op", "kn_solve", "kn_solve_specific", "rome", "memit", "alphaedit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editing")
    model, facts = knowing(n_ctx=24)
    save_model(folder / "model", model)
    (folder / "facts.csv").write_text(table(facts))
    return folder


@pytest.fixture(scope="module")
def config(folder):
    return EditingConfig(
        model=str(folder / "model"), facts=str(folder / "facts.csv"), windows=40, edits=2, probes=2, kept=3, k=3,
        batch=2, sequence=3, ways=ONE, clamp=50.0, weight_decay=1e-4, null=0.9, ridge=1e-2, weight=1e-3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(config, folder):
    return of_study.study(config, folder / "out")


def test_no_edit_changes_nothing_and_edits_do(results):
    nothing = {name: found.value for name, found in results.single["no_op"].rows.items()}
    for name, value in nothing.items():
        if name.endswith("_kept") and not math.isnan(value):
            assert value == 100
    assert nothing["efficacy_accuracy"] == 0 and nothing["neighbourhood_kl"] == 0 and nothing["perplexity_ratio"] == 1
    assert results.single["rome"].rows["efficacy_magnitude"].value > nothing["efficacy_magnitude"] + 1
    assert results.rows == {"no_op": 0, "kn_solve": 3, "kn_solve_specific": 3} | dict.fromkeys(ONE[3:], 6.0)
    # One edit in one layer: with little weight on other keys, MEMIT asks for what ROME does.
    one, other = (results.single[name].rows["efficacy_magnitude"].value for name in ("rome", "memit"))
    assert other == pytest.approx(one, abs=0.5)


def test_what_is_written(results, folder):
    saved = json.loads((folder / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    columns = {column for table in saved["single"].values() for column in table}
    assert columns <= set(saved["formulas"]) and set(COLUMNS) <= set(saved["formulas"])
    lines = list(csv.DictReader((folder / "out" / "single.csv").read_text().splitlines()))
    assert {line["way"] for line in lines} == set(ONE)
    assert set(saved["batch"]) == {"memit", "alphaedit"}
    page = (folder / "out" / "report.html").read_text()
    assert "KN-solve, specific neurons" in page and "https://" not in page.split("<script")[0]
    assert (folder / "out" / "charts" / "frontier.svg").exists()


def test_a_sequence_is_its_changes(results, folder, config):
    points = results.sequence["memit"]
    assert [point["edits"] for point in points] == [0, 1, 2, 3] and "recall" not in points[0]
    assert points[0]["others_kept"] == 100 and points[0]["perplexity_ratio"] == 1 and not points[0]["ruined"]
    changes = [load_change(folder / "out" / "changes" / "memit" / f"{end}.safetensors") for end in (1, 2, 3)]
    edited = apply(stack(changes), load_model(config.model))
    assert edited.digest() == changes[-1].edited
    assert [len(change.about[0]["requests"]) for change in changes] == [1, 1, 1]


def test_it_goes_on_and_computes_nothing_twice(results, config, folder, monkeypatch):
    def nobody(*_):
        raise AssertionError("an edit is made again")

    for name, way in WAYS.items():
        monkeypatch.setitem(WAYS, name, way._replace(make=nobody))
    again = of_study.study(config, folder / "out")
    assert again.to_json()["single"] == results.to_json()["single"]
    assert again.sequence == results.sequence
    with pytest.raises(UserError, match="another config: seed is 0 there and 1 here"):
        of_study.study(dataclasses.replace(config, seed=1), folder / "out")


def test_other_words_that_are_edited_are_not_asked(config):
    model = load_model(config.model)
    facts = facts_of(model, config.facts)
    more = [
        (*one.prompts, f"{{subject}} is the {one.name}", f"as {one.name} {{subject}} has") for one in facts.relations
    ]
    relations = [dataclasses.replace(one, prompts=own) for one, own in zip(facts.relations, more, strict=True)]
    facts = dataclasses.replace(facts, relations=tuple(relations))
    whole, told = (posed(model, facts, dataclasses.replace(config, rephrased=n)) for n in (0, 1))
    for case, own in zip(whole.cases, told.cases, strict=True):
        (other,) = told.rephrased(own)
        asked = {probe.prompt for probe in case.probes} - {probe.prompt for probe in own.probes}
        assert asked == {other.prompt} and other.prompt != own.request.prompt and not whole.rephrased(case)
        assert any(probe.kind == "paraphrase" for probe in own.probes)
        assert told.rephrased(dataclasses.replace(own, request=dataclasses.replace(own.request, paraphrases=()))) == ()


def test_what_is_kept_is_never_asked(config):
    model = load_model(config.model)
    asked = posed(model, facts_of(model, config.facts), config)
    untouched = {asked.facts.prompt(index, 0) for index in asked.untouched}
    assert untouched and not {asked.edited[0], asked.edited[1]} & set(asked.untouched)
    for number, case in enumerate(asked.cases):
        own = asked.facts.facts[asked.edited[number]]
        neighbours, same_relation, same_subject, others = asked.kept(number)
        near = [*neighbours, *same_relation]
        assert all(f"the {own.relation} of" in prompt and own.subject not in prompt for prompt in near)
        assert all(own.subject in prompt and f"the {own.relation} of" not in prompt for prompt in same_subject)
        assert all(own.subject not in prompt and f"the {own.relation} of" not in prompt for prompt in others)
        kept = {*neighbours, *same_relation, *same_subject, *others}
        assert kept and not kept & untouched
        assert not kept & {probe.prompt for probe in case.probes}
    sentences = {"".join(asked.facts.text(index, n)) for index in asked.untouched for n in range(2)}
    assert set(asked.texts.perplexity) <= sentences and not set(asked.texts.keys) & sentences
    assert len(asked.texts.perplexity) == config.windows // 10
    fewer = posed(model, asked.facts, dataclasses.replace(config, perplexities=2)).texts
    assert fewer.perplexity == asked.texts.perplexity[:2] and fewer.keys == asked.texts.keys


def test_mistakes_in_a_config(config, folder):
    for changes, match in (
        ({"ways": ("rome", "romeo")}, "unknown way to edit 'romeo'"),
        ({"ways": ()}, "there is no way to edit to look at"),
        ({"edits": 1000}, "fewer than 1000"),
        ({"layers": (7,)}, "numbers from 0 to 1"),
        ({"group": 2}, "edits one fact at a time; give --group 1"),
        ({"text": str(folder / "nowhere")}, "nowhere"),
    ):
        with pytest.raises(UserError, match=match):
            of_study.study(dataclasses.replace(config, **changes), folder / "mistakes")
    for changes, match in (
        ({"edits": 0}, "edits must be at least 1"),
        ({"null": 1.0}, "null must be"),
        ({"windows": 2}, "windows"),
    ):
        with pytest.raises(UserError, match=match):
            dataclasses.replace(config, **changes)


def run(words, capsys):
    try:
        main(words)
    except SystemExit as end:
        printed = capsys.readouterr()
        return end.code, printed.out, [line for line in printed.err.splitlines() if line.startswith("error")]


def test_the_command(folder, capsys):
    common = ["--model", str(folder / "model"), "--facts", str(folder / "facts.csv")]
    out = folder / "change.safetensors"
    code, text, err = run(["edit", "r0", "s0", "w1", *common, "--json", "--out", str(out), "--k", "3"], capsys)
    assert code == 0, err
    said = json.loads(text)
    assert (said["old"], said["new"]) == (" w3", " w1") and said["questions"][0]["kind"] == "edited"
    assert said["questions"][0]["p_after"] > said["questions"][0]["p_before"]
    change, model = load_change(out), load_model(folder / "model")
    assert apply(change, model).digest() == said["edited"] and said["model"] == model.digest()
    code, text, err = run(["edit", "r0", "s0", "w1", *common, "--way", "no_op"], capsys)
    assert code == 0 and "'the r0 of s0' gets ' w1' instead of ' w3'" in text, err


def test_mistakes_on_the_command_line(folder, capsys):
    common = ["--model", str(folder / "model"), "--facts", str(folder / "facts.csv")]
    for words, match in (
        (["r9", "s0", "w1"], "unknown relation 'r9'"),
        (["r0", "s99", "w1"], "unknown subject of r0 's99'"),
        (["r0", "s0", "w3"], "is an answer of 's0' already"),
        (["r0", "s0", " "], "the new answer of 's0' is empty"),
        (["r0", "s2", "w5"], "so that there is no such fact to edit"),
        (["r0", "s0", "w1", "--way", "rme"], "unknown way to edit 'rme'"),
        (["r0", "s0", "zebra"], "zebra"),
        (["r0", "s0", "w1", "--way", "rome", "--layer", "5"], "numbers from 0 to 1"),
        (["r0", "s0", "w1", "--out", str(folder / "x.txt")], "has to be the name of a .safetensors file"),
    ):
        code, _, err = run(["edit", *words, *common], capsys)
        assert code == 2 and len(err) == 1 and match in err[0], (words, err)
    assert not (folder / "x.txt").exists()
