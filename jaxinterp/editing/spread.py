"""Edits of several layers, each of which brings the residual stream a part of the way to its target (MEMIT)."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from jaxinterp.base.errors import UserError
from jaxinterp.editing.change import ancestors
from jaxinterp.editing.covariance import KeyCovariance
from jaxinterp.editing.deltas import LowRank
from jaxinterp.editing.keys import ffn_changes, request_keys, request_streams
from jaxinterp.editing.places import VALUE_ROWS, check_layers, value_rows, with_value_rows
from jaxinterp.editing.registry import Given
from jaxinterp.editing.request import Request
from jaxinterp.editing.solutions import Factors
from jaxinterp.editing.target import Target, TargetConfig, targets
from jaxinterp.models.language_model import LanguageModel

Solve = Callable[[int, Float[np.ndarray, "N F"], Float[np.ndarray, "N D"]], Factors]


def spread_edit(
    model: LanguageModel,
    requests: Sequence[Request],
    layers: Sequence[int],
    config: TargetConfig,
    given: Given,
    solve: Solve,
) -> list[LowRank]:
    """ΔW of each layer, from the lowest, in the model that the lower ones have left.

        R_l = (z − h) / (number of layers from l to the last one),    ΔW_l = solve(l, K_l, R_l),

    with h the residual stream after the last layer where a request is edited, and z its target there; Meng et al. 2023,
    algorithm 1. Of one layer, R = v* − v.

    Args:
      model, requests: what to edit.
      layers: from the lowest; z is of the last one.
      config: of the search for z.
      given: prefixes, and the targets of the last layer, if they were found before.
      solve: (layer, keys, what each is to give more) -> ΔW.
    """
    check_layers(model, layers)
    last = layers[-1]
    aims = targets(model, requests, last, config, given.prefixes) if given.targets is None else given.targets
    _check_targets(model, last, aims)
    if not any(found.delta_D.any() for found in aims):
        return []  # every prompt gives its answer already
    at = config.at
    deltas = []
    for number, layer in enumerate(layers):
        if len(layers) == 1:
            residual_ND = np.stack([found.delta_D for found in aims])
        else:
            missing_ND = np.stack([found.stream_D for found in aims]) - request_streams(model, requests, last, at)
            residual_ND = ffn_changes(model, requests, layer, missing_ND / (len(layers) - number), at)
        factors = solve(layer, request_keys(model, requests, layer, given.prefixes, at), residual_ND)
        deltas.append(LowRank(VALUE_ROWS, layer, *factors))
        rows_FD = value_rows(model.model, layer) + factors.left_FN @ factors.right_ND
        model = dataclasses.replace(model, model=with_value_rows(model.model, layer, rows_FD))
    return deltas


def _check_targets(model: LanguageModel, layer: int, aims: Sequence[Target]) -> None:
    for found in aims:
        if found.layer != layer or found.model != model.digest():
            raise UserError(
                f"a target is of layer {found.layer} of model {found.model[:12]}, and layer {layer} of "
                f"{model.digest()[:12]} is edited; make them with targets(model, requests, layer, config)"
            )


def covariance_of(model: LanguageModel, layer: int, given: Given) -> KeyCovariance:
    """The key covariance of a layer.

    Raises:
      UserError: if it is not given, or of another model: neither this one nor one that it was before its edits.
    """
    if layer not in given.covariances:
        there = ", ".join(map(str, sorted(given.covariances))) or "none"
        raise UserError(
            f"the key covariance of layer {layer} is needed (given: {there}); make it with "
            "key_covariances(model, texts, layers)"
        )
    found = given.covariances[layer]
    if found.layer != layer or found.model not in ancestors(model):
        raise UserError(
            f"the covariance that is given for layer {layer} is of layer {found.layer} of model {found.model[:12]}; "
            "make it with key_covariances(model, texts, layers)"
        )
    return found
