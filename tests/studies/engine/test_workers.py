"""Workers that share a study, of which one is killed: over a journal, and over PostgreSQL where it is installed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study_stubs import HELD_AT, SEEDS, STEPS, WEIGHTS, by_steps, study

from jaxinterp.base.lines import whole_lines
from jaxinterp.studies.engine import storage
from jaxinterp.studies.engine.results import results_of, status_of
from jaxinterp.studies.engine.verify import verify_study

pytest.importorskip("optuna")
HERE, ROOT = Path(__file__).parents[2], Path(__file__).parents[3]


@pytest.fixture
def database(tmp_path):
    """The address of a database of a server of its own on loopback; skips where PostgreSQL or its driver is missing."""
    pytest.importorskip("psycopg", reason="needs psycopg")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if (control := shutil.which("pg_ctl") or (str(places[-1]) if places else None)) is None:
        pytest.skip("needs PostgreSQL")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    as_user = []
    if os.geteuid() == 0:  # the server refuses to run as root
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
        for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            parent.chmod(0o755)

    def server(*words):
        subprocess.run([*as_user, control, "-D", str(folder / "data"), *words], check=True, stdout=subprocess.DEVNULL)

    server("init", "-o", "--auth=trust --username=studies")
    server("start", "-w", "-l", str(folder / "log"), "-o", f"-p {port} -h 127.0.0.1 -k {folder}")
    yield f"postgresql+psycopg://studies@127.0.0.1:{port}/postgres"
    server("stop", "-m", "immediate")


# Connections of the storage's pool end with the process.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["journal", "postgresql"])
def test_three_workers_of_which_one_is_killed(tmp_path, kind, request):
    url = request.getfixturevalue("database") if kind == "postgresql" else ""
    folder = tmp_path / "s"
    own = study(factors=study().factors[:1], hypotheses=(), storage=url, heartbeat=1.0 if url else 0.2)
    n = len(WEIGHTS) * len(SEEDS)
    storage.begin(own, folder)
    path = os.pathsep.join([str(ROOT), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(HERE / "study_stubs.py"), str(folder)]
    held = subprocess.Popen(command, env={**environment, "HOLD": "1"}, stdout=subprocess.DEVNULL)
    others = []
    try:
        until = time.monotonic() + 300
        while not (kept := list(folder.glob(f"runs/*/checkpoints/{HELD_AT - 1}/_CHECKPOINT_METADATA"))):
            assert time.monotonic() < until and held.poll() is None
            time.sleep(0.05)
        others = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        held.send_signal(signal.SIGKILL)
        held.wait()
        assert sum(int(other.communicate(timeout=300)[0]) for other in others) == n  # all, the killed one's included
    finally:
        for process in (held, *others):
            process.kill()
    key = kept[0].parents[2].name
    attached = storage.attach(folder)
    results = {of.record["key"]: of for of in results_of(attached)}
    assert status_of(attached).counts["done"] == n == len(results) == len(attached.trials())
    started = (folder / "runs" / "started.log").read_text().split()
    assert sorted(started) == sorted([*results, key])  # each once, but for the one that was taken up
    resumed = {of.record["key"]: of.record["resumed_from"] for of in results.values() if of.record["resumed_from"]}
    assert resumed == {key: HELD_AT - 1}
    lines = whole_lines(folder / "runs" / key / "metrics.jsonl")[0]
    assert [value["step"] for _, _, value in lines] == list(range(1, STEPS + 1))
    assert verify_study(folder, key, by_steps).record["key"] == key  # as a run that nothing interrupted
