"""One owner for each run folder: whoever writes there holds its lock, which ends with the process that holds it."""

import contextlib
import datetime
import errno
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, writable_folder, write_json

LOCK, OWNER = ".lock", ".owner.json"
WAIT = 1.0  # seconds
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
FILES = (LOCK, OWNER)  # in a folder of a run, beside what the run writes


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[Callable[[], None]]:
    """Holds a folder for this process, and makes it if need be. Within the process it may be held several times.

    The lock is the operating system's, so that one whose process has died, in whatever way, is free at once. Who holds
    it stands in `OWNER`: host, process, and when it began.

    Yields:
      A function that raises UserError if the folder has been deleted, or another one is in its place.
    Raises:
      UserError: if another process holds the folder, or it cannot be written.
    """
    writable_folder(folder)
    path = folder.resolve() / LOCK
    # One that merely looks whether it is held has it for a moment.
    lock = filelock.FileLock(path, timeout=WAIT, is_singleton=True, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{folder} is in use by {_holder(folder)}; stop that first, or wait for its end, or choose another folder"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
            raise UserError(f"cannot lock {folder}: {error.strerror or error}; choose another folder") from None
        print(f"{folder} is on a file system without locks: nothing keeps a second run out of it", file=sys.stderr)
        yield lambda: None
        return
    try:
        if lock.lock_counter == 1:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            write_json(folder / OWNER, {"host": platform.node(), "process": os.getpid(), "since": now})
        inode = path.stat().st_ino

        def still_there() -> None:
            try:
                same = path.stat().st_ino == inode
            except OSError:
                same = False
            if not same:
                raise UserError(f"{folder} was deleted or replaced while the run was going on; what it held is lost")

        yield still_there
    finally:
        lock.release()


def is_owned(folder: Path) -> bool:
    """Whether some other process holds a folder."""
    path = folder.resolve() / LOCK
    if not path.exists():
        return False
    lock = filelock.FileLock(path, timeout=WAIT, is_singleton=True, thread_local=False)
    try:
        with lock.acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True
    except (NotImplementedError, OSError):
        return False


def _holder(folder: Path) -> str:
    try:
        of = read_json(folder / OWNER)
        return f"process {of['process']} on {of['host']} since {of['since']}"
    except (UserError, KeyError):
        return "another process"
