"""Texts packed into one sequence against the same texts run one by one."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, UNPUBLISHED, tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.models.attention import Packing
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward

KINDS = {**ARCHITECTURES, **UNPUBLISHED}
TEXTS = ([3, 1, 4, 1, 5], [9, 2, 6], [3, 1, 4, 7, 7, 8])
ORDER = np.array([5, 0, 12, 3, 8, 1, 13, 6, 2, 10, 4, 7, 9, 11])  # places of texts' tokens in the sequence


@pytest.mark.parametrize("kind", KINDS)
def test_packed_texts_are_texts_of_their_own(kind, float64):
    config = tiny_config(n_layers=2, dtype="float64", **KINDS[kind])
    model = Model(config, tiny_params(config))
    text_S = np.repeat(np.arange(len(TEXTS)), [len(text) for text in TEXTS])
    position_S = np.concatenate([np.arange(len(text)) for text in TEXTS])
    back_S = np.argsort(ORDER)  # whose token stands at a place
    tokens_1S = jnp.asarray(np.concatenate(TEXTS)[back_S][None])
    assert tokens_1S.shape[1] > config.n_ctx  # each text is shorter, and that is what counts
    together_SS = text_S[back_S][:, None] == text_S[back_S][None]
    packing = Packing(jnp.asarray(position_S[back_S][None]), jnp.asarray(together_SS[None]))
    packed = forward(model, tokens_1S, packing=packing, capture=("mlp_post",))
    for number, text in enumerate(TEXTS):
        alone = forward(model, jnp.array([text]), capture=("mlp_post",))
        at = ORDER[text_S == number]
        np.testing.assert_allclose(packed.logits_BTV[0, at], alone.logits_BTV[0], rtol=0, atol=1e-10)
        found = packed.activations["mlp_post"][:, 0, at]
        np.testing.assert_allclose(found, alone.activations["mlp_post"][:, 0], rtol=0, atol=1e-10)


def test_a_packing_is_of_several_texts():
    config = tiny_config()
    model, seen = Model(config, tiny_params(config)), jnp.ones((1, 3, 3), bool)
    tokens, packing = jnp.array([[1, 2, 3]]), Packing(jnp.array([[0, 1, 0]]), seen)
    for name in ("query_B", "length_B"):
        with pytest.raises(UserError, match="leave out query_B and length_B"):
            forward(model, tokens, packing=packing, **{name: jnp.array([1])})
    with pytest.raises(UserError, match="position 8 is out of range"):
        forward(model, tokens, packing=Packing(jnp.array([[0, 1, 8]]), seen))
