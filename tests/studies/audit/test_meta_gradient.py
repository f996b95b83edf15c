"""The registered study: its arms differ by what their contrasts name, and the main job is one of them."""

import dataclasses

from jaxinterp.studies.audit.arms import META, RUNS, SCORES, TITLES
from jaxinterp.studies.audit.contrasts import CONTRASTS
from jaxinterp.studies.audit.meta_gradient import STUDY
from jaxinterp.studies.suppressability.presets import PLAIN, SUPPRESSABLE


def test_arms_differ_by_what_their_contrast_names():
    objectives = STUDY.objectives
    assert set(objectives) == set(TITLES) and set(META) <= set(TITLES) and set(RUNS) <= set(TITLES)
    assert {arm for pair in CONTRASTS.values() for arm in pair} <= set(STUDY.arms)
    through_mask = {arm for arm in STUDY.arms if objectives[arm].select == "straight_through"} - {"plain"}
    through_scores = {arm for arm in STUDY.arms if {*SCORES} & {*objectives[arm].weights}}
    assert through_mask == {"suppressable", "straight_through"}
    assert through_scores == {"suppressable", "detached_scores", "concentration", "margin"}
    alike = {"suppression", "control"}
    for arm in set(STUDY.arms) - {"plain"}:
        control = f"{STUDY.control.get(arm, 1.0):g}"
        assert {name: objectives[arm].weights[name] for name in alike} == {"suppression": "0.3", "control": control}
        assert (objectives[arm].k, objectives[arm].control_k) == (3, 16)
    assert objectives["random"].neurons == "random" and objectives["other_fact"].neurons == "other"


def test_the_main_job_is_an_arm_of_the_study():
    for main, arm in ((PLAIN, "plain"), (SUPPRESSABLE, "detached")):
        run = STUDY.training(arm, 0)
        alike = {name: getattr(main, name) for name in ("evaluate_every", "keep_checkpoints")}
        if arm == "plain":
            alike["objective"] = dataclasses.replace(run.objective, start=main.objective.start)
        assert dataclasses.replace(run, **alike) == main
