"""How tokens and numbers look."""

import pytest

from jaxinterp.report.shown import probability_shown, visible


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" Paris", "␣Paris"),
        ("\n\t", "\\n\\t"),
        (".br", ".br"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202e", "\\u202e"),
        ("é", "é"),
    ],
)
def test_white_space_and_control_characters_are_seen(token, shown):
    assert visible(token) == shown


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.96703, "0.9670"), (1.0, "1.0000"), (0.00123, "0.0012"), (2.2756e-8, "2.28e-08"), (0.0, "0.0000")],
)
def test_improbable_answers_have_digits(p, shown):
    assert probability_shown(p) == shown
