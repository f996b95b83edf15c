"""Files and folders that appear whole or not at all, whatever stops the process or fills the disk."""

import errno
import os
import stat
import subprocess
import sys

import pytest

from jaxinterp.base import files
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import new_folder, write_bytes
from jaxinterp.base.records import Record

IN_ONE_STEP = sys.platform == "linux"


def put(folder, text):
    with new_folder(folder) as partial:
        write_bytes(partial / "a" / "x", text)


def held(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.skipif(not IN_ONE_STEP, reason="two folders are swapped in one step on Linux alone")
def test_a_folder_is_replaced_in_one_step(tmp_path, monkeypatch):
    put(tmp_path / "model", b"old")
    with new_folder(tmp_path / "model") as partial:
        (partial / "x").write_bytes(b"new")
        monkeypatch.setattr(os, "replace", no_space)
    assert held(tmp_path) == {"model/x": b"new"}


def test_a_folder_is_replaced_in_two_steps_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    for text in (b"old", b"new"):
        put(tmp_path / "model", text)
        assert held(tmp_path) == {"model/a/x": text}


def test_a_second_step_that_fails_brings_the_older_folder_back(tmp_path, monkeypatch):
    put(tmp_path / "model", b"old")
    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: no_space() if ".partial-" in a.name[-17:] else replace(a, b))
    with pytest.raises(UserError, match=r"cannot write .*model: No space left"), new_folder(tmp_path / "model"):
        pass
    assert held(tmp_path) == {"model/a/x": b"old"}


KILLED = """
import os, sys
from pathlib import Path
from jaxinterp.base import files
if sys.argv[2]:
    replace = os.replace
    files._exchanged = lambda *_: False
    os.replace = lambda a, b: (replace(a, b), os._exit(9))
with files.new_folder(Path(sys.argv[1])) as partial:
    (partial / "x").write_bytes(b"new")
    if not sys.argv[2]:
        os._exit(9)
"""


@pytest.mark.parametrize("between_steps", ["", "yes"])
def test_what_a_killed_process_leaves_is_gone_after_the_next_call_and_the_older_folder_is_back(between_steps, tmp_path):
    put(tmp_path / "model", b"old")
    (tmp_path / ".model-backup").mkdir()  # somebody's own
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "model", between_steps], check=False)
    assert len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "model").exists() != bool(between_steps)
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "model"):
        assert held(tmp_path / "model") == {"a/x": b"old"}
        _ = 1 / 0
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model-backup"}
    assert held(tmp_path) == {"model/a/x": b"old"}


def test_a_folder_that_a_process_is_writing_stays(tmp_path):
    with new_folder(tmp_path / "model") as one:
        put(tmp_path / "model", b"other")
        (one / "x").write_bytes(b"one")
    assert held(tmp_path) == {"model/x": b"one"}


def test_the_rights_of_a_folder_are_those_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        put(tmp_path / "model", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o750


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    put(tmp_path / "disk" / "model", b"old")
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    put(tmp_path / "model", b"new")
    assert (tmp_path / "model").is_symlink() and held(tmp_path / "disk") == {"model/a/x": b"new"}
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="it is a file; give the name of a folder"), new_folder(tmp_path / "file"):
        pass


def test_a_full_disk_is_one_line_and_what_was_there_stays(tmp_path, monkeypatch):
    put(tmp_path / "model", b"old")
    write_bytes(tmp_path / "f", b"old")
    record = Record(tmp_path / "done.jsonl")
    record.add([{"fact": 1}])
    before = held(tmp_path)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match=r"cannot write .*f: No space left on device"):
        write_bytes(tmp_path / "f", b"new")
    with (
        pytest.raises(UserError, match=r"cannot write .*model: No space left"),
        new_folder(tmp_path / "model") as partial,
    ):
        (partial / "y").touch()
    with pytest.raises(UserError, match=r"done\.jsonl: No space left .*; what is there stays"):
        record.add([{"fact": 2}])
    assert 2 not in record
    del before["done.jsonl"]  # whose second line may be there, or a part of it
    assert held(tmp_path).items() >= before.items()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "f", "done.jsonl"}


@pytest.mark.skipif(not IN_ONE_STEP, reason="the list of system calls is Linux's")
def test_names_are_on_the_disk_before_and_after_the_swap(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (synced.append(os.readlink(f"/proc/self/fd/{number}")), real(number))
    )
    with new_folder(tmp_path / "model") as partial:
        (partial / "x").write_bytes(b"1")
    assert synced == [str(partial / "x"), str(partial), str(tmp_path)]
    synced.clear()
    write_bytes(tmp_path / "f", b"1")
    assert synced == [str(tmp_path / ".f.partial"), str(tmp_path)]


def test_a_name_that_no_file_can_have(tmp_path):
    with pytest.raises(UserError, match=r"cannot write to .*; choose another folder"):
        write_bytes(tmp_path / "a\0b" / "c", b"")
