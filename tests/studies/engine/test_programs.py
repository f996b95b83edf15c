"""Compiled programs of a worker make room for those of further runs."""

import sys

import jax
import jax.numpy as jnp
import pytest
from study_stubs import at_once, study

from jaxinterp.studies.engine import programs, work

pytest.importorskip("optuna")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts maps as Linux tells them")


def maps():
    return len(programs.MAPS.read_bytes().splitlines())


def test_programs_are_forgotten_where_there_is_little_room(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MOST", tmp_path / "most")
    programs.MOST.write_text("1000000")
    assert not programs.make_room()
    kept = [jax.jit(lambda x, n=n: jnp.sort(x) * n) for n in range(40)]
    answers = [float(f(jnp.ones(3))[0]) for f in kept]
    before = maps()
    programs.MOST.write_text(str(int(before / programs.SHARE)))
    assert programs.make_room()
    assert maps() < before - 60
    assert [float(f(jnp.ones(3))[0]) for f in kept] == answers  # compiled again


def test_systems_that_do_not_tell_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MAPS", tmp_path / "nothing")
    assert not programs.make_room()


def test_a_worker_looks_after_every_trial(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(work, "make_room", lambda: looked.append(1))
    assert work.run_study(study(), tmp_path / "s", at_once) == len(looked) > 1
