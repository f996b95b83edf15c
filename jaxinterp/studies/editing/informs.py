"""Does attribution say where an edit works, beyond the layer?

After Hase et al. 2023, who regressed the success of ROME's edits on the layer (R² .947) and found that causal tracing
adds .001. Here what is edited are k neurons of one layer, some of them those of highest attribution and the others
drawn from the active ones, so that attribution varies within a layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.base.records import Record
from jaxinterp.editing.change import apply
from jaxinterp.editing.edit import edit
from jaxinterp.editing.neurons import request_scores
from jaxinterp.editing.protocol.questions import Says, says
from jaxinterp.editing.registry import Given, Neurons
from jaxinterp.studies.editing.posed import Posed
from jaxinterp.studies.editing.seeds_config import InformsConfig
from jaxinterp.studies.editing.ways import Tools, settings_of

ROUNDING = 1e-20  # squares up to this share of all squares are rounding: nothing varies
STAY = ("neighbourhood", "same_relation", "same_subject", "other")


def informing_edits(asked: Posed, config: InformsConfig, record: Record) -> list[dict]:
    """Edits of the first facts: in each layer, with each share of neurons by attribution, one edit.

    Args:
      asked: a model's facts, with new answers; settings of KN-solve are those of its config.
      config: which edits.
      record: where lines are kept, and read if they are there.
    Returns:
      A line for each edit: "fact" (the number of the line), "case", "layer", "share", "mass" (the share of the answer's
      positive scores that lies on the edited neurons), "activity" (log of their squared activations' sum), and
      outcomes, see `seeds_tables.OUTCOMES`. A line without outcomes is of an edit that could not be made: too few
      neurons are active, or nothing is free in them.
    """
    n_layers, n_shares = asked.model.config.n_layers, len(config.shares)
    tools, n_each = Tools(asked), n_layers * n_shares
    with progress("edits by attribution", config.facts, done=len(record) // n_each) as report:
        for case in range(config.facts):
            numbers = range(case * n_each, (case + 1) * n_each)
            if any(number not in record for number in numbers):
                lines = list(_edits(asked, tools, config, case))
                pairs = zip(numbers, lines, strict=True)
                record.add([{"fact": number, **line} for number, line in pairs if number not in record])
            report(case + 1, "")
    return [record[number] for number in range(config.facts * n_each)]


def _edits(asked: Posed, tools: Tools, config: InformsConfig, case: int) -> Iterator[dict]:
    request = asked.cases[case].request
    scores_LF, activation_LF = request_scores(asked.model, request, config.method)
    positive_LF = scores_LF.clip(0)
    kept = [prompt for kind in asked.kept(case) for prompt in kind]
    for layer in range(asked.model.config.n_layers):
        for number, share in enumerate(config.shares):
            line = {"case": case, "layer": layer, "share": share}
            rng = np.random.default_rng([asked.config.seed, case, layer, number])
            chosen = chosen_neurons(scores_LF[layer], activation_LF[layer], config.k, share, rng)
            if chosen is not None:
                line["mass"] = float(positive_LF[layer, chosen].sum() / max(positive_LF.sum(), 1e-30))
                line["activity"] = float(np.log(np.square(activation_LF[layer, chosen]).sum()))
                given = Given(
                    neurons=[Neurons(np.full(len(chosen), layer), chosen)], rephrased=tools.rephrased([case]), kept=kept
                )
                try:
                    change = edit(
                        asked.model, request, "kn_solve", settings_of("kn_solve", tools), given, unknown_too=True
                    )
                except UserError:  # nothing is free in these neurons
                    yield line
                    continue
                after = says(apply(change, asked.model), asked.prepared[case])
                size = np.sqrt(sum(np.square(delta.delta_KD).sum() for delta in change.deltas))
                line |= _outcomes(asked, case, after) | ({"cost": float(np.log(size))} if size else {})
            yield line


def chosen_neurons(
    scores_F: Float[np.ndarray, " F"],
    activation_F: Float[np.ndarray, " F"],
    k: int,
    share: float,
    rng: np.random.Generator,
) -> Int[np.ndarray, " k"] | None:
    """k active neurons of a layer: round(share · k) of highest score, the rest drawn; None if fewer are active."""
    active = np.flatnonzero(activation_F)
    if len(active) < k:
        return None
    order = active[np.argsort(-scores_F[active], kind="stable")]
    n_first = round(share * k)
    return np.sort(np.concatenate([order[:n_first], rng.choice(order[n_first:], k - n_first, replace=False)]))


def _outcomes(asked: Posed, case: int, after: Says) -> dict[str, float]:
    before, probes = asked.before(case), asked.prepared[case].probes
    p_N, p_after_N = np.exp(before.log_p_N), np.exp(after.log_p_N)
    rewrite_N = (p_after_N - p_N) / np.maximum(1 - p_N, 1e-12)
    of = {kind: np.array([probe.kind == kind for probe in probes]) for kind in ("edited", "paraphrase")}
    stay_N = before.right_N & np.array([probe.kind in STAY for probe in probes])
    found = {
        "rewrite": rewrite_N[of["edited"]],
        "paraphrase": rewrite_N[of["paraphrase"]],
        "kept": after.right_N[stay_N],
    }
    return {name: float(value.mean()) for name, value in found.items() if len(value)}


class Informs(NamedTuple):
    """What an outcome's regressions explain. R² = 1 − (squared rest) / (squared differences from the mean)."""

    layer: float  # R² of the layer alone, a mean for each
    added: float  # by attribution mass: R² of layer and mass − R² of the layer (Hase et al.: .001)
    partial: float  # added / (1 − R² of the layer)
    slope: float  # of the outcome on the mass within layers, in standard deviations of both there
    beside_activity: float  # the partial R² where log activity is regressed on as well, before the mass
    shuffled: float  # mean partial R² with masses shuffled among the edits of a layer: what chance explains
    n: int  # edits


def informs(lines: Sequence[Mapping], outcome: str, shuffles: int = 100, seed: int = 0) -> Informs | None:
    """How far attribution mass explains an outcome of edits beyond the layer; None if nothing varies within layers.

    Ordinary least squares. Edits of one fact are not independent, for which intervals are taken over models alone.
    """
    used = [line for line in lines if outcome in line]
    if len(used) < 3 * len({line["layer"] for line in lines}) + 4:
        return None
    layer_N = np.array([line["layer"] for line in used])
    y_N, mass_N, activity_N = (np.array([line[name] for line in used]) for name in (outcome, "mass", "activity"))
    by_layer_NL = (layer_N[:, None] == np.unique(layer_N)).astype(float)
    y_in_N, mass_in_N, activity_in_N = (_rest(by_layer_NL, x_N) for x_N in (y_N, mass_N, activity_N))
    total, within = np.square(y_N - y_N.mean()).sum(), np.square(y_in_N).sum()
    if any(of <= ROUNDING * np.square(x_N).sum() for of, x_N in ((within, y_N), (np.square(mass_in_N).sum(), mass_N))):
        return None

    def partial(x_N: np.ndarray, rest_N: np.ndarray) -> float:
        return float((x_N @ rest_N) ** 2 / ((x_N @ x_N) * (rest_N @ rest_N)))

    mass_beside_N, y_beside_N = (_rest(activity_in_N[:, None], x_N) for x_N in (mass_in_N, y_in_N))
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(shuffles):
        order_N = np.arange(len(used))
        for layer in np.unique(layer_N):
            own = np.flatnonzero(layer_N == layer)
            order_N[own] = rng.permutation(own)
        drawn.append(partial(mass_in_N[order_N], y_in_N))
    found = partial(mass_in_N, y_in_N)
    return Informs(
        layer=float(1 - within / total),
        added=float(found * within / total),
        partial=found,
        slope=float(np.sign(mass_in_N @ y_in_N) * np.sqrt(found)),
        beside_activity=partial(mass_beside_N, y_beside_N),
        shuffled=float(np.mean(drawn)),
        n=len(used),
    )


def _rest(x_NP: Float[np.ndarray, "N P"], y_N: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """What least squares on the columns of x leave of y."""
    return y_N - x_NP @ np.linalg.lstsq(x_NP, y_N, rcond=None)[0]
