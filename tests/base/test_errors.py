"""What every message of a user's mistake keeps to."""

import pickle

import pytest

from jaxinterp.base.errors import MOST, UserError, unknown


def test_a_message_is_one_line_without_control_characters():
    assert str(UserError("a\x1b[2J\nb\u2028\ud800\uffffé")) == r"a\x1b[2J\nb\u2028\ud800\uffffé"


@pytest.mark.parametrize("junk", ["x" * 5_000, "[0, 1], " * 2_000, "a; b " * 900])
def test_a_long_message_keeps_its_beginning_and_what_to_do(junk):
    text = str(UserError(f"/some/file.json: d_model is {junk}, not a number; give a whole number"))
    assert len(text) <= MOST and "…" in text
    assert text.startswith("/some/file.json: d_model is ") and text.endswith(", not a number; give a whole number")
    assert str(pickle.loads(pickle.dumps(UserError(text)))) == text


def test_a_message_that_fits_is_as_it_was():
    words = "many words, " * (MOST // 12)
    assert str(UserError(words)) == words


def test_known_names_are_listed_as_far_as_anybody_reads():
    names = [f"metric_{number:02}" for number in range(60)]
    text = str(unknown("metric", "zzz", names, "See the list"))
    assert text.startswith("unknown metric 'zzz'; known: metric_00, metric_01") and len(text) < 200
    assert text.endswith("and 50 more. See the list")
    assert str(unknown("metric", "metric_7", names)).endswith("did you mean metric_57 or metric_47 or metric_37?")
