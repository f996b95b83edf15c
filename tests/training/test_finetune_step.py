"""One step of fine-tuning: divergence by hand, the loss and its gradient, a step that is not finite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, tiny_batch, tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.loss import term_weights
from jaxinterp.objectives.registry import TERMS
from jaxinterp.training.adaptation import adapted, trainable
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.finetune_config import FinetuneConfig
from jaxinterp.training.finetune_step import divergence, finetune_loss, finetune_step
from jaxinterp.training.state import first_state, optimiser

CONFIG = FinetuneConfig(
    objective=ObjectiveConfig(weights={"suppression": "0.5", "control": "2"}, k=2, path="per_layer", points=1),
    text_kl=3.0,
    prompt_kl=0.5,
    adapt="lora",
    rank=2,
    optimiser=OptimiserConfig(learning_rate=0.1, warmup_steps=1, weight_decay=0.0),
    steps=4,
)
TEXT = np.random.default_rng(3).integers(1, 11, (2, 8)).astype(np.int32)


def setting(dtype="float32"):
    config = tiny_config(n_layers=2, dtype=dtype, **ARCHITECTURES["llama"])
    return config, tiny_params(config), jax.tree.map(jnp.asarray, tiny_batch())


def test_divergence_by_hand():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    reference = np.log(np.stack([p, p, q])[None]) + 3  # a constant in the logits makes no difference
    logits = np.log(np.stack([q, p, p])[None])
    first = 0.5 * np.log(2) + 0.25 * np.log(1 / 2)
    last = 0.25 * np.log(1 / 2) + 0.5 * np.log(2)
    for weight, expected in [((1, 1, 1), (first + last) / 3), ((1, 1, 0), first / 2), ((0, 1, 0), 0), ((0, 0, 0), 0)]:
        arguments = (jnp.asarray(x, jnp.float32) for x in (reference, logits, np.array([weight])))
        np.testing.assert_allclose(divergence(*arguments), expected, atol=1e-6)
    # It is not symmetric: the reference comes first.
    p, q = np.array([0.9, 0.1]), np.array([0.5, 0.5])
    arguments = (jnp.asarray(np.log(x)[None, None], jnp.float32) for x in (p, q))
    expected = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    np.testing.assert_allclose(divergence(*arguments, jnp.ones((1, 1))), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def steps():
    """The state before and after two steps, their metrics, and a step on a damaged model."""
    model, params, batch = setting()
    step = finetune_step(model, CONFIG)
    change = trainable(params, CONFIG.adapt, CONFIG.rank, jax.random.key(0))
    state = first_state(change, optimiser(CONFIG.optimiser, 4), jax.random.key(1))
    seen = []
    # The first step's learning rate is 0, as it warms up.
    for number in range(3):
        before = jax.device_get((state.params, state.opt_state))
        state, metrics = step(state, (params, batch, jnp.asarray(TEXT)), number)
        seen.append((before, jax.device_get((state.params, state.opt_state)), jax.device_get(metrics)))
    broken = {**params, "embedding": params["embedding"].at[int(TEXT[0, 0])].set(jnp.nan)}
    last = jax.device_get((state.params, state.opt_state)), int(state.step)
    state, metrics = step(state, (broken, batch, jnp.asarray(TEXT)), 3)
    return seen, last, (jax.device_get((state.params, state.opt_state)), int(state.step), jax.device_get(metrics))


def test_nothing_has_diverged_at_first_and_then_something_has(steps):
    seen, *_ = steps
    for name in ("text_kl", "prompt_kl"):
        values = [float(metrics[name]) for *_, metrics in seen]
        # Nothing but rounding: the model and the reference need not be computed in one order.
        assert np.abs(values[:2]).max() < 1e-6
        assert values[2] > 1e-4
    (_, _, first), (before, after, _), _ = seen
    assert first["finite"] and first["learning_rate"] == 0
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), before[0], after[0])
    assert all(np.isfinite(value) and value > 0 for value in (factor["b"] for factor in difference.values()))


def test_the_loss_is_the_sum_of_its_parts(steps):
    for *_, metrics in steps[0]:
        parts = 3 * metrics["text_kl"] + 0.5 * metrics["prompt_kl"]
        parts += 0.5 * metrics["suppression"] + 2 * metrics["control"]
        np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-5)
        assert {"suppressability", "control_drop", "probability", "gradient_norm"} <= set(metrics)


def test_a_step_that_is_not_finite_leaves_the_state(steps):
    _, (before, number), (after, new_number, metrics) = steps
    assert not metrics["finite"] and not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert new_number == number == 3


@pytest.mark.parametrize("adapt", ["lora", "all"])
def test_the_gradient_against_finite_differences(float64, adapt, monkeypatch):
    """With a term whose value nothing is held still in: sg(P) makes the built-in ones' gradients another function's."""
    model, params, batch = setting("float64")
    config = dataclasses.replace(CONFIG, adapt=adapt)
    term = lambda context: (context.attribution.scores_LRF**2).sum() - context.log_p_N.mean()  # noqa: E731
    monkeypatch.setattr("jaxinterp.objectives.loss.TERMS", {"mine": term})
    rng = np.random.default_rng(0)
    change = trainable(params, adapt, 2, jax.random.key(0))
    change = jax.tree.map(lambda x: jnp.asarray(x + 0.3 * rng.standard_normal(x.shape), jnp.float64), change)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), change)

    @jax.jit
    def value_and_slope(t):
        def along(t):
            moved = jax.tree.map(lambda x, d: x + t * d, change, direction)
            weights, key = {"mine": jnp.asarray(0.7)}, jax.random.key(7)
            return finetune_loss(model, config, params, moved, batch, jnp.asarray(TEXT), weights, key)

        (total, metrics), slope = jax.value_and_grad(along, has_aux=True)(t)
        return total, slope, metrics

    eps = 1e-5
    (low, _, _), (_, slope, metrics), (high, _, _) = (value_and_slope(t) for t in (-eps, 0.0, eps))
    np.testing.assert_allclose(slope, (high - low) / (2 * eps), rtol=1e-6)
    assert min(float(metrics[name]) for name in ("text_kl", "prompt_kl", "mine")) > 1e-2
    assert abs(float(slope)) > 1e-2


def test_the_prompts_divergence_is_at_tokens_that_have_a_next_one():
    """What stands in the padding is not counted, nor a text's last token, which predicts nothing."""
    model, params, batch = setting()
    change = trainable(params, "lora", 2, jax.random.key(0))
    change = jax.tree.map(lambda x: x + 0.3, change)
    config = dataclasses.replace(CONFIG, objective=dataclasses.replace(CONFIG.objective, weights={}))

    @jax.jit
    def measured(params, change, tokens):
        mine = batch._replace(tokens_BT=tokens)
        found = finetune_loss(model, config, params, change, mine, jnp.asarray(TEXT), {}, jax.random.key(0))[1]
        return found["prompt_kl"], [
            jax.nn.log_softmax(forward(Model(model, p), tokens).logits_BTV)
            for p in (params, adapted(params, change, "lora", "float32"))
        ]

    tokens = np.asarray(batch.tokens_BT)
    found, (log_p, log_q) = measured(params, change, batch.tokens_BT)
    kl = np.asarray((np.exp(log_p) * (log_p - log_q)).sum(-1))
    lengths = np.asarray(batch.length_B)
    expected = np.mean([kl[text, position] for text in range(6) for position in range(lengths[text] - 1)])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    padded = np.where(np.arange(8)[None] >= lengths[:, None], 7, tokens)
    np.testing.assert_allclose(measured(params, change, jnp.asarray(padded))[0], found, rtol=1e-5)


ALL = {name: "1" for name in ("suppression", "control", "concentration", "margin", "faithfulness")}


def one_step(**changes):
    """The metrics and the change's gradient direction of a first step that moves, with all terms."""
    model, params, batch = setting()
    objective = dataclasses.replace(CONFIG.objective, weights=ALL, control_k=3, points=2, **changes)
    config = dataclasses.replace(CONFIG, objective=objective)
    state = first_state(
        trainable(params, "lora", 2, jax.random.key(0)), optimiser(config.optimiser, 4), jax.random.key(1)
    )
    step, seen = finetune_step(model, config), []
    for number in range(2):
        state, metrics = step(state, (params, batch, jnp.asarray(TEXT)), number)
        seen.append(jax.device_get(metrics))
    return seen, jax.device_get(state.params)


@pytest.fixture(scope="module")
def fast():
    return one_step(memory="fast", least_k=1)


def test_all_terms_are_the_same_in_flat_memory(fast):
    seen, params = one_step(memory="flat", least_k=1)
    for metrics, expected in zip(seen, fast[0], strict=True):
        assert metrics.keys() == expected.keys() >= {*ALL, "finite"} and metrics["finite"]
        for name, value in metrics.items():
            np.testing.assert_allclose(value, expected[name], rtol=2e-4, atol=2e-6, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4), params, fast[1])


def test_terms_are_computed_in_one_step_of_so_many(fast):
    (first, second), _ = one_step(memory="fast", least_k=1, every=2)
    # Passed over: no term, and no loss but the divergences, which are 0 before anything has moved.
    assert all(np.isnan(first[name]) for name in ALL) and first["finite"] and abs(first["loss"]) < 1e-6
    assert all(np.isfinite(second[name]) for name in ALL) and second["finite"]
    # The learning rate of the first step is 0, so that the second one is of the same model, and counts twice.
    parts = sum(2 * second[name] for name in ALL) + 3 * second["text_kl"] + 0.5 * second["prompt_kl"]
    np.testing.assert_allclose(second["loss"], parts, rtol=1e-5)
    np.testing.assert_allclose(second["concentration"], fast[0][1]["concentration"], rtol=1e-4)


def test_the_default_names_every_term_and_computes_two():
    objective = FinetuneConfig().objective
    assert set(objective.weights) == set(TERMS.names())
    assert set(term_weights(objective, jnp.asarray(3))) == {"suppression", "control"}


def test_objectives_that_make_no_sense_here():
    for objective, message in (
        ({"start": 0.3}, r"objective.start must be 0 in fine-tuning, .* got 0.3; delay a term by its schedule"),
        ({"every": 5}, "objective.every must be at most steps = 4, got 5"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(CONFIG, objective=dataclasses.replace(CONFIG.objective, **objective))
    for source in ("", ()):
        with pytest.raises(UserError, match=r"facts.source must name facts, or several with spaces between them"):
            dataclasses.replace(CONFIG.facts, source=source)


def test_mistakes_before_the_first_step():
    model = tiny_config(n_layers=2)
    for objective, message in (
        (
            ObjectiveConfig(weights={"supression": "1"}),
            "unknown objective 'supression'; known: activity, balance, concentration, control, .*suppression",
        ),
        (ObjectiveConfig(k=12), r"k must be at least 1 and below the model's number of neurons \(12\), got 12"),
    ):
        with pytest.raises(UserError, match=message):
            finetune_step(model, dataclasses.replace(CONFIG, objective=objective))
    for field in ("rank", "steps", "queries", "rows", "checkpoint_every", "keep_checkpoints"):
        with pytest.raises(UserError, match=f"{field} must be at least 1, got 0"):
            dataclasses.replace(CONFIG, **{field: 0})
    for field in ("text_kl", "prompt_kl"):
        with pytest.raises(UserError, match=f"{field} must be at least 0"):
            dataclasses.replace(CONFIG, **{field: -1.0})
