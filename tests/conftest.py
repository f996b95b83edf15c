"""Test set-up: several virtual devices, shapes checked, rank promotion and key reuse are errors."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

# Added to what XLA_FLAGS holds already, such as --xla_cpu_max_isa=AVX2, which stands in for another CPU.
FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Fusions by the older emitter compile in half the time, which is most of what tests take, and programs in one piece
    # a little faster. XLA ends the process at a flag that it does not know, so that only versions that are known to
    # have these get them.
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
given = os.environ.get("XLA_FLAGS", "").split()
named = {flag.partition("=")[0] for flag in given}
os.environ["XLA_FLAGS"] = " ".join([*given, *(flag for flag in FLAGS if flag.partition("=")[0] not in named)])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAXINTERP_MESH", "one")  # of the devices; tests of many ask for theirs
# Threads that XLA runs programs with. Where devices are threads, a collective holds one until all devices are there:
# with few, collectives that two devices began in another order wait for one another for ever.
os.environ.setdefault("NPROC", "32")

# Compiling is half of what tests take, and the same small programs come back in file after file and run after run: all
# processes share what they compiled. Programs of another JAX or another processor have a folder of their own. JAX's key
# of a program has all else: the program, its devices, donated buffers, XLA's flags; programs that call back into
# Python are never kept. JAX_ENABLE_COMPILATION_CACHE=0 does without.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
MAX_CACHE_BYTES = 2**30


def _machine() -> str:
    """What compiled programs depend on that JAX's key of a program does not hold."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        processor = sorted({line for line in text.splitlines() if line.startswith(("model name", "flags", "Features"))})
    except OSError:
        processor = platform.processor()
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib")]
    return hashlib.sha256(repr([platform.machine(), processor, *versions]).encode()).hexdigest()[:16]


def _room_for_programs(folder: Path) -> None:
    """Starts anew once the programs of all machines and versions take too much."""
    if sum(path.stat().st_size for path in folder.rglob("*-cache")) > MAX_CACHE_BYTES:
        shutil.rmtree(folder)


if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        _room_for_programs(CACHE)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE / _machine())
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from jaxtyping import install_import_hook

# Checks the shapes that public signatures promise, at every call.
install_import_hook("jaxinterp", "beartype.beartype")

import gc

import jax
import pytest

pytest.register_assert_rewrite("loops")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped():
    """A process may have 65,530 memory maps on Linux, and every compiled program takes some: XLA dies of it."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def one_device_unless_a_test_asks_for_more(monkeypatch):
    """A command line that is run in this process sets the variable for good."""
    monkeypatch.setenv("JAXINTERP_MESH", "one")


@pytest.fixture
def float64():
    """Arithmetic in float64 for one test."""
    jax.config.update("jax_enable_x64", True)
    yield "float64"
    jax.config.update("jax_enable_x64", False)
