"""One process writes to a run's folder, and none trains on when its parent has died."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.base.owner import FILES, owned


def started(code, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


HOLD = """
    import sys, time
    from pathlib import Path
    from jaxinterp.base.owner import owned
    with owned(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(600)
"""


def test_a_second_process_is_refused_until_the_first_has_died(tmp_path):
    folder = tmp_path / "run"
    process = started(HOLD, folder)
    try:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=rf"run is in use by process {process.pid} on .* since 20.*stop that first"),
            owned(folder),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with owned(folder), owned(folder):  # free at once, and held twice by one process
        assert {path.name for path in folder.iterdir()} == set(FILES)
    process = started(HOLD, folder)
    assert process.stdout.readline() == "held\n"  # given back
    process.kill()
    process.communicate()


def test_a_folder_that_is_deleted_or_replaced_is_seen(tmp_path):
    folder = tmp_path / "run"
    with owned(folder) as still_there:
        still_there()
        folder.rename(tmp_path / "other")
        with pytest.raises(UserError, match="was deleted or replaced while the run was going on"):
            still_there()
        folder.mkdir()
        (folder / FILES[0]).touch()
        with pytest.raises(UserError, match="was deleted or replaced"):
            still_there()


def test_a_worker_stops_when_its_parent_has_died():
    parent = started(
        """
        import subprocess, sys, os, time
        code = "import os, sys, time; from jaxinterp.base.run_folder import stop_with; stop_with(int(sys.argv[1]));"
        code += "print(os.getpid(), flush=True); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", code, str(os.getpid())])
        time.sleep(600)
        """
    )
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(300):
        time.sleep(0.1)
        try:
            os.kill(worker, 0)
            with open(f"/proc/{worker}/stat") as stat:  # one that nobody waits for is a zombie
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except (ProcessLookupError, FileNotFoundError):
            return
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker lives on")
