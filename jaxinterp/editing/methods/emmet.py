"""ROME for many facts at once, in one layer."""

import dataclasses
from collections.abc import Sequence

from jaxinterp.editing.deltas import LowRank
from jaxinterp.editing.methods.rome import RomeConfig
from jaxinterp.editing.registry import Given, editing_method
from jaxinterp.editing.request import Request
from jaxinterp.editing.solutions import cheapest
from jaxinterp.editing.spread import covariance_of, spread_edit
from jaxinterp.models.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class EmmetConfig(RomeConfig):
    """Settings of EMMET: those of ROME."""


@editing_method(
    "emmet",
    title="EMMET",
    source="Gupta et al. 2024, A Unified Framework for Model Editing",
    settings=EmmetConfig,
    reads=("covariances", "prefixes", "targets"),
)
def emmet(model: LanguageModel, requests: Sequence[Request], config: EmmetConfig, given: Given) -> list[LowRank]:
    """ΔW = C⁻¹Kᵀ (K C⁻¹Kᵀ)⁻¹ R: the cheapest change, by E‖k ΔW‖², that gives every key its value exactly."""

    def solve(layer, keys_NF, residual_ND):
        return cheapest(covariance_of(model, layer, given).spread(keys_NF), keys_NF, residual_ND)

    return spread_edit(model, requests, (config.layer,), config.target, given, solve)
