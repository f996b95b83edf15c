"""Does a step on many devices need the memory, and send the bytes, that `jaxinterp.training.mesh_plan` predicts?

Steps are compiled for virtual devices from shapes alone, each in a process of its own, and never run: memory is XLA's
`memory_analysis()` of one device, and what is sent is counted in the program's text. With `--topology v5p:4x4x4` they
are compiled for those TPUs, which takes the package libtpu and no TPU.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from jaxinterp.cli.run import experiment

WORKER = "JAXINTERP_MESH_WORKER"
LLAMA = {"norm": "rmsnorm", "position": "rotary", "ffn": "swiglu", "tied": False}
LLAMA |= {"qkv_bias": False, "out_bias": False, "mlp_bias": False}
MODELS = {
    "llama 8M": {"n_layers": 6, "d_model": 256, "d_mlp": 1024, "n_heads": 8, "n_kv_heads": 8, "d_head": 32} | LLAMA,
    "gpt 2M": {"n_layers": 4, "d_model": 128, "d_mlp": 512, "n_heads": 8, "n_kv_heads": 8, "d_head": 16},
    "llama 7b": {"n_layers": 32, "d_model": 4096, "d_mlp": 11008, "n_heads": 32, "n_kv_heads": 32, "d_head": 128}
    | LLAMA,
}
# vocabulary, sequences, tokens, rows, points
BATCHES = {
    "llama 8M": (4096, 64, 128, 64, 4),
    "gpt 2M": (8192, 32, 64, 32, 8),
    "llama 7b": (32_000, 64, 2048, 64, 4),
}
KINDS = ("lm", "fast", "flat", "attribute")
SMALL = tuple(
    (model, mesh, kind)
    for model, meshes in {
        "llama 8M": ("data=8", "fsdp=8", "tensor=8", "data=2,fsdp=2,tensor=2"),
        "gpt 2M": ("data=8", "data=4,tensor=2", "data=2,fsdp=4"),
    }.items()
    for mesh in meshes
    for kind in KINDS
)
# In float32 the objective needs more than an H100 has: no mesh would be picked.
LARGE = tuple(("llama 7b", *case) for case in (("picked", "lm"), ("data=8,tensor=8", "fast"), ("picked", "attribute")))


@dataclasses.dataclass(frozen=True)
class MeshMemory:
    """Compare what the planner of meshes predicts with what XLA compiles."""

    out: Path = Path("checkpoints/benchmarks")  # folder of mesh_memory.json
    large: bool = False  # a model of 7 B on 64 devices instead of small ones on 8
    quick: bool = False  # the first step alone
    only: str = ""  # steps whose model, mesh or kind has this in it
    topology: str = ""  # of TPUs to compile for, as v5p:4x4x4; "" is virtual devices of this machine

    def __call__(self) -> None:
        """Runs the benchmark."""
        from harness import origin
        from rich.table import Table

        from jaxinterp.base.files import write_json
        from jaxinterp.base.tables import print_table

        memory = Table("model", "mesh", "step", "predicted, MB", "compiled, MB", "predicted / compiled", "compile, s")
        sent = Table("model", "mesh", "step", "predicted: count", "MB sent", "compiled: count", "MB sent", "ratio")
        found = []
        cases = [case for case in (LARGE if self.large else SMALL) if self.only in " ".join(case)]
        for case in cases[:1] if self.quick else cases:
            line = of_worker(case, 64 if self.large else 8, self.topology)
            found.append(line)
            names = line["model"], line["mesh"], line["kind"]
            p, c = line["predicted"], line["compiled"]
            figures = f"{p['bytes'] / 1e6:.1f}", f"{c['bytes'] / 1e6:.1f}", f"{p['bytes'] / c['bytes']:.2f}"
            memory.add_row(*names, *figures, f"{line['seconds']:.0f}")
            ratio = f"{p['sent'] / c['sent']:.2f}" if c["sent"] else ""
            count = str(p["count"]), f"{p['sent'] / 1e6:.1f}", str(c["count"]), f"{c['sent'] / 1e6:.1f}", ratio
            sent.add_row(*names, *count)
            print(json.dumps(line), flush=True)
        print_table(memory)
        print_table(sent)
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / "mesh_memory.json", {"benchmark": "mesh_memory", "steps": found, "provenance": origin()})
        print(f"numbers: {self.out / 'mesh_memory.json'}")


def of_worker(case: tuple[str, str, str], n_devices: int, topology: str) -> dict:
    """What a process of its own finds out about a step."""
    # Optimised code is of no interest here, and takes long.
    flags = f"--xla_force_host_platform_device_count={n_devices} --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    command = [sys.executable, __file__, WORKER, json.dumps([*case, n_devices, topology])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return {**json.loads(done.stdout.splitlines()[-1]), "warnings": done.stderr.count("Involuntary full remat")}


def work_of(name: str, kind: str, dtype: str = "float32") -> Any:
    """The work of a case. XLA for CPUs computes in float32 whatever it is told, so that bfloat16 is for TPUs."""
    from training_arms import META

    from jaxinterp.models.config import ModelConfig
    from jaxinterp.objectives.config import ObjectiveConfig
    from jaxinterp.training.mesh_memory import Work

    vocabulary, sequences, tokens, rows, points = BATCHES[name]
    model = ModelConfig(vocabulary, tokens, dtype=dtype, **MODELS[name])
    objective = ObjectiveConfig(weights=META, points=points, memory=kind if kind in ("fast", "flat") else "auto")
    if kind == "attribute":
        objective = ObjectiveConfig(points=points, path="per_layer", memory="fast")
    objective = ObjectiveConfig() if kind == "lm" else objective
    return Work(model, objective, sequences, tokens, rows, "attribute" if kind == "attribute" else "train")


def batch_shapes(work: Any) -> Any:
    """The shapes of a batch, with a control of each kind."""
    import jax
    import jax.numpy as jnp

    from jaxinterp.attribution.answers import Answers
    from jaxinterp.facts.batches import QueryBatch
    from jaxinterp.facts.controls import CONTROL_KINDS
    from jaxinterp.models.readout import Rows

    def shape(*sizes: int, dtype: type = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype)

    b, t, r, x, real = work.sequences, work.tokens, work.rows or work.sequences, len(CONTROL_KINDS), jnp.float32
    weights = shape(r, dtype=real)
    answers = Answers(shape(r), weights, shape(x, r), weights, shape(x, r, dtype=real), shape(r))
    return QueryBatch(shape(b, t), shape(b), shape(b, t, dtype=real), Rows(shape(r), shape(r), shape(r)), answers)


def compiled(work: Any, mesh: Any) -> Any:
    """The step of a mesh, compiled from shapes."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec
    from training_arms import OPTIMISER, STEPS

    from jaxinterp.attribution.integrated_gradients import integrated_gradients
    from jaxinterp.attribution.quadrature import quadrature
    from jaxinterp.models.mesh import batch_shardings, parameter_shardings, seeing, state_shardings
    from jaxinterp.models.model import Model, parameter_shapes
    from jaxinterp.models.readout import lm_readout
    from jaxinterp.training.mesh_memory import state_shapes
    from jaxinterp.training.step import train_step

    def placed(tree: Any, shardings: Any) -> Any:
        return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, shardings)

    everywhere, batch = NamedSharding(mesh, PartitionSpec()), batch_shapes(work)
    batch = placed(batch, batch_shardings(mesh, batch))
    if work.job == "train":
        state = state_shapes(work.model)
        shardings = state_shardings(mesh, work.model, state)
        step = train_step(work.model, work.objective, OPTIMISER, STEPS)
        program = jax.jit(seeing(mesh, step), donate_argnums=0, out_shardings=(shardings, everywhere))
        number = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
        return program.lower(placed(state, shardings), batch, number).compile()

    def scores(params: Any, batch: Any) -> Any:
        readout = lm_readout(Model(work.model, params), batch.tokens_BT, batch.rows)[1]
        rule, at_once = quadrature("midpoint", work.objective.points), readout.evaluations_at_once()
        return integrated_gradients(readout, rule, path=work.objective.path, at_once=at_once).scores_LRF

    params = placed(parameter_shapes(work.model), parameter_shardings(mesh, work.model))
    return jax.jit(seeing(mesh, scores)).lower(params, batch).compile()


def worker(model: str, text: str, kind: str, n_devices: int, topology: str) -> None:
    """Compiles a step in this process and prints what was predicted and what it needs."""
    import time

    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh

    from jaxinterp.base.mesh_asked import AXES, parse_mesh
    from jaxinterp.training.collectives import collectives, sent
    from jaxinterp.training.devices import DEVICES
    from jaxinterp.training.mesh_plan import plan_mesh, planned
    from jaxinterp.training.planner import cost

    work = work_of(model, kind, "bfloat16" if topology else "float32")
    device = DEVICES["v5p" if topology else "h100"]
    if text == "picked":
        sizes = {"sequences": work.sequences, "tokens": work.tokens, "rows": work.rows, "n_devices": n_devices}
        room = 0.8 * device.memory
        text = plan_mesh(work.model, work.objective, **sizes, bytes_per_device=room, device=device, job=work.job).text
    plan = planned(work, parse_mesh(text), device)
    devices = jax.devices()
    if topology:
        from jax.experimental import topologies

        devices = topologies.get_topology_desc(topology, platform="tpu").devices
    shape = tuple(plan.sizes.values())
    mesh = Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        program = compiled(work, mesh)
    seconds, counted = time.perf_counter() - start, collectives(program)
    predicted = {
        "bytes": plan.memory.total,
        "parts": dataclasses.asdict(plan.memory),
        "count": sum(one.count for one in plan.collectives),
        "sent": plan.sent,
        "collectives": [dataclasses.asdict(one) for one in plan.collectives],
        "seconds": plan.seconds,
    }
    measured = {
        "bytes": cost(program).peak_bytes,
        "count": sum(kind.count for kind in counted.values()),
        "sent": sent(counted),
        "collectives": {kind: one._asdict() for kind, one in counted.items()},
    }
    names = {"model": model, "mesh": text, "kind": kind, "seconds": seconds}
    print(json.dumps({**names, "predicted": predicted, "compiled": measured}))


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        worker(*json.loads(sys.argv[2]))
    else:
        experiment(MeshMemory)
