"""The chart of attention has every head's weights."""

import numpy as np
import pytest
from small import small_model

import jaxinterp as ji
from jaxinterp.base.errors import UserError


def test_a_panel_for_each_head_of_the_text_alone():
    model = small_model("gpt")
    run = model.run(["a b c d", "e f"], capture=("attn_pattern",))
    panels = ji.attention_chart(run, layer=-1, text=1).to_dict()["concat"]
    pattern = np.asarray(run.activations["attn_pattern"])[-1, 1]
    assert len(panels) == model.config.n_heads
    for head, panel in enumerate(panels):
        cells = {(row["row"], row["column"]): row["value"] for row in panel["data"]["values"]}
        assert len(cells) == 9
        assert cells["2 f", "1 e"] == pytest.approx(float(pattern[head, 2, 1])) and cells["0 <bos>", "0 <bos>"] == 1


def test_what_is_not_there():
    run = small_model("gpt").run("a b", capture=("attn_pattern",))
    for where, message in (
        ({"layer": 3}, "layer 3 is out of range: the run has 3"),
        ({"layer": 0, "text": 1}, "text 1 is out of range: the run has 1"),
    ):
        with pytest.raises(UserError, match=message):
            ji.attention_chart(run, **where)
    with pytest.raises(UserError, match="has not captured attn_pattern"):
        ji.attention_chart(small_model("gpt").run("a b"), layer=0)
