"""What is told of long work where there is no terminal."""

import itertools
import time
import types

from jaxinterp.base import progress as module


def lines(monkeypatch, capsys, reports, **options):
    """Those printed for (seconds, units done)."""
    clock = itertools.chain([0.0], (seconds for seconds, _ in reports))
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    with module.progress("train", 100, **options) as report:
        for _, now in reports:
            report(now, "x")
    return capsys.readouterr().err.splitlines()


def test_the_estimate_leaves_out_what_was_compiled_first(monkeypatch, capsys):
    # A minute for the first unit, a second for each of the others.
    found = lines(monkeypatch, capsys, [(30, 0), (60, 1), (70, 11), (75, 16), (159, 100)])
    assert found == [
        "train: 0/100",
        "train: 0/100, 30 s, time left not known yet  x",
        "train: 1/100, 60 s, time left not known yet  x",
        "train: 11/100, 70 s, 89 s left  x",
        "train: 100/100, 159 s, 0 s left  x",
    ]


def test_what_was_done_before_does_not_count(monkeypatch, capsys):
    found = lines(monkeypatch, capsys, [(28, 50), (30, 51), (40, 61)], done=50)
    assert found[0] == "train: 50/100" and found[1].endswith("time left not known yet  x")
    assert found[2] == "train: 61/100, 40 s, 39 s left  x"


def test_a_long_wait_is_one_line_and_a_short_one_none(monkeypatch, capsys):
    monkeypatch.setattr(module, "SECONDS_BEFORE_A_LINE", 0.0)
    with module.waiting("compiling"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "compiling …\n"
    monkeypatch.setattr(module, "SECONDS_BEFORE_A_LINE", 60.0)
    with module.waiting("compiling"):
        pass
    assert capsys.readouterr().err == ""
