"""The figures against slow loops over neurons and examples, their controls, and the table."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest
from memory_models import brute_triggers, run, tiny_corpus
from tiny import tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.memories.agreement import by_confidence, next_tokens
from jaxinterp.memories.composition import active_memories
from jaxinterp.memories.config import FiguresConfig
from jaxinterp.memories.cuts import coefficient_drops, effects_of_neurons
from jaxinterp.memories.examples import drawn_examples
from jaxinterp.memories.figure_table import FIGURES, Sample, mean_of, rows_of
from jaxinterp.memories.figures import memory_figures
from jaxinterp.memories.lens import Lens, resid_logits, value_logits
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change

CONFIG = tiny_config(n_layers=2, d_vocab=30, ffn="relu", d_mlp=24)
MODEL = Model(CONFIG, tiny_params(CONFIG))
CORPUS = tiny_corpus(40, n_tokens=30, seed=3)  # in which some values agree
TRIGGERS = brute_triggers(MODEL, CORPUS, 4)
LENS = Lens("norm_folded")
ASKED = FiguresConfig(examples=50, switched=4, cut_neurons=4, bins=3, n_prefix=0)


@pytest.fixture(scope="module")
def table():
    return memory_figures(MODEL, CORPUS, TRIGGERS, (LENS,), ASKED)


def logits_of(layer, values):
    return np.asarray(value_logits(MODEL, LENS, layer, jnp.asarray(values, jnp.float32)))


def test_agreement_by_a_loop_over_neurons(table):
    same, shared, ranks, some = [], [], [], []
    for layer in range(2):
        logits = logits_of(layer, MODEL.params["layers"]["w_out"][layer])
        for neuron in range(24):
            places = list(zip(TRIGGERS.window_LFK[layer, neuron], TRIGGERS.position_LFK[layer, neuron], strict=True))
            following = [CORPUS.tokens_NT[w, p + 1] if p + 1 < CORPUS.length_N[w] else None for w, p in places]
            if following[0] is None or TRIGGERS.activation_LFK[layer, neuron, 0] <= 0:
                continue
            top = logits[neuron].argmax()
            same.append(top == following[0])
            some.append(top in following)
            there = [token for token in following if token is not None]
            shared.append(np.mean([top == token for token in there]))
            ranks.append(1 + (logits[neuron] > logits[neuron, following[0]]).sum())
    assert len(same) > 15 and any(same)
    for name, values in (("agreement", same), ("agreement_any", some), ("agreement_share", shared)):
        found = table.value(name, lens="norm_folded")
        assert (found.value, found.n) == (pytest.approx(np.mean(values)), len(values))
    rank = np.exp(np.log(ranks).mean())
    assert table.value("next_rank", lens="norm_folded").value == pytest.approx(rank)
    bins = [table.value("agreement", lens="norm_folded", by="confidence", at=at) for at in range(3)]
    assert sum(bin.n for bin in bins) == len(same)
    assert sum(bin.n * bin.value for bin in bins) == pytest.approx(sum(same))


def test_composition_and_refinement_by_a_loop_over_examples(table):
    examples = drawn_examples(MODEL, CORPUS, 50, skip=0)
    layers, cases = MODEL.params["layers"], {"residual": 0, "ffn": 0, "agreement": 0, "composition": 0}
    alone, before_final, after_final, active, new, old = 0, 0, 0, [], [], []
    for layer in range(2):
        values = np.asarray(layers["w_out"][layer], np.float64)
        logits = logits_of(layer, values)
        z = (logits - logits.mean(1, keepdims=True)) / logits.std(1, keepdims=True)
        for a, mid, final in zip(
            examples.mlp_post_LEF[layer], examples.resid_mid_LED[layer], examples.token_E, strict=True
        ):
            written = a @ values + np.asarray(layers["b_out"][layer])
            ffn = logits_of(layer, written[None])[0].argmax()
            before, after = (
                int(resid_logits(MODEL, LENS, layer, jnp.asarray(x, jnp.float32)[None]).argmax())
                for x in (mid, mid + written)
            )
            alone += not any(logits[f].argmax() == ffn for f in np.flatnonzero(a > 0))
            name = {(1, 0): "residual", (0, 1): "ffn", (1, 1): "agreement", (0, 0): "composition"}
            cases[name[int(after == before), int(after == ffn)]] += 1
            before_final, after_final = before_final + (before == final), after_final + (after == final)
            active.append((a > 0).mean())
            if before != after:
                dominant = np.argsort(-a * logits.std(1))[:10]
                new.append((z[dominant, after] * np.sign(a[dominant])).mean())
                old.append((z[dominant, before] * np.sign(a[dominant])).mean())
    value = lambda name: table.value(name, lens="norm_folded").value  # noqa: E731
    assert value("compositional") == pytest.approx(alone / 100)
    assert {case: value(f"case_{case}") for case in cases} == pytest.approx({c: n / 100 for c, n in cases.items()})
    assert value("before_is_final") == pytest.approx(before_final / 100)
    assert value("after_is_final") == pytest.approx(after_final / 100)
    assert table.value("after_is_final", lens="norm_folded", by="layer", at=1).value == 1
    assert table.value("active").value == pytest.approx(np.mean(active))
    assert value("z_promoted") == pytest.approx(np.mean(new), rel=1e-3)
    assert value("z_eliminated") == pytest.approx(np.mean(old), rel=1e-2, abs=1e-3)


def test_examples_are_places_of_the_corpus_and_none_comes_twice():
    examples = drawn_examples(MODEL, CORPUS, 100, skip=1, seed=2)
    result = run(MODEL, CORPUS, capture=("mlp_post", "resid_mid"))
    post, tops = np.asarray(result.activations["mlp_post"]), np.asarray(result.logits_BTV.argmax(-1))
    seen = set()
    for index, text in enumerate(examples.text_E):
        length = CORPUS.length_N[text]
        place = np.abs(post[:, text, 1:length] - examples.mlp_post_LEF[:, index][:, None]).sum((0, 2)).argmin() + 1
        np.testing.assert_allclose(post[:, text, place], examples.mlp_post_LEF[:, index], atol=1e-5)
        assert tops[text, place] == examples.token_E[index]
        seen.add((text, place))
    assert len(seen) == len(examples.text_E) == 100
    assert len(drawn_examples(MODEL, CORPUS, 10**6).text_E) <= (CORPUS.length_N - 1).sum()
    with pytest.raises(UserError, match=r"no text of the corpus has more than 9 tokens"):
        drawn_examples(MODEL, CORPUS, 5, skip=9)


def test_effects_and_cuts_one_by_one():
    live = np.argwhere((TRIGGERS.activation_LFK[..., 0] > 0) & (TRIGGERS.position_LFK[..., 0] >= 3))[:5]
    places = np.stack([x[live[:, 0], live[:, 1], 0] for x in (TRIGGERS.window_LFK, TRIGGERS.position_LFK)], 1)
    tokens = np.random.default_rng(0).integers(0, 30, (len(live), 4))
    effects = effects_of_neurons(MODEL, CORPUS, live, places, tokens)
    drops = coefficient_drops(MODEL, CORPUS, live, places, n_prefix=1)
    for index, ((layer, neuron), (window, position)) in enumerate(zip(live, places, strict=True)):
        one = CORPUS._replace(
            tokens_NT=CORPUS.tokens_NT[window : window + 1], length_N=CORPUS.length_N[window : window + 1]
        )
        gates = jnp.ones((2, 1, 8, 24)).at[layer, 0, position, neuron].set(0)
        untouched = run(MODEL, one, capture=("mlp_post",))
        off = run(MODEL, one, edit={"mlp_post": Change(gates=gates)}).logits_BTV
        moved = np.asarray(untouched.logits_BTV - off)[0, position]
        np.testing.assert_allclose(effects[index], (moved - moved.mean())[tokens[index]], atol=1e-4)
        whole = float(untouched.activations["mlp_post"][layer, 0, position, neuron])
        for name, cut in (("last", position), ("first", 1)):
            left = np.delete(one.tokens_NT[0], cut)
            shorter = one._replace(tokens_NT=np.append(left, 0)[None], length_N=one.length_N - 1)
            post = run(MODEL, shorter, capture=("mlp_post",)).activations["mlp_post"]
            expected = 1 - float(post[layer, 0, position - 1, neuron]) / whole
            assert drops[name][index] == pytest.approx(expected, abs=1e-4)
    # Two tokens of text: too few.
    short = coefficient_drops(MODEL, CORPUS, live[:1], np.array([[places[0, 0], 2]]), n_prefix=1)
    assert all(np.isnan(drop).all() for drop in short.values())


def test_controls_are_at_chance_and_every_figure_with_values_has_them(table):
    names = {row.figure for row in table.rows}
    assert names == {name for name in FIGURES if not name.startswith("fact")}
    for name in names - {"active", "cut_last", "cut_first", "cut_random"}:
        kinds = {row.values for row in table.rows if row.figure == name}
        assert kinds == {"own", "shuffled", "random"}
    value = lambda kind: table.value("raises_highest", lens="norm_folded", values=kind).value  # noqa: E731
    assert value("own") == 1 > max(value("shuffled"), value("random"))


def test_active_memories_where_activations_may_be_negative():
    neurons = np.array([[1.0, -0.5, 0.09, 0.0]])
    np.testing.assert_array_equal(active_memories(CONFIG, neurons), [[True, False, True, False]])
    np.testing.assert_array_equal(active_memories(tiny_config(ffn="swiglu"), neurons), [[True, True, False, False]])


def test_a_trigger_at_the_end_of_its_window_has_no_next_token():
    triggers = TRIGGERS._replace(position_LFK=TRIGGERS.position_LFK.copy())
    window = triggers.window_LFK[0, 0, 0]
    triggers.position_LFK[0, 0, 0] = CORPUS.length_N[window] - 1
    triggers.position_LFK[0, 1, 0] = -1
    following = next_tokens(CORPUS, triggers)
    assert following.token_LFK[0, 0, 0] == following.token_LFK[0, 1, 0] == -1
    assert not following.live_LF[0, :2].any()


def test_means_and_intervals():
    sample = Sample(np.array([0.0, 1, 1, np.nan]), np.array([0, 0, 1, 1]), np.array([5, 5, 6, 7]))
    every, first, second = rows_of("agreement", sample, lens="raw")
    assert (every.estimate.value, every.estimate.n) == (pytest.approx(2 / 3), 2)  # two units, of two values and of one
    assert (first.at, first.estimate.value, second.estimate.value) == (0, 0.5, 1.0)
    many = np.random.default_rng(0).random(500) < 0.3
    found = mean_of(Sample(many.astype(float), np.zeros(500, int), np.arange(500)), FIGURES["agreement"], 0.95)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 500)
    assert found.low == pytest.approx(many.mean() - half, abs=0.01)
    assert found.high == pytest.approx(many.mean() + half, abs=0.01)
    ranks = Sample(np.log(np.array([1.0, 10, 100])), np.zeros(3, int), np.arange(3))
    found = mean_of(ranks, FIGURES["next_rank"], 0.95)
    assert found.value == pytest.approx(10) and 0 < found.low < 10 < found.high
    assert mean_of(Sample(np.array([np.nan]), np.zeros(1, int), np.zeros(1, int)), FIGURES["active"], 0.95).n == 0
    np.testing.assert_array_equal(by_confidence(np.array([0.3, 0.1, 0.9, 0.5]), 2), [0, 0, 1, 1])


def test_the_table_is_read_again_and_refuses_what_it_has_not(table):
    found = json.loads(json.dumps(table.to_json()))
    assert set(found["figures"]) == {row.figure for row in table.rows}
    assert (
        "top token" in found["figures"]["agreement"]["definition"]
        and "s of the norms" in found["lenses"]["norm_folded"]
    )
    lines = list(csv.DictReader(table.csv().splitlines()))
    assert len(lines) == len(found["rows"]) == len(table.rows)
    own = next(line for line in lines if (line["figure"], line["values"], line["by"]) == ("agreement", "own", "all"))
    assert float(own["value"]) == table.value("agreement", lens="norm_folded").value
    with pytest.raises(UserError, match=r"unknown figure 'agrement'"):
        table.value("agrement")
    with pytest.raises(UserError, match=r"the table has no agreement with lens 'raw'"):
        table.value("agreement", lens="raw")
    with pytest.raises(UserError, match=r"figures.layers must lie in 0 … 1, got 2"):
        memory_figures(MODEL, CORPUS, TRIGGERS, (LENS,), FiguresConfig(layers=(2,)))
    with pytest.raises(UserError, match=r"figures.level must be a finite number"):
        FiguresConfig(level=float("nan"))
    with pytest.raises(UserError, match=r"must be at least 1"):
        FiguresConfig(bins=0)
