"""The spread over seeds, by hand, and the study around an ensemble that is not trained here."""

import json
from types import SimpleNamespace

import pytest

from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.studies.suppressability import seeds
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.ensemble_config import EnsembleConfig, Member

CONFIG = EnsembleConfig(
    TrainConfig(objective=ObjectiveConfig(weights={"suppression": "1", "control": "1"})),
    seeds=3,
    weights=((0.0, 0.0), (0.25, 1.0)),
)
PLAIN, TRAINED = "lambda0-mu0", "lambda0.25-mu1"


def measured(s: float, **more: float) -> dict:
    return {"sets": {"objective": {name: {"value": v} for name, v in {"suppressability": s, **more}.items()}}}


def test_the_spread_is_over_seeds_inside_a_setting():
    found = seeds.seed_spread(
        {
            Member(0, 0.0, 0.0): measured(0.1),
            Member(1, 0.0, 0.0): measured(0.2),
            Member(2, 0.0, 0.0): measured(0.6),
            # What one of the seeds lacks has no spread.
            Member(0, 0.25, 1.0): measured(0.9, control_drop=0.1),
            Member(1, 0.25, 1.0): measured(0.7),
        }
    )
    plain = found[PLAIN]["objective"]["suppressability"]
    assert plain == pytest.approx({"mean": 0.3, "sd": 0.07**0.5, "min": 0.1, "max": 0.6, "n": 3})
    assert set(found[TRAINED]["objective"]) == {"suppressability"}
    assert found[TRAINED]["objective"]["suppressability"]["sd"] == pytest.approx(0.02**0.5)
    alone = seeds.seed_spread({Member(0, 0.0, 0.0): measured(0.1)})
    assert alone[PLAIN]["objective"]["suppressability"]["sd"] is None


def test_the_study_measures_what_is_finite_and_names_what_is_not(monkeypatch, tmp_path, capsys):
    bad = CONFIG.members[-1]
    resumed = []

    def trained(config, data, out, *, resume, title):
        resumed.append(resume)
        (out / "config.json").write_text("{}")
        models = {member: member for member in config.members if member != bad}
        return SimpleNamespace(models=models, failed={bad: "step 2 is not finite"}, never_began={})

    monkeypatch.setattr(seeds, "training_data", lambda config: SimpleNamespace(facts=None))
    monkeypatch.setattr(seeds, "describe", lambda facts: "facts")
    monkeypatch.setattr(seeds, "train_ensemble", trained)
    monkeypatch.setattr(
        seeds, "measured_results", lambda name, model, data, config: measured(0.1 * model.seed + model.suppression)
    )
    for _ in range(2):
        results = seeds.seeds_study(CONFIG, MeasureConfig(), tmp_path)
    assert resumed == [False, True]
    assert json.loads((tmp_path / "results.json").read_text())["spread"] == results["spread"]
    assert len(results["models"]) == 5 and results["failed"] == {bad.name: "step 2 is not finite"}
    assert results["spread"][TRAINED]["objective"]["suppressability"]["n"] == 2
    printed = capsys.readouterr().out
    assert f"{bad.name} failed and is in no figure: step 2 is not finite" in printed
    assert "10.0 ± 10.0 [0.0, 20.0]" in printed and "30.0 ± 7.1 [25.0, 35.0]" in printed
