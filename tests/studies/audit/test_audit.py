"""An audit from training to its page, with models that are made up instead of trained."""

import dataclasses
import functools
import json
import re

import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.registry import METRICS
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.studies.audit import models as audit_models
from jaxinterp.studies.audit import study as audit
from jaxinterp.studies.audit.arms import TITLES
from jaxinterp.studies.audit.config import AuditConfig
from jaxinterp.studies.audit.contrasts import print_contrasts
from jaxinterp.studies.audit.report import write_audit_report
from jaxinterp.studies.audit.results import judged
from jaxinterp.studies.audit.words import left_out_sentences, print_verdicts
from jaxinterp.training.data import TrainingData
from jaxinterp.training.driver import NotFinite

ARMS = (
    "plain",
    "suppressable",
    "other_relations",
    "no_control",
    "kill_switch",
    "detached",
    "other_fact",
    "dose_0.1",
    "dose_10",
)
CONFIG = AuditConfig(seeds=8, arms=ARMS, longer=(4,), side_seeds=3, sets=("unseen_facts", "unseen_relations"))


def made_up(config, group, seed):
    """Samples of a group: the objective raises everything, cheats raise the trained metric alone."""
    rng = np.random.default_rng([seed, *group.encode()])
    arm = group.partition("_x")[0]
    trained = 0.6 if arm != "plain" else 0.0
    changes = {"suppressable": 0.3, "detached": 0.3, "dose_10": 0.3, "no_control": -0.1, "other_relations": -0.1}
    others = changes.get(arm, 0.0)

    def sample(metric):
        better = {"higher": 1, "lower": -1, "neither": 0}[METRICS[metric].better]
        change = trained if metric == config.criteria.trained else better * others
        if metric in config.criteria.ability:
            change = 0.0
        return 0.3 + change + 0.01 * rng.standard_normal() + 0.01 * rng.standard_normal(101)

    sets = {name: {metric: sample(metric) for metric in config.metrics} for name in config.sets}
    return {**sets, "ability": {"recall": np.full(101, 0.99), "cross_entropy": np.full(101, 1.5)}}


def results_of(config=CONFIG, made=made_up):
    measured = {
        group: [made(config, group, seed) for seed in range(config.group_seeds(group))] for group in config.groups
    }
    steps = {group: [500.0, None, 600.0] for group in config.groups}
    neuron = {"layer": 1, "neuron": 7, "score": 0.5, "share": 0.9, "promotes": ["Par", "<b>"]}
    seen = {"probability": 0.9, "suppressed": 0.1, "random": 0.8, "tokens": [{"neurons": [neuron]}]}
    models = dict.fromkeys(("plain", "suppressable"), seen)
    examples = [{"prompt": "the capital of France is", "answer": "Paris", "models": models}]
    return judged(config, measured, steps, simulations=10, divisions=20) | {"never_began": {}, "examples": examples}


@pytest.fixture(scope="module")
def results():
    return results_of()


def test_every_group_is_judged_against_plain_models_of_its_length(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    # Of the doses and the longer ones there are three seeds: too few for a verdict.
    expected = {"suppressable": "improved", "detached": "improved", "other_fact": "Goodharted"}
    expected |= dict.fromkeys(("other_relations", "no_control", "kill_switch"), "Goodharted")
    assert {group: of["unseen_facts"]["verdict"] for group, of in results["verdicts"].items()} == expected
    assert {group: of["unseen_relations"]["verdict"] for group, of in results["verdicts"].items()} == expected
    for by_set in results["verdicts"].values():
        for found in by_set.values():
            effect = found["effects"]["suppressability"]
            assert effect["after"] - effect["before"] == pytest.approx(effect["value"])
            assert "family" not in effect and found["seeds"] == found["seeds_to_decide"] == 8
            assert found["rates"]["improved_wrongly"]["n"] == 10 and found["set_aside"] == {}
            assert found["level"] == pytest.approx(1 - 0.1 / 3)


def test_families_are_in_smallest_effects_towards_the_better(results):
    found = results["verdicts"]["suppressable"]["unseen_facts"]
    assert found["because"] == "5 of 5 families rise"
    specificity, hubs = found["families"]["specificity"], found["effects"]["hub_share"]
    assert specificity["state"] == "rises" and specificity["counted"] == specificity["metrics"]
    assert hubs["family"] == "specificity" and hubs["smallest"] == 0.05
    assert hubs["value"] == pytest.approx(-0.3, abs=0.05)  # a lower share is better
    parts = [found["effects"][name] for name in specificity["metrics"]]
    mean = sum(abs(part["value"]) / part["smallest"] for part in parts) / len(parts)
    assert specificity["value"] == pytest.approx(mean)
    assert specificity["low"] < mean < specificity["high"]
    assert results["verdicts"]["no_control"]["unseen_facts"]["families"]["specificity"]["state"] == "falls"


def test_what_each_gradient_adds(results):
    found = results["contrasts"]["unseen_facts"]
    assert set(found) == {"both", "attribution of the fact, not of another"}  # of the arms that there are
    both, other = (found[name]["drop_at_1"] for name in found)
    assert abs(both["value"]) < 0.1 and both["seeds"] == 8
    # The detached arm raises everything by 0.3, another fact's nothing.
    assert other["value"] == pytest.approx(0.3, abs=0.05) and other["low"] > 0
    assert other["after"] - other["before"] == pytest.approx(other["value"])
    means = results["arms"]["unseen_facts"]["drop_at_1"]
    assert list(means) == ["suppressable", "detached", "other_fact", "plain"]
    assert means["other_fact"] == pytest.approx(other["before"])


def test_contrasts_are_printed_and_on_the_page(results, capsys, tmp_path):
    print_contrasts(results["contrasts"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "Unseen relations" in printed and "another" in printed
    write_audit_report(tmp_path / "report.html", results | {"provenance": {}})
    assert "attribution of the fact, not of another" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_answers_that_leave_the_neurons_are_no_improvement():
    def leaving(config, group, seed):
        found = made_up(config, group, seed)
        if group == "suppressable":
            for name in config.sets:
                found[name]["bypass"] = found[name]["bypass"] + 0.2
        return found

    config = dataclasses.replace(CONFIG, arms=("plain", "suppressable"), longer=())
    assert results_of(config)["verdicts"]["suppressable"]["unseen_facts"]["verdict"] == "improved"
    found = results_of(config, leaving)["verdicts"]["suppressable"]["unseen_facts"]
    assert (found["verdict"], found["because"]) == ("harmed", "falls by more than 0.05: bypass")


def test_doses_and_false_alarms(results):
    doses = results["doses"]["unseen_facts"]["suppressability"]
    assert set(doses) == {"plain", "dose_0.1", "suppressable", "dose_10", "plain_x4", "suppressable_x4"}
    seeds = {group: len(values) for group, values in doses.items()}
    assert seeds == {"plain": 8, "dose_0.1": 3, "suppressable": 8, "dose_10": 3, "plain_x4": 3, "suppressable_x4": 3}
    longer = results_of(dataclasses.replace(CONFIG, side_seeds=4))["verdicts"]["suppressable_x4"]["unseen_facts"]
    assert (longer["verdict"], longer["seeds"]) == ("improved", 4)
    alarms = results["false_alarms"]["unseen_facts"]
    assert (alarms["models"], alarms["size"], alarms["divisions"], alarms["rate"]["value"]) == (8, 4, 20, 0.0)


def test_the_page(results, tmp_path):
    path = tmp_path / "report.html"
    write_audit_report(path, results | {"provenance": {"jax": "1 < 2"}})
    text = path.read_text(encoding="utf-8")
    assert text.index("Verdict") < text.index("Effects") < text.index("Provenance")
    for words in (
        "Goodharted",
        "improved",
        "kill switch",
        "known to cheat",
        "the largest of three kinds",
        "5 of 5 families rise",
        '<th scope="col">other selectors</th>',
        "<td><b>rises</b>",
        '<th scope="col">improved wrongly</th>',
        "of 20 divisions of 8 plain models into two groups of 4",
        "1 &lt; 2",
        "550 (500 … 600)",
        "1 of 3 never",
        "the capital of France is Paris",
        "&lt;b&gt;",
        "the objective, 4 × the steps",
    ):
        assert words in text, words
    assert text.count('data-chart="forest-') == len(results["verdicts"])
    # An audit of two arms alone has a page as well.
    few = dataclasses.replace(CONFIG, arms=("plain", "suppressable"), longer=(), seeds=2)
    write_audit_report(path, results_of(few) | {"provenance": {}})
    assert "were not trained in this audit" in path.read_text(encoding="utf-8")


def test_models_without_a_value_and_metrics_that_were_not_measured(tmp_path):
    """An objective that destroys the answers leaves no share of P, and a set may lack a metric: the rest goes on."""

    def made(config, group, seed):
        found = made_up(config, group, seed)
        for of in found.values():
            of.pop("overlap_across", None)
        if group == "detached":
            found["unseen_facts"]["suppressability"] = np.full(101, np.nan)
            found["unseen_facts"]["recall"] = found["unseen_facts"]["recall"] - 0.9
        return found

    results = results_of(made=made) | {"provenance": {}}
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    lost = results["verdicts"]["detached"]["unseen_facts"]
    assert lost["verdict"] == "harmed" and lost["effects"]["suppressability"]["value"] is None
    assert lost["set_aside"] == {"overlap_across": "not measured"}
    path = tmp_path / "report.html"
    write_audit_report(path, results)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL), re.IGNORECASE)
    assert "<small>not measured</small>" in text


@pytest.fixture
def stand_ins(monkeypatch):
    """Models that are made up instead of trained; what is asked of the training is kept."""
    calls = {"trained": [], "branched": []}

    def train(run, data, folder, *, resume, title):
        calls["trained"].append((folder.parent.name, run.seed, dict(run.objective.weights)))
        folder.mkdir(parents=True, exist_ok=True)
        if calls.get("interrupt") == len(calls["trained"]):
            raise KeyboardInterrupt
        (folder / "metrics.jsonl").write_text(
            "".join(
                json.dumps({"step": s, "suppressability": 0.1 * min(s, 10), "begun": calls.get("begun", s)}) + "\n"
                for s in range(30)
            )
        )
        return folder.parent.name, run.seed

    monkeypatch.setattr(audit_models, "train", train)
    monkeypatch.setattr(audit_models, "common_step", lambda run, trunk: calls.get("common", 1000))
    monkeypatch.setattr(audit_models, "branch", lambda run, trunk, step, out: calls["branched"].append((trunk, step)))
    monkeypatch.setattr(audit_models, "samples_of", lambda config, data, model: made_up(config, *model))
    monkeypatch.setattr(audit_models, "data_of", lambda config, seed: audit_models.RunData(None, {}, None, {}))
    data = object.__new__(TrainingData)  # nothing looks at it
    object.__setattr__(data, "facts", None)
    monkeypatch.setattr(audit, "training_data", lambda config: data)
    monkeypatch.setattr(audit, "describe", lambda facts: "facts")
    monkeypatch.setattr(audit, "examples", lambda *_: [])
    monkeypatch.setattr(audit, "judged", functools.partial(judged, simulations=3, divisions=3))
    return calls


def test_relations_that_models_lack_are_told(capsys):
    def made(config, group, seed):
        found = made_up(config, group, seed)
        if group == "suppressable" and seed:
            found[config.sets[0]] = {**found[config.sets[0]], audit_models.LEFT_OUT: np.array(["motto (P = 0)"])}
        return found

    config = dataclasses.replace(CONFIG, seeds=2, arms=("plain", "suppressable"), longer=())
    measured = {group: [made(config, group, seed) for seed in (0, 1)] for group in config.groups}
    results = judged(config, measured, {group: [1.0, 1.0] for group in config.groups}, simulations=3, divisions=3)
    results["never_began"] = {}
    assert results["left_out"] == {"suppressable": {config.sets[0]: {"motto (P = 0)": 1}}}
    print_verdicts(results)
    told = " ".join(capsys.readouterr().out.split())
    assert "the objective, unseen facts: left out: motto (P = 0) in 1 model" in told
    lacks = {config.sets[0]: {"motto (P = 0)": 1}, config.sets[1]: {"motto (P = 0)": 2}}
    both = results | {"left_out": {"plain": lacks, "suppressable": lacks}}
    assert left_out_sentences(both) == [
        "each group, unseen facts: left out: motto (P = 0) in 1 model",
        "each group, unseen relations: left out: motto (P = 0) in 2 models",
    ]


def test_an_audit_goes_on_where_it_was(tmp_path, stand_ins):
    config = dataclasses.replace(CONFIG, seeds=2, arms=("plain", "suppressable"), longer=())
    out, trained = tmp_path / "out", stand_ins["trained"]
    stand_ins["interrupt"] = 3
    with pytest.raises(KeyboardInterrupt):
        audit.goodhart_audit(config, out)
    assert [name for name, *_ in trained] == ["plain", "suppressable", "plain"]
    assert trained[0][1] == trained[1][1] == trained[2][1] - 1
    assert stand_ins["branched"] == [(out / "runs" / "plain" / "seed0", 1000)]
    weight = CONFIG.objectives["suppressable"].weights["suppression"]
    assert trained[1][2]["suppression"] == f"0@0,{weight}@{config.ramp}"
    results = audit.goodhart_audit(config, out)
    assert len(trained) == 5  # the one that was interrupted and the one after it
    assert results["steps_to_90"]["suppressable"] == [15.0, 15.0] and results["never_began"] == {}
    assert json.loads((out / "results.json").read_text())["verdicts"] == results["verdicts"]
    quoted = json.loads((out / audit.PUBLISHED).read_text())
    value = results["published"]["plain"]["unseen_facts"]["suppressability"]["value"]
    assert quoted["models"]["plain"]["unseen_facts"]["suppressability"]["value"] == pytest.approx(value, rel=1e-4)
    assert quoted["verdicts"]["suppressable"]["unseen_facts"].keys() == {"verdict", "because"}
    # More seeds and arms are added to what is there; another measurement is another audit.
    more = audit.goodhart_audit(dataclasses.replace(config, seeds=3, arms=("plain", "suppressable", "detached")), out)
    assert len(trained) == 5 + 3 + 2 and set(more["verdicts"]) == {"suppressable", "detached"}
    with pytest.raises(UserError, match=r"holds a run of another config: level is 0.7 there and 0.8 here"):
        audit.goodhart_audit(dataclasses.replace(config, level=0.8), out)


def test_objectives_that_never_begin_are_told(tmp_path, stand_ins, capsys):
    stand_ins.update(begun=0, common=0)
    config = dataclasses.replace(CONFIG, seeds=2, arms=("plain", "suppressable"), longer=())
    results = audit.goodhart_audit(config, tmp_path)
    assert results["never_began"] == {"suppressable": 2} and not stand_ins["branched"]
    assert "the objective: 2 models are plain ones, as their objective never began" in capsys.readouterr().out
    write_audit_report(tmp_path / "report.html", results)
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "for P stayed low, and which are plain ones: the objective: 2" in report


def test_a_run_that_fails_is_a_result(tmp_path, stand_ins, monkeypatch, capsys):
    train = audit_models.train

    def failing(run, data, folder, **more):
        if folder.parent.name == "detached" and run.seed > CONFIG.run.seed:
            folder.mkdir(parents=True)
            raise NotFinite("step 7 is not finite")
        return train(run, data, folder, **more)

    monkeypatch.setattr(audit_models, "train", failing)
    config = dataclasses.replace(CONFIG, seeds=4, arms=("plain", "suppressable", "detached"), longer=())
    results = audit.goodhart_audit(config, tmp_path)
    assert results["failed"] == {"plain": 0, "suppressable": 0, "detached": 3}
    # One seed is no group; the others are not touched.
    assert set(results["verdicts"]) == {"suppressable"} and results["contrasts"]["unseen_facts"] == {}
    assert results["verdicts"]["suppressable"]["unseen_facts"]["seeds"] == 4
    assert f"{TITLES['detached']}: 3 runs failed" in capsys.readouterr().out
    done = len(stand_ins["trained"])
    assert audit.goodhart_audit(config, tmp_path)["failed"] == results["failed"]
    assert len(stand_ins["trained"]) == done
    write_audit_report(tmp_path / "report.html", results)
    assert "stopped being finite are in no figure: no gradient through attribution: 3" in (
        tmp_path / "report.html"
    ).read_text(encoding="utf-8")


def test_longer_models_branch_off_longer_ones():
    assert CONFIG.groups[0] == "plain" and CONFIG.groups[-2:] == ("plain_x4", "suppressable_x4")
    run = CONFIG.training("suppressable_x4", 1)
    assert run.steps == 4 * CONFIG.run.steps and run.keep_checkpoints == 1
    trunk = CONFIG.training("plain_x4", 1)
    assert trunk.keep_checkpoints > trunk.steps // trunk.checkpoint_every
    assert trunk.objective == ObjectiveConfig(start=CONFIG.level) and run.objective.start == CONFIG.level
    control = CONFIG.objectives["suppressable"].weights["control"]
    assert run.objective.weights["control"] == f"0@0,{control}@{4 * CONFIG.ramp}"
    assert run.seed == CONFIG.training("plain", 1).seed


def test_a_config_that_compares_nothing():
    with pytest.raises(UserError, match="an audit compares arms with plain"):
        AuditConfig(arms=("suppressable",))
    with pytest.raises(UserError, match="unknown arm 'magic'"):
        AuditConfig(arms=("plain", "magic"))
    with pytest.raises(UserError, match="unknown set 'moon'"):
        AuditConfig(sets=("moon",))
    with pytest.raises(UserError, match="factors of at least 2"):
        AuditConfig(longer=(1,))
    with pytest.raises(UserError, match="seeds must be at least 1"):
        AuditConfig(seeds=0)
    with pytest.raises(UserError, match=r"ramp must be at least 1 and at most run.steps = 3600, got 3601"):
        AuditConfig(ramp=3601)
    with pytest.raises(UserError, match=r"level is a probability: at least 0 and below 1, got 1.0"):
        AuditConfig(level=1.0)
    with pytest.raises(UserError, match=r"objective.start is chosen by level; leave it out, got 0.3"):
        AuditConfig(objective=ObjectiveConfig(start=0.3))
    assert MeasureConfig(metrics=CONFIG.metrics).metrics == CONFIG.metrics


def test_steps_until_a_share(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert audit.steps_until(path) is None
    values = [None, 0.1, *[0.95] * 12]
    path.write_text("".join(json.dumps({"step": 10 * i, "suppressability": v}) + "\n" for i, v in enumerate(values)))
    # The mean over ten records passes 90 % when the low one has left.
    assert audit.steps_until(path) == 110.0
