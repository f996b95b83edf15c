"""Meshes are planned from shapes alone: bytes, what is sent, and which mesh is picked."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import mesh_memory

from jaxinterp.base.errors import UserError
from jaxinterp.base.mesh_asked import parse_mesh
from jaxinterp.cli import main as cli
from jaxinterp.models.config import ModelConfig, preset
from jaxinterp.models.mesh import make_mesh, state_shardings
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.collectives import Traffic, collectives, sent, traffic
from jaxinterp.training.devices import DEVICES, device_of
from jaxinterp.training.mesh_memory import Work, state_bytes, state_shapes, step_bytes
from jaxinterp.training.mesh_plan import meshes, plan_mesh, planned, plans
from jaxinterp.training.mesh_work import step_collectives
from jaxinterp.training.planner import cost
from jaxinterp.training.state import TrainState

SIZES = {"n_layers": 2, "d_model": 64, "d_mlp": 256, "n_heads": 4, "n_kv_heads": 4, "d_head": 16}
MODEL = ModelConfig(256, 32, **SIZES)
META = ObjectiveConfig(weights={"suppression": "1", "control": "1"}, k=3, points=4)
PLAIN = Work(MODEL, ObjectiveConfig(), sequences=16, tokens=32)
BIG = preset("7b", d_vocab=32_000, n_ctx=2048, dtype="bfloat16")
BATCH = {"sequences": 64, "tokens": 2048, "rows": 64}


def by(text):
    return parse_mesh(text)


@pytest.mark.parametrize("text", ["one", "data=2", "fsdp=2,tensor=2", "data=2,fsdp=2", "tensor=4"])
def test_state_bytes_are_those_of_the_shards(text):
    config = dataclasses.replace(MODEL, d_vocab=255)  # which 2 does not divide
    params, means = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state_shapes(config)[:2])
    if (mesh := make_mesh(text)) is None:
        held = [sum(x.nbytes for x in jax.tree.leaves(of)) for of in (params, means)]
    else:
        places = state_shardings(mesh, config, TrainState(params, means, *state_shapes(config)[2:]))
        spread = [jax.device_put(of, places[part]) for part, of in enumerate((params, means))]
        held = [sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(of)) for of in spread]
    assert list(state_bytes(config, by(text))) == held


def test_memory_and_sending_are_about_what_xla_makes_of_a_step():
    text = "data=2,tensor=2"
    program, plan = mesh_memory.compiled(PLAIN, make_mesh(text)), planned(PLAIN, by(text), DEVICES["h100"])
    assert 0.7 < plan.memory.total / cost(program).peak_bytes < 1.5
    # XLA adds up the unembedding's gradient apart, and each of the gradients of queries, keys and values.
    assert 0.4 < plan.sent / sent(collectives(program)) <= 1


def test_bytes_by_hand():
    memory = step_bytes(dataclasses.replace(PLAIN, objective=META, rows=16), by("data=2,tensor=2"))
    # Of 2 layers and 8 · 32 tokens: input and attention's output of 64, three times 2 heads of 16, and 128 neurons.
    assert memory.activations == 4 * 2 * 8 * 32 * (2 * 64 + 3 * 32 + 128)
    assert memory.optimiser == 2 * memory.parameters + 8  # and two counters
    assert memory.gradients == 2 * memory.parameters  # the objective's besides
    flat = dataclasses.replace(META, memory="flat")
    fewer = step_bytes(dataclasses.replace(PLAIN, objective=flat, rows=16), by("data=2,tensor=2"))
    assert memory.evaluations * (1 + 2) == fewer.evaluations * (4 + 2)  # points, and half of 4 edited runs
    sixteen = step_bytes(dataclasses.replace(PLAIN, model=dataclasses.replace(MODEL, dtype="bfloat16")), by("data=2"))
    assert sixteen.parameters == 3 * sixteen.gradients  # 4 bytes kept and 2 of the arithmetic


def test_what_is_sent_by_hand():
    of = lambda work, text: {one.what: one for one in step_collectives(work, by(text))}  # noqa: E731
    assert of(PLAIN, "data=1") == {}
    numbers = state_bytes(MODEL, by("one"))[0] // 4
    data = of(PLAIN, "data=8")
    assert [(one.kind, one.count, one.bytes) for one in data.values()] == [("all-reduce", 1, 4 * numbers)]
    tensor = of(PLAIN, "tensor=2")["residual stream"]
    # Two of each layer forward and two backward; the embedding and the gradient of what the unembedding reads.
    assert (tensor.kind, tensor.count, tensor.bytes) == ("all-reduce", 10, 10 * 4 * 16 * 32 * 64)
    fsdp = of(PLAIN, "fsdp=4")
    assert fsdp["parameters"].bytes == 2 * fsdp["gradients"].bytes
    assert fsdp["gradients"].bytes + fsdp["gradients of what fsdp does not divide"].bytes == 4 * numbers
    rows = dataclasses.replace(PLAIN, objective=META, rows=16)
    # Keys and values of 4 rows of a device, there and back.
    assert of(rows, "data=4")["keys and values of rows"].bytes == 2 * 4 * (2 * 32 * 2 * 64 * 4)


def test_small_models_are_divided_along_data_alone():
    for n in (2, 4, 8):
        for device in DEVICES.values():
            of = {"sequences": 64, "tokens": 24, "rows": 48, "n_devices": n, "device": device}
            found = plan_mesh(preset("0.7m", d_vocab=2000, n_ctx=32), META, bytes_per_device=1e10, **of)
            assert (found.text, found.objective.memory) == (f"data={n}", "fast")


def test_the_fastest_mesh_that_fits_is_picked():
    work = Work(BIG, ObjectiveConfig(), **BATCH)
    ordered = plans(work, 64, DEVICES["h100"])
    assert [plan.seconds for plan in ordered] == sorted(plan.seconds for plan in ordered)
    assert {plan.text for plan in ordered} == {planned(work, s, DEVICES["h100"]).text for s in meshes(work, 64)}
    for room in (64e9, 16e9):
        found = plan_mesh(BIG, work.objective, **BATCH, n_devices=64, bytes_per_device=room, device=DEVICES["h100"])
        assert found == next(plan for plan in ordered if plan.memory.total <= room)
    # Eight H100 stand in a node: what has to be sent for each layer stays inside.
    assert ordered[0].sizes["tensor"] * ordered[0].sizes["fsdp"] == 8


def test_flat_mode_where_fast_does_not_fit():
    of = {**BATCH, "tokens": 64, "n_devices": 8, "device": DEVICES["h200"]}
    meta = dataclasses.replace(META, points=64)
    fast = plan_mesh(BIG, meta, bytes_per_device=1e12, **of)
    flat = plan_mesh(BIG, meta, bytes_per_device=30e9, **of)
    assert (fast.objective.memory, flat.objective.memory) == ("fast", "flat")
    assert flat.seconds > fast.seconds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_devices": 7}, "no mesh of 7 devices divides 64 sequences, 32 heads and 11008 neurons"),
        ({"bytes_per_device": 16e9}, r"needs \d+\.\d+ GB on each of 8 devices .* it fits on \d+$"),
        ({"bytes_per_device": 1e8}, "fits on no number up to 4096: lower its size"),
    ],
)
def test_what_cannot_be_planned(changes, message):
    of = {**BATCH, "n_devices": 8, "bytes_per_device": 64e9, "device": DEVICES["h100"], **changes}
    with pytest.raises(UserError, match=message) as found:
        plan_mesh(BIG, ObjectiveConfig(), **of)
    assert len(str(found.value)) <= 300


def test_meshes_divide_the_work():
    work = Work(MODEL, META, sequences=16, tokens=32, rows=4)
    assert all(sizes["data"] * sizes["fsdp"] <= 4 and sizes["tensor"] <= 4 for sizes in meshes(work, 16))
    assert [tuple(sizes.values()) for sizes in meshes(work, 16)] == [(4, 1, 4), (2, 2, 4), (1, 4, 4)]


def test_devices_by_what_jax_calls_them():
    assert device_of("NVIDIA H100 80GB HBM3") == DEVICES["h100"]
    assert device_of("TPU v5 lite") == DEVICES["v5e"] and device_of("TPU v5p") == DEVICES["v5p"]
    assert device_of("cpu") is None


HLO = """
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %a = f32[4,8]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %alone = f32[100]{0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add
}

%cond (p: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  %less = pred[] compare(%n, %limit), direction=LT
}

%few (p: f32[2]) -> f32[2] {
  %b = bf16[6]{0} all-to-all(%x), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}
}

%many (p: f32[2]) -> f32[2] {
  %c = (f32[10]{0}, pred[3]{0}) all-reduce(%x, %y), replica_groups={{0,1},{2,3}}, to_apply=%add
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %w = (s32[], f32[4]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %v = (s32[], f32[4]) while(%t), condition=%cond, body=%body
  %i = f32[2] conditional(%n, %x, %y), branch_computations={%few, %many}
  %s = f32[3]{0} reduce-scatter(%x), replica_groups=[1,8]<=[8], to_apply=%add
  %g = (f32[2]{0}, f32[16]{0}) all-gather-start(%x), replica_groups=[1,8]<=[8]
  %h = f32[16]{0} all-gather-done(%g)
}
"""


def test_collectives_of_loops_and_conditions_are_counted():
    found = traffic(HLO)
    assert found["all-gather"] == Traffic(5 + 7 + 1, (5 + 7) * 4 * 8 * 4 + 16 * 4)
    assert found["all-reduce"] == Traffic(1, 10 * 4 + 3)  # of the branch that sends more
    assert found["all-to-all"] == Traffic(0, 0)
    assert found["reduce-scatter"] == Traffic(1, 3 * 4 * 8)


@pytest.fixture
def no_mesh(monkeypatch):
    """A command line sets the variable for good."""
    monkeypatch.setenv("JAXINTERP_MESH", "one")


def test_the_command_says_what_it_picks(capsys, monkeypatch, no_mesh):
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", "--devices", "64", "--device", "h100", "--mesh", "data=8,tensor=8"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "7b on 64 × H100 SXM" in out and "data=8,tensor=8" in out and "picked" in out
    monkeypatch.setenv("JAXINTERP_MESH", "one")
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", "--devices", "2"])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and "does not fit" in captured.out and "it fits on" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--device abacus", "unknown device 'abacus'; known: h100, h200, v5e, v5p"),
        ("--mesh data=3", "the mesh 'data=3' does not divide the batch"),
        ("--memory -1", "memory must be at least 0"),
        ("--tokens 0", "tokens must be at least 1, got 0"),
        ("--model n_layers x", "model.n_layers must be of type int, got 'x'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, capsys, no_mesh):
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", *arguments.split()])
    assert stop.value.code == 2 and message in capsys.readouterr().err
