"""Direct logit attribution: parts sum to the logit, and each is linear in what the final norm reads."""

import jax
import numpy as np
import pytest
from small import small_model

import jaxinterp as ji
from jaxinterp.base.errors import UserError

TEXT = "a b c d"
VARIANTS = {
    "gpt": {},
    "llama": {},
    "sandwich": {"name": "llama", "norm_placement": "sandwich"},
    "olmo": {},
    "parallel": {"name": "gpt", "parallel": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_parts_sum_to_the_logit_and_are_what_the_final_norm_reads(variant, float64):
    changes = dict(VARIANTS[variant])
    model = small_model(changes.pop("name", variant), **changes)
    run = model.run(TEXT, capture=("embed", "attn_z", "attn_out", "resid_mid", "resid_post", "mlp_post"))
    right, wrong = (model.tokenizer.encode(word)[0] for word in "bc")
    found = ji.logit_attribution(model, TEXT, "b", wrong="c")
    logits = np.asarray(run.logits_BTV)[0, -1]
    assert found.logit == pytest.approx(logits[right] - logits[wrong], abs=1e-10)
    single = ji.logit_attribution(model, TEXT, "b", position=2)
    assert single.logit == pytest.approx(np.asarray(run.logits_BTV)[0, 2, right], abs=1e-10) and single.unit == "logit"

    config, params = model.config, jax.tree.map(np.asarray, model.params)
    here = {name: np.asarray(x[0, -1] if name == "embed" else x[:, 0, -1]) for name, x in run.activations.items()}
    table = params["embedding" if config.tied else "unembedding"]
    final = here["resid_post"][-1]
    centred = final - final.mean() if config.norm == "layernorm" else final
    sigma = np.sqrt(np.mean(centred**2) + config.norm_eps)

    def adds(x):
        x = x - x.mean() if config.norm == "layernorm" else x
        return float((x / sigma * params["norm_final"]["scale"]) @ (table[right] - table[wrong]))

    parts = found.parts_of
    assert float(parts.embedding) == pytest.approx(adds(here["embed"]), abs=1e-10)
    for layer in range(config.n_layers):
        attention = float(parts.heads_LH[layer].sum() + parts.attention_bias_L[layer])
        assert attention == pytest.approx(adds(here["attn_out"][layer]), abs=1e-10)
        ffn = float(parts.neurons_LF[layer].sum() + parts.ffn_bias_L[layer])
        assert ffn == pytest.approx(adds(here["resid_post"][layer] - here["resid_mid"][layer]), abs=1e-10)
        if not config.norms_outputs:
            weights = {name: x[layer] for name, x in params["layers"].items() if name in ("w_o", "w_out")}
            for head in range(config.n_heads):
                expected = adds(here["attn_z"][layer, head] @ weights["w_o"][head])
                assert float(parts.heads_LH[layer, head]) == pytest.approx(expected, abs=1e-10)
            for unit in range(config.d_mlp):
                expected = adds(here["mlp_post"][layer, unit] * weights["w_out"][unit])
                assert float(parts.neurons_LF[layer, unit]) == pytest.approx(expected, abs=1e-10)
    assert np.abs(parts.neurons_LF).max() > 1e-3 < np.abs(parts.heads_LH).max()


def test_heads_under_norms_on_outputs_add_up_with_the_norm_as_it_was(float64):
    model = small_model("llama", norm_placement="sandwich")
    found = ji.logit_attribution(model, TEXT, "b")
    z = np.asarray(model.run(TEXT, capture=("attn_z",)).activations["attn_z"])[1, 0, -1]
    by_head = np.stack([z[head] @ np.asarray(model.params["layers"]["w_o"])[1, head] for head in range(len(z))])
    ratio = np.asarray(found.parts_of.heads_LH)[1]
    # Two heads' parts are as the products of what they write with one and the same vector.
    whole = by_head.sum(0)
    sigma = np.sqrt(np.mean(whole**2) + model.config.norm_eps)
    scale = np.asarray(model.params["layers"]["norm_attn_out"]["scale"])[1] / sigma
    final = np.asarray(model.run(TEXT, capture=("resid_post",)).activations["resid_post"])[-1, 0, -1]
    last = np.asarray(model.params["norm_final"]["scale"]) / np.sqrt(np.mean(final**2) + model.config.norm_eps)
    token = np.asarray(model.params["embedding" if model.config.tied else "unembedding"])[
        model.tokenizer.encode("b")[0]
    ]
    np.testing.assert_allclose(ratio, (by_head * scale * last) @ token, atol=1e-10)


def test_a_cap_on_logits_is_told(float64):
    model = small_model("llama", logit_softcap=2.0)
    found = ji.logit_attribution(model, TEXT, "b")
    run = model.run(TEXT)
    assert found.own == pytest.approx(float(run.logits_BTV[0, -1, model.tokenizer.encode("b")[0]]), abs=1e-10)
    assert found.own == pytest.approx(2 * np.tanh(found.logit / 2), abs=1e-10) and found.own != found.logit
    assert f"after the model's cap and rounding {found.own:.3f}" in str(found)


def test_it_shows_itself():
    model = small_model("gpt")
    found = ji.logit_attribution(model, TEXT, "b")
    names = [name for name, _ in found.components()]
    assert {"embedding", "head 0.0", "FFN 2"} <= set(names) and len(names) == len(set(names))
    assert sum(value for _, value in found.components()) == pytest.approx(found.logit, abs=1e-4)
    layer, unit, value = found.neurons(1)[0]
    assert abs(value) == pytest.approx(np.abs(found.parts_of.neurons_LF).max())
    assert value == pytest.approx(float(found.parts_of.neurons_LF[layer, unit]))
    assert "logit" in str(found) and "\n" not in repr(found)
    assert len(found.chart().to_dict()["data"]["values"]) == 3 * (model.config.n_heads + 1)


def test_what_has_no_direct_parts():
    model = small_model("gpt")
    with pytest.raises(UserError, match="position 5 is out of range: the text has 5 tokens"):
        ji.logit_attribution(model, TEXT, "b", position=5)
    post = small_model("gpt", norm_placement="post")
    with pytest.raises(UserError, match="has no direct parts"):
        ji.logit_attribution(post, TEXT, "b")
    with pytest.raises(UserError, match="leaves no direct parts"):
        ji.logit_attribution(small_model("gpt", norm_placement="sandwich"), TEXT, "b")
