"""Two processes train one model, through the command line: one is killed, and the run goes on with two and with one."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxinterp.base import processes
from jaxinterp.base.errors import UserError

STEPS, EVERY = 48, 6
SIZES = ["d_model", "8", "n_layers", "2", "n_heads", "2", "n_kv_heads", "2", "d_mlp", "12"]
WORDS = ["--model", *SIZES, "--batch-size", "8", "--rows", "4", "--steps", str(STEPS), "--log-every", "1"]
WORDS += ["--data.relations", "capital", "currency", "calling_code", "--data.split.unseen-relations", "currency"]
WORDS += ["--checkpoint-every", str(EVERY), "--evaluate-every", "0"]
DEADLINE = 60  # seconds in which the others have to end


def free_port() -> int:
    with contextlib.closing(socket.socket()) as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def started(out: Path, n: int, *more: str) -> list[subprocess.Popen]:
    """`jaxinterp train` as n processes of a device each."""
    words = [str(Path(sys.executable).with_name("jaxinterp")), "train", *WORDS, "--out", str(out), *more]
    environment = {name: value for name, value in os.environ.items() if name != "JAXINTERP_MESH"}
    environment["XLA_FLAGS"] = re.sub(r"device_count=\d+", "device_count=1", environment["XLA_FLAGS"])
    coordinator = f"localhost:{free_port()}"
    of_one = [{}] if n == 1 else [{"JAX_NUM_PROCESSES": str(n), "JAX_PROCESS_ID": str(i)} for i in range(n)]
    return [
        subprocess.Popen(
            words,
            env=environment | (of and {**of, "JAX_COORDINATOR_ADDRESS": coordinator}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for of in of_one
    ]


def ended(running: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    found = [process.communicate(timeout=300) for process in running]
    return [(process.returncode, *texts) for process, texts in zip(running, found, strict=True)]


def child_of(process: subprocess.Popen) -> int:
    """The process that a watching one watches."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [line["loss"] for line in lines]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the child in /proc")
def test_one_is_killed_and_the_run_goes_on_with_two_and_with_one(tmp_path):
    whole = ended(started(tmp_path / "whole", 2))
    assert [status for status, _, _ in whole] == [0, 0], whole
    assert "model:" in whole[0][1] and whole[1][1:] == ("", "")  # the second one says nothing

    running = started(tmp_path / "killed", 2)
    log = tmp_path / "killed" / "metrics.jsonl"
    while all(process.poll() is None for process in running):
        if log.exists() and log.read_text().count("\n") > EVERY:
            break
        time.sleep(0.01)
    os.kill(child_of(running[1]), signal.SIGKILL)
    since = time.monotonic()
    survivor, killed = ended(running)
    assert time.monotonic() - since < DEADLINE
    assert killed[0] == 2 and killed[2].splitlines() == ["error: process 1 of 2 was ended by SIGKILL"]
    mistakes = [line for line in survivor[2].splitlines() if not line.startswith("train: ")]
    assert survivor[0] == 2 and mistakes == [f"error: process 0 of 2: {processes.LOST}"]

    shutil.copytree(tmp_path / "killed", tmp_path / "alone")
    assert [status for status, _, _ in ended(started(tmp_path / "killed", 2, "--resume"))] == [0, 0]
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert [status for status, _, _ in ended(started(tmp_path / "alone", 1, "--resume"))] == [0]
    assert losses(tmp_path / "alone") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)


def test_what_the_environment_says():
    plain = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
    assert processes.asked({}) is None and processes.asked(plain) == (3, 4)
    assert processes.asked({**plain, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}) is None
    slurm = {name: "7" for name in processes.SLURM} | {"SLURM_NTASKS": "16", "SLURM_PROCID": "5"}
    assert processes.asked(slurm) == (5, 16)
    assert processes.asked({**slurm, "SLURM_STEP_NUM_TASKS": "1"}) is None
    del slurm["SLURM_PROCID"]  # an allocation without srun
    assert processes.asked(slurm) is None
    assert processes.asked({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}) == (1, 2)
    assert processes.asked({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) is None
    with pytest.raises(UserError, match="JAX_PROCESS_ID needs JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES beside it"):
        processes.asked({"JAX_PROCESS_ID": "1"})
    with pytest.raises(UserError, match="must be a number below JAX_NUM_PROCESSES, got '4' and '4'"):
        processes.asked({**plain, "JAX_PROCESS_ID": "4"})


def test_lines_of_the_runtime_are_left_out():
    noise = [b"[Gloo] Rank 0 is connected\n", b"F1130 16:32:04.719282 1 x\n", b"    @     0x7f\n", b"RPC: /xla\n"]
    assert all(processes._NOISE.match(line) for line in noise)
    assert not any(processes._NOISE.match(line) for line in (b"error: x\n", b"train: 1/2\n", b"model: a\n"))
