"""`import jaxinterp as ji`: every name opens, the import needs no JAX, and values are what the command line prints."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from knowing import knowing, table

import jaxinterp as ji
from jaxinterp.base.errors import UserError
from jaxinterp.cli.main import main
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.models.loading.bundle import save_model

ROOT = Path(__file__).parent.parent
L, F = 2, 8


def test_the_import_needs_no_jax():
    code = "import sys, jaxinterp; assert set(jaxinterp.__all__) <= set(dir(jaxinterp)); print('jax' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout == "False\n"


def test_every_name_opens_and_is_documented():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
    assert list(ji.__all__) == sorted(ji._MODULE_OF) and len(set(ji.__all__)) == len(ji.__all__)
    for name in ji.__all__:
        assert getattr(ji, name).__name__ == name
        assert getattr(ji, name).__doc__.strip()
        assert f"ji.{name}" in pages, name
    with pytest.raises(AttributeError, match="has no attribute 'attribution_of'"):
        ji.attribution_of  # noqa: B018


def run_command(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    return out


def test_json_is_that_of_the_command_line(capsys, tmp_path):
    pretrained, facts = knowing()
    save_model(tmp_path / "known", pretrained)
    (tmp_path / "facts.csv").write_text(table(facts))
    place, facts = str(tmp_path / "known"), str(tmp_path / "facts.csv")
    opened = ji.load_model(place)
    assert "\n" not in repr(opened)
    before, answer, _ = ji.load_facts(facts).answer_last().text(0, 0)
    words = ["--prompt", before, "--answer", answer]
    out = run_command(["attribute", "--model", place, *words, "--k", "2", "--json"], capsys)
    assert json.loads(out) == ji.attribute(opened, before, answer, k=2).to_json()
    small = ["--k", "2", "--points", "1", "--queries", "8", "--ability-queries", "8", "--ablation-queries", "0"]
    small += ["--replicates", "10", "--rows", "4"]
    command = ["measure", "--model", place, "--facts", facts, *small, "--json", str(tmp_path / "m.json")]
    out = run_command(command, capsys)
    config = MeasureConfig(k=2, points=1, queries=8, ability_queries=8, ablation_queries=0, replicates=10, rows=4)
    measured = ji.measure(opened, facts, config, name="known")
    written, plain = json.loads((tmp_path / "m.json").read_text()), measured.to_json()
    assert written["provenance"].pop("date") and plain["provenance"].pop("date")
    assert written == plain
    lines = str(measured).splitlines()
    assert lines[0].startswith("left out: ") and all(line in out.splitlines() for line in lines if "│" in line)
    assert measured["suppressability"].keys() == measured.measurement.sets.keys()
    assert measured["suppressability"]["facts"].value == measured.to_json()["sets"]["facts"]["suppressability"]["value"]
    assert "\n" not in repr(measured) and measured.table.columns and measured.chart().to_dict()
    with pytest.raises(UserError, match="unknown measured metric 'gini'"):
        measured["gini"]


def test_examples_are_measured_without_a_language_model():
    weight_LNF = np.random.default_rng(0).uniform(size=(L, 6, F)).astype(np.float32)

    def read(number_R):
        weight_LRF = jnp.asarray(weight_LNF[:, np.asarray(number_R)])
        share = lambda gates, weight: (weight * gates).sum((0, 2)) / weight.sum((0, 2))  # noqa: E731
        return ji.FunctionReadout(share, shape=weight_LRF.shape, inputs=(weight_LRF,))

    examples = ji.ReadoutExamples(read, (L, F), np.arange(6) % 2)
    measured = ji.measure(examples, k=2, points=2, ablation_queries=0, rows=6, replicates=10, name="<toy>")
    lost = np.sort(weight_LNF.transpose(1, 0, 2).reshape(6, -1), 1)[:, -2:].sum(1) / weight_LNF.sum((0, 2))
    assert measured["suppressability"]["examples"].value == pytest.approx(lost.mean(), rel=1e-5)
    assert "&lt;toy&gt;" in measured._repr_html_() and "<toy>" not in measured._repr_html_()
    assert "<toy>" in str(measured) and json.dumps(measured.to_json())
    with pytest.raises(UserError, match="facts are for language models"):
        ji.measure(examples, "world")
    with pytest.raises(UserError, match="relations names 1 relations, but the examples have 2"):
        ji.measure(ji.ReadoutExamples(read, (L, F), np.arange(6), relation_N=np.arange(6) % 2), relations=("one",))
