"""How time and memory grow with facts, prompt length, layers, width, points and vocabulary; and what large runs take.

Two jobs: attributing a batch of answers and switching their neurons off, and a training step with the full objective.
One size changes at a time. What large models would take is predicted from counted operations.
"""

import dataclasses
import functools
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxinterp.cli.run import experiment
from jaxinterp.models.model import Model
from jaxinterp.models.parameters import n_params

JOBS = ("attribution", "training step")
BASE = {"facts": 16, "tokens": 32, "layers": 4, "width": 128, "points": 8, "vocabulary": 4096}
K = 8  # neurons switched off
UTILISATION = 0.4  # of a device's dense peak, assumed: large matrix products reach it, small batches do not


@dataclasses.dataclass(frozen=True)
class CostCurves:
    """Time and memory of attribution and of training steps over six sizes, with exponents and predictions."""

    out: Path = Path("checkpoints/benchmarks")  # folder of cost_curves.json, .svg and .png
    quick: bool = False  # a tiny model and two values of each size: shows that the script works
    doublings: int = 3  # of every size
    runs: int = 5  # timed runs of everything

    def __call__(self) -> None:
        """Runs the benchmark."""
        from cost_charts import cost_chart
        from harness import origin
        from rich.console import Console

        from jaxinterp.base.files import write_json
        from jaxinterp.base.progress import progress
        from jaxinterp.report.charts import save_chart

        base = {name: value // 4 for name, value in BASE.items()} if self.quick else BASE
        factors = [2**power for power in range((1 if self.quick else self.doublings) + 1)]
        sizes = [base] + [base | {name: base[name] * factor} for name in base for factor in factors[1:]]
        cells = []
        with progress("sizes", len(sizes)) as report:
            for number, size in enumerate(sizes):
                cells += [{"job": job, **size, **measured(job, size, self.runs)} for job in JOBS]
                report(number + 1)
        curves = [{"job": job, "size": name, **curve(cells, job, name, base)} for job in JOBS for name in base]
        console = Console(highlight=False, width=max(Console().width, 110))
        console.print(_table(curves, base, factors[-1]))
        predictions = list(predicted())
        console.print(_predictions(predictions))
        record = {"benchmark": "cost_curves", "base": base, "cells": cells, "curves": curves}
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / "cost_curves.json", record | {"predictions": predictions, "provenance": origin()})
        charts = save_chart(cost_chart(curves), self.out, "cost_curves")
        print(f"numbers: {self.out / 'cost_curves.json'}   charts: {', '.join(map(str, charts))}")


def model_of(size: Mapping[str, int]) -> Any:
    """The model of a size."""
    from jaxinterp.models.config import ModelConfig

    width = size["width"]
    shape = {"n_layers": size["layers"], "d_model": width, "d_mlp": 4 * width, "d_head": width // 4}
    return ModelConfig(d_vocab=size["vocabulary"], n_ctx=size["tokens"], n_heads=4, n_kv_heads=4, **shape)


def program_of(job: str, size: Mapping[str, int]) -> tuple[Any, tuple]:
    """The compiled program of a job and its arguments."""
    import jax
    import jax.numpy as jnp
    from training_arms import META, OPTIMISER, STEPS, batch

    from jaxinterp.objectives.config import ObjectiveConfig
    from jaxinterp.training.state import initial_state
    from jaxinterp.training.step import train_step

    model = model_of(size)
    data = batch(size["vocabulary"], size["facts"], size["tokens"])
    state = initial_state(model, OPTIMISER, STEPS, 0)
    if job == "training step":
        objective = ObjectiveConfig(weights=META, points=size["points"], path="joint")
        arguments = (state, data, jnp.int32(0))
        # The state stays the caller's: what is timed is the same step again and again.
        step = jax.jit(lambda *args: train_step(model, objective, OPTIMISER, STEPS)(*args))
        return step.lower(*arguments).compile(), arguments
    arguments = (state.params, data)
    return jax.jit(functools.partial(attributed, model, size["points"])).lower(*arguments).compile(), arguments


def attributed(model: Any, n_points: int, params: dict, data: Any) -> Any:
    """Each answer's probability without its knowledge neurons."""
    from jaxinterp.attribution.edits import suppress
    from jaxinterp.attribution.integrated_gradients import integrated_gradients
    from jaxinterp.attribution.quadrature import quadrature
    from jaxinterp.attribution.selection import top_k
    from jaxinterp.models.readout import lm_readout

    _, readout = lm_readout(Model(model, params), data.tokens_BT, data.rows)
    rule = quadrature("gauss_legendre", n_points)
    at_once = readout.evaluations_at_once()
    scores = integrated_gradients(readout, rule, path="per_layer", at_once=at_once).scores_LRF
    return readout(*suppress(top_k(scores, K)))


def measured(job: str, size: Mapping[str, int], runs: int) -> dict:
    """Seconds (median) and bytes of a job, and the operations that the cost model counts."""
    import time

    import jax

    from jaxinterp.training.planner import cost

    program, arguments = program_of(job, size)
    jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds),
        "runs": seconds,
        "bytes": cost(program).peak_bytes,
        "flops": counted(job, size),
    }


def counted(job: str, size: Mapping[str, int]) -> float:
    """Operations of a job by the cost model."""
    from jaxinterp.training.cost_model import attribution_flops, training_flops

    model, facts, tokens = model_of(size), size["facts"], size["tokens"]
    if job == "attribution":
        return facts * attribution_flops(model, tokens, size["points"])
    return training_flops(model, tokens, facts, facts, size["points"])


def curve(cells: list[dict], job: str, name: str, base: Mapping[str, int]) -> dict:
    """Values of one size with what was measured there, and exponents p of c · size^p, fitted to all values."""
    import numpy as np

    others = {other: value for other, value in base.items() if other != name}
    along = sorted(
        (cell for cell in cells if cell["job"] == job and all(cell[other] == v for other, v in others.items())),
        key=lambda cell: cell[name],
    )
    columns = {key: [cell[key] for cell in along] for key in ("seconds", "bytes", "flops")}
    values = [cell[name] for cell in along]
    exponents = {
        f"{key}_exponent": float(np.polyfit(np.log(values), np.log(column), 1)[0]) for key, column in columns.items()
    }
    return {"values": values, **columns, **exponents}


def predicted() -> Iterator[dict]:
    """What a 7 B model takes on one H100, and a million facts on 64 TPUs."""
    from jaxinterp.models.config import ModelConfig
    from jaxinterp.training.cost_model import attribution_flops, training_bytes, training_flops
    from jaxinterp.training.devices import DEVICES

    llama = {"norm": "rmsnorm", "position": "rotary", "ffn": "swiglu", "qkv_bias": False, "out_bias": False}
    llama |= {"mlp_bias": False, "tied": False, "dtype": "bfloat16"}
    shape = {"n_layers": 32, "d_model": 4096, "d_mlp": 11008, "n_heads": 32, "n_kv_heads": 32, "d_head": 128}
    seven = ModelConfig(d_vocab=32_000, n_ctx=4096, **shape, **llama)
    smol = {"n_layers": 30, "d_model": 576, "d_mlp": 1536, "n_heads": 9, "n_kv_heads": 3, "d_head": 64}
    small = ModelConfig(d_vocab=49_152, n_ctx=2048, **smol, **{**llama, "tied": True})
    tokens = 16
    for name, model in {"7 B": seven, "135 M": small}.items():
        for points in (4, 20):
            for device, chips, facts in ((DEVICES["h100"], 1, 1000), (DEVICES["v5e"], 64, 1_000_000)):
                flops = attribution_flops(model, tokens, points)
                yield {
                    "model": name,
                    "job": f"attribution, {points} points a layer",
                    "device": f"{chips} × {device.name}",
                    "facts": facts,
                    "flops_a_fact": flops,
                    "seconds": facts * flops / (chips * device.flops * UTILISATION),
                    "bytes_a_chip": 2.0 * n_params(model) / chips,
                    "memory": device.memory,
                }
        for device, chips, facts in ((DEVICES["h100"], 1, 1000), (DEVICES["v5e"], 64, 1_000_000)):
            flops = training_flops(model, tokens, 1, 1, 8)
            yield {
                "model": name,
                "job": "training with the objective, 8 points, once over the facts",
                "device": f"{chips} × {device.name}",
                "facts": facts,
                "flops_a_fact": flops,
                "seconds": facts * flops / (chips * device.flops * UTILISATION),
                "bytes_a_chip": training_bytes(model) / chips,
                "memory": device.memory,
            }


def _table(curves: list[dict], base: Mapping[str, int], most: int) -> Any:
    from rich.table import Table

    title = ", ".join(f"{name} {value}" for name, value in base.items())
    table = Table("job", "size", "× in size", "× time", "exponents: time", "memory", "operations", title=title)
    for found in curves:
        seconds = found["seconds"]
        exponents = (f"{found[f'{key}_exponent']:.2f}" for key in ("seconds", "bytes", "flops"))
        table.add_row(found["job"], found["size"], str(most), f"{seconds[-1] / seconds[0]:.2f}", *exponents)
    return table


def _predictions(predictions: list[dict]) -> Any:
    from rich.table import Table

    table = Table(
        "model",
        "job",
        "device",
        "facts",
        "TFLOP a fact",
        "seconds",
        "GB a chip, weights and optimiser",
        title=f"predicted at {UTILISATION:.0%} of the devices' peak",
    )
    for row in predictions:
        held = f"{row['bytes_a_chip'] / 1e9:.3g}"
        table.add_row(
            row["model"],
            row["job"],
            row["device"],
            f"{row['facts']:,}",
            f"{row['flops_a_fact'] / 1e12:.3g}",
            f"{row['seconds']:.3g}",
            held if row["bytes_a_chip"] < row["memory"] else f"{held}: does not fit",
        )
    return table


if __name__ == "__main__":
    experiment(CostCurves)
