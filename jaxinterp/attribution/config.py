"""How an attribution's integral is computed, as data; imports no JAX."""

import dataclasses
from typing import Literal, TypeAlias, get_args

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_numbers

Rule: TypeAlias = Literal["left", "right", "midpoint", "gauss_legendre", "adaptive"]
INTEGRALS: tuple[str, ...] = get_args(Rule)


@dataclasses.dataclass(frozen=True)
class IntegralConfig:
    """The rule of an integral; see `jaxinterp.attribution.quadrature.integral`."""

    rule: Rule = "adaptive"  # of the integral
    points: int = 20  # of the rule; adaptive takes as many as each layer needs
    tolerance: float = 0.01  # of adaptive: largest completeness residual of a layer, as a share of P on its path

    def __post_init__(self) -> None:
        check_numbers(self)
        check_integral(self.rule, self.points, self.tolerance)


def check_integral(rule: str, points: int, tolerance: float, prefix: str = "") -> None:
    """Refuses a rule that does not exist, and values that none can have; for configs that have these fields flat.

    Args:
      rule, points, tolerance: see `IntegralConfig`.
      prefix: of the fields' names in the message, e.g. "measure.".
    Raises:
      UserError: with the first such field.
    """
    if rule not in INTEGRALS:
        raise unknown(f"{prefix}rule", rule, INTEGRALS)
    if points < 1:
        raise UserError(f"{prefix}points must be at least 1, got {points}")
    if tolerance <= 0:
        raise UserError(f"{prefix}tolerance must be above 0, got {tolerance}")
