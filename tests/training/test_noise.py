"""Dropout, and both parts of its effect without it: against exact formulas, masks by the hundred, and the plain step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny import tiny_config, tiny_grid, tiny_grid_batch, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.models.mesh import batch_shardings, make_mesh, on_mesh, parameter_shardings, seeing
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import OptimiserConfig, TrainConfig
from jaxinterp.training.diagnosis import first_non_finite
from jaxinterp.training.noise import dropout_changes, dropout_parts, gate_shape, noise_key
from jaxinterp.training.noise_config import NO_NOISE, DropoutConfig, NoiseConfig, RobustConfig
from jaxinterp.training.operations import first_bad_operation
from jaxinterp.training.routing import Routing, route_of
from jaxinterp.training.state import initial_state
from jaxinterp.training.step import loss, next_token_loss, noisy_loss, train_step, update

PLAIN = ObjectiveConfig(k=2)
ALL = DropoutConfig(ffn=0.3, attention=0.2, residual=0.1)
PARTS = DropoutConfig(rate=0.2, explicit=0.7, implicit=1.5)
MODEL = tiny_config(n_layers=2)
SHAPE = (6, 8)  # of the batch


def batch_of():
    return jax.tree.map(jnp.asarray, tiny_grid_batch())


def model_of(seed=0, dtype="float64"):
    config = dataclasses.replace(MODEL, dtype=dtype)
    return Model(config, jax.tree.map(lambda x: x.astype(dtype), tiny_params(config, seed)))


def of_params(noise, batch, model=MODEL, objective=PLAIN, weights=None):
    return jax.jit(lambda params, key: loss(Model(model, params), objective, batch, weights or {}, key, noise=noise))


def many(function, n, seed=0):
    return jax.jit(jax.vmap(function))(jax.random.split(jax.random.key(seed), n))


def test_gates_are_unbiased_and_all_their_own():
    model = dataclasses.replace(MODEL, n_layers=3)
    shape = (8, 32)
    draw = functools.partial(dropout_changes, ALL, model, shape)
    changes = draw(jax.random.key(0))
    assert set(changes) == {"embed", "attn_pattern", "attn_out", "mlp_post", "mlp_out"}
    for place, rate in {"mlp_post": 0.3, "attn_pattern": 0.2, "embed": 0.1, "attn_out": 0.1, "mlp_out": 0.1}.items():
        gates = np.asarray(changes[place].gates)
        assert gates.shape == gate_shape(model, place, shape) and changes[place].shift is None
        values, counts = np.unique(gates, return_counts=True)
        np.testing.assert_allclose(values, [0, 1 / (1 - rate)], rtol=1e-6)
        assert abs(counts[0] / gates.size - rate) < 4 * (rate / gates.size) ** 0.5
        # No two layers, sequences or positions have a mask in common.
        for axis in range(gates.ndim - 1):
            parts = np.moveaxis(gates, axis, 0).reshape(gates.shape[axis], -1)
            assert len(np.unique(parts, axis=0)) == len(parts), (place, axis)
    assert not np.array_equal(changes["attn_out"].gates, changes["mlp_out"].gates)
    assert not np.array_equal(changes["mlp_post"].gates, draw(jax.random.key(1))["mlp_post"].gates)
    alone = dropout_changes(DropoutConfig(ffn=0.3), model, shape, jax.random.key(0))
    assert set(alone) == {"mlp_post"}
    np.testing.assert_array_equal(alone["mlp_post"].gates, changes["mlp_post"].gates)


def test_without_noise_the_step_is_the_plain_one():
    state = initial_state(MODEL, OptimiserConfig(), 3, 0)
    programs = {}
    for name, more in {"left out": {}, "none": {"noise": NoiseConfig()}, "some": {"noise": NoiseConfig(ALL)}}.items():
        step = train_step(MODEL, PLAIN, OptimiserConfig(), 3, **more)
        programs[name] = step.lower(state, batch_of(), 0).as_text()
    assert programs["left out"] == programs["none"] and "_bernoulli" not in programs["none"]
    assert "_bernoulli" in programs["some"]
    assert not NO_NOISE.on and not NoiseConfig(robust=RobustConfig(place="mlp_post")).on


def test_a_small_rate_is_a_limit_and_steps_have_masks_of_their_own(float64):
    model, batch = model_of(), batch_of()
    value = lambda noise, key=0: of_params(noise, batch, model.config)(model.params, jax.random.key(key))[0]  # noqa: E731
    plain = float(value(NO_NOISE))
    assert float(value(NoiseConfig(DropoutConfig(ffn=1e-9, residual=1e-9)))) == pytest.approx(plain, abs=1e-6)
    found = {float(value(NoiseConfig(ALL), key)) for key in range(3)} | {plain}
    assert len(found) == 4


def exact_penalty(model, batch, rate):
    """½ v Σ over gates of the mean over predicted tokens of diag(Jᵀ H J), J by autodiff and H written out."""
    gates = jnp.ones(gate_shape(model.config, "mlp_post", SHAPE))
    logits = lambda gates: forward(model, batch.tokens_BT, edit={"mlp_post": Change(gates)}).logits_BTV[:, :-1]  # noqa: E731
    p = jax.nn.softmax(logits(gates))
    jacobian = jax.jit(jax.jacrev(logits))(gates).reshape(*p.shape, -1)
    hessian = jnp.einsum("btv,vw->btvw", p, jnp.eye(p.shape[-1])) - p[..., None] * p[..., None, :]
    each = jnp.einsum("btvu,btvw,btwu->bt", jacobian, hessian, jacobian)
    weight = batch.token_weight_BT[:, 1:]
    return 0.5 * rate / (1 - rate) * float((each * weight).sum() / weight.sum())


def test_the_penalty_is_the_exact_one_on_average(float64):
    model, batch = model_of(), batch_of()
    # Weights that are not 0 or 1 count as they do in the loss.
    batch = batch._replace(token_weight_BT=batch.token_weight_BT.at[0].mul(2.5).astype("float64"))
    noise = NoiseConfig(DropoutConfig(rate=0.2, explicit=1.0))
    drawn = np.asarray(many(lambda key: noisy_loss(model, batch, key, noise)[1]["dropout_penalty"], 1500))
    exact = exact_penalty(model, batch, 0.2)
    assert (
        abs(drawn.mean() - exact) < 4 * drawn.std() / len(drawn) ** 0.5 and drawn.std() / len(drawn) ** 0.5 < exact / 20
    )


def test_the_penalty_is_what_dropout_costs_where_labels_are_the_models_own(float64):
    """Mean over masks of KL(p ‖ p under the mask), which has no first-order part: R in the limit of small rates."""
    rate, batch = 0.003, batch_of()
    weight = batch.token_weight_BT[:, 1:] / batch.token_weight_BT[:, 1:].sum()
    for seed in range(2):
        model = model_of(seed)
        log_p = lambda changes, model=model: jax.nn.log_softmax(
            forward(model, batch.tokens_BT, edit=changes).logits_BTV[:, :-1]
        )
        untouched = jax.jit(log_p)({})

        def gap(key, log_p=log_p, untouched=untouched):
            under = log_p(dropout_changes(DropoutConfig(ffn=rate), MODEL, SHAPE, key))
            return ((jnp.exp(untouched) * (untouched - under)).sum(-1) * weight).sum()

        gaps, exact = np.asarray(many(gap, 4000, seed)), exact_penalty(model, batch, rate)
        print(seed, gaps.mean() / exact, gaps.std() / len(gaps) ** 0.5 / exact)
        assert abs(gaps.mean() / exact - 1) < 0.03 + 4 * gaps.std() / len(gaps) ** 0.5 / exact < 0.4


def test_the_noise_of_the_gradient_is_that_of_dropout_to_first_order():
    """By hand: ℓ = θ · (A g) + 3 |g|², whose gradient for θ is A g, so that ξ = √v A s; and of masks A (g − 1)."""
    rate, variance = 0.2, 0.25
    a = jnp.array([[1.0, 2.0, 0.0], [0.5, -1.0, 1.0]])
    config = DropoutConfig(rate=rate, implicit=2.0)

    def added(theta, key):
        def losses_of(gates_LBTF):
            gates = gates_LBTF[0, 0, 0]
            return theta @ (a @ gates) + 3 * jnp.square(gates).sum(), gates.sum()

        return dropout_parts(losses_of, (1, 1, 1, 3), config, key)[1]

    gradients = np.asarray(many(lambda key: jax.grad(added)(jnp.array([0.3, -0.2]), key), 4000)) / config.implicit
    covariance = variance * a @ a.T
    np.testing.assert_allclose(gradients.mean(0), 0, atol=0.08)
    np.testing.assert_allclose(np.cov(gradients.T), covariance, atol=0.08)
    masks = many(lambda key: a @ (jax.random.bernoulli(key, 1 - rate, (3,)) / (1 - rate) - 1), 4000, 1)
    np.testing.assert_allclose(np.cov(np.asarray(masks).T), covariance, atol=0.1)


def test_the_parts_have_the_gradients_of_their_formulas(float64):
    """∇(ℓ + λ₁R) by differences, and ξ = √v ∂²ℓ/∂θ∂g · s for some signs s, with the metrics that are told."""
    model, batch, key = model_of(), batch_of(), jax.random.key(3)
    explicit, implicit = (dataclasses.replace(PARTS, **{name: 0.0}) for name in ("implicit", "explicit"))
    value = lambda params, dropout: noisy_loss(model.replace(params=params), batch, key, NoiseConfig(dropout))  # noqa: E731
    check_grads(jax.jit(lambda params: value(params, explicit)[0]), (dict(model.params),), order=1, modes=["rev"])

    def plain(gates, params):
        of = model.replace(params=params)
        return next_token_loss(of, forward(of, batch.tokens_BT, edit={"mlp_post": Change(gates)}), batch)

    def gradient(dropout):
        graded = jax.jit(jax.value_and_grad(lambda params: value(params, dropout), has_aux=True))
        return graded(dict(model.params))

    (lm, metrics), with_noise = gradient(implicit)
    gates = jnp.ones(gate_shape(MODEL, "mlp_post", SHAPE))
    bias = lambda params: {**model.params, "layers": {**model.params["layers"], "b_out": params}}  # noqa: E731
    b_out = model.params["layers"]["b_out"]
    slope = jax.jit(jax.grad(plain))(gates, dict(model.params))
    mixed = jax.jit(jax.jacrev(jax.grad(lambda b, g: plain(g, bias(b))), 1))(b_out, gates)
    signs = jax.random.rademacher(noise_key(key, 1), gates.shape, "float64")
    clean = jax.jit(jax.grad(lambda b: plain(gates, bias(b))))(b_out)
    expected = clean + PARTS.implicit * 0.5 * jnp.einsum("ldabcf,abcf->ld", mixed, signs)
    np.testing.assert_allclose(with_noise["layers"]["b_out"], expected, rtol=0, atol=1e-12)
    assert np.abs(expected - clean).max() > 1e-4
    assert float(lm) == pytest.approx(float(plain(gates, dict(model.params))), abs=1e-12) == float(metrics["lm"])
    assert float(metrics["dropout_noise"]) == pytest.approx(0.5 * float(jnp.sqrt(jnp.square(slope).sum())))


def test_more_masks_have_less_noise(float64):
    """The variance of the gradient falls as 1/k, and the first of k masks is that of one."""
    model, batch = model_of(), batch_of()

    def gradient(masks):
        noise = NoiseConfig(DropoutConfig(ffn=0.3, masks=masks))

        def of_key(key):
            of_bias = lambda b: noisy_loss(  # noqa: E731
                model.replace(params={**model.params, "layers": {**model.params["layers"], "b_out": b}}),
                batch,
                key,
                noise,
            )[0]
            return jax.grad(of_bias)(model.params["layers"]["b_out"])

        return np.asarray(many(of_key, 300))

    one, four = gradient(1), gradient(4)
    ratio = one.var(0).sum() / four.var(0).sum()
    print(ratio)
    assert 3 < ratio < 5.3
    np.testing.assert_allclose(one.mean(0), four.mean(0), rtol=0, atol=6 * one.std(0).max() / 300**0.5)


@pytest.mark.parametrize("noise", [NoiseConfig(ALL, RobustConfig(0.1, "resid_pre")), NoiseConfig(PARTS)])
def test_the_same_numbers_on_a_mesh_in_16_bits_and_side_by_side(noise, float64):
    batch, model = batch_of(), model_of()
    state = dict(model.params)

    def numbers(params, batch, key, of=model.config):
        return jax.value_and_grad(lambda p: noisy_loss(Model(of, p), batch, key, noise), has_aux=True)(params)

    keys = jax.random.split(jax.random.key(0), 2)
    one = jax.jit(numbers)(state, batch, keys[0])
    mesh = make_mesh("data=3,tensor=2")
    spread = on_mesh(state, parameter_shardings(mesh, model.config))
    found = jax.jit(seeing(mesh, numbers))(spread, on_mesh(batch, batch_shardings(mesh, batch)), keys[0])
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)  # noqa: E731
    jax.tree.map(close, found, one)
    both = jax.jit(jax.vmap(numbers, in_axes=(None, None, 0)))(state, batch, keys)
    jax.tree.map(lambda a, b: close(a[0], b), both, one)
    assert abs(both[0][0][0] - both[0][0][1]) > 1e-4 or noise.dropout.implicit


@pytest.mark.parametrize("noise", [NoiseConfig(dataclasses.replace(ALL, masks=2)), NoiseConfig(PARTS)])
def test_16_bits_and_one_operation_after_another(noise):
    """A step with noise in bfloat16 is near that in float32, finite, and can be run through for what is not finite."""
    batch, losses = batch_of(), {}
    state = initial_state(MODEL, OptimiserConfig(), 3, 0)
    key = jax.random.key(0)
    for dtype in ("float32", "bfloat16"):
        of = dataclasses.replace(MODEL, dtype=dtype)
        step = jax.jit(update(of, PLAIN, OptimiserConfig(), 3, noise=noise))
        _, metrics = step(state, batch, 0, {})
        assert bool(metrics["finite"])
        losses[dtype] = float(metrics["loss"])
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=2e-2)

    graded = lambda params: jax.grad(lambda p: loss(Model(MODEL, p), PLAIN, batch, {}, key, noise=noise)[0])(params)  # noqa: E731
    assert first_bad_operation(graded, state.params) is None
    assert first_non_finite(MODEL, PLAIN, state.params, batch, {}, key, noise) is None
    large = {**state.params, "layers": {**state.params["layers"], "w_out": state.params["layers"]["w_out"] * jnp.inf}}
    assert first_non_finite(MODEL, PLAIN, large, batch, {}, key, noise) == "parameter layers.w_out"


def test_noise_is_of_language_modelling_alone(float64):
    """What the terms add to loss and gradient is the same with noise; and a route goes with dropout."""
    model, batch = model_of(), batch_of()
    objective = ObjectiveConfig(k=2, points=1, select="stop_gradient")

    @functools.partial(jax.jit, static_argnames="noise")
    def gradient(weight, batch, noise):
        weights = {"suppression": weight}
        of = lambda p: loss(model.replace(params=p), objective, batch, weights, jax.random.key(0), True, noise)  # noqa: E731
        return jax.value_and_grad(of, has_aux=True)(dict(model.params))

    found = {}
    for noise in (NO_NOISE, NoiseConfig(ALL)):
        without, with_term = (gradient(jnp.float64(weight), batch, noise) for weight in (0, 2))
        found[noise] = without, jax.tree.map(jnp.subtract, with_term, without)
    (plain, terms), (noisy, noisy_terms) = found.values()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), noisy_terms[1], terms[1])
    assert float(noisy[0][0]) != float(plain[0][0]) and jnp.abs(terms[1]["layers"]["w_in"]).max() > 1e-3
    np.testing.assert_allclose(noisy[0][1]["suppression"], plain[0][1]["suppression"], rtol=1e-12)

    routing = Routing(2, MODEL.n_layers, MODEL.d_mlp, seed=0)
    route = jax.tree.map(jnp.asarray, route_of(routing, tiny_grid(), np.array([True] * 6)))
    routed = gradient(jnp.float64(0), batch._replace(route=route), NoiseConfig(ALL))
    np.testing.assert_allclose(routed[0][1]["lm"], noisy[0][1]["lm"], rtol=1e-12)
    assert jnp.abs(routed[1]["layers"]["w_out"] - noisy[1]["layers"]["w_out"]).max() > 1e-4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ffn": 1.0}, r"dropout.ffn must be at least 0 and below 1, got 1.0"),
        ({"residual": -0.1}, r"dropout.residual must be at least 0 and below 1, got -0.1"),
        ({"ffn": 0.1, "masks": 0}, "dropout.masks must be at least 1, got 0"),
        ({"masks": 2}, "nothing is dropped; set dropout.ffn"),
        ({"rate": 0.1}, "dropout.rate is that of dropout.explicit and dropout.implicit"),
        ({"explicit": 1.0}, "dropout.rate is that of dropout.explicit and dropout.implicit"),
        ({"rate": 0.1, "explicit": -1.0}, "dropout.explicit must be at least 0, got -1.0"),
        ({"rate": 0.1, "implicit": 1.0, "ffn": 0.1}, "stand in for dropout: leave out dropout.ffn"),
        ({"ffn": float("nan")}, "dropout.ffn must be a finite number"),
    ],
)
def test_what_is_no_dropout(fields, message):
    with pytest.raises(UserError, match=message):
        DropoutConfig(**fields)


def test_what_does_not_go_together():
    parts = DropoutConfig(rate=0.1, explicit=1.0)
    for dropout in (parts, DropoutConfig(attention=0.1)):
        with pytest.raises(UserError, match="use attention plain"):
            TrainConfig(dtype="bfloat16", attention="cudnn", dropout=dropout)
    for fields in ({"dropout": parts}, {"robust": RobustConfig(0.1)}):
        with pytest.raises(UserError, match="routing hides gradients"):
            TrainConfig(routing=4, **fields)
    assert TrainConfig(routing=4, dropout=ALL).noise == NoiseConfig(ALL)
