"""Memories that are amplified and switched off: against runs with edits, on a plant, and shares by hand."""

import dataclasses

import jax
import numpy as np
import pytest
from small import WORDS, small_model

from jaxinterp.base.errors import UserError
from jaxinterp.groundtruth.grid import grid_table, in_words, language_model
from jaxinterp.groundtruth.registry import grid_planted
from jaxinterp.memories.causal import OF, Effects, effects, shares
from jaxinterp.memories.config import CausalConfig, MemoriesConfig
from jaxinterp.memories.memory import memories, value_logits
from jaxinterp.models.edit import Edit

SMALL = CausalConfig(neurons=3, triggers=4, tokens=2, factor=1.5, batch=5, replicates=50)


@pytest.mark.parametrize("name", ["gpt", "olmo"])
def test_against_runs_with_edits(name, float64):
    model = small_model(name)
    texts = [" ".join(np.random.default_rng(n).permutation(WORDS.split())) for n in range(20)]
    found = memories(model, texts=texts, k=4)
    for layer in (0, 2):
        changed = effects(found, SMALL, layer)
        assert changed.amplified_NKO.shape == changed.suppressed_NKO.shape == (3, 4, len(OF))
        for number, neuron in enumerate(changed.neuron_N.tolist()):
            own = np.argsort(-value_logits(model, layer, np.array([neuron]))[0][: model.tokenizer.n_tokens])[:2]
            for rank in range(4):
                window, position = (of[layer, neuron, rank].item() for of in found.triggers[1:])
                text = texts[found.corpus.text_N[window]]

                def probability(scale, text=text, place=(layer, position, neuron), own=own):
                    edit = Edit("mlp_post", layer=place[0], position=place[1], unit=place[2], scale=scale)
                    return np.exp(model.run(text, edit=edit).log_probabilities(place[1])[0, own]).sum()

                before = probability(1.0)
                up, down = probability(1.5) - before, probability(0.0) - before
                np.testing.assert_allclose(changed.amplified_NKO[number, rank, 0], up, rtol=1e-6, atol=1e-9)
                np.testing.assert_allclose(changed.suppressed_NKO[number, rank, 0], down, rtol=1e-6, atol=1e-9)


def test_banks_of_a_plant_do_what_their_values_say():
    """A bank writes logits of its relation's answers, which is what its value promotes."""
    table = grid_table(0, n_subjects=8, n_relations=4)
    planted = grid_planted("switches", table, 0, d_mlp=64)
    found = memories(language_model(planted, table), in_words(table), k=8)
    config = dataclasses.replace(SMALL, neurons=0, triggers=8, tokens=8, batch=32)
    carried_LF = np.asarray(planted.mask_LRF).any(1)
    n_banks = 0
    for layer in range(3):
        changed = effects(found, config, layer)
        bank_N = carried_LF[layer, changed.neuron_N]
        n_banks += bank_N.sum()
        if bank_N.any():
            # At a relation's word all answers of the relation are read: its bank raises them together.
            assert (changed.amplified_NKO[bank_N, :, 0] > 0).mean() > 0.99
            assert (changed.suppressed_NKO[bank_N, :, 0] < 0).mean() > 0.99
            assert (changed.amplified_NKO[bank_N, :, 2] > 0).mean() < 0.8
    assert n_banks == carried_LF.sum() > 12


def test_shares_by_hand():
    up_NKO = np.array([[[1, -1, 0], [1, 1, 0]], [[1, -1, 0], [-1, -1, 0]]], float)
    found = shares([Effects(0, np.arange(2), up_NKO, -up_NKO), Effects(1, np.arange(2), up_NKO, -up_NKO)], SMALL)
    raised, lowered = found["raised"], found["lowered"]
    assert [raised[of].value for of in OF] == [0.75, 0.25, 0] and raised["own"].n == 8
    assert [lowered[of].value for of in OF] == [0.75, 0.25, 0]
    assert raised["own"].low < 0.75 < raised["own"].high and np.isnan(raised["random"].low)


def test_silent_layers_and_mistakes():
    model = small_model("relu")
    silent = jax.tree.map(lambda x: 0 * x, model.params["layers"]["w_in"])
    params = {**model.params, "layers": {**model.params["layers"], "w_in": silent}}
    found = memories(dataclasses.replace(model, model=model.model.replace(params=params)), texts=["a b c d e"], k=4)
    assert effects(found, SMALL, 0) is None
    with pytest.raises(UserError, match=r"causal\.triggers must be at most the 4"):
        effects(found, dataclasses.replace(SMALL, triggers=5), 0)
    for changes, match in (
        ({"triggers": 0}, "causal.triggers must be at least 1"),
        ({"factor": 1.0}, "causal.factor must be above 1"),
        ({"level": 1.0}, "causal.level must be above 0 and below 1"),
        ({"replicates": 1}, "causal.replicates must be at least 2"),
    ):
        with pytest.raises(UserError, match=match):
            dataclasses.replace(SMALL, **changes)
    for changes, match in (
        ({"width": 0}, "width must be at least 1"),
        ({"pages": -1}, "pages must be at least 0"),
        ({"noise": 1.0}, "noise must be at least 0 and below 1"),
        ({"triggers": 5}, "causal.triggers must be at most triggers, 5, got 10"),
    ):
        with pytest.raises(UserError, match=match):
            MemoriesConfig(**changes)
