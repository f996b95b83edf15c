"""The folder of a run, and signals that stop it."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, writable_folder, write_bytes, write_json
from jaxinterp.base.lines import CHECK, is_as_written, put_aside, whole_lines, with_check
from jaxinterp.base.provenance import provenance

CODE = ("jax", "jaxlib", "flax", "optax", "numpy")  # packages whose version can change a run's numbers


def claim(
    config: Mapping, out: Path, resume: bool, *, grows: Sequence[str] = (), data: Mapping[str, str] | None = None
) -> None:
    """Makes `out` the folder of the run with this config and data, or checks that it is.

    Where a run goes on with other versions of JAX or this package, or on another device, a line says so.

    Args:
      config: what decides the run.
      out: folder.
      resume: whether a run there is to be continued.
      grows: names of fields, numbers that may be larger than they were; the folder's config is then the new one.
      data: what the run reads -> its digest: facts, text, a model that it begins with.

    Raises:
      UserError: if `out` cannot be written, holds a run already (without `resume`), or none, another one, or one of
        other data (with it).
    """
    path = out / "config.json"
    if not resume:
        if path.exists() or (out / "checkpoints").exists():
            hint = "continue it with --resume, or choose another folder" if path.exists() else "choose another folder"
            raise UserError(f"{out} holds a run already; {hint}")
        writable_folder(out)
        write_json(path, with_check({"config": _as_json(config), "data": dict(data or {}), **provenance()}))
        return
    check_resumable(out)
    kept = read_json(path)
    if {"data", CHECK} & kept.keys() and not is_as_written(kept):  # those of earlier versions have neither
        raise UserError(f"{path} is damaged: it is not what was written; bring it back, or choose another folder")
    saved_config = {**kept.get("config", {})}
    grown = {name: config[name] for name in grows if config[name] > saved_config.get(name, config[name])}
    if differing := difference(config, saved_config | grown):
        name, given, saved = differing
        raise UserError(
            f"{out} holds a run of another config: {name} is {saved!r} there and {given!r} here; "
            "resume with the same config, or choose another folder"
        )
    for name, digest in (data or {}).items():
        if kept.get("data", {}).get(name, digest) != digest:
            raise UserError(
                f"{out} holds a run on other data: its {name} had another digest when it began; bring back what it "
                "read then (its versions of packages stand in config.json), or choose another folder"
            )
    _tell_versions(kept, out)
    if grown:
        before = {name: saved_config[name] for name in grown}
        grown_config = {"config": saved_config | grown, "grown": [*kept.get("grown", []), before]}
        write_json(path, with_check({name: of for name, of in kept.items() if name != CHECK} | grown_config))


def check_resumable(out: Path) -> None:
    """Raises UserError if a folder holds no run."""
    if not (out / "config.json").exists():
        raise UserError(f"{out} holds no run to resume (config.json is missing); start it without --resume")


def difference(config: Mapping, saved: Mapping) -> tuple[str, object, object] | None:
    """The first field in which a config differs from one that was read from a file: its name, and both values."""
    given, kept = _flat(_as_json(config)), _flat(saved)
    for name in sorted(given.keys() | kept.keys()):
        if given.get(name) != kept.get(name):
            return name, given.get(name), kept.get(name)
    return None


def _tell_versions(kept: Mapping, out: Path) -> None:
    """A line for people if code or device are not those that the run began with."""
    now, packages = provenance(), kept.get("packages", {})
    was = {name: kept.get(name) for name in ("jaxinterp", "device")} | {name: packages.get(name) for name in CODE}
    here = {name: now[name] for name in ("jaxinterp", "device")} | {name: now["packages"][name] for name in CODE}
    other = [f"{name} was {was[name]}, is {here[name]}" for name in here if was[name] not in (None, here[name])]
    if other:
        print(f"{out}: the run goes on with {'; '.join(other)}: its last digits may differ", file=sys.stderr)


def _as_json(config: Mapping) -> dict:
    """The config as it reads from a file."""
    return json.loads(json.dumps(config, default=str))


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {
        name: leaf for key, child in value.items() for name, leaf in _flat(child, f"{prefix}.{key}".strip(".")).items()
    }


def truncate(path: Path, step: int, *, complete: bool = False) -> None:
    """Drops lines of steps that will be done again, and a line that was cut off. Broken lines are put aside, and told.

    Args:
      path: of the lines.
      step: the last that stays.
      complete: whether there should be a line of that step; a line for people says so if there is none.
    Raises:
      UserError: if the file cannot be written.
    """
    good, broken = whole_lines(path)
    odd = [(number, line) for number, line, value in good if not isinstance(value.get("step"), int)]
    put_aside(path, sorted([*broken, *odd]))
    kept = [line for _, line, value in good if isinstance(value.get("step"), int) and value["step"] <= step]
    write_bytes(path, b"".join(line + b"\n" for line in kept))
    steps = {value["step"] for _, _, value in good if isinstance(value.get("step"), int)}
    if complete and step and step not in steps:
        print(f"{path} has no line of step {step}, from which the run goes on: lines are missing", file=sys.stderr)


def stop_with(parent: int) -> None:
    """Has this process stop as by SIGTERM when its parent has died, so that nobody trains on unseen."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that a step is never cut in two. Works in the main thread alone."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: event.set()) for number in signals]
    try:
        yield event
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
