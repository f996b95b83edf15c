"""Rank-one model editing, one fact after the other."""

import dataclasses
from collections.abc import Sequence

from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.editing.deltas import LowRank
from jaxinterp.editing.registry import Given, editing_method
from jaxinterp.editing.request import Request
from jaxinterp.editing.solutions import cheapest
from jaxinterp.editing.spread import covariance_of, spread_edit
from jaxinterp.editing.target import TargetConfig
from jaxinterp.models.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class RomeConfig:
    """Settings of ROME."""

    layer: int  # whose value rows change; 17 of 48 in GPT-2 XL, 8 of 24 in GPT-2 medium
    target: TargetConfig = TargetConfig()

    def __post_init__(self) -> None:
        check_numbers(self)


@editing_method(
    "rome",
    title="ROME",
    source="Meng et al. 2022; keys as in r-ROME, Gupta et al. 2024",
    settings=RomeConfig,
    reads=("covariances", "prefixes", "targets"),
    one_by_one=True,
)
def rome(model: LanguageModel, requests: Sequence[Request], config: RomeConfig, given: Given) -> list[LowRank]:
    """ΔW = C⁻¹k* (v* − v)ᵀ / (k*ᵀC⁻¹k*): the cheapest change, by E‖k ΔW‖², that gives k* the value v*.

    k* is the mean key over prefixes at the last token of the subject, wherever a key stands (r-ROME).
    """

    def solve(layer, keys_NF, residual_ND):
        return cheapest(covariance_of(model, layer, given).spread(keys_NF), keys_NF, residual_ND)

    return spread_edit(model, requests, (config.layer,), config.target, given, solve)
