"""Edits in the null space of what other keys are."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.editing.deltas import LowRank
from jaxinterp.editing.registry import Given, editing_method
from jaxinterp.editing.request import Request
from jaxinterp.editing.solutions import cheapest, null_space, null_space_spread
from jaxinterp.editing.spread import covariance_of, spread_edit
from jaxinterp.editing.target import TargetConfig
from jaxinterp.models.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class AlphaEditConfig:
    """Settings of AlphaEdit."""

    layers: tuple[int, ...]  # whose value rows change; 4–8 of 32 in LLaMA-3 8B
    threshold: float = 2e-2  # eigenvalues of C below it are null; in squared units of a neuron's activation
    l2: float = 10.0  # weight of ‖ΔW‖², as the threshold that of the authors' code
    target: TargetConfig = TargetConfig(steps=25, clamp=0.75)

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("threshold", "l2"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} of AlphaEdit must be above 0, got {getattr(self, name)}")


@editing_method(
    "alphaedit",
    title="AlphaEdit",
    source="Fang et al. 2025",
    settings=AlphaEditConfig,
    reads=("covariances", "prefixes", "targets", "earlier"),
)
def alphaedit(
    model: LanguageModel, requests: Sequence[Request], config: AlphaEditConfig, given: Given
) -> list[LowRank]:
    """ΔW_l = P (K_pᵀK_p P + KᵀK P + l2 I)⁻¹ KᵀR_l in each layer, with P the projection to the null space of C and R_l
    as in `spread_edit`.

    K_p are the keys of earlier edits; see `jaxinterp.editing.keys.request_keys`.
    """

    def solve(layer, keys_NF, residual_ND):
        basis_FJ = null_space(*covariance_of(model, layer, given).eigen, config.threshold)
        earlier_PF = np.asarray(given.earlier.get(layer, np.zeros((0, len(basis_FJ)))))
        return cheapest(null_space_spread(basis_FJ, keys_NF, earlier_PF, config.l2), keys_NF, residual_ND, 1.0)

    return spread_edit(model, requests, config.layers, config.target, given, solve)
