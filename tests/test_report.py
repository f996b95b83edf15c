"""A page about any models: language models on facts, runs, measurements, and what is no language model."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from knowing import knowing, table

import jaxinterp as ji
from jaxinterp.api.reported import named
from jaxinterp.base.errors import UserError
from jaxinterp.cli.main import main
from jaxinterp.models.loading.bundle import save_model

SMALL = {"queries": 8, "ability_queries": 8, "ablation_queries": 0, "replicates": 10, "rows": 8, "points": 2}


def test_language_models_on_facts_with_examples(tmp_path, capsys):
    model, facts = knowing()
    run = tmp_path / "run"
    save_model(run / "model", model)
    lines = [{"step": step, "lm": 1.0 / step, "loss": 1.0 / step, "probability": 0.5} for step in range(1, 9)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "l')
    (tmp_path / "facts.csv").write_text(table(facts))
    words = ["report", str(run), str(run / "model"), "--facts", str(tmp_path / "facts.csv"), "--examples", "2"]
    words += ["--out", str(tmp_path / "page.html")]
    words += [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0, capsys.readouterr().err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Two models (run, model)" in " ".join(page.split()) and "were measured" in page
    assert "learned the same facts" not in " ".join(page.split())
    assert "Examples of facts" in page and page.count('id="examples-panel-') == 2
    assert "with its own neurons off it says" in page and "P without it" in page
    assert "No training history" not in page  # of the run's folder


def test_measurements_and_what_is_no_language_model(tmp_path):
    model, facts = knowing()
    measured = ji.measure(model, facts, name="mine", **SMALL)
    weight_LNF = np.random.default_rng(0).uniform(size=(2, 6, 4)).astype(np.float32)

    def read(index):
        weight_LRF = jnp.asarray(weight_LNF[:, np.asarray(index)])
        share = lambda gates, weight: (weight * gates).sum((0, 2)) / weight.sum((0, 2))  # noqa: E731
        return ji.FunctionReadout(share, shape=weight_LRF.shape, inputs=(weight_LRF,))

    examples = ji.ReadoutExamples(read, (2, 4), np.arange(6) % 2)
    out = ji.write_report(
        {"mine": measured, "other": examples}, tmp_path / "sub" / "page.html", **(SMALL | {"rows": 6, "k": 2})
    )
    page = out.read_text(encoding="utf-8")
    assert "mine" in page and "other" in page and "Examples of facts" not in page


def test_names_are_as_long_as_they_have_to_be():
    assert [of.name for of in named(["a/plain", "reference-plain", "b/c/"])] == ["plain", "reference-plain", "c"]
    assert [of.name for of in named(["a/x/model", "b/x/model"])] == ["a/x/model", "b/x/model"]
    with pytest.raises(UserError, match="the same model is named twice"):
        named(["a/b", "a/b"])


def test_what_cannot_be_reported(tmp_path):
    with pytest.raises(UserError, match="at least one model"):
        ji.write_report({}, tmp_path / "page.html")
    model, facts = knowing()
    with pytest.raises(UserError, match="it is a folder; give the name of a file"):
        ji.write_report({"mine": model}, tmp_path, facts)
