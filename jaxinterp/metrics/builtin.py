"""The metrics that come with the package; importing this module registers them."""

from jaxinterp.metrics import answers
from jaxinterp.metrics.families import (
    ability,
    ablations,
    edits,
    faithfulness,
    probes,
    recovery,
    selectors,
    specificity,
    suppression,
    units,
)

__all__ = [
    "ability",
    "ablations",
    "answers",
    "edits",
    "faithfulness",
    "probes",
    "recovery",
    "selectors",
    "specificity",
    "suppression",
    "units",
]
