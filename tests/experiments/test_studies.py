"""The studies of experiments/studies: each is one at every scale, and its smallest form runs to its page."""

from pathlib import Path

import pytest

pytest.importorskip("optuna")

from jaxinterp.base.errors import UserError
from jaxinterp.cli.main import main
from jaxinterp.cli.study import study_fields
from jaxinterp.studies.engine.config import StudyConfig, study_of
from jaxinterp.studies.engine.points import check_points
from jaxinterp.studies.engine.results import results_of, status_of
from jaxinterp.studies.engine.run import check_metrics
from jaxinterp.studies.engine.storage import attach

FOLDER = Path(__file__).parents[2] / "experiments" / "studies"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "base")


def study(name: str, scale: str) -> StudyConfig:
    path = FOLDER / f"{name}.yaml"
    return study_of(study_fields(path), str(path), scale)


@pytest.mark.parametrize("name", STUDIES)
def test_it_is_a_study_at_every_scale(name):
    for scale in ("smoke", "cpu", "accelerator"):
        config = study(name, scale)
        check_points(config)
        check_metrics(config)
        assert config.searches or config.hypotheses
    cpu, smoke = study(name, "cpu"), study(name, "smoke")
    assert cpu.base.steps >= 20 * smoke.base.steps
    assert len(cpu.seeds) > len(smoke.seeds) or cpu.searches
    # What is claimed, and of what, is the same at all scales: only how much is run differs.
    assert {claim.metric for claim in smoke.hypotheses} <= {claim.metric for claim in cpu.hypotheses}


@pytest.mark.parametrize("name", STUDIES)
def test_its_smallest_form_runs_to_its_page(name, tmp_path, capsys):
    out = tmp_path / "study"
    for words in (["run", str(FOLDER / f"{name}.yaml"), "--out", str(out), "--scale", "smoke"], ["report", str(out)]):
        with pytest.raises(SystemExit) as stop:
            main(["study", *words])
        assert stop.value.code == 0, capsys.readouterr().err
    attached = attach(out)
    status = status_of(attached)
    assert status.counts["done"] == len(attached.trials()) > 1, status
    for result in results_of(attached):
        assert set(result.values) == set(attached.config.metrics)
    assert (out / "report.html").exists()
    if not attached.config.searches:
        verdicts = (out / "figures" / "hypotheses.csv").read_text()
        assert all(claim.name in verdicts for claim in attached.config.hypotheses)


def test_files_that_extend(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\nbase: {steps: 7}\n")
    (tmp_path / "b.yaml").write_text("name: b\nbase: {steps: 5, rows: 3}\n")
    assert study_fields(tmp_path / "a.yaml") == {"name": "b", "base": {"steps": 7, "rows": 3}}
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(UserError, match="which extends it"):
        study_fields(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="unknown scale 'vast'; known: accelerator, cpu, smoke"):
        study("size", "vast")
