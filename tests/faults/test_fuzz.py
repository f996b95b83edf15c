"""Broken files of every kind, a few of the thousands of experiments/faults/fuzz.py: read, or refused in one line."""

import pytest
from fuzz import GOOD, each_example, outcome_of
from mutations import Gguf
from readers import laid_out, readers

EXAMPLES = 40


@pytest.mark.parametrize("name", readers())
def test_broken_files_are_read_or_refused_in_one_line(name, tmp_path):
    reader, outcomes = readers()[name](), set()

    def look(files):
        laid_out(files, tmp_path / "files")
        outcome, words = outcome_of(reader.opened, tmp_path / "files")
        outcomes.add(outcome)
        assert outcome in GOOD, words

    for files in reader.cases:
        laid_out(files, tmp_path / "files")
        assert outcome_of(reader.opened, tmp_path / "files")[0] == "read"
    each_example(reader, look, EXAMPLES)
    assert outcomes  # there were examples


def test_the_same_examples_come_every_time():
    def drawn():
        found = []
        each_example(readers()["logs"](), lambda files: found.append(dict(files)), 10)
        return found

    first = drawn()
    assert len(first) == 10 and first == drawn()


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (KeyError("x"), "traceback"),
        (MemoryError(), "over 2 GB"),
    ],
)
def test_what_is_no_refusal_is_seen(raised, outcome, tmp_path):
    def opened(folder):
        raise raised

    assert outcome_of(opened, tmp_path)[0] == outcome


def test_a_gguf_file_is_what_its_reader_reads(tmp_path):
    from jaxinterp.models.loading.gguf_metadata import read_metadata

    pairs = (("a", 8, "x"), ("b", 9, (5, [1, 2])), ("c", 7, True), ("d", 10, 2**64 - 1), ("e", 6, 0.5))
    (tmp_path / "x.gguf").write_bytes(Gguf(pairs, (), b"").written())
    found = read_metadata(tmp_path / "x.gguf")
    assert found.pop("b").tolist() == [1, 2]
    assert found == {"a": "x", "c": True, "d": 2**64 - 1, "e": 0.5}
