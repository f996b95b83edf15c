"""Test set-up: several virtual devices, shapes checked, rank promotion and key reuse are errors."""

import importlib.metadata
import os

# Added to what XLA_FLAGS holds already, such as --xla_cpu_max_isa=AVX2, which stands in for another CPU.
FLAGS = ["--xla_force_host_platform_device_count=4", "--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Fusions by the older emitter compile in half the time, which is most of what tests take. XLA ends the process at a
    # flag that it does not know, so that only versions that are known to have this one get it.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
given = os.environ.get("XLA_FLAGS", "").split()
named = {flag.partition("=")[0] for flag in given}
os.environ["XLA_FLAGS"] = " ".join([*given, *(flag for flag in FLAGS if flag.partition("=")[0] not in named)])
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

# Checks the shapes that public signatures promise, at every call.
install_import_hook("jaxinterp", "beartype.beartype")

import gc

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped():
    """A process may have 65,530 memory maps on Linux, and every compiled program takes some: XLA dies of it."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def float64():
    """Arithmetic in float64 for one test."""
    jax.config.update("jax_enable_x64", True)
    yield "float64"
    jax.config.update("jax_enable_x64", False)
