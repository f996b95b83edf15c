"""Compiled programs that outlive a process."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

SECONDS = 0.5  # programs that compile faster are not kept


@contextlib.contextmanager
def compiled_in(folder: Path) -> Iterator[None]:
    """Keeps what JAX compiles meanwhile in a folder, and takes from it what is there.

    A study that trains many models of one shape compiles each program once, also over interruptions. Where the user has
    chosen a folder for all of JAX (`JAX_COMPILATION_CACHE_DIR`), that one is used.
    """
    if jax.config.jax_compilation_cache_dir:
        yield
        return
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    compilation_cache.reset_cache()  # what JAX decided at the process's first compilation
    jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
        compilation_cache.reset_cache()
