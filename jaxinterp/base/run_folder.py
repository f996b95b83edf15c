"""The folder of a run, and signals that stop it."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, writable_folder, write_json
from jaxinterp.base.provenance import provenance


def claim(config: Mapping, out: Path, resume: bool, *, grows: Sequence[str] = ()) -> None:
    """Makes `out` the folder of the run with this config, or checks that it is.

    Args:
      config: what decides the run.
      out: folder.
      resume: whether a run there is to be continued.
      grows: names of fields, numbers that may be larger than they were; the folder's config is then the new one.

    Raises:
      UserError: if `out` cannot be written, holds a run already (without `resume`), or none or another one (with it).
    """
    path = out / "config.json"
    if not resume:
        if path.exists() or (out / "checkpoints").exists():
            hint = "continue it with --resume, or choose another folder" if path.exists() else "choose another folder"
            raise UserError(f"{out} holds a run already; {hint}")
        writable_folder(out)
        write_json(path, {"config": _as_json(config), **provenance()})
        return
    if not path.exists():
        raise UserError(f"{out} holds no run to resume (config.json is missing); start it without --resume")
    kept = read_json(path)
    saved_config = {**kept.get("config", {})}
    grown = {name: config[name] for name in grows if config[name] > saved_config.get(name, config[name])}
    if differing := difference(config, saved_config | grown):
        name, given, saved = differing
        raise UserError(
            f"{out} holds a run of another config: {name} is {saved!r} there and {given!r} here; "
            "resume with the same config, or choose another folder"
        )
    if grown:
        before = {name: saved_config[name] for name in grown}
        write_json(path, {**kept, "config": saved_config | grown, "grown": [*kept.get("grown", []), before]})


def difference(config: Mapping, saved: Mapping) -> tuple[str, object, object] | None:
    """The first field in which a config differs from one that was read from a file: its name, and both values."""
    given, kept = _flat(_as_json(config)), _flat(saved)
    for name in sorted(given.keys() | kept.keys()):
        if given.get(name) != kept.get(name):
            return name, given.get(name), kept.get(name)
    return None


def _as_json(config: Mapping) -> dict:
    """The config as it reads from a file."""
    return json.loads(json.dumps(config, default=str))


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {
        name: leaf for key, child in value.items() for name, leaf in _flat(child, f"{prefix}.{key}".strip(".")).items()
    }


def truncate(path: Path, step: int) -> None:
    """Drops lines of steps that will be done again, and a line that was cut off."""
    kept = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


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
