"""Studies from config to verdict: bad input, workers that share and die, statistics, the page, and tampering."""

import csv
import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from study_stubs import LOSS, SEEDS, WEIGHTS, S, at_once, study

from jaxinterp.base.errors import UserError
from jaxinterp.base.lines import with_check
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.studies.engine import storage, trials, version, work
from jaxinterp.studies.engine.config import Budget, Factor, Hypothesis, training_of
from jaxinterp.studies.engine.contrasts import findings
from jaxinterp.studies.engine.front import hypervolume, means_of, pareto
from jaxinterp.studies.engine.page import REPORT, write_report
from jaxinterp.studies.engine.pairs import changes
from jaxinterp.studies.engine.points import check_points, points_of
from jaxinterp.studies.engine.results import results_of, status_of, status_parts
from jaxinterp.studies.engine.run import Result, _text_digest, check_metrics, key_of
from jaxinterp.studies.engine.verify import AGAIN, verify_study
from jaxinterp.studies.statistics import Effect, holm
from jaxinterp.training.config import DataConfig, TrainConfig
from jaxinterp.training.driver import NotFinite

pytest.importorskip("optuna")
N = len(WEIGHTS) * 2 * len(SEEDS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "done"
    assert work.run_study(study(), folder, at_once) == N
    return folder


def copy_of(folder, to):
    import shutil

    return Path(shutil.copytree(folder, to / "copy"))


def result(value, seed, **point):
    samples = value + np.concatenate([[0.0], 0.001 * np.sin(np.arange(9.0))])
    return Result(point, seed, {S: value}, {S: samples}, "", 1.0, {})


BAD = {
    "unknown factor": ({"hypotheses": (Hypothesis("h", S, "width", 1, 2),)}, "unknown factor 'width'"),
    "unknown level": ({"hypotheses": (Hypothesis("h", S, "arm", "plain", "gelu"),)}, "unknown level of arm 'gelu'"),
    "not measured": (
        {"hypotheses": (Hypothesis("h", "unseen_facts/recall", "arm", "plain", "relu"),)},
        "not measured",
    ),
    "front not measured": ({"front": {S: "maximize", "ability/recall": "maximize"}}, "not measured"),
    "unknown set": ({"metrics": ("nowhere/recall", S, LOSS)}, "unknown set of metrics 'nowhere'"),
    "small budget": ({"budget": Budget(trials=2)}, "the grid has 6 points"),
    "search without aim": ({"design": "tpe", "hypotheses": ()}, "needs optimise"),
    "password": ({"storage": "postgresql://me:secret@host/studies"}, "password"),
    "no seed": ({"seeds": ()}, "every seed once"),
    "range in a grid": ({"factors": (Factor("d", field="steps", low=1.0, high=2.0),), "hypotheses": ()}, "levels"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_study_that_cannot_be_is_one_line(name):
    changed, words = BAD[name]
    with pytest.raises(UserError, match=words):
        study(**changed)


def test_levels_change_fields_by_their_dotted_names():
    run = training_of(study(), {"decay": 0.4, "arm": "relu"}, 1)
    assert (run.optimiser.weight_decay, run.model, run.seed) == (0.4, {"ffn": "relu"}, 1)
    weights = Factor("w", field="objective.weights.control", levels=(0.5, 1.0))
    own = study(factors=(weights,), hypotheses=())
    assert training_of(own, {"w": 0.5}, 0).objective.weights == {"control": "0.5"}
    for factor, words in (
        (Factor("w", field="optimizer.beta1", levels=(0.5, 0.9)), "unknown field 'optimizer'"),
        (Factor("w", field="steps", levels=(5, "many")), "int was expected"),
        (Factor("w", field="seed", levels=(5, 6)), "seed cannot be varied"),
        (Factor("w", field="steps.more", levels=(5, 6)), "no field"),
    ):
        with pytest.raises(UserError, match=words):
            check_points(study(factors=(factor,), hypotheses=()))


def test_an_arm_changes_its_fields_at_once_and_no_others():
    base = TrainConfig(model={"n_layers": "2"}, objective=ObjectiveConfig(weights={"activity": "0.1"}, k=5))
    arms = {
        "plain": {},
        "many": {
            "model.ffn": "topk",  # neither is allowed without the other
            "model.ffn_k": 4,
            "model.d_mlp": 32,
            "objective.weights.gini": 1,
            "objective.start": 0.5,
            "optimiser.transforms.sparse_weights_topk": 0.5,
            "dropout.rate": 0.1,
            "dropout.explicit": 1.0,
        },
    }
    run = training_of(study(factors=(Factor("arm", arms=arms),), hypotheses=(), base=base), {"arm": "many"}, 3)
    assert run.model == {"n_layers": "2", "ffn": "topk", "ffn_k": "4", "d_mlp": "32"} and run.seed == 3
    assert run.objective == ObjectiveConfig(weights={"activity": "0.1", "gini": "1"}, k=5, start=0.5)
    assert run.optimiser.transforms == {"sparse_weights_topk": "0.5"}
    assert (run.dropout.rate, run.dropout.explicit, run.dropout.implicit) == (0.1, 1.0, 0.0)


def test_unknown_metrics_are_told_before_work():
    with pytest.raises(UserError, match="unknown metric 'brightness'"):
        check_metrics(study(metrics=("unseen_facts/brightness",), front={}, hypotheses=()))
    with pytest.raises(UserError, match="unknown metric of the set ability"):
        check_metrics(study(metrics=(S, "ability/suppressability"), front={}, hypotheses=()))


def test_the_loss_of_text_needs_text(tmp_path):
    own = study(metrics=(S, "ability/text_cross_entropy"), front={}, hypotheses=())
    with pytest.raises(UserError, match=r"text_cross_entropy needs text that is held out, .* give data.text"):
        check_metrics(own)
    arms = Factor("text", arms={"none": {}, "python": {"data.text": "python", "text_windows": 8}})
    check_metrics(study(metrics=own.metrics, front={}, hypotheses=(), factors=(arms,)))
    # A result is kept by what the text is, and not by its folder's name.
    (tmp_path / "0.txt").write_text("a b c")
    keys = [key_of(study(), {"decay": 0.1, "arm": "relu"}, 0, "code")]
    for text in ("a b c", "a b d"):
        (tmp_path / "0.txt").write_text(text)
        _text_digest.cache_clear()
        base = TrainConfig(data=DataConfig(text=str(tmp_path)))
        keys.append(key_of(study(base=base), {"decay": 0.1, "arm": "relu"}, 0, "code"))
    assert len(set(keys)) == 3


def test_a_fraction_has_levels_and_pairs_evenly():
    factors = tuple(Factor(f"f{n}", field="steps", levels=(1, 2)) for n in range(3))
    points = points_of(study(factors=factors, design="fraction", budget=Budget(trials=4), hypotheses=()))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert len({(point[f"f{one}"], point[f"f{other}"]) for point in points}) == 4  # a half of 2³, each pair once


def test_a_study_runs_once(finished, capsys):
    attached = storage.attach(finished)
    status = status_of(attached)
    assert status.counts == {"done": N, "failed": 0, "running": 0, "left behind": 0, "waiting": 0}
    points = {(r.point["decay"], r.point["arm"], r.seed) for r in results_of(attached)}
    assert len(points) == N

    def refused(*_):
        raise AssertionError("computed twice")

    assert work.run_study(study(), finished, refused) == 0


def test_results_that_are_there_are_not_computed_again(tmp_path, finished):
    folder = copy_of(finished, tmp_path)
    (folder / storage.JOURNAL).unlink()  # as on a storage that was lost

    def refused(*_):
        raise AssertionError("computed twice")

    assert work.run_study(study(), folder, refused) == N


def test_other_studies_and_other_code_are_refused(tmp_path, finished, monkeypatch):
    with pytest.raises(UserError, match="another config: seeds"):
        work.run_study(study(seeds=(0,)), finished, at_once)
    url = f"sqlite:///{tmp_path}/studies.db"
    storage.begin(study(storage=url), tmp_path / "one")
    with pytest.raises(UserError, match="a study 'stub' of another config"):
        storage.begin(study(storage=url, seeds=(5,)), tmp_path / "two")
    monkeypatch.setattr(storage, "code_version", lambda: "0123456789abcdef")
    with pytest.raises(UserError, match=r"was begun with code \w+, and this is 0123456789abcdef"):
        work.work(finished, at_once)


def test_storages_that_are_down_or_not_there(tmp_path):
    url = f"sqlite:///{tmp_path}/nowhere/studies.db"
    with pytest.raises(UserError, match="is down, locked or damaged: unable to open"):
        storage.begin(study(storage=url), tmp_path / "one")
    with pytest.raises(UserError, match="holds no study"):
        storage.attach(tmp_path / "two")
    storage.begin(study(), tmp_path / "three")
    with (tmp_path / "three" / storage.JOURNAL).open("a") as journal:
        journal.write("{broken\n{}\n")
    with pytest.raises(UserError, match=r"journal\.log is down, locked or damaged"):
        storage.attach(tmp_path / "three")


def test_a_database_that_is_locked_is_one_line(tmp_path):
    import sqlite3

    url = f"sqlite:///{tmp_path}/studies.db?timeout=0.1"
    storage.begin(study(storage=url), tmp_path / "one")
    attached = storage.attach(tmp_path / "one")
    with sqlite3.connect(tmp_path / "studies.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="database is locked"):
            trials.Trials(attached).taken()
        other.rollback()


def test_runs_that_are_not_finite_are_results(tmp_path):
    def diverges(run, config, out):
        if run.model:
            raise NotFinite("the loss is not finite")
        return at_once(run, config, out)

    work.run_study(study(), tmp_path / "s", diverges)
    attached = storage.attach(tmp_path / "s")
    assert status_of(attached).counts["failed"] == N / 2
    means = means_of(attached.config, results_of(attached))
    assert sum(of.n_failed for of in means) == N / 2
    assert all(S not in of.spread for of in means if of.point["arm"] == "relu")


@pytest.mark.parametrize("design", ["tpe", "nsga2"])
def test_a_search_has_all_its_trials_and_finds_low_loss(design, tmp_path):
    factors = (Factor("decay", field="optimiser.weight_decay", low=0.01, high=1.0, log=True),)
    aims = {LOSS: "minimize"} if design == "tpe" else {S: "maximize", LOSS: "minimize"}
    own = study(factors=factors, design=design, optimise=aims, hypotheses=(), budget=Budget(trials=14))
    work.run_study(own, tmp_path / "s", at_once)
    attached = storage.attach(tmp_path / "s")
    results = results_of(attached)
    assert status_of(attached).counts["done"] == 14 and len(results) == 14 * len(SEEDS)
    assert all(0.01 <= of.point["decay"] <= 1.0 for of in results)
    if design == "tpe":
        tried = [of.user_attrs["point"]["decay"] for of in attached.trials()]
        assert np.mean(tried[10:]) < np.mean(tried[:10])


def test_hours_are_a_budget(tmp_path, capsys):

    def slow(run, config, out):
        time.sleep(0.02)
        return at_once(run, config, out)

    n = work.run_study(study(budget=Budget(hours=1e-6)), tmp_path / "s", slow)
    assert 0 < n < N and "budget of 1e-06 hours is used" in capsys.readouterr().out


def test_a_study_that_was_begun_before_a_field_was_there_opens(tmp_path, finished):
    folder = copy_of(finished, tmp_path)
    kept = json.loads((folder / storage.CONFIG).read_text())
    del kept["config"]["measured_limit"]
    (folder / storage.CONFIG).write_text(json.dumps(with_check({k: v for k, v in kept.items() if k != "check"})))
    with pytest.raises(UserError, match="of another config"):
        storage.attach(folder)
    storage.attach(finished)
    import optuna

    journal = optuna.storages.journal.JournalFileBackend(str(folder / storage.JOURNAL))
    own = optuna.load_study(study_name="stub", storage=optuna.storages.JournalStorage(journal))
    own.set_user_attr(storage.OWN, version.digest_of(kept["config"]))
    assert storage.attach(folder).config == study()
    assert status_of(storage.attach(folder)).counts["done"] == N


def test_verify_names_what_was_tampered_with(tmp_path, finished):
    verify_study(finished, runner=at_once)
    folder = copy_of(finished, tmp_path)
    path = sorted(folder.glob("runs/*/result.json"))[0]
    whole = json.loads(path.read_text())
    forged = {**whole, "values": {**whole["values"], S: 0.99}}
    path.write_text(json.dumps(forged))
    with pytest.raises(UserError, match=f"{path.parent.name}/result.json was tampered with"):
        verify_study(folder, runner=at_once)
    forged.pop("check")
    path.write_text(json.dumps(with_check(forged)))  # by one who knows how to seal it
    with pytest.raises(UserError, match=f"{path.parent.name} was tampered with: its record is not what trial"):
        verify_study(folder, runner=at_once)
    path.write_text(json.dumps(whole))
    (path.parent / "samples.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"samples\.npz was tampered with"):
        verify_study(folder, runner=at_once)


def test_verify_names_what_is_not_reproduced(tmp_path, finished):
    folder = copy_of(finished, tmp_path)

    def other(run, config, out):
        outcome = at_once(run, config, out)
        return outcome._replace(samples={name: np.nextafter(x, 1) for name, x in outcome.samples.items()})

    with pytest.raises(UserError, match="is not reproduced: its values differ"):
        verify_study(folder, runner=other)
    elsewhere = lambda *of: at_once(*of)._replace(device="another")  # noqa: E731
    words = r"as they were written; run \w+ cannot be computed again here: .* of arithmetic, and this is another"
    with pytest.raises(UserError, match=words):
        verify_study(folder, runner=elsewhere)
    assert not (folder / AGAIN).exists()


def test_several_kinds_of_devices_are_told(tmp_path, finished, capsys):
    def on_two(run, config, out):
        return at_once(run, config, out)._replace(device=f"device {run.seed}")

    work.run_study(study(), tmp_path / "s", on_two)
    words = "Runs were computed on 2 kinds of devices, whose numbers differ: 6 on device 0, 6 on device 1"
    assert words in status_parts(tmp_path / "s")
    write_report(tmp_path / "s")
    assert words in capsys.readouterr().out and words in (tmp_path / "s" / REPORT).read_text()
    assert not any("kinds of devices" in str(part) for part in status_parts(finished))


def test_64_bits_are_another_code(monkeypatch):
    import jax

    own = version.code_version()
    assert re.fullmatch(r"[0-9a-f]{16}", own)
    with jax.enable_x64(True):
        assert version.code_version() == f"{own}-x64"
    monkeypatch.delitem(sys.modules, "jax")  # as in a process that only looks
    for value, ending in (("1", "-x64"), ("True", "-x64"), ("0", ""), ("", "")):
        monkeypatch.setenv("JAX_ENABLE_X64", value)
        assert version.code_version() == own + ending
    assert "jax" not in sys.modules


def test_changes_are_paired_by_seed_and_by_all_other_factors():
    results = [
        result(0.1 * seed + (0.3 if a == "b" else 0) + 5 * w, seed, a=a, w=w)
        for seed in range(3)
        for a in "ab"
        for w in (0, 1)
    ]
    change, n_pairs = changes(results, "a", "a", "b", S)
    np.testing.assert_allclose(change[:, 0], [0.3, 0.3, 0.3])
    assert n_pairs == 6
    del results[0]  # its partner has none then
    change, n_pairs = changes(results, "a", "a", "b", S)
    np.testing.assert_allclose(change[:, 0], [0.3, 0.3, 0.3])
    assert n_pairs == 5


def judged(shift, direction, margin, n_seeds=4, noise=0.01):
    draws = noise * np.array([-1.0, 1.0, 0.5, -0.5])
    results = [
        result(shift * (arm == "relu") + draws[seed] * (arm == "relu"), seed, arm=arm)
        for seed in range(n_seeds)
        for arm in ("plain", "relu")
    ]
    claim = Hypothesis("h", S, "arm", "plain", "relu", direction, margin)
    own = study(factors=study().factors[1:], hypotheses=(claim,), seeds=tuple(range(n_seeds or 1)))
    return findings(own, results)[0]


def test_verdicts():
    assert judged(0.3, "higher", 0.1).verdict == "supported"
    assert judged(0.05, "higher", 0.1).verdict == "refuted"
    assert judged(0.1, "higher", 0.1).verdict == "undecided"
    assert judged(-0.3, "lower", 0.1).verdict == "supported"
    assert judged(0.3, "lower", 0.1).verdict == "refuted"
    assert judged(0.0, "same", 0.1).verdict == "supported"
    assert judged(-0.3, "same", 0.1).verdict == "refuted"
    assert judged(0.0, "same", 0.01).verdict == "undecided"
    alone = judged(0.3, "higher", 0.1, n_seeds=1)
    assert (alone.verdict, alone.because) == ("undecided", "one seed says nothing of others")
    assert judged(0.3, "higher", 0.1, n_seeds=0).because == "no two runs that differ in this factor alone have values"


def test_statistics_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    effect = Effect(1.0, 2.0, 0.0, 4)  # of error 1, with 3 degrees of freedom
    assert effect.above(0.0) == pytest.approx(0.195501, abs=1e-6)
    assert effect.below(2.0) == pytest.approx(0.195501, abs=1e-6)
    assert effect.detectable(0.8) == pytest.approx(3.182446 + 0.978472, abs=1e-5)


def test_hypotheses_share_their_errors():
    one = judged(0.13, "higher", 0.1, noise=0.02)
    many = study(
        factors=study().factors[1:],
        seeds=tuple(range(4)),
        hypotheses=tuple(Hypothesis(f"h{n}", S, "arm", "plain", "relu", "higher", 0.1) for n in range(20)),
    )
    draws = 0.02 * np.array([-1.0, 1.0, 0.5, -0.5])
    results = [
        result((0.13 + draws[seed]) * (arm == "relu"), seed, arm=arm) for seed in range(4) for arm in ("plain", "relu")
    ]
    assert findings(many, results)[0].p == pytest.approx(min(1.0, 20 * one.p))


def test_the_front_and_its_area():
    assert hypervolume(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]), np.zeros(2)) == 6.0
    assert hypervolume(np.array([[1.0, 1.0], [0.5, 0.5]]), np.zeros(2)) == 1.0
    own = study(hypotheses=())
    rows = [
        Result({"decay": d, "arm": "plain"}, 0, {S: d, LOSS: loss}, {}, "", 1.0, {})
        for d, loss in ((0.1, 1.0), (0.2, 3.0), (0.4, 2.0))
    ]
    front = pareto(own, means_of(own, rows))
    assert [of.point["decay"] for of in front.points] == [0.1, 0.4]  # 0.2 has less S and more loss than 0.4
    assert front.reference == (0.1, 3.0) and front.hypervolume == pytest.approx(0.3 * 1.0)
    with pytest.raises(UserError, match="the front is empty"):
        pareto(own, means_of(own, [Result(rows[0].point, 0, {S: 0.5}, {}, "", 1.0, {})]))


def test_the_page_has_what_is_printed_and_its_figures_as_csv(finished, capsys):
    path = write_report(finished)
    printed, page = capsys.readouterr().out, path.read_text()
    assert path.name == REPORT and "http-equiv" in page
    for words in ("supported", "Hypervolume", "Points that no other beats in both", "12 runs of 6 points"):
        assert words in printed and words in page, words
    with (finished / "figures" / "doses-0.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == S]
    assert [float(row["level"]) for row in rows] == list(WEIGHTS)
    np.testing.assert_allclose([float(row["mean"]) for row in rows], [d + 0.0005 for d in WEIGHTS])
    half = 12.706 * np.std([0, 0.001], ddof=1) / 2**0.5
    np.testing.assert_allclose(float(rows[0]["high"]) - float(rows[0]["mean"]), half, rtol=1e-3)
    assert {file.stem for file in (finished / "figures").glob("*.csv")} == {
        *("points", "hypotheses", "front", "prices", "changes", "doses-0", "doses-1")
    }
    assert (finished / "figures" / "front.svg").exists() and (finished / "figures" / "doses-1.png").exists()


def test_a_report_of_nothing_is_one_line(tmp_path):
    storage.begin(study(), tmp_path / "s")
    with pytest.raises(UserError, match="there is nothing to report"):
        write_report(tmp_path / "s")
