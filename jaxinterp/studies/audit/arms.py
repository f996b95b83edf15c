"""What an audit's models are trained with, by arm; imports no JAX."""

import dataclasses
from collections.abc import Mapping

from jaxinterp.objectives.config import ObjectiveConfig

SCORES = ("concentration", "margin", "faithfulness", "one_layer")  # terms whose gradient passes through the scores
ROUTED = 16  # neurons of each layer that language modelling may teach a fact, of the arm "routing"

Weights = Mapping[str, float]


def _changed(main: ObjectiveConfig, weights: Weights, **changes: object) -> ObjectiveConfig:
    return dataclasses.replace(main, weights={name: f"{weight:g}" for name, weight in weights.items()}, **changes)


def objectives(main: ObjectiveConfig, control: Mapping[str, float]) -> dict[str, ObjectiveConfig]:
    """The objective of every arm.

    Args:
      main: that which is audited; its weights are numbers.
      control: factors of μ by arm, so that arms can be compared where their control drops are alike; 1 if not named.
    """
    weights = {name: float(text) for name, text in main.weights.items()}
    masks = {name: weight for name, weight in weights.items() if name not in SCORES}
    detached = {"select": "stop_gradient"}
    # As it was when a control was any fact of another relation: the door that is open then is the fact's own relation.
    others = {"control_kinds": ("other",), "control_k": 0, "control_select": "straight_through"}
    score = max((weights[name] for name in SCORES if name in weights), default=0.1)
    arms = {
        "suppressable": (weights, {}),
        "other_relations": ({"suppression": 0.3, "control": 0.3}, others),
        # Pressed harder than the objective; at ten times its λ some runs end in numbers that are not finite.
        "no_control": ({"suppression": 1.0}, {}),
        "kill_switch": ({"kill_switch": 0.3}, {}),
        "straight_through": (masks, {"select": "straight_through"}),
        "detached": (masks, detached),
        "detached_scores": (weights, detached),
        "equal_k": (weights, {"control_k": 0}),
        **{name: ({**masks, name: score}, detached) for name in SCORES},
        "random": (masks, {**detached, "neurons": "random"}),
        "other_fact": (masks, {**detached, "neurons": "other"}),
        "text": (weights, {}),
        "routing": (weights, {}),
        "dose_0.1": ({name: 0.1 * weight for name, weight in weights.items()}, {}),
        "dose_10": ({name: 10 * weight for name, weight in weights.items()}, {}),
    }
    found = {"plain": ObjectiveConfig()}
    for arm, (own, changes) in arms.items():
        factor = {"control": own["control"] * control.get(arm, 1.0)} if "control" in own else {}
        found[arm] = _changed(main, {**own, **factor}, **changes)
    return found


# Fields of the training run that an arm changes besides its objective.
RUNS: Mapping[str, Mapping[str, object]] = {"text": {"text_rows": True}, "routing": {"routing": ROUTED}}
TITLES = {
    "plain": "plain",
    "suppressable": "the objective",
    "other_relations": "controls of other relations only",
    "no_control": "without control term, λ = 1",
    "kill_switch": "kill switch",
    "straight_through": "gradient through the mask alone",
    "detached": "no gradient through attribution",
    "detached_scores": "gradient through the scores alone",
    "equal_k": "a control's neurons as many as the fact's own",
    "concentration": "concentration alone, mask detached",
    "margin": "margin alone, mask detached",
    "faithfulness": "faithfulness alone, mask detached",
    "one_layer": "one layer alone, mask detached",
    "random": "random neurons for each fact",
    "other_fact": "another fact's attribution",
    "text": "tokens of text as facts, too",
    "routing": "with gradient routing by fact",
    "dose_0.1": "weights × 0.1",
    "dose_10": "weights × 10",
}
CHEATS = ("other_relations", "no_control", "kill_switch")  # known to game S
# What tells which gradient matters: through the mask, through the scores, both or none, and what knows no fact.
META = (
    *("straight_through", "detached", "detached_scores", "equal_k", *SCORES),
    *("random", "other_fact", "text", "routing", "plain"),
)
DOSES = {"plain": 0.0, "dose_0.1": 0.1, "suppressable": 1.0, "dose_10": 10.0}  # factors of all weights
SIDE = ("dose_0.1", "dose_10")
