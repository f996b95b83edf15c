"""Attention, to be looked at."""

from typing import TYPE_CHECKING

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.models.run import Run
from jaxinterp.models.running import check_whole

if TYPE_CHECKING:
    from jaxinterp.report.charts import Chart


def attention_chart(run: Run, layer: int, text: int = 0) -> "Chart":
    """A heat map for each head of a layer: which positions (columns) each position (row) attends to.

    Args:
      run: that captured "attn_pattern".
      layer: number; negative ones count from the end.
      text: number of the run's text.
    Raises:
      UserError: if the run did not capture it, or a number is out of range.
    """
    from jaxinterp.report.heat_maps import attention_maps  # altair takes a while to import

    if "attn_pattern" not in run.activations:
        raise UserError('the run has not captured attn_pattern; run the model with capture=("attn_pattern",)')
    pattern = run.activations["attn_pattern"]
    for name, number, most in (("layer", layer, pattern.shape[0]), ("text", text, len(run.tokens))):
        check_whole(**{name: number})
        if not -most <= number < most:
            raise UserError(f"{name} {number} is out of range: the run has {most}")
    tokens = run.tokens[text]
    n = len(tokens)
    return attention_maps(np.asarray(pattern[layer, text, :, :n, :n]), tokens.texts, f"Attention in layer {layer}")
