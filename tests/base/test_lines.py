"""Lines that say when they were changed, and the folder that is bound to its data."""

import json

import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, write_json
from jaxinterp.base.lines import CHECK, opened, sealed, whole_lines, with_check
from jaxinterp.base.run_folder import claim, truncate

VALUES = [{"step": step, "loss": 0.1 * step, "sets": {"ü": [step, None]}} for step in range(1, 9)]


def test_a_line_is_json_and_opens_to_its_value():
    for value in VALUES:
        line = sealed(value)
        assert json.loads(line) == {**value, CHECK: json.loads(line)[CHECK]} and opened(line.encode()) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        sealed({"loss": float("nan")})
    assert np.isnan(opened(sealed({"loss": float("nan")}, strict=False).encode())["loss"])


def test_no_flipped_bit_changes_a_value_in_silence(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    whole = b"".join(sealed(value).encode() + b"\n" for value in VALUES)
    last = whole.rindex(b"\n", 0, -1)
    rng = np.random.default_rng(0)
    for _ in range(400):
        flipped = bytearray(whole)
        place = int(rng.integers(len(whole)))
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        truncate(path, 7)
        kept = [value for _, _, value in whole_lines(path)[0]]
        assert all(value in VALUES[:7] for value in kept) and len(kept) >= 5  # a line's end that goes joins two
        told = "is not what was written" in capsys.readouterr().err
        assert told or kept == VALUES[:7]
        assert not told or kept != VALUES[:7] or place >= last


def test_what_was_cut_off_goes_without_a_word_and_older_files_have_no_digests(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text(sealed(VALUES[0]) + "\n" + sealed(VALUES[1])[:20])
    truncate(path, 5)
    assert path.read_text() == sealed(VALUES[0]) + "\n"
    path.write_text("".join(json.dumps(value) + "\n" for value in VALUES))
    truncate(path, 3)
    assert [value for _, _, value in whole_lines(path)[0]] == VALUES[:3] and not capsys.readouterr().err
    with path.open("a") as file:
        file.write(sealed(VALUES[3]) + "\n")
    truncate(path, 9)  # an older file that was continued
    assert [value for _, _, value in whole_lines(path)[0]] == VALUES[:4] and not capsys.readouterr().err
    path.write_text(sealed(VALUES[0]).replace('"step": 1', '"step": 7') + "\n")
    assert whole_lines(path)[1] and not whole_lines(path)[0]
    path.write_text('{"step": 1}\n{"loss": 2}\n')
    truncate(path, 3)
    assert path.read_text() == '{"step": 1}\n' and "line 2 is not what was written" in capsys.readouterr().err


def test_a_run_is_bound_to_its_data_and_says_when_versions_differ(tmp_path, capsys):
    claim({"k": 1}, tmp_path, resume=False, data={"facts": "a"})
    claim({"k": 1}, tmp_path, resume=True, data={"facts": "a"})
    assert not capsys.readouterr().err
    with pytest.raises(UserError, match="a run on other data: its facts had another digest"):
        claim({"k": 1}, tmp_path, resume=True, data={"facts": "b"})
    kept = read_json(tmp_path / "config.json")
    other = {"packages": {**kept["packages"], "jax": "0.1"}, "device": "1 × abacus"}
    write_json(tmp_path / "config.json", {**kept, **other})
    with pytest.raises(UserError, match=r"config.json is damaged: it is not what was written"):
        claim({"k": 1}, tmp_path, resume=True)
    write_json(tmp_path / "config.json", with_check({**{n: v for n, v in kept.items() if n != CHECK}, **other}))
    claim({"k": 1}, tmp_path, resume=True, data={"facts": "a"})
    told = capsys.readouterr().err
    assert "device was 1 × abacus, is " in told and "jax was 0.1, is " in told
