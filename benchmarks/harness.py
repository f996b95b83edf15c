"""What the benchmarks share: arms timed in turn, ratios with their spread, FLOPs, checks, the table and the JSON file.

Arms run A, B, …, A, B, …, so that whatever else the machine does meets all of them alike, and what is compared is the
ratio inside one round. Compilation and warm-up are apart.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import write_json

PAUSE_S = 0.05  # between runs: thread pools spin for a moment after their work
# What cost_analysis() counts and does not.
FLOPS_NOTE = (
    "FLOPs of ours: cost_analysis() of the same program with its loops written out, for it counts a loop's body once; "
    "before XLA's optimisations, which change them by some 1 %. FLOPs of PyTorch: those of matrix products alone, by "
    "torch.utils.flop_counter."
)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to do a job."""

    run: Callable[[], object]  # does the work of one run and waits for its end
    units: int = 1  # prompts, or steps, in a run: times are given for one
    compile_s: float | None = None  # seconds of compilation, which no run includes
    flops: float | None = None  # for one unit


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A comparison of two arms: `numerator`'s figure over `denominator`'s; of an arm with a limit if that is None."""

    numerator: str
    denominator: str | None
    kind: Literal["at_least", "at_most"] = "at_least"  # what the target is
    target: float | None = None  # None is no target
    of: Literal["seconds", "cpu_seconds", "flops"] = "seconds"


class Runs(NamedTuple):
    """What was measured of an arm, for one unit: one value a timed run."""

    seconds: list[float]
    cpu_seconds: list[float]  # of this process and its children: other processes add little to it, spinning threads do


class Spread(NamedTuple):
    """A median and the smallest and largest value."""

    median: float
    min: float
    max: float


def spread(values: Sequence[float]) -> Spread:
    """Of one value or more."""
    return Spread(statistics.median(values), min(values), max(values))


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def alternating(
    arms: Mapping[str, Arm],
    runs: int,
    *,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = cpu_seconds,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Runs]:
    """Times every arm `runs` times in turn, after `warm_up` rounds that are not timed.

    Raises:
      UserError: if there is nothing to run.
    """
    if runs < 1 or not arms:
        raise UserError(f"a benchmark needs at least 1 run and 1 arm, got {runs} and {len(arms)}")
    measured = {name: Runs([], []) for name in arms}
    for turn in range(-warm_up, runs):
        for name, arm in arms.items():
            pause(PAUSE_S)
            start, cpu_start = clock(), cpu_clock()
            arm.run()
            end, cpu_end = clock(), cpu_clock()
            if turn >= 0:
                measured[name].seconds.append((end - start) / arm.units)
                measured[name].cpu_seconds.append((cpu_end - cpu_start) / arm.units)
    return measured


def compared(ratio: Ratio, arms: Mapping[str, Arm], measured: Mapping[str, Runs]) -> dict:
    """The ratio round by round (or of FLOPs), and whether its median meets the target."""

    def figures(name: str | None) -> Sequence[float | None]:
        if name is None:
            return [1.0] * len(above)
        return [arms[name].flops] if ratio.of == "flops" else getattr(measured[name], ratio.of)

    above = figures(ratio.numerator)
    below = figures(ratio.denominator)
    # Where XLA or PyTorch counted no FLOPs there is nothing to compare.
    values = [] if None in (*above, *below) else [a / b for a, b in zip(above, below, strict=True)]
    result = dataclasses.asdict(ratio) | (spread(values)._asdict() if values else {})
    if values and ratio.target is not None:
        median = result["median"]
        result["met"] = median >= ratio.target if ratio.kind == "at_least" else median <= ratio.target
    return result


def benchmark(
    name: str,
    config: object,
    arms: Mapping[str, Arm],
    ratios: Sequence[Ratio],
    out: Path,
    *,
    runs: int,
    warm_up: int = 1,
    checks: Mapping[str, Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
    extra: Mapping[str, object] | None = None,
) -> dict:
    """Times the arms, prints the tables, writes `out`/NAME.json, and returns what is in it."""
    if getattr(config, "quick", False):
        ratios = [dataclasses.replace(ratio, target=None) for ratio in ratios]  # of tiny models there are no targets
    before = os.getloadavg()
    measured = alternating(arms, runs, warm_up=warm_up)
    record = result(name, config, arms, ratios, measured, checks=checks, notes=notes)
    record |= {"load": {"before": before, "after": os.getloadavg(), "cores": os.cpu_count()}, **(extra or {})}
    report(record)
    path = out / f"{name}.json"
    write_json(path, record | {"provenance": origin()})
    print(f"numbers: {path}")
    return record


def result(
    name: str,
    config: object,
    arms: Mapping[str, Arm],
    ratios: Sequence[Ratio],
    measured: Mapping[str, Runs],
    *,
    checks: Mapping[str, Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
) -> dict:
    """All figures of a benchmark, as its JSON file has them."""
    fields = {field: _plain(value) for field, value in dataclasses.asdict(config).items()}
    return {
        "benchmark": name,
        "config": fields,
        "arms": {
            key: {
                **{
                    clock: {**spread(values)._asdict(), "runs": list(values)}
                    for clock, values in measured[key]._asdict().items()
                },
                "units_a_run": arm.units,
                "compile_seconds": arm.compile_s,
                "flops": arm.flops,
            }
            for key, arm in arms.items()
        },
        "ratios": [compared(ratio, arms, measured) for ratio in ratios],
        "checks": {key: dict(value) for key, value in (checks or {}).items()},
        "notes": list(notes),
    }


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def report(record: Mapping[str, Any]) -> None:
    """Prints a record's tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, width=max(Console().width, 110))
    table = Table(
        "arm", "seconds", "min … max", "CPU, s", "compile, s", "GFLOP", title=record["benchmark"], title_justify="left"
    )
    for name, arm in record["arms"].items():
        time_of, flops, compile_s = arm["seconds"], arm["flops"], arm["compile_seconds"]
        table.add_row(
            name,
            f"{time_of['median']:.4g}",
            f"{time_of['min']:.4g} … {time_of['max']:.4g}",
            f"{arm['cpu_seconds']['median']:.4g}",
            "" if compile_s is None else f"{compile_s:.1f}",
            "" if flops is None else f"{flops / 1e9:.4g}",
        )
    console.print(table)
    if record["ratios"]:
        table = Table("ratio", "of", "median", "min … max", "target", "")
        for ratio in record["ratios"]:
            table.add_row(*_ratio_row(ratio))
        console.print(table)
    for name, check in record["checks"].items():
        found = ", ".join(f"{key} {value:.3g}" for key, value in check.items())
        console.print(f"check: {name}: {found}", soft_wrap=True)
    for note in record["notes"]:
        console.print(note, soft_wrap=True)
    if "load" in record:
        load = record["load"]
        console.print(
            f"load average (1 min) {load['before'][0]:.1f} before, {load['after'][0]:.1f} after, {load['cores']} cores"
        )
        if max(load["before"][0], load["after"][0]) > load["cores"] + 0.5:
            console.print(
                "The machine was busy: PyTorch's threads wait for one another, so that ratios to it are not to be "
                "trusted. Run it again on an idle machine, or with OMP_NUM_THREADS=1 on one core.",
                soft_wrap=True,
            )


def _ratio_row(ratio: Mapping[str, Any]) -> list[str]:
    sign = {"at_least": "≥", "at_most": "≤"}[ratio["kind"]]
    return [
        ratio["numerator"] if ratio["denominator"] is None else f"{ratio['numerator']} / {ratio['denominator']}",
        ratio["of"].replace("_", " "),
        f"{ratio['median']:.3g}" if "median" in ratio else "not counted",
        f"{ratio['min']:.3g} … {ratio['max']:.3g}" if "median" in ratio else "",
        "" if ratio["target"] is None else f"{sign} {ratio['target']:g}",
        {True: "met", False: "MISSED", None: ""}[ratio.get("met")],
    ]


def origin() -> dict:
    """Where the numbers come from: `jaxinterp.base.provenance`, the peers' versions and their threads."""
    import sys

    from jaxinterp.base.provenance import provenance

    peers = {}
    for name in ("torch", "transformers", "captum", "knowledge-neurons"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            peers[name] = importlib.metadata.version(name)
    torch = sys.modules.get("torch")
    return provenance() | {"peers": peers, "torch_threads": None if torch is None else torch.get_num_threads()}


def close(found: Any, expected: Any, *, tolerance: float) -> dict[str, float]:
    """The largest difference as a share of the largest expected value.

    Raises:
      UserError: if it is above the tolerance, so that no time is reported for a wrong answer.
    """
    import numpy as np

    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        raise UserError(f"the arms disagree: shapes {found.shape} and {expected.shape}")
    scale = float(np.abs(expected).max())
    share = float(np.abs(found - expected).max()) / scale
    if not share <= tolerance:
        raise UserError(f"the arms disagree: by {share:.1e} of the largest value {scale:.2e}, above {tolerance:.0e}")
    return {"difference": share, "tolerance": tolerance, "largest": scale}


def compiled(function: Callable, *args: Any) -> tuple[Callable, float]:
    """The function compiled for such arguments, and the seconds of tracing and compiling; never from a cache."""
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    kept = jax.config.jax_enable_compilation_cache
    # JAX asks once whether there is a cache, and remembers the answer until it is reset.
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()
    try:
        start = time.perf_counter()
        program = _lowered(function, *args).compile()
        return program, time.perf_counter() - start
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
        reset_cache()


def unrolled_flops(function: Callable, *args: Any) -> float | None:
    """FLOPs that XLA counts in the function's program without loops and known conditions; None where it does not count.

    Scans and maps are written out, and of a condition on constants only the side that is taken is there; of any other
    the dearer side counts. The function must not have been traced before, for JAX would remember the trace with loops.
    """
    import jax

    def written_out(*args: Any) -> Any:
        with jax.ensure_compile_time_eval():
            return function(*args)

    with _written_out():
        program = _lowered(written_out, *args)
    return (program.cost_analysis() or {}).get("flops")


def _lowered(function: Callable, *args: Any) -> Any:
    import jax

    return (function if hasattr(function, "lower") else jax.jit(function)).lower(*args)


@contextlib.contextmanager
def _written_out() -> Iterator[None]:
    """JAX's loops as Python's, and its conditions too where they are on constants."""
    import jax
    import jax.numpy as jnp

    originals = {name: getattr(jax.lax, name) for name in ("scan", "map", "cond", "switch")}

    def scan(f: Callable, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False, **more: Any):
        n = length if length is not None else jax.tree.leaves(xs)[0].shape[0]
        if n == 0:
            return originals["scan"](f, init, xs, length, reverse, **more)
        carry, found = init, {}
        for i in reversed(range(n)) if reverse else range(n):
            carry, found[i] = f(carry, jax.tree.map(lambda x, i=i: x[i], xs))
        return carry, jax.tree.map(lambda *y: jnp.stack(y), *(found[i] for i in range(n)))

    def mapped(f: Callable, xs: Any, *, batch_size: int | None = None) -> Any:
        if batch_size is not None:
            return originals["map"](f, xs, batch_size=batch_size)
        return scan(lambda _, x: (None, f(x)), None, xs)[1]

    def cond(pred: Any, true: Callable, false: Callable, *operands: Any) -> Any:
        if isinstance(pred, jax.core.Tracer):
            return originals["cond"](pred, true, false, *operands)
        return (true if pred else false)(*operands)

    def switch(index: Any, branches: Sequence[Callable], *operands: Any) -> Any:
        if isinstance(index, jax.core.Tracer):
            return originals["switch"](index, branches, *operands)
        return branches[min(max(int(index), 0), len(branches) - 1)](*operands)

    changed = {"scan": scan, "map": mapped, "cond": cond, "switch": switch}
    try:
        for name, value in changed.items():
            setattr(jax.lax, name, value)
        yield
    finally:
        for name, value in originals.items():
            setattr(jax.lax, name, value)
