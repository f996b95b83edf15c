"""Room for compiled programs: XLA's compiler for CPUs ends the process where the system grants no more memory maps.

Every compiled program has about ten maps of its own, Linux grants a process 65,530, and a study of many arms and
metrics compiles thousands of programs.
"""

import gc
from pathlib import Path

MAPS, MOST = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
SHARE = 0.6  # of the maps there may be: what a run compiles must fit into the rest


def make_room() -> bool:
    """Forgets all compiled programs of this process if they have used up `SHARE` of its maps; whether it did.

    What is needed again is compiled again, or read from JAX's cache on disk. Systems that do not tell are left alone.
    """
    try:
        with MAPS.open("rb") as lines:
            n_maps = sum(1 for _ in lines)
        most = int(MOST.read_text())
    except (OSError, ValueError):
        return False
    if n_maps < SHARE * most:
        return False
    import jax

    jax.clear_caches()
    gc.collect()
    return True
