"""The metrics that come with the package; importing this module registers them."""

from jaxinterp.metrics import (
    ability,
    answers,
    edits,
    faithfulness,
    interventions,
    probes,
    recovery,
    selectors,
    specificity,
    suppression,
    units,
)

__all__ = [
    "ability",
    "answers",
    "edits",
    "faithfulness",
    "interventions",
    "probes",
    "recovery",
    "selectors",
    "specificity",
    "suppression",
    "units",
]
