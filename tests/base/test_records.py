"""Records by fact, and the folder of a run that has them."""

import json

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.base.records import Record, claim_recorded, saying_how_to_go_on


def test_a_record_forgets_a_line_that_was_cut_off_and_puts_broken_ones_aside(tmp_path, capsys):
    path = tmp_path / "lines.jsonl"
    record = Record(path)
    record.add([{"fact": 3, "x": 0.1}, {"fact": 5, "x": 2}])
    with path.open("a") as file:
        file.write('{"fact": 7, "x')
    again = Record(path)
    assert len(again) == 2 and 3 in again and 5 in again and 7 not in again
    assert again[3] == record[3] == {"fact": 3, "x": 0.1}
    again.add([{"fact": 7, "x": 1}])
    assert [json.loads(line)["fact"] for line in path.read_text().splitlines()] == [3, 5, 7]
    lines = path.read_text().splitlines()
    for broken in ("{", "[1]", '{"x": 1}', lines[1].replace('"x": 2', '"x": 3'), "\udcff"):
        path.write_text("\n".join([lines[0], broken, lines[2]]) + "\n", errors="surrogateescape")
        left = Record(path)
        assert 3 in left and 7 in left and len(left) == 2
        assert f"{path}: line 2 is not what was written; kept in lines.jsonl.broken" in capsys.readouterr().err
        assert path.read_text().splitlines() == [lines[0], lines[2]]
    assert len((tmp_path / "lines.jsonl.broken").read_bytes().splitlines()) == 5


def test_parts_that_lack_a_fact_are_computed_whole_and_written_once(tmp_path):
    record = Record(tmp_path / "lines.jsonl")
    record.add([{"fact": 0, "x": 0}, {"fact": 3, "x": 3}])
    seen, told = [], []

    def lines(part):
        seen.append(part)
        return [{"fact": fact, "x": fact} for fact in part]

    record.fill([[0, 1], [2], [3]], lines, told.append)
    assert seen == [[0, 1], [2]] and told == [2, 3, 4]
    assert [json.loads(line)["fact"] for line in record.path.read_text().splitlines()] == [0, 3, 1, 2]


def test_a_claim_is_of_one_config(tmp_path):
    first = claim_recorded({"k": 2, "rows": None}, tmp_path / "s")
    assert claim_recorded({"k": 2, "rows": None}, tmp_path / "s") == first and first["packages"]
    (tmp_path / "s" / "abilities.jsonl").write_text('{"fact": 0}\n')
    with pytest.raises(UserError, match="another config: rows is None there and 4 here"):
        claim_recorded({"k": 2, "rows": 4}, tmp_path / "s")
    with pytest.raises(UserError, match="another config: new is None there and 1 here"):
        claim_recorded({"k": 2, "rows": None, "new": 1}, tmp_path / "s")


def test_a_run_that_has_recorded_nothing_makes_room(tmp_path):
    claim_recorded({"k": 2}, tmp_path / "s")
    (tmp_path / "s" / "abilities.jsonl").touch()
    claim_recorded({"k": 3}, tmp_path / "s")
    assert json.loads((tmp_path / "s" / "config.json").read_text())["config"] == {"k": 3}


def test_the_config_of_something_else_is_left_alone(tmp_path):
    for content in ({"config": {"steps": 1}, "revision": "x"}, {"d_vocab": 5}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="holds a run of another config"):
            claim_recorded({"k": 3}, tmp_path)
        assert json.loads((tmp_path / "config.json").read_text()) == content


def test_a_folder_that_holds_anything_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no run"):
        claim_recorded({}, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_an_interruption_says_how_the_run_goes_on(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt, match=r"is kept in .*; the same command goes on"),
        saying_how_to_go_on(tmp_path),
    ):
        raise KeyboardInterrupt
