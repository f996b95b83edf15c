"""Mass editing: many facts at once, in several layers."""

import dataclasses
from collections.abc import Sequence

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.editing.deltas import LowRank
from jaxinterp.editing.registry import Given, editing_method
from jaxinterp.editing.request import Request
from jaxinterp.editing.solutions import cheapest
from jaxinterp.editing.spread import covariance_of, spread_edit
from jaxinterp.editing.target import TargetConfig
from jaxinterp.models.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class MemitConfig:
    """Settings of MEMIT."""

    layers: tuple[int, ...]  # whose value rows change; 3–8 of 28 in GPT-J
    weight: float = 15_000.0  # λ of C against one request; the authors' for GPT-J
    target: TargetConfig = TargetConfig()

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.weight < 0:
            raise UserError(f"weight of MEMIT must be at least 0, got {self.weight}")


@editing_method(
    "memit",
    title="MEMIT",
    source="Meng et al. 2023",
    settings=MemitConfig,
    reads=("covariances", "prefixes", "targets"),
)
def memit(model: LanguageModel, requests: Sequence[Request], config: MemitConfig, given: Given) -> list[LowRank]:
    """ΔW_l = (λC + KᵀK)⁻¹ KᵀR_l in each layer, with R_l as in `spread_edit`.

    Deviation: targets are found in what the last layer's FFN writes, as ROME's, and not in the residual stream; they
    are the same where an FFN adds what it writes.
    """

    def solve(layer, keys_NF, residual_ND):
        return cheapest(covariance_of(model, layer, given).spread(keys_NF), keys_NF, residual_ND, config.weight)

    return spread_edit(model, requests, config.layers, config.target, given, solve)
