"""Several processes that train one model, on one machine or many: `jax.distributed`, and what only the first one does.

Each process runs the same command; Slurm's `srun` and a TPU pod say who is who, elsewhere it is
JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID. The run's folder is one that all
of them see. The first writes and prints; all write their parts of checkpoints. A process that dies ends the others.
"""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TextIO

from jaxinterp.base.errors import UserError

PLAIN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # those that JAX reads
WATCHED = "JAXINTERP_WATCHED"  # the process that watches this one
HEARTBEAT = 20  # seconds without a sign of life after which a process counts as dead
WAIT = 3600  # seconds that processes wait for one another, as while the first one measures
LOST = "another process of the run died; continue from its last checkpoint with --resume"
_NOISE = re.compile(
    rb"^([EFWI]\d{4} |\*\*\* |\[Gloo\] |\s+@ +0x|RPC: /|:UNKNOWN:|Additional GRPC|The tasks have|\d+$|"
    rb"Barrier result|This usually|# of tasks|The first task| \[type\.googleapis|\s*$)"
)
_numbers = itertools.count()


def asked(environment: Mapping[str, str] | None = None) -> tuple[int, int] | None:
    """This process's number and how many there are, from the environment; None if it is the only one.

    Raises:
      UserError: if the environment says only a part of it, or what is no number.
    """
    env = os.environ if environment is None else environment
    given = [name for name in PLAIN if env.get(name)]
    if given and len(given) < len(PLAIN):
        raise UserError(f"{', '.join(given)} needs {', '.join(n for n in PLAIN if n not in given)} beside it")
    if given:
        number, n = (env["JAX_PROCESS_ID"], env["JAX_NUM_PROCESSES"])
        if not (number.isdigit() and n.isdigit() and int(number) < int(n)):
            raise UserError(f"JAX_PROCESS_ID must be a number below JAX_NUM_PROCESSES, got {number!r} and {n!r}")
        return (int(number), int(n)) if int(n) > 1 else None
    # In an allocation without `srun` some of them are not there, and the command is the only process.
    if all(env.get(name) for name in SLURM) and int(env.get("SLURM_STEP_NUM_TASKS") or env["SLURM_NTASKS"]) > 1:
        return int(env["SLURM_PROCID"]), int(env.get("SLURM_STEP_NUM_TASKS") or env["SLURM_NTASKS"])
    hosts = [host for host in env.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if len(hosts) > 1 and env.get("TPU_WORKER_ID", "").isdigit():
        return int(env["TPU_WORKER_ID"]), len(hosts)
    return None


def start() -> None:
    """Connects this process with the others, if the environment names any; before JAX is used. The second time it does
    nothing.

    Raises:
      UserError: if they cannot be reached.
    """
    if (of := asked()) is None:
        return
    import jax

    if jax.distributed.is_initialized():
        return
    plain: dict[str, Any] = {}
    if os.environ.get(PLAIN[0]):
        plain = {"coordinator_address": os.environ[PLAIN[0]], "process_id": of[0], "num_processes": of[1]}
    # SIGTERM is ours: the run saves and stops; see `jaxinterp.base.run_folder.interruptible`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **plain, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=HEARTBEAT, initialization_timeout=300
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(f"process {of[0]} of {of[1]} cannot reach the others: {reason}") from None


def is_first() -> bool:
    """Whether this process writes and prints: the first, or the only one."""
    import jax

    return jax.process_index() == 0


def several() -> bool:
    """Whether there is more than one process."""
    import jax

    return jax.process_count() > 1


def one_process(what: str) -> None:
    """UserError where several processes are to do what only one can."""
    if several():
        raise UserError(f"{what} runs in one process, which may have many devices; start one")


def together(what: str) -> None:
    """Waits until all processes are here; at once if there is one.

    Through JAX's coordination service, not as an operation on devices: those give up sooner than some waits last.
    """
    if several():
        import jax
        import orbax.checkpoint as ocp

        everyone = set(range(jax.process_count()))
        ocp.multihost.sync_global_processes(f"jaxinterp:{what}:{next(_numbers)}", timeout=WAIT, processes=everyone)


def least_of(value: float) -> float:
    """The smallest of the processes' values; all have to ask."""
    if not several():
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    return float(np.asarray(multihost_utils.process_allgather(np.float32(value))).min())


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process; all have to ask."""
    return least_of(0.0 if flag else 1.0) == 0


def gathered(tree):
    """A tree with whole arrays on the host, whichever processes have their parts; all have to ask."""
    import jax
    from jax.experimental import multihost_utils

    def whole(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def quiet() -> None:
    """Silences every process but the first; mistakes are still told, see `jaxinterp.cli.run`."""
    if (of := asked()) is not None and of[0] > 0:
        nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        sys.stdout = sys.stderr = nowhere  # to the process's end


def loud() -> Any:
    """Where mistakes are told, also by a process that is quiet otherwise."""
    return sys.__stderr__ or sys.stderr if getattr(sys.stderr, "name", "") == os.devnull else sys.stderr


def is_loss(error: Exception) -> bool:
    """Whether an error is that of an operation whose companions are no more."""
    import jax

    signs = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat", "coordination", "Barrier")
    return isinstance(error, jax.errors.JaxRuntimeError) and any(sign in str(error) for sign in signs)


def watched() -> int | None:
    """Runs this command once more below this process and watches it; None where there is nothing to watch.

    JAX's runtime aborts a process whose companions have died, with pages of its own. Here that is one line.

    Returns:
      The status that the command ended with.
    """
    if (of := asked()) is None or os.environ.get(WATCHED):
        return None
    environment = {**os.environ, WATCHED: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    # stdin is nobody's: several processes have no terminal to share.
    command = [sys.executable, *sys.orig_argv[1:]]
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=nothing, stdout=pipe, stderr=pipe) as child:
        signals = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, lambda number, _: child.send_signal(number)) for number in signals]
        ways = ((child.stdout, sys.stdout), (child.stderr, sys.stderr))
        readers = [threading.Thread(target=_without_noise, args=way, daemon=True) for way in ways]
        for reader in readers:
            reader.start()
        status = child.wait()
        for reader in readers:
            reader.join(timeout=5)
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
    if status in (-signal.SIGABRT, -signal.SIGSEGV):
        print(f"error: process {of[0]} of {of[1]}: {LOST}", file=sys.stderr, flush=True)
        return 2
    if status < 0:
        name = signal.Signals(-status).name
        print(f"error: process {of[0]} of {of[1]} was ended by {name}", file=sys.stderr, flush=True)
        return 2
    return status


def _without_noise(lines: IO[bytes], to: TextIO) -> None:
    """Passes lines on, but for those of JAX's C++ runtime."""
    for line in lines:
        if not _NOISE.match(line):
            to.buffer.write(line)
            to.buffer.flush()
