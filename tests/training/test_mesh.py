"""The same numbers on one device and on several, whichever axes of the mesh they lie along."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tiny import tiny_config, tiny_params
from training_facts import DATA, SMALL_EVALUATION, made_up_data

from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.base.errors import UserError
from jaxinterp.cli.options import taken
from jaxinterp.metrics.measure import measure
from jaxinterp.models import readout
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.mesh import batch_shardings, make_mesh, on_mesh, parameter_shardings, seeing, state_shardings
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training import loop
from jaxinterp.training.collectives import collectives
from jaxinterp.training.config import OptimiserConfig, TrainConfig
from jaxinterp.training.loop import batch_of, train
from jaxinterp.training.state import initial_state
from jaxinterp.training.step import loss

OBJECTIVE = ObjectiveConfig(weights={"suppression": "0.3", "control": "0.3", "concentration": "0.1"}, k=3, points=2)
SIZES = {"d_model": "8", "n_layers": "2", "n_heads": "2", "n_kv_heads": "2", "d_mlp": "12"}
CONFIG = TrainConfig(
    steps=4,
    data=DATA,
    model=SIZES,
    objective=OBJECTIVE,
    batch_size=8,
    rows=8,
    subjects=4,
    log_every=1,
    evaluate_every=4,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def data():
    return made_up_data()


@pytest.fixture(autouse=True)
def small_evaluation(monkeypatch):
    monkeypatch.setattr(loop, "EVALUATION", SMALL_EVALUATION)


def test_losses_gradients_and_attributions_agree(data, float64):
    config = tiny_config(
        n_layers=2,
        d_model=8,
        n_heads=2,
        n_kv_heads=2,
        d_mlp=12,
        d_vocab=data.tokenizer.n_tokens,
        n_ctx=data.n_positions,
    )
    config = dataclasses.replace(config, dtype="float64")
    state = initial_state(config, OptimiserConfig(), 4, 0)
    params = jax.tree.map(lambda x: 4 * x.astype("float64"), state.params)  # so that answers differ
    batch = batch_of(CONFIG, data, 0)
    weights = {name: jax.numpy.asarray(float(weight)) for name, weight in OBJECTIVE.weights.items()}

    def numbers(params, batch):
        key = jax.random.key(7)
        value = jax.value_and_grad(lambda p: loss(Model(config, p), OBJECTIVE, batch, weights, key), has_aux=True)
        readout = lm_readout(Model(config, params), batch.tokens_BT, batch.rows)[1]
        return value(params), integrated_gradients(readout, quadrature("midpoint", 2), path="joint").scores_LRF

    def run(function, *arguments):
        compiled = jax.jit(function).lower(*arguments).compile()
        return compiled(*arguments), collectives(compiled)

    one, used = run(numbers, params, batch)
    assert not any(kind.count for kind in used.values())
    for text in ("data=2", "data=4,tensor=2", "fsdp=8", "data=2,fsdp=2,tensor=2"):
        mesh = make_mesh(text)
        spread = jax.device_put(params, parameter_shardings(mesh, config))
        found, used = run(seeing(mesh, numbers), spread, on_mesh(batch, batch_shardings(mesh, batch)))
        assert used["all-reduce"].count > 0
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-10, err_msg=f"{text} {jax.tree_util.keystr(path)}")


def test_units_experts_and_gates_on_a_mesh(data, float64):
    sizes = {"d_vocab": data.tokenizer.n_tokens, "n_ctx": data.n_positions, "d_mlp": 12, "dtype": "float64"}
    more = {"ffn_units": 2, "experts": 3, "experts_active": 2, "depth_gates": True}
    config, batch, mesh = (
        tiny_config(n_layers=2, **sizes, **more),
        batch_of(CONFIG, data, 0),
        make_mesh("fsdp=2,tensor=2"),
    )
    objective = ObjectiveConfig(weights={name: "1" for name in ("suppression", "balance", "depth", "early_exit")}, k=3)
    weights = {name: jax.numpy.asarray(1.0) for name in objective.weights}

    def slopes(params, batch):
        key = jax.random.key(7)
        return jax.value_and_grad(lambda p: loss(Model(config, p), objective, batch, weights, key)[0])(params)

    params, places = tiny_params(config), parameter_shardings(mesh, config)
    assert places["layers"]["w_in"].spec == PartitionSpec(None, "fsdp", "tensor", None)
    one = jax.jit(slopes)(params, batch)
    spread = on_mesh(batch, batch_shardings(mesh, batch))
    found = jax.jit(seeing(mesh, slopes))(jax.device_put(params, places), spread)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-10, err_msg=jax.tree_util.keystr(path))


def test_a_model_is_measured_on_a_mesh_as_on_one_device(data, float64, monkeypatch):
    config = dataclasses.replace(loop.model_config(CONFIG, data), dtype="float64")
    params = jax.tree.map(lambda x: 4 * x.astype("float64"), initial_state(config, OptimiserConfig(), 4, 0).params)
    mesh = make_mesh("data=2,tensor=2")
    # Few neurons: gates of many are closed, and their effects exactly 0, in whose order rounding has a word.
    few, found = dataclasses.replace(loop.EVALUATION, ablation_queries=4, k=2), {}
    rows, read = [], readout.beside
    monkeypatch.setattr(readout, "beside", lambda *given: rows.append(read(*given)) or rows[-1])
    for name, of in {"one": params, "many": on_mesh(params, parameter_shardings(mesh, config))}.items():
        model = LanguageModel(Model(config, of), data.tokenizer, {})
        found[name] = measure(model, data.facts, data.split, few)
    assert {len(tokens.sharding.device_set) for tokens, _, _ in rows} == {1, 4}
    assert {tokens.addressable_shards[0].data.shape[0] for tokens, _, _ in rows} == {8, 4}
    for set_name, estimates in found["one"].sets.items():
        assert {"suppressability", "ablation_overlap"} <= set(estimates), set_name
        for metric, estimate in estimates.items():
            other = found["many"].sets[set_name][metric].overall.value
            assert other == pytest.approx(estimate.overall.value, abs=1e-8, nan_ok=True), (set_name, metric)


def test_arrays_lie_where_the_rules_say(data):
    mesh = make_mesh("fsdp=2,tensor=2")
    config = tiny_config(n_layers=2, d_model=8, n_heads=2, n_kv_heads=2, d_mlp=12, d_vocab=11, n_ctx=8)
    state = initial_state(config, OptimiserConfig(), 4, 0)
    spread = jax.device_put(state, state_shardings(mesh, config, state))
    w_in = spread.params["layers"]["w_in"]
    assert w_in.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    assert w_in.addressable_shards[0].data.size == w_in.size // 4
    # The optimiser's means lie as their parameters; 11 tokens do not divide by 2.
    means = [x for x in jax.tree.leaves(spread.opt_state) if x.shape == w_in.shape]
    assert len(means) == 2 and all(x.sharding == w_in.sharding for x in means)
    assert spread.params["embedding"].sharding.spec == PartitionSpec(None, "fsdp")
    assert spread.step.sharding.spec == PartitionSpec()


def test_a_run_goes_on_with_another_mesh(data, tmp_path):
    plain = dataclasses.replace(CONFIG, objective=ObjectiveConfig())  # less to compile
    whole = train(plain, data, tmp_path / "one")
    half = dataclasses.replace(plain, steps=2)
    train(half, data, tmp_path / "many", mesh="data=2,fsdp=2")
    found = train(dataclasses.replace(half, steps=4), data, tmp_path / "many", resume=True, mesh="tensor=2")
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "many")
    ]
    # The learning rate of a prolonged run is another one from there on; up to there the numbers agree.
    for a, b in zip(lines[0][:2], lines[1][:2], strict=True):
        for name in ("loss", "gradient_norm"):
            assert b[name] == pytest.approx(a[name], abs=1e-5), name
    assert [line["step"] for line in lines[1]] == [1, 2, 3, 4]
    assert (tmp_path / "many" / "evaluations.jsonl").read_text().count("\n") == 2
    assert found.config == whole.config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows=2", "unknown axis of a mesh 'rows'"),
        ("data=2,data=2", "names data twice"),
        ("data=two", "must give whole numbers above 0"),
        ("data=64", r"needs 64 devices, and there are \d"),
    ],
)
def test_what_is_no_mesh(text, message):
    with pytest.raises(UserError, match=message):
        make_mesh(text)


def test_what_a_command_asks_for(monkeypatch, data, tmp_path):
    monkeypatch.setenv("JAXINTERP_MESH", "one")
    taken(["--mesh", "data=2,tensor=2"])
    assert make_mesh().shape == {"data": 2, "fsdp": 1, "tensor": 2}
    monkeypatch.delenv("JAXINTERP_MESH")
    assert make_mesh().shape["data"] == jax.device_count() == make_mesh(auto=lambda n: f"fsdp={n}").shape["fsdp"]
    with pytest.raises(UserError, match="--mesh is given 2 times"):
        taken(["--mesh=one", "--mesh=auto"])
    with pytest.raises(UserError, match="unknown axis of a mesh 'x'"):
        taken(["--mesh", "x=2"])
    asked = []
    monkeypatch.setattr(loop, "make_mesh", lambda text, auto: asked.append(auto(8)))
    train(dataclasses.replace(CONFIG, objective=ObjectiveConfig(), steps=1, evaluate_every=0), data, tmp_path / "run")
    assert asked == ["data=8"]  # a small model, whose batch of 8 divides


def test_all_devices_and_one():
    assert make_mesh("one") is None and make_mesh("data=1") is None
    assert make_mesh("auto").shape["data"] == jax.device_count()
