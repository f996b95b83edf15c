"""Whether this machine is fit: versions, devices, memory, arithmetic, folders, and the cache of compiled programs."""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import writable_folder
from jaxinterp.base.home import home
from jaxinterp.base.provenance import provenance

SIZE = 2048  # of the matrices that are multiplied
REPEATS = 5
TOLERANCE = 1e-2  # of a product's largest relative error against float64: below it even in TF32


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    good: bool = True


def examined(folder: Path) -> list[Finding]:
    """Looks at everything; `folder` is where runs are to be written. Takes seconds, and starts JAX."""
    checks: Sequence[Callable[[], list[Finding]]] = (
        _versions,
        _memory,
        _devices,
        _matmul,
        _all_reduce,
        lambda: _folders(folder),
        _cache,
    )
    return [finding for check in checks for finding in check()]


def _versions() -> list[Finding]:
    found = provenance()
    packages = ", ".join(f"{name} {found['packages'][name]}" for name in ("jax", "jaxlib", "flax", "orbax-checkpoint"))
    where = f"{found['jaxinterp']}, revision {found['revision'][:12]}, Python {found['python']}, {found['platform']}"
    return [Finding("jaxinterp", where), Finding("packages", packages)]


def _memory() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not hasattr(os, "sysconf"):
        return [Finding("cores", str(cores))]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [Finding("cores and memory", f"{cores} cores, {total / 1e9:.1f} GB of memory")]


def _devices() -> list[Finding]:
    import jax

    found = []
    for device in jax.local_devices():
        memory = device.memory_stats() or {}
        room = f", {memory['bytes_limit'] / 1e9:.1f} GB" if "bytes_limit" in memory else ""
        found.append(Finding(f"device {device.id}", f"{device.device_kind} ({device.platform}){room}"))
    if jax.process_count() > 1:
        found.append(Finding("processes", f"{jax.process_index()} of {jax.process_count()}"))
    return found


def _matmul() -> list[Finding]:
    """Every device multiplies: seconds, and the largest error against float64."""
    import jax
    import numpy as np

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIZE, SIZE)).astype(np.float32) for _ in range(2))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    multiply = jax.jit(lambda x, y: x @ y)
    found = []
    for device in jax.local_devices():
        x, y = (jax.device_put(value, device) for value in (a, b))
        product = np.asarray(multiply(x, y))
        start = time.perf_counter()
        for _ in range(REPEATS):
            last = multiply(x, y)
        last.block_until_ready()
        seconds = (time.perf_counter() - start) / REPEATS
        error = float(np.abs(product - exact).max() / np.abs(exact).max())
        words = f"{2 * SIZE**3 / seconds / 1e9:,.0f} GFLOP/s in float32, largest relative error {error:.1e}"
        found.append(Finding(f"matmul on {device.id}", words, bool(error < TOLERANCE)))
    return found


def _all_reduce() -> list[Finding]:
    """The devices of this process add up numbers that they hold in parts."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    devices = jax.local_devices()
    if len(devices) == 1:
        return [Finding("all-reduce", "one device, nothing to reduce")]
    spread = NamedSharding(Mesh(np.array(devices), ("device",)), PartitionSpec("device"))
    whole = NamedSharding(spread.mesh, PartitionSpec())
    parts = jax.device_put(np.ones((len(devices), 1 << 20), np.float32), spread)
    add = jax.jit(lambda x: x.sum(0), out_shardings=whole)
    total = np.asarray(add(parts))
    start = time.perf_counter()
    add(parts).block_until_ready()
    seconds = time.perf_counter() - start
    good = bool((total == len(devices)).all())
    speed = f"{parts.nbytes / len(devices) / seconds / 1e9:.2f} GB/s a device"
    return [Finding("all-reduce", f"{len(devices)} devices, {speed}" + ("" if good else ", WRONG SUM"), good)]


def _folders(folder: Path) -> list[Finding]:
    found = []
    for what, path in (("models, facts, programs", home()), ("runs", folder)):
        try:
            writable_folder(path)
            free = shutil.disk_usage(path).free / 1e9
            found.append(Finding(f"folder of {what}", f"{path}: {free:,.1f} GB free", free > 1))
        except UserError as error:
            found.append(Finding(f"folder of {what}", str(error), False))
    return found


def _cache() -> list[Finding]:
    place = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not place:
        return [Finding("compiled programs", "are not kept: JAX_COMPILATION_CACHE_DIR is not set")]
    files = [path for path in Path(place).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return [Finding("compiled programs", f"{place}: {len(files):,} files, {size / 1e6:,.0f} MB")]
